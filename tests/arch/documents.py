"""The documentation's own bookkeeping. `python -m tests.arch.documents` writes the index of decisions anew."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HEAD = """# Decisions

One record for each decision that a later reader would ask "why" about: context, options, outcome, and how we would know
that it was wrong. A record is not rewritten when things change: a new one says which it replaces.

"""

# Written in pieces, so that this file does not break its own rule.
FOREIGN = (
    "/" + "work/",
    "/tmp/" + "bash_jobs",
    "/tmp/" + "brief",
    "/opt/" + "pypi",
    "/opt/" + "wheels",
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "deb.debian" + ".org",
    "download." + "pytorch",
    ".." + "/shared",
)
"""Paths of a particular machine and hosts of package registries."""

NOT_FOREIGN = {(".ci/run", ".." + "/shared")}
"""CI alone knows where the data lies beside the checkout."""

_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def adr_index(folder: Path) -> str:
    """The text of the index of the decisions in `folder`."""
    records = sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.md"))
    titles = [(path.name, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")) for path in records]
    return HEAD + "".join(f"- [{title}]({name})\n" for name, title in titles)


def tracked(root: Path) -> list[Path]:
    """Files under version control, or all of them where there is none."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        return [root / name for name in listing.stdout.split("\0") if name and (root / name).is_file()]
    return [path for path in sorted(root.rglob("*")) if path.is_file()]


def foreign_words(root: Path) -> list[str]:
    """Places in text files that name a particular machine or a registry's host."""
    found = []
    for path in tracked(root):
        data = path.read_bytes()
        if b"\0" in data[:4096]:
            continue
        name, text = path.relative_to(root).as_posix(), data.decode("utf-8", errors="replace")
        found += [f"{name} holds {word}" for word in FOREIGN if word in text and (name, word) not in NOT_FOREIGN]
    return found


def dead_links(root: Path) -> list[str]:
    """Relative links in the documentation that lead nowhere."""
    return [
        f"{path.relative_to(root).as_posix()} -> {target}"
        for path in tracked(root)
        if path.suffix == ".md"
        for target in _LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]


if __name__ == "__main__":
    (ROOT / "docs" / "adr" / "README.md").write_text(adr_index(ROOT / "docs" / "adr"), encoding="utf-8")
