"""Inspection at the line by an exported model; needs NumPy, OpenVINO and OpenCV, and neither torch nor anomalib."""

from .decoding import ImageError
from .engine import Inspection, Inspector
from .graph import ModelError

__all__ = ["ImageError", "Inspection", "Inspector", "ModelError"]
