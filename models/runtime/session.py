"""ONNX Runtime behind a small door: a network is bytes that turn arrays into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.runtime.errors import InferenceError, ModelLoadError
from models.runtime.results import FloatArray

# ORT's exceptions share no base but Exception, hence the list.
_FOREIGN: tuple[type[Exception], ...] = (
    *(
        getattr(ort_errors, name)
        for name in (
            "EngineError",
            "EPFail",
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "ModelLoaded",
            "NoModel",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
    ),
    RuntimeError,
    ValueError,
)

_QUIET = 4
"""ORT logs to stderr by itself; what fails reaches the caller as an exception instead."""


class Provider(StrEnum):
    """Where the network runs."""

    CPU = "cpu"
    CUDA = "cuda"
    OPENVINO = "openvino"


_PROVIDER_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.OPENVINO: "OpenVINOExecutionProvider",
}


class Network(Protocol):
    """A network that takes one float32 array and gives several.

    The pipeline needs no more than this, so training can put torch's own network in the place of a session and the
    rest of the pipeline stays the very same code.
    """

    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        """Run once. Raises InferenceError."""


def available_providers() -> tuple[Provider, ...]:
    """Providers that this installation of ONNX Runtime has."""
    present = set(ort.get_available_providers())
    return tuple(provider for provider, name in _PROVIDER_NAMES.items() if name in present)


class Session:
    """One model opened by ONNX Runtime. Its `run` may be called from several threads at once.

    Args:
        model: the ONNX file's bytes.
        name: what to call it in messages.
        threads: intra-op threads.
        provider: where to run; without it the CPU.

    Raises:
        ModelLoadError: no ONNX model, operators this build does not know, or a provider that is not there.
    """

    def __init__(self, model: bytes, *, name: str, threads: int = 1, provider: Provider = Provider.CPU) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if provider not in available_providers():
            raise ModelLoadError(
                f"{name}: provider {provider} is not installed; choose one of {', '.join(available_providers())}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _QUIET
        # A spinning pool would take the core from the camera's thread between two fields.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = list(dict.fromkeys((_PROVIDER_NAMES[provider], _PROVIDER_NAMES[Provider.CPU])))
        try:
            self._session = ort.InferenceSession(model, options, providers=wanted)
        except _FOREIGN as exc:
            raise ModelLoadError(f"{name}: ONNX Runtime cannot open the model: {_first_line(exc)}") from exc
        # ORT falls back to the CPU without a word when a device cannot be opened.
        if self._session.get_providers()[0] != wanted[0]:
            raise ModelLoadError(f"{name}: provider {provider} could not be started")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise ModelLoadError(f"{name}: the model must have exactly one float32 input")
        self._name = name
        self._input = inputs[0].name
        self.input_shape: tuple[int | str | None, ...] = tuple(inputs[0].shape)
        self.output_count: int = len(self._session.get_outputs())

    def run(self, tensor: FloatArray) -> list[FloatArray]:
        """Run once.

        Raises:
            InferenceError: ONNX Runtime failed, for instance on a shape the model does not take.
        """
        try:
            outputs = self._session.run(None, {self._input: tensor})
        except _FOREIGN as exc:
            raise InferenceError(f"{self._name}: {_first_line(exc)}") from exc
        return [np.asarray(output, np.float32) for output in outputs]


def _first_line(exc: Exception) -> str:
    return str(exc).splitlines()[0][:300] if str(exc) else type(exc).__name__
