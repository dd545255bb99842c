"""Training configurations: YAML files, closed and bounded, so that a typing error stops the run at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from training.errors import ConfigError


class Part(BaseModel):
    """Frozen and closed: an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DetectorNet(Part):
    """Widths and depths of the detector, see `models.nets.hema_net.HemaNetShape`."""

    stem: int = Field(16, ge=4, le=128)
    stages: tuple[int, int, int] = (32, 80, 128)
    depths: tuple[int, int, int] = (1, 2, 2)
    neck: int = Field(48, ge=8, le=256)
    head_depth: int = Field(0, ge=0, le=4)
    reg_bins: int = Field(16, ge=4, le=64)
    residual: bool = False


class EmbedderNet(Part):
    """Widths of the white-cell embedder, see `models.nets.embedder.EmbedderShape`."""

    widths: tuple[int, int, int, int] = (24, 48, 80, 128)
    dimensions: int = Field(128, ge=8, le=1024)
    standardise: bool = Field(True, description="standardise each crop's channels instead of a fixed shift and scale")


class GeneratedFields(Part):
    """Generated fields mixed into the data."""

    count: int = Field(0, ge=0, le=20_000, description="fields rendered once and cached")
    first_seed: int = Field(100_000, ge=0, description="seeds first_seed .. first_seed + count - 1")
    width_px: int = Field(640, ge=64, le=4096)
    height_px: int = Field(480, ge=64, le=4096)


class FieldData(Part):
    """Where the fields of the detector come from."""

    dataset: str | None = Field("det_txl", description="folder below AHS_DATA_DIR with COCO files; null: none")
    train_split: str = "train"
    val_split: str = "val"
    exclude_groups_of: tuple[str, ...] = Field(
        ("val", "test"), description="training images that share a near-duplicate group with these splits are dropped"
    )
    generated: GeneratedFields = GeneratedFields()
    generated_val: GeneratedFields = GeneratedFields()
    cache_px: int = Field(480, ge=64, description="training fields are kept in memory no larger than this (long side)")

    @model_validator(mode="after")
    def _not_empty(self) -> FieldData:
        if self.dataset is None and self.generated.count == 0:
            raise ValueError("there is nothing to train on: name a dataset or set generated.count")
        return self


class CellData(Part):
    """Where the white cells of the embedder come from."""

    dataset: str | None = Field("wbc_pbc", description="folder below AHS_DATA_DIR with labels.csv; null: none")
    generated: GeneratedFields = GeneratedFields()
    generated_val: GeneratedFields = GeneratedFields()
    detector: Path | None = Field(None, description="bundle whose detector finds the cells and the red-cell diameter")
    input_px: int = Field(64, ge=16, le=256)
    window_rbc: float = Field(2.4, gt=0.5, le=10, description="crop window in red-cell diameters")
    window_box: float = Field(1.3, gt=0.5, le=10, description="crop window in longer sides of the box (fall-back)")
    epoch_size: int = Field(3500, ge=8, description="crops drawn an epoch, balanced over types and origins")
    generated_ratio: float = Field(0.3, ge=0, le=1, description="share of generated cells in an epoch")


class Stage(Part):
    """A run of epochs at one input size."""

    epochs: int = Field(ge=1, le=1000)
    input_px: int = Field(ge=64, le=2048, multiple_of=16)
    generated: bool = Field(True, description="whether generated pictures are mixed in")


class EarlyStop(Part):
    """When a run ends before its last epoch."""

    patience: int = Field(ge=1, description="validations in a row without a better score")
    least_gain: float = Field(0.0, ge=0, description="a score counts as better from this much on")


class Optimiser(Part):
    """AdamW with a linear warm-up and one schedule over all stages."""

    learning_rate: float = Field(3e-3, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_ratio: float = Field(0.01, ge=0, le=1, description="last learning rate over the first")
    weight_decay: float = Field(0.03, ge=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    batch: int = Field(16, ge=1, le=4096, description="pictures a step and process")
    ema_decay: float = Field(0.998, ge=0, lt=1)
    clip_norm: float = Field(10.0, gt=0)


class DetectorLoss(Part):
    """Task-aligned assignment and the three losses."""

    class_weights: tuple[float, float, float] = Field((1.0, 1.3, 4.0), description="RBC, WBC, Platelets; positives")
    soft_target_floor: float = Field(0.35, ge=0, le=1, description="least target score of a positive")
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(6.0, ge=0)
    top_k: int = Field(10, ge=1, le=100)
    bce: float = Field(1.0, ge=0)
    giou: float = Field(2.5, ge=0)
    dfl: float = Field(0.5, ge=0)


class FieldLook(Part):
    """How far a training field may look like another laboratory's."""

    probability: float = Field(0.5, ge=0, le=1, description="share of the fields that are changed at all")
    stain_probability: float = Field(0.7, ge=0, le=1)
    light_probability: float = Field(0.6, ge=0, le=1)
    defocus_probability: float = Field(0.3, ge=0, le=1)
    density_mix: float = Field(0.25, ge=0, le=1, description="largest mix between the optical densities of channels")
    cast: float = Field(0.25, ge=0, le=1, description="largest change of a channel's gain")
    haze: float = Field(0.4, ge=0, le=1, description="largest share of white veil")
    min_contrast: float = Field(0.35, gt=0, le=1)
    vignette: float = Field(0.5, ge=0, le=1, description="largest loss of light in the corners, and slope across")
    defocus_ratio: float = Field(0.6, ge=0, le=5, description="largest sigma, per cent of the field's longer side")


class FieldAugment(Part):
    """What happens to a training field."""

    scale: tuple[float, float] = (0.75, 1.35)
    shift_ratio: float = Field(0.1, ge=0, le=0.5)
    hue_shift: int = Field(10, ge=0, le=90, description="half degrees of OpenCV's hue")
    saturation_shift: int = Field(40, ge=0, le=255)
    value_shift: int = Field(30, ge=0, le=255)
    blur_probability: float = Field(0.2, ge=0, le=1)
    noise_probability: float = Field(0.2, ge=0, le=1)
    min_visible_ratio: float = Field(0.25, gt=0, le=1, description="a box cut to less than this is dropped")
    look: FieldLook | None = Field(None, description="null: the laboratory's own look with small changes of colour")


class CellAugment(Part):
    """What happens to a training crop."""

    density_mix: float = Field(0.25, ge=0, le=1, description="largest mix between the optical densities of channels")
    cast: float = Field(0.25, ge=0, le=1, description="largest change of a channel's gain")
    haze: float = Field(0.4, ge=0, le=1, description="largest share of white veil")
    min_contrast: float = Field(0.35, gt=0, le=1)
    blur_px: float = Field(1.6, ge=0, le=10, description="largest sigma of the Gaussian blur, crop pixels")
    noise: float = Field(8.0, ge=0, le=64, description="largest sigma of the noise, grey levels")
    window_jitter: float = Field(0.15, ge=0, le=0.5)
    shift_ratio: float = Field(0.06, ge=0, le=0.5)
    strong_probability: float = Field(0.8, ge=0, le=1)


class RunConfig(Part):
    """What both kinds of runs share."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    seed: int = Field(7, ge=0)
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    validate_every: int = Field(2, ge=1, description="epochs between validations; the last epoch is always validated")
    early_stop: EarlyStop | None = None
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="bf16 pays on GPUs and CPUs with AMX only; fp16, with scaled gradients, on GPUs only"
    )
    init_from: Path | None = Field(
        None, description="checkpoint whose averaged weights are the start, or a bundle with an fp32 detector"
    )

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> Stage:
        """Stage of an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]


class DetectorConfig(RunConfig):
    """A detector run."""

    kind: Literal["detector"]
    net: DetectorNet = DetectorNet()
    data: FieldData = FieldData()
    loss: DetectorLoss = DetectorLoss()
    augment: FieldAugment = FieldAugment()


class EmbedderConfig(RunConfig):
    """An embedder run."""

    kind: Literal["embedder"]
    net: EmbedderNet = EmbedderNet()
    data: CellData = CellData()
    augment: CellAugment = CellAugment()
    label_smoothing: float = Field(0.05, ge=0, lt=1)


AnyConfig = DetectorConfig | EmbedderConfig
_ADAPTER: TypeAdapter[AnyConfig] = TypeAdapter(Annotated[AnyConfig, Field(discriminator="kind")])


def load_config(path: Path) -> AnyConfig:
    """Read and check a training configuration.

    Raises:
        ConfigError: absent, no YAML, an unknown key or a value out of bounds; each problem on a line of its own.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); configurations are in training/configs") from exc
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: is no YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping that begins with kind: detector or kind: embedder")
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as exc:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(top)'}: {e['msg']}" for e in exc.errors()]
        raise ConfigError(f"{path}: {len(lines)} problem(s)\n" + "\n".join(lines)) from exc
