"""Inspection at the line by an exported model; needs NumPy, OpenVINO and OpenCV, and neither torch nor anomalib."""

import sys

# without it OpenVINO uses a stub: it would tell its makers of every start, and wait for them where no one answers
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

from .decoding import ImageError  # noqa: E402
from .engine import Inspection, Inspector  # noqa: E402
from .graph import ModelError  # noqa: E402

__all__ = ["ImageError", "Inspection", "Inspector", "ModelError"]
