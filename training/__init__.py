"""Data, training, evaluation, export and packing of models."""

import models  # noqa: F401  # first of all: switches ONNX Runtime's telemetry off before anything loads the library
