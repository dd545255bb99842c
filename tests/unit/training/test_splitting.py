"""Splits keep near-copies together, follow the shares, and say what leaks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.annotated_sets import CLASSES, annotated
from training.data.formats.annotated import AnnotatedSet, Picture
from training.data.leak_report import as_markdown, as_page, summary
from training.data.near_copies import Agreement
from training.data.splitting import leaks_of, parse_shares, split_by_group, with_groups, with_splits
from training.errors import DataError

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def pictures_of(cells: list[tuple[int, int, int]]) -> list[Picture]:
    made = []
    for number, counts in enumerate(cells):
        names = [name for name, count in zip(CLASSES, counts, strict=True) for _ in range(count)]
        made.append(annotated(Path(f"{number}.png"), [(1, 1, 9, 9)] * len(names), names))
    return made


CELLS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


@given(cells=CELLS, data=st.data(), seed=st.integers(0, 3))
@settings(max_examples=60)
def test_a_group_is_never_torn_and_the_seed_decides(
    cells: list[tuple[int, int, int]], data: st.DataObject, seed: int
) -> None:
    pictures = pictures_of(cells)
    groups = [f"g{data.draw(st.integers(0, 9))}" for _ in pictures]
    splits = split_by_group(pictures, groups, SHARES, seed)
    assert splits == split_by_group(pictures, groups, SHARES, seed)
    assert all(len({s for s, g in zip(splits, groups, strict=True) if g == name}) == 1 for name in groups)
    done = with_splits(with_groups(AnnotatedSet(CLASSES, tuple(pictures)), groups), splits)
    assert leaks_of(done).leaks == ()


@pytest.mark.parametrize("seed", range(3))
def test_every_class_follows_the_shares(seed: int) -> None:
    cells = [(10 + n % 7, int(n % 3 == 0), int(n % 10 == 0)) for n in range(200)]
    pictures = pictures_of(cells)
    splits = split_by_group(pictures, [f"g{n // 2}" for n in range(200)], SHARES, seed)
    for name in CLASSES:
        count: Counter[str] = Counter()
        for picture, split in zip(pictures, splits, strict=True):
            count[split] += picture.names.count(name)
        for split, share in SHARES.items():
            assert count[split] / count.total() == pytest.approx(share, abs=0.06), (name, split)
    assert split_by_group(pictures, [f"g{n // 2}" for n in range(200)], SHARES, seed + 1) != splits


@pytest.mark.parametrize("text", ["", "train", "train=x", "train=.5", "train=.5,train=.5", "train=-1,val=2", "=1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="--shares"):
        parse_shares(text)


def test_shares_are_read() -> None:
    assert parse_shares("train=.7,val=.2, test=.1") == SHARES


@pytest.fixture
def leaky() -> AnnotatedSet:
    def one(name: str, split: str, group: str, cells: int) -> Picture:
        return annotated(Path(name), [(1, 1, 9, 9)] * cells, ["WBC"] * cells, split=split, group=group)

    return AnnotatedSet(
        CLASSES,
        (
            one("a.png", "train", "g1", 1),
            one("b<i>.png", "val", "g1", 2),
            one("c.png", "val", "g1", 0),
            one("d.png", "val", "g2", 1),
            one("e.png", "test", "", 1),
            one("f.png", "train", "", 1),
        ),
    )


def test_leaks_are_counted_in_both_directions(leaky: AnnotatedSet) -> None:
    report = leaks_of(leaky)
    assert report.between[("val", "train")] == (1, 2)
    assert report.between[("train", "val")] == (1, 1)
    assert report.between[("test", "train")] == (0, 0)
    assert report.groups == 4
    assert [leak.group for leak in report.leaks] == ["g1"]


def test_the_report_names_the_pictures_and_is_no_html_of_theirs(leaky: AnnotatedSet) -> None:
    report = leaks_of(leaky)
    text = as_markdown("set", report, Agreement(3, 1, 0))
    assert "| val | train | 1 | 2 | 66.7 % |" in text
    assert "train: a.png; val: b<i>.png, c.png" in text
    assert "precision) | 75.0 %" in text
    html = as_page("set", report, Agreement(3, 1, 0))
    assert "b&lt;i&gt;.png" in html
    assert "b<i>.png" not in html
    assert "Research use only" in html
    assert "Research use only" in text


def test_one_split_is_said_to_have_nothing_to_leak_to(leaky: AnnotatedSet) -> None:
    one = with_splits(leaky, ["train"] * len(leaky.pictures))
    assert summary(leaks_of(one)) == (
        "There is one split, so nothing can cross: 6 pictures in 4 groups, 2 of them near-copies."
    )
