"""What can go wrong between a picture and its cells, by who must act.

ModelRuntimeError
├── ImageError        the picture is bad: give another one; the message says what is wrong with it
├── ModelLoadError    the bundle's bytes are no model this runtime can open: report, never retry
├── InferenceError    the model opened, but ran into an error or gave something that is no answer
├── GoldenError       the bundle's golden inputs are absent or unusable: pack it again
└── PipelineClosedError    used after `close()`: a mistake of the caller
"""

from __future__ import annotations


class ModelRuntimeError(Exception):
    """Root of everything this package raises on purpose."""


class ImageError(ModelRuntimeError):
    """The picture cannot be used: unreadable, truncated, too large or of an unknown kind."""


class ModelLoadError(ModelRuntimeError):
    """The model's bytes cannot be opened, or do not have the shape that the manifest promises."""


class InferenceError(ModelRuntimeError):
    """The model failed while running, or answered with values that are not finite."""


class GoldenError(ModelRuntimeError):
    """Golden inputs are absent, unreadable, or cannot be made from what was given."""


class PipelineClosedError(ModelRuntimeError):
    """The pipeline was used after it had been closed."""
