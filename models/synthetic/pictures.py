"""Pictures of generated slides: for the documentation, and a folder of fields as a source to read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from models.synthetic.errors import BadRequestError
from models.synthetic.fields import generate_field
from models.synthetic.optics import ImageRGB, Optics
from models.synthetic.palette import STAIN_NAMES
from models.synthetic.placement import stable_generator
from models.synthetic.slide import FieldTruth, VirtualSlide
from models.synthetic.spec import CELL_TYPES, SlideSpec

_UM_PER_PX: Final = 0.083
_USUAL_OPTICS: Final = Optics(defocus_um=0.25, vignetting_ratio=0.08, noise_sigma=0.0)
"""Without noise: it would make the files five times as large."""
_BOX_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "RBC": (178, 34, 34),
    "WBC": (20, 60, 200),
    "Platelets": (0, 120, 60),
}
_FIRST_FIELD: Final = 200
_INK: Final = (40, 40, 40)
_STRIP_PX: Final = 26


def write_pictures(folder: Path) -> list[Path]:
    """Write every picture of this package into a folder, which is made where absent.

    Raises:
        BadRequestError: when a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "generated-fields.png": fields_sheet(),
        "generated-cell-types.png": cell_types_sheet(),
        "generated-truth.png": truth_sheet(),
        "generated-optics.png": optics_sheet(),
    }
    return [_write(folder / name, image) for name, image in sheets.items()]


def write_fields(folder: Path, count: int) -> list[Path]:
    """Write so many fields of a site that stains more strongly than usual, with many white cells of each type.

    Raises:
        BadRequestError: when a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    types = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
    written = []
    for seed in range(_FIRST_FIELD, _FIRST_FIELD + count):
        spec = SlideSpec(
            seed=seed,
            stain_intensity_ratio=1.7,
            stain_tint=(1.6, 0.7, 0.7),
            wbc_per_field_mean=2.2,
            differential=dict.fromkeys(types, 1 / len(types)),
        )
        field = generate_field(seed, um_per_px=_UM_PER_PX, spec=spec, optics=Optics())
        written.append(_write(folder / f"field-{seed}.png", field.image))
    return written


def fields_sheet() -> ImageRGB:
    """One field of each stain, pale, usual and dark."""
    rows = []
    for stain in STAIN_NAMES:
        row = []
        for intensity in (0.7, 1.0, 1.25):
            spec = SlideSpec(seed=11, stain=stain, stain_intensity_ratio=intensity, wbc_per_field_mean=2.0)
            view = VirtualSlide(spec).render(x_um=96.0, y_um=170.0, um_per_px=_UM_PER_PX)
            row.append(_titled(_smaller(_seen(view)), f"{stain}, density x {intensity}"))
        rows.append(np.hstack(row))
    varied = [_titled(_smaller(generate_field(seed).image), f"generate_field({seed})") for seed in (1, 2, 4)]
    return np.vstack([*rows, np.hstack(varied)])


def cell_types_sheet() -> ImageRGB:
    """Each white-cell type (a row), six cells of it, and two cells between it and another type."""
    rows = []
    for cell_type in CELL_TYPES:
        row: list[ImageRGB] = []
        for ambiguous_ratio, count in ((0.0, 6), (1.0, 2)):
            spec = SlideSpec(seed=5, differential={cell_type: 1.0}, ambiguous_ratio=ambiguous_ratio)
            title = "between types" if ambiguous_ratio else cell_type
            found = _white_cells(VirtualSlide(spec))
            row.extend(_titled(next(found), title) for _ in range(count))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def truth_sheet() -> ImageRGB:
    """A field with its true boxes, and the same field seen from elsewhere at another scale."""
    slide = VirtualSlide(SlideSpec(seed=11, wbc_per_field_mean=2.0, platelets_per_field_mean=3.0))
    near = slide.render(x_um=96.0, y_um=170.0, um_per_px=_UM_PER_PX)
    far = slide.render(x_um=83.0, y_um=160.0, um_per_px=_UM_PER_PX * 1.5)
    return np.hstack([_boxed(near), _boxed(far)])


def optics_sheet() -> ImageRGB:
    """One field behind different light and sensors."""
    view = VirtualSlide(SlideSpec(seed=11, wbc_per_field_mean=2.0)).render(x_um=96.0, y_um=170.0, um_per_px=_UM_PER_PX)
    settings = {
        "ideal": Optics(noise_sigma=0.0),
        "defocus 1 um": Optics(noise_sigma=0.0, defocus_um=1.0),
        "defocus 3 um": Optics(noise_sigma=0.0, defocus_um=3.0),
        "vignetting 0.5": Optics(noise_sigma=0.0, vignetting_ratio=0.5),
        "slope 0.4": Optics(noise_sigma=0.0, slope_ratio=0.4),
        "gain 0.6": Optics(noise_sigma=0.0, gain=0.6),
        "cast blue": Optics(noise_sigma=0.0, cast=(0.85, 0.95, 1.1)),
        "haze 0.5": Optics(noise_sigma=0.0, haze_ratio=0.5),
        "noise 12": Optics(noise_sigma=12.0),
    }
    shots = [_titled(_smaller(_seen(view, optics)), title) for title, optics in settings.items()]
    return np.vstack([np.hstack(shots[k : k + 3]) for k in range(0, len(shots), 3)])


def _white_cells(slide: VirtualSlide, *, side_px: int = 220) -> Iterator[ImageRGB]:
    """Crops round white cells, along a strip of the slide."""
    half_um, x_um = side_px / 2 * _UM_PER_PX, 0.0
    while True:
        for cell in slide.cells_in(x_um=x_um, y_um=0.0, width_px=1000, height_px=800, um_per_px=_UM_PER_PX):
            if cell.cls == "WBC" and cell.visible_ratio > 0.99:
                left_um = x_um + (cell.box[0] + cell.box[2]) / 2 * _UM_PER_PX - half_um
                top_um = (cell.box[1] + cell.box[3]) / 2 * _UM_PER_PX - half_um
                view = slide.render(
                    x_um=left_um, y_um=top_um, width_px=side_px, height_px=side_px, um_per_px=_UM_PER_PX
                )  # fmt: skip
                yield _smaller(_seen(view), ratio=0.7)
        x_um += 1000 * _UM_PER_PX


def _seen(view: FieldTruth, optics: Optics = _USUAL_OPTICS) -> ImageRGB:
    return optics.apply(view.image, stable_generator("picture"), um_per_px=view.um_per_px)


def _boxed(view: FieldTruth) -> ImageRGB:
    image = _seen(view)
    for cell in view.cells:
        x1, y1, x2, y2 = (math.floor(v) for v in cell.box)
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), _BOX_COLOURS[cell.cls], 1)
        if cell.cell_type is not None:
            cv2.putText(
                image, cell.cell_type, (x1 + 2, max(y1 - 4, 10)), cv2.FONT_HERSHEY_SIMPLEX, 0.45,
                _BOX_COLOURS[cell.cls], 1, cv2.LINE_AA,
            )  # fmt: skip
    return _titled(image, f"{view.um_per_px:.4f} um per pixel, {len(view.cells)} cells")


def _smaller(image: ImageRGB, *, ratio: float = 0.5) -> ImageRGB:
    size_px = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
    return np.asarray(cv2.resize(image, size_px, interpolation=cv2.INTER_AREA), np.uint8)


def _titled(image: ImageRGB, title: str) -> ImageRGB:
    strip = np.full((_STRIP_PX, image.shape[1], 3), 245, np.uint8)
    cv2.putText(strip, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.48, _INK, 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def _write(path: Path, image: ImageRGB) -> Path:
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise BadRequestError(f"{path.name} could not be encoded as PNG")
    try:
        path.write_bytes(data.tobytes())
    except OSError as exc:
        raise BadRequestError(f"{path} could not be written: {exc}") from exc
    return path
