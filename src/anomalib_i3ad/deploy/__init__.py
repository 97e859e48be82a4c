"""Inspection at the line by an exported model; needs NumPy, OpenVINO and OpenCV, and neither torch nor anomalib."""

from .decoding import ImageError
from .graph import ModelError
from .inspector import Inspection, Inspector

__all__ = ["ImageError", "Inspection", "Inspector", "ModelError"]
