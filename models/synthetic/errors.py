"""Errors of the generator.

SyntheticError
└── BadRequestError   the caller asked for a slide or a viewport that cannot be drawn: correct the request
"""

from __future__ import annotations


class SyntheticError(Exception):
    """Any failure of the slide generator."""


class BadRequestError(SyntheticError, ValueError):
    """A specification or a viewport is outside what the generator can draw."""
