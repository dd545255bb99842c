"""The one inference pipeline, used by training, edge and cloud. Research use only."""

from models.runtime.errors import (
    GoldenError,
    ImageError,
    InferenceError,
    ModelLoadError,
    ModelRuntimeError,
    PipelineClosedError,
)
from models.runtime.golden import GoldenLimits, build_golden
from models.runtime.imaging import decode_image, encode_jpeg, read_image
from models.runtime.matching import Matches, match_detections
from models.runtime.pipeline import Networks, Pipeline, open_networks
from models.runtime.results import CellType, Detection, FieldAnalysis
from models.runtime.selftest import Check, SelfTestReport, run_self_test, self_test_bundle
from models.runtime.session import Network, Provider, Session, available_providers

__all__ = [
    "CellType",
    "Check",
    "Detection",
    "FieldAnalysis",
    "GoldenError",
    "GoldenLimits",
    "ImageError",
    "InferenceError",
    "Matches",
    "ModelLoadError",
    "ModelRuntimeError",
    "Network",
    "Networks",
    "Pipeline",
    "PipelineClosedError",
    "Provider",
    "SelfTestReport",
    "Session",
    "available_providers",
    "build_golden",
    "decode_image",
    "encode_jpeg",
    "match_detections",
    "open_networks",
    "read_image",
    "run_self_test",
    "self_test_bundle",
]
