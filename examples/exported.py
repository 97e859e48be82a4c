"""Is the exported model the same model, and what does it cost?

    python examples/exported.py I3AD CHECKPOINT --root DATA --category bottle --set max_iterations=8

Exports a trained model to ONNX and OpenVINO with dynamic size, runs Engine.predict, ONNX Runtime and OpenVINO (FP32)
over the test images at their own size, and prints the largest differences, and the time of a batch of 8 beside 8 single
images. For I3AD also the passes used, and OpenVINO's latency by passes as a ratio of the full run. Needs the extra
``dev``.
"""

import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import openvino as ov
import torch
from anomalib.data.utils import read_image
from common import load, make_engine, make_parser
from rich.progress import track

from anomalib_i3ad import I3AD

REPEATS = 3
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


def latency(compiled: ov.CompiledModel, images: np.ndarray) -> float:
    """Shortest of a few runs, in milliseconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        compiled(images)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def main() -> None:
    """Export, compare, time."""
    arguments = make_parser().parse_args()
    test = Path(arguments.root) / arguments.category / "test"
    paths = sorted(test.rglob("*.png"))
    with TemporaryDirectory() as folder:
        model = load(arguments, folder)
        session = onnxruntime.InferenceSession(model.to_onnx(folder))
        compiled = ov.Core().compile_model(model.to_openvino(folder), "CPU", FP32)
        engine = make_engine(folder, accelerator="cpu", enable_progress_bar=False)
        predicted = {}
        for kind in sorted(path for path in test.iterdir() if path.is_dir()):
            for batch in engine.predict(model, data_path=kind):
                predicted[Path(batch.image_path[0])] = batch

    names = ("pred_score", "pred_label", "anomaly_map")
    worst: dict[tuple[str, str], float] = defaultdict(float)
    agree: dict[str, int] = defaultdict(int)
    by_passes: dict[int, list[float]] = defaultdict(list)
    used: dict[str, list[int]] = defaultdict(list)
    for path in track(paths, "comparing"):
        image = read_image(path, as_tensor=True).numpy()[None]
        expected = predicted[path]
        by_runtime = {
            "ONNX Runtime": dict(zip(names, session.run(names, {"input": image}), strict=True)),
            "OpenVINO": compiled(image),
        }
        for runtime, result in by_runtime.items():
            for name in ("pred_score", "anomaly_map"):
                difference = float(np.abs(result[name].squeeze() - getattr(expected, name).numpy().squeeze()).max())
                worst[runtime, name] = max(worst[runtime, name], difference)
            agree[runtime] += bool(result["pred_label"].item() == expected.pred_label.item())
        if isinstance(model, I3AD):
            with torch.no_grad():
                passes = int(model.model.iterate(model.pre_processor(torch.from_numpy(image))).passes)
            used["normal" if path.parent.name == "good" else "defective"].append(passes)
            by_passes[passes].append(latency(compiled, image))

    print(f"\n{len(paths)} images of {arguments.category}, compared with Engine.predict")
    for runtime, count in agree.items():
        score, anomaly_map = worst[runtime, "pred_score"], worst[runtime, "anomaly_map"]
        print(f"{runtime}: score {score:.1e}, map {anomaly_map:.1e}, labels {count}/{len(paths)}")
    for kind, passes in used.items():
        print(f"passes on {kind} images: mean {np.mean(passes):.2f}, counts {np.bincount(passes).tolist()}")
    for passes, times in sorted(by_passes.items()):
        full = np.median(by_passes[max(by_passes)])
        print(f"{passes} passes: {np.median(times):.1f} ms, {np.median(times) / full:.2f} of {max(by_passes)} passes")

    images = np.concatenate([read_image(path, as_tensor=True).numpy()[None] for path in paths[:: len(paths) // 8][:8]])
    together, alone = compiled(images)["anomaly_map"], [compiled(image[None])["anomaly_map"] for image in images]
    ratio = latency(compiled, images) / sum(latency(compiled, image[None]) for image in images)
    difference = np.abs(together - np.concatenate(alone)).max()
    print(f"batch of 8: {ratio:.2f} of the time of 8 single images, maps differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
