"""The repository names no machine, its links lead somewhere, and its decisions are listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.arch.documents import FOREIGN, ROOT, adr_index, dead_links, foreign_words

ADR = ROOT / "docs" / "adr"


def test_no_file_names_a_particular_machine_or_a_registry() -> None:
    assert foreign_words(ROOT) == []


@pytest.mark.parametrize("word", FOREIGN)
def test_a_planted_path_or_host_is_seen(word: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text(f"see {word}x")
    (tmp_path / "picture.bin").write_bytes(b"\0" + word.encode())
    assert foreign_words(tmp_path) == [f"notes.md holds {word}"]


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    assert dead_links(ROOT) == []


def test_a_planted_dead_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("")
    (tmp_path / "a.md").write_text("[x](there.md#part) [y](gone.md) [z](https://example.org) ![p](no.png)")
    assert dead_links(tmp_path) == ["a.md -> gone.md", "a.md -> no.png"]


def test_the_index_of_decisions_is_up_to_date() -> None:
    assert (ADR / "README.md").read_text(encoding="utf-8") == adr_index(ADR), "run: make docs-index"


def test_every_decision_has_a_number_of_its_own_and_says_how_it_could_be_wrong() -> None:
    records = [path for path in sorted(ADR.glob("*.md")) if path.name != "README.md"]
    assert len({path.name[:4] for path in records}) == len(records)
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"# 0*{int(path.name[:4])}\.? \w", text), f"{path.name} begins with its number and title"
        assert re.search(r"\b(wrong|mistaken)\b", text, re.IGNORECASE), f"{path.name}: how would we know it was wrong?"


def test_the_readme_names_every_folder_of_the_house_and_says_what_it_is_for() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Research use only" in text
    for folder in ("edge_agent", "cloud", "fleet", "models", "training", "tests", "benchmarks", "docs"):
        assert f"| `{folder}/` |" in text


def test_every_make_target_says_what_it_does_and_every_one_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.M)[0].split())
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M))
    assert targets == described
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`?make ([a-z][a-z-]*)", readme)) <= described
