"""What does the runtime add to inference? From files to rows, beside inference alone on decoded images.

    python examples/measure/runtime.py MODEL.xml FOLDER

Prints images/s of the runtime, which decodes, inspects and writes, and their share of those of OpenVINO alone with
several requests at once; then the time of a batch of 8 beside that of 8 single images. The shortest of three runs
counts; runtime and OpenVINO take turns, so that other work on the machine hits both.
"""

from argparse import ArgumentParser
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import numpy as np
import openvino as ov

from anomalib_i3ad.deploy import Inspector
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.folders import folder_frames
from anomalib_i3ad.deploy.graph import FP32, one_at_a_time, read_model, with_image_input
from anomalib_i3ad.deploy.pipeline import run
from anomalib_i3ad.deploy.results import Results
from anomalib_i3ad.evaluation.cost import shortest

REPEATS, BATCH = 3, 8


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported model of any input size")
    parser.add_argument("images", type=Path, help="folder of images")
    arguments = parser.parse_args()
    decoded = [frame.read()[None] for frame in folder_frames(arguments.images)]
    graph = with_image_input(read_model(arguments.model))
    single = new_core().compile_model(one_at_a_time(graph.clone()), "CPU", {**FP32, "PERFORMANCE_HINT": "THROUGHPUT"})
    queue = ov.AsyncInferQueue(single)
    inspector = Inspector(arguments.model, hint="throughput")
    numbers = count()

    def inference() -> None:
        for image in decoded:
            queue.start_async(image)
        queue.wait_all()

    def runtime(folder: Path) -> None:
        results = Results(folder / f"{next(numbers)}.csv")
        run(inspector, folder_frames(arguments.images), results, folder / "anomalous", Event())
        results.close()

    with TemporaryDirectory() as folder:
        works = (inference, partial(runtime, Path(folder)))
        times = np.array([[shortest(work, 1) for work in works] for _ in range(REPEATS)])
    bare, whole = len(decoded) / times.min(axis=0)
    print(f"runtime, from files to rows: {whole:.1f} images/s, {whole / bare:.0%} of inference alone")

    alike = [image for image in decoded if image.shape == decoded[0].shape][:BATCH]
    together, compiled = np.concatenate(alike), new_core().compile_model(graph, "CPU", FP32)
    maps = np.concatenate([compiled(image)["anomaly_map"] for image in alike])
    difference = np.abs(compiled(together)["anomaly_map"] - maps).max()
    alone = sum(shortest(partial(compiled, image), REPEATS) for image in alike)
    ratio = shortest(partial(compiled, together), REPEATS) / alone
    print(f"batch of {len(alike)}: {ratio:.2f} of the time of single images, maps differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
