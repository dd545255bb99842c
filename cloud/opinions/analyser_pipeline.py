"""The larger bundle through the one pipeline of `models.runtime`."""

from __future__ import annotations

from pathlib import Path

from cloud.errors import ConfigurationError
from fleet.contract.cells import ModelRef
from models.bundle import BundleError, read_bundle
from models.runtime import FieldAnalysis, Pipeline, run_self_test
from models.runtime.errors import ModelRuntimeError
from models.runtime.results import ImageRGB
from models.zoo import ZooError, shipped


class PipelineAnalyser:
    """A bundle, opened and warm.

    Args:
        path: the bundle's folder or zip.
        threads: threads of one inference.

    Raises:
        ConfigurationError: absent, damaged, not known to this version, or no model that can be opened.
    """

    def __init__(self, path: Path, *, threads: int) -> None:
        try:
            bundle = read_bundle(path)
            self._pipeline = Pipeline(bundle, threads=threads)
            self._pipeline.warm_up()
        except (BundleError, ModelRuntimeError) as exc:
            raise ConfigurationError(f"the second-opinion bundle cannot be used: {exc}") from exc
        manifest = bundle.manifest
        self._model = ModelRef(name=manifest.name, version=manifest.version, digest=bundle.digest)

    @property
    def model(self) -> ModelRef:
        """Name, version and digest of the bundle."""
        return self._model

    def analyse(self, image: ImageRGB) -> FieldAnalysis:
        """All detections of an (H, W, 3) uint8 RGB field; ModelRuntimeError when the model fails."""
        return self._pipeline.analyse(image)

    def self_test(self) -> list[str]:
        """Runs the golden inputs; the failures, each in words."""
        report = run_self_test(self._pipeline)
        return [] if report.passed else [str(failure) for failure in report.failures]


def bundle_path(configured: Path | None) -> Path | None:
    """The bundle to load: the configured one, else the one that ships, else None."""
    if configured is not None:
        return configured
    try:
        return shipped("second-opinion")
    except ZooError:
        return None
