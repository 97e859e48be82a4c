"""Is the exported model the same model, and what does it cost?

    python examples/exported.py FeatureI3AD CHECKPOINT --root DATA --category bottle --set max_iterations=8

Exports a trained model to ONNX and OpenVINO with dynamic size, runs Engine.predict, ONNX Runtime and OpenVINO (FP32)
over the test images at their own size and some at 1024x768, and prints the largest differences, the time of a batch
of 8 beside 8 single images, and the images/s of the runtime beside those of inference alone. For models that
iterate also the iterations used, and OpenVINO's latency by iterations as a ratio of the full run. Needs the extra
``dev``.
"""

import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import numpy as np
import onnxruntime
import openvino as ov
import torch
from anomalib.data.utils import read_image
from common import load, make_engine, make_parser
from rich.progress import track

from anomalib_i3ad.deploy import Inspector
from anomalib_i3ad.deploy.graph import FP32, one_at_a_time, read_model, with_image_input
from anomalib_i3ad.deploy.pipeline import run
from anomalib_i3ad.deploy.results import Results
from anomalib_i3ad.deploy.sources import folder_frames
from anomalib_i3ad.evaluation.cost import shortest

REPEATS = 3


def latency(compiled: ov.CompiledModel, images: np.ndarray) -> float:
    """Shortest of a few runs, in milliseconds."""
    return 1000 * shortest(lambda: compiled(images), REPEATS)


def images_per_second(xml: Path, test: Path, folder: Path) -> tuple[float, float]:
    """Images a second of bare inference on decoded images, and of the runtime from files to rows."""
    decoded = [frame.read()[None] for frame in folder_frames(test)]
    graph = one_at_a_time(with_image_input(read_model(xml)))
    queue = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", {**FP32, "PERFORMANCE_HINT": "THROUGHPUT"}))
    inspector = Inspector(xml, hint="throughput")

    def bare() -> None:
        for image in decoded:
            queue.start_async(image)
        queue.wait_all()

    def runtime(number: int) -> None:
        results = Results(folder / f"{number}.csv")
        run(inspector, folder_frames(test), results, folder / "defective", Event())
        results.close()

    times: list[list[float]] = [[], []]
    for number in range(REPEATS):  # in turn, so that other work on the machine hits both
        for taken, work in zip(times, (bare, lambda number=number: runtime(number)), strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return len(decoded) / min(times[0]), len(decoded) / min(times[1])


def main() -> None:  # noqa: C901
    """Export, compare, time."""
    arguments = make_parser().parse_args()
    test = Path(arguments.root) / arguments.category / "test"
    paths = sorted(test.rglob("*.png"))
    with TemporaryDirectory() as folder:
        model = load(arguments, folder)
        session = onnxruntime.InferenceSession(model.to_onnx(folder))
        xml = model.to_openvino(folder)
        compiled = ov.Core().compile_model(xml, "CPU", FP32)
        bare, whole = images_per_second(xml, test, Path(folder))
        engine = make_engine(folder, accelerator="cpu", enable_progress_bar=False)
        predicted = {}
        for kind in sorted(path for path in test.iterdir() if path.is_dir()):
            for batch in engine.predict(model, data_path=kind):
                predicted[Path(batch.image_path[0]).resolve()] = batch

    names = ("pred_score", "pred_label", "anomaly_map")
    worst: dict[tuple[str, str], float] = defaultdict(float)
    agree: dict[str, int] = defaultdict(int)
    by_iterations: dict[int, list[float]] = defaultdict(list)
    used: dict[str, list[int]] = defaultdict(list)
    for path in track(paths, "comparing"):
        image = read_image(path, as_tensor=True).numpy()[None]
        expected = predicted[path.resolve()]
        by_runtime = {
            "ONNX Runtime": dict(zip(names, session.run(names, {"input": image}), strict=True)),
            "OpenVINO": compiled(image),
        }
        for runtime, result in by_runtime.items():
            for name in ("pred_score", "anomaly_map"):
                difference = float(np.abs(result[name].squeeze() - getattr(expected, name).numpy().squeeze()).max())
                worst[runtime, name] = max(worst[runtime, name], difference)
            agree[runtime] += bool(result["pred_label"].item() == expected.pred_label.item())
        if hasattr(model.model, "iterate"):
            with torch.no_grad():
                iterations = int(model.model.iterate(model.pre_processor(torch.from_numpy(image))).iterations)
            used["normal" if path.parent.name == "good" else "anomalous"].append(iterations)
            by_iterations[iterations].append(latency(compiled, image))

    wide = [
        torch.nn.functional.interpolate(torch.from_numpy(read_image(path, as_tensor=True).numpy())[None], (768, 1024))
        for path in paths[::10]
    ]
    for image in wide:
        with torch.no_grad():
            expected = model(image)
        for name in ("pred_score", "anomaly_map"):
            difference = float(np.abs(compiled(image.numpy())[name] - getattr(expected, name).numpy()).max())
            worst["1024x768", name] = max(worst["1024x768", name], difference)
    print(f"\n{len(paths)} images of {arguments.category}, compared with Engine.predict")
    for runtime, count in agree.items():
        score, anomaly_map = worst[runtime, "pred_score"], worst[runtime, "anomaly_map"]
        print(f"{runtime}: score {score:.1e}, map {anomaly_map:.1e}, labels {count}/{len(paths)}")
    score, anomaly_map = worst["1024x768", "pred_score"], worst["1024x768", "anomaly_map"]
    print(f"OpenVINO, {len(wide)} of them at 1024x768: score {score:.1e}, map {anomaly_map:.1e}")
    print(f"runtime, from files to rows: {whole:.1f} images/s, {whole / bare:.0%} of bare inference")
    for kind, iterations in used.items():
        print(f"iterations on {kind} images: mean {np.mean(iterations):.2f}, counts {np.bincount(iterations).tolist()}")
    for iterations, times in sorted(by_iterations.items()):
        full = np.median(by_iterations[max(by_iterations)])
        took = float(np.median(times))
        print(f"{iterations} iterations: {took:.1f} ms, {took / full:.2f} of {max(by_iterations)} iterations")

    images = np.concatenate([read_image(path, as_tensor=True).numpy()[None] for path in paths[:: len(paths) // 8][:8]])
    together, alone = compiled(images)["anomaly_map"], [compiled(image[None])["anomaly_map"] for image in images]
    ratio = latency(compiled, images) / sum(latency(compiled, image[None]) for image in images)
    difference = np.abs(together - np.concatenate(alone)).max()
    print(f"batch of 8: {ratio:.2f} of the time of 8 single images, maps differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
