"""Generated blood smears with exact truth: for the simulated microscope, golden inputs, tests and training."""

from models.synthetic.errors import BadRequestError, SyntheticError
from models.synthetic.fields import generate_field
from models.synthetic.optics import Optics
from models.synthetic.palette import STAIN_NAMES
from models.synthetic.slide import FieldTruth, TruthCell, VirtualSlide
from models.synthetic.spec import CELL_TYPES, SlideSpec

__all__ = [
    "CELL_TYPES",
    "STAIN_NAMES",
    "BadRequestError",
    "FieldTruth",
    "Optics",
    "SlideSpec",
    "SyntheticError",
    "TruthCell",
    "VirtualSlide",
    "generate_field",
]
