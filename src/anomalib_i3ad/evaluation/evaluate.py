"""``anomalib-i3ad evaluate``: how a trained model does on its test images, in tables of Markdown."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from anomalib.data import ImageBatch
from anomalib.models import AnomalibModule

from anomalib_i3ad.components.iteration import IterativeModel
from anomalib_i3ad.data import MVTec
from anomalib_i3ad.deploy.engine import Inspection
from anomalib_i3ad.models.exports import ExportMixin

from .accuracy import COLUMNS, crops, figure_of, measure_accuracy, predict
from .engines import WIDE, Difference, differences, engines_of, wide_images
from .int8 import export_forms, measure_forms, what_is_int8
from .iterations import measure_iterations
from .markdown import markdown
from .parsers import evaluate_parser
from .trained import assignments, calibrate, images_of, load, make_trainer, model_class


def iterations_of(model: AnomalibModule, predictions: Sequence[ImageBatch]) -> Iterator[str]:
    """What each iteration buys: a table, and how many iterations the images used.

    ``found``, ``won`` and ``lost`` count anomalous images at the threshold that 5 % of the normal ones exceed; ``-``
    without normal ones.
    """
    iterations = measure_iterations(model, predictions)
    rows = []
    for n, aurocs in enumerate(zip(iterations.image_auroc, iterations.pixel_auroc, strict=True)):
        before = max(0, n - 1)
        found = (iterations.found(n) & (iterations.label == 1)).sum()
        counts = (found, len(iterations.rescued(before, n)), len(iterations.rescued(n, before)))
        texts = map(str, counts) if iterations.has_normal else ["-"] * 3
        rows.append([str(n), *map(figure_of, aurocs), *texts])
    yield markdown(["iterations", "image AUROC", "pixel AUROC", "found at 5 % false alarms", "won", "lost"], rows)
    for kind, name in enumerate(("normal", "anomalous")):
        used = Counter(iterations.used[iterations.label == kind].tolist())
        yield f"iterations used on {name} images: {dict(sorted(used.items()))}"


def latency_by_iterations(results: Sequence[Inspection]) -> str:
    """Median time of the images that took so many iterations, also as a share of the most iterations."""
    times = defaultdict(list)
    for result in results:
        times[result.iterations].append(result.milliseconds)
    medians = {count: float(np.median(taken)) for count, taken in sorted(times.items())}
    most = list(medians.values())[-1]
    rows = [
        [str(count), str(len(times[count])), f"{median:.1f}", f"{median / most:.2f}"]
        for count, median in medians.items()
    ]
    return markdown(["iterations", "images", "ms", "of the most iterations"], rows)


def exported_of(model: Any, datamodule: MVTec, folder: Path) -> Iterator[str]:
    """How far the engines of the exported model are from ``Engine.predict``, then what INT8 costs and brings."""
    paths = export_forms(model, folder, datamodule)
    datamodule.setup("test")
    dataset = datamodule.test_data
    engines = engines_of(model, paths["FP32"], folder)
    sizes = {"their own": dataset, f"{WIDE[1]}x{WIDE[0]}": wide_images(dataset)}
    compared = [
        (engine, size, difference)
        for size, images in sizes.items()
        for engine, difference in differences(model, images, engines).items()
    ]
    head = ["engine", "size of images", "score differs by", "map differs by", "equal labels"]
    yield markdown(head, [[engine, size, *_cells(difference)] for engine, size, difference in compared])
    if "ONNX Runtime" not in engines:
        yield "ONNX Runtime is not installed, and its rows are left out: pip install onnxruntime"
    forms = measure_forms(paths, dataset, cropped=crops(model))
    rows = [
        [name, *form.accuracy.cells(), f"{np.median(form.milliseconds):.1f}", f"{form.kilobytes:.0f}"]
        for name, form in forms.items()
    ]
    yield markdown(["precision", *COLUMNS, "ms", "kB of weights"], rows)
    fp32, int8 = forms["FP32"], forms["INT8"]
    ratio = np.median(fp32.milliseconds / int8.milliseconds)
    changed = sum(a.label != b.label for a, b in zip(fp32.results, int8.results, strict=True))
    yield f"INT8 is {ratio:.2f} times as fast (median over images); {changed}/{len(dataset)} labels changed"
    yield from what_is_int8(paths["INT8"])
    if isinstance(model.model, IterativeModel):
        yield latency_by_iterations(fp32.results)


def _cells(difference: Difference) -> list[str]:
    score, anomaly_map, equal, images = difference
    return [f"{score:.1e}", f"{anomaly_map:.1e}", f"{equal}/{images}"]


def evaluate(parsed: Any) -> Iterator[str]:
    """Tables and sentences, as they are measured.

    Args:
        parsed: Arguments of the command.

    Raises:
        ValueError: If the model cannot be evaluated so.
    """
    cls = model_class(parsed.model)
    changed = dict(assignments(parsed.set))
    model = load(cls, parsed.ckpt_path, **changed)
    if parsed.iterations and not isinstance(model.model, IterativeModel):
        msg = f"--iterations: {cls.__name__} does not iterate"
        raise ValueError(msg)
    if parsed.exported and not isinstance(model, ExportMixin):
        msg = f"--exported: {cls.__name__} is anomalib's; only models of this package are exported to be compared"
        raise ValueError(msg)
    if changed:
        calibrate(model, images_of(parsed))
    datamodule = images_of(parsed)
    predictions: Any = predict(make_trainer(), model, datamodule)
    name = " ".join([cls.__name__, *parsed.set])
    row = [name, parsed.category, *measure_accuracy(predictions).cells()]
    yield markdown(["model", "category", *COLUMNS], [row])
    model = model.cpu()
    if parsed.iterations:
        yield from iterations_of(model, predictions)
    if parsed.exported:
        with TemporaryDirectory() as folder:
            yield from exported_of(model, datamodule, Path(folder))


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = evaluate_parser()
    parsed = parser.parse_args(arguments)
    try:
        for part in evaluate(parsed):
            print(f"\n{part}", flush=True)  # noqa: T201
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0
