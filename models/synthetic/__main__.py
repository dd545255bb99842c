"""`python -m models.synthetic --out docs/pictures`: draw the pictures of the documentation.

With `--fields N` a folder of so many fields instead: something to read where no microscope is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.synthetic.errors import SyntheticError
from models.synthetic.pictures import write_fields, write_pictures


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures; 0 when all of them were written."""
    parser = argparse.ArgumentParser(prog="python -m models.synthetic", description="Pictures of generated slides.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, for example docs/pictures")
    parser.add_argument("--fields", type=int, help="so many fields of a strongly stained slide instead")
    chosen = parser.parse_args(arguments)
    try:
        paths = write_pictures(chosen.out) if chosen.fields is None else write_fields(chosen.out, chosen.fields)
        for path in paths:
            sys.stdout.write(f"{path}\n")
    except (SyntheticError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
