"""What a trained model costs at the edge."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import openvino as ov
from anomalib.data.utils import read_image
from anomalib.models import AnomalibModule

REPEATS = 3


class Cost(NamedTuple):
    """Median milliseconds of an image in OpenVINO (FP32, one request at a time), and megabytes on disk."""

    milliseconds: float
    megabytes: float


def measure_cost(model: AnomalibModule, images: list[Path]) -> Cost:
    """Export a model and time the graph on image files at their own size.

    Args:
        model: Trained model.
        images: Files; the shortest of three runs counts for each.
    """
    with TemporaryDirectory() as folder:
        path = Path(model.to_openvino(folder))
        size = sum(file.stat().st_size for file in (path, path.with_suffix(".bin")))
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.Core().compile_model(path, "CPU", settings)
        taken = []
        for image in images:
            pixels = np.asarray(read_image(image, as_tensor=True))[None]
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                compiled(pixels)
                times.append(time.perf_counter() - start)
            taken.append(min(times))
    return Cost(1000 * float(np.median(taken)), size / 1e6)
