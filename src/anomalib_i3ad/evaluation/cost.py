"""What a trained model costs at the edge."""

import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from anomalib.data.utils import read_image
from anomalib.models import AnomalibModule

from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.graph import FP32, one_at_a_time

REPEATS = 3


def shortest(work: Callable[[], Any], repeats: int) -> float:
    """Shortest of some runs in seconds."""
    return min(timeit.repeat(work, number=1, repeat=repeats))


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
        graph = one_at_a_time(new_core().read_model(path))
        compiled = new_core().compile_model(graph, "CPU", {**FP32, "PERFORMANCE_HINT": "LATENCY"})
        # anomalib 2.7 fixes PatchCore's batch at the 2 images it traces with
        count = compiled.input(0).partial_shape[0].get_length()
        taken = []
        for image in images:
            pixels = np.repeat(np.asarray(read_image(image, as_tensor=True))[None], count, axis=0)
            taken.append(shortest(partial(compiled, pixels), REPEATS) / count)
    return Cost(1000 * float(np.median(taken)), size / 1e6)
