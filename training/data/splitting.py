"""Splits by near-duplicate group, and what leaks between splits: decisions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from training.data.formats.annotated import AnnotatedSet, Picture
from training.errors import DataError


def parse_shares(text: str) -> dict[str, float]:
    """`train=.7,val=.2,test=.1` as shares that add up to 1.

    Raises:
        DataError: no such list; the message shows one.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not name.strip() or not 0 < share <= 1 or name.strip() in shares:
            raise DataError(f"--shares {text}: {part!r} is no share; write for example train=.7,val=.2,test=.1")
        shares[name.strip()] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"--shares {text}: the shares add up to {sum(shares.values()):g}, not to 1")
    return shares


def content_of(picture: Picture) -> Counter[str]:
    """What a picture weighs in a split: its cells by class, its class, and its source."""
    found = Counter(picture.names)
    if picture.kind:
        found[picture.kind] += 1
    if picture.source:
        found[f"source {picture.source}"] += 1
    return found


def split_by_group(
    pictures: Sequence[Picture], groups: Sequence[str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each picture: whole groups, each class as near to the shares as whole groups allow.

    Iterative stratification: the rarest class first, each of its groups to the split that still lacks most of it;
    pictures without cells last. The same input and seed give the same splits.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    content = {g: sum((content_of(pictures[i]) for i in own), Counter[str]()) for g, own in members.items()}
    total = sum(content.values(), Counter[str]())
    lacks = {split: {name: share * count for name, count in total.items()} for split, share in shares.items()}
    lacks_pictures = {split: share * len(pictures) for split, share in shares.items()}
    order = [sorted(members)[i] for i in np.random.default_rng(seed).permutation(len(members))]
    chosen: dict[str, str] = {}

    def assign(group: str, name: str | None) -> None:
        split = max(shares, key=lambda s: (lacks[s][name] if name is not None else 0.0, lacks_pictures[s]))
        chosen[group] = split
        lacks_pictures[split] -= len(members[group])
        for other, count in content[group].items():
            lacks[split][other] -= count

    for name in sorted(total, key=lambda n: (total[n], n)):
        own = [g for g in order if g not in chosen and content[g][name]]
        for group in sorted(own, key=lambda g: -content[g][name]):
            assign(group, name)
    for group in order:
        if group not in chosen:
            assign(group, None)
    return [chosen[group] for group in groups]


def with_groups(data: AnnotatedSet, groups: Sequence[str]) -> AnnotatedSet:
    """The same set with these near-duplicate groups."""
    pictures = (replace(p, group=g) for p, g in zip(data.pictures, groups, strict=True))
    return AnnotatedSet(data.classes, tuple(pictures))


def with_splits(data: AnnotatedSet, splits: Sequence[str]) -> AnnotatedSet:
    """The same set, split otherwise."""
    pictures = (replace(p, split=s) for p, s in zip(data.pictures, splits, strict=True))
    return AnnotatedSet(data.classes, tuple(pictures))


@dataclass(frozen=True, slots=True)
class Leak:
    """A group with pictures in more than one split.

    Attributes:
        group: its name.
        pictures: split -> names of its pictures there.
    """

    group: str
    pictures: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What a set's splits share.

    Attributes:
        splits: split -> number of pictures.
        cells: split -> class -> number of cells (or pictures, in a set without boxes).
        groups: number of groups.
        between: (split, other) -> groups with pictures in both, and pictures of the first with a copy in the other.
        leaks: each group that spans splits.
    """

    splits: Mapping[str, int]
    cells: Mapping[str, Mapping[str, int]]
    groups: int
    between: Mapping[tuple[str, str], tuple[int, int]]
    leaks: tuple[Leak, ...]


def leaks_of(data: AnnotatedSet) -> LeakReport:
    """Which groups of a set span its splits; a picture without a group is one of its own."""
    by_group: dict[str, dict[str, list[str]]] = {}
    cells: dict[str, Counter[str]] = {split: Counter() for split in data.splits}
    for number, picture in enumerate(data.pictures):
        own = by_group.setdefault(picture.group or f"#{number}", {})
        own.setdefault(picture.split, []).append(picture.path.name)
        cells[picture.split].update([*picture.names, *([picture.kind] if picture.kind else [])])
    between = {}
    for a, b in permutations(data.splits, 2):
        shared = [g for g in by_group.values() if a in g and b in g]
        between[(a, b)] = (len(shared), sum(len(g[a]) for g in shared))
    leaks = tuple(
        Leak(group, {split: tuple(sorted(names)) for split, names in own.items()})
        for group, own in sorted(by_group.items())
        if len(own) > 1
    )
    pictures = Counter(p.split for p in data.pictures)
    return LeakReport({s: pictures[s] for s in data.splits}, cells, len(by_group), between, leaks)
