"""Hypothesis strategies for wire classes, read from their annotations and bounds."""

from __future__ import annotations

import types
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fleet.contract.messages import SizeHistogram
from fleet.contract.release import MAX_RELEASE_BYTES, ReleaseTarget, WavePlan

LARGEST = 2**53 - 1
_TEXT = st.characters(codec="utf-8", exclude_characters="\x00")


@cache
def messages_of(kind: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    """Any valid instance of a wire class."""
    fields = {name: _of(info.annotation, _bounds(info.metadata)) for name, info in kind.model_fields.items()}
    return st.fixed_dictionaries(fields).map(_KEEP_THE_RULES.get(kind, lambda fields: fields)).map(kind.model_validate)


def _one_of_both(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | ({"percent": None} if fields["devices"] else {"percent": fields["percent"] or 100.0})


def _adds_up(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"size_bytes": min(sum(chunk.size_bytes for chunk in fields["chunks"]), MAX_RELEASE_BYTES)}


def _one_edge_more(fields: dict[str, Any]) -> dict[str, Any]:
    counts = fields["counts"]
    return fields | {"edges": [float(place) for place in range(len(counts) + 1)]}


_KEEP_THE_RULES = {WavePlan: _one_of_both, ReleaseTarget: _adds_up, SizeHistogram: _one_edge_more}
"""Class -> what makes freely drawn fields keep a rule between them."""


def _bounds(metadata: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        parts = item.metadata if isinstance(item, FieldInfo) else [item]
        for part in parts:
            for key in ("ge", "le", "gt", "min_length", "max_length", "pattern"):
                if getattr(part, key, None) is not None:
                    found[key] = getattr(part, key)
    return found


def _of(annotation: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(arguments[0], _bounds(arguments[1:]) | bounds)
    if origin in (Union, types.UnionType):
        return st.one_of([_of(part, bounds) for part in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(_of(arguments[0], {}), min_size=bounds.get("min_length", 0), max_size=3)
    if origin is tuple:
        return st.tuples(*(_of(part, {}) for part in arguments))
    if origin is dict:
        return st.dictionaries(_of(arguments[0], {}), _of(arguments[1], {}), max_size=3)
    return _scalar(annotation, bounds)


@cache
def _patterned(pattern: str) -> st.SearchStrategy[str]:
    # Hashes are quicker from their number than from their pattern, and no less arbitrary.
    hexadecimal = st.integers(0, 2**256 - 1).map("{:064x}".format)
    if pattern.endswith("[0-9a-f]{64}$"):
        head = pattern.removeprefix("^").removesuffix("[0-9a-f]{64}$")
        return hexadecimal.map(head.__add__)
    return st.from_regex(pattern.replace("$", r"\Z"))


def _scalar(kind: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    if kind is Any:
        return st.one_of(st.none(), st.booleans(), st.integers(-LARGEST, LARGEST), st.text(_TEXT, max_size=12))
    if kind is type(None):
        return st.none()
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(min_value=bounds.get("ge", -LARGEST), max_value=bounds.get("le", LARGEST))
    if kind is float:
        low = bounds.get("gt", bounds.get("ge"))
        return st.floats(
            low,
            bounds.get("le"),
            exclude_min="gt" in bounds,
            allow_nan=False,
            allow_infinity=False,
            allow_subnormal=False,
        )
    if kind is datetime:
        return st.datetimes(timezones=st.just(UTC))
    if kind is str and "pattern" in bounds:
        return _patterned(bounds["pattern"])
    if kind is str:
        return st.text(_TEXT, min_size=bounds.get("min_length", 0), max_size=min(bounds.get("max_length", 12), 12))
    if issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    return messages_of(kind)
