"""`python -m models.synthetic --out docs/pictures`: draw the pictures of the documentation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.synthetic.errors import SyntheticError
from models.synthetic.pictures import write_pictures


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures; 0 when all of them were written."""
    parser = argparse.ArgumentParser(prog="python -m models.synthetic", description="Pictures of generated slides.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, for example docs/pictures")
    chosen = parser.parse_args(arguments)
    try:
        for path in write_pictures(chosen.out):
            sys.stdout.write(f"{path}\n")
    except (SyntheticError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
