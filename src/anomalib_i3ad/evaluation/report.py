"""``anomalib-i3ad report``: one HTML file that shows how a trained model does on its test images, and why."""

import errno
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils import read_image
from anomalib.models import AnomalibModule
from PIL import Image
from torchvision.transforms.v2 import Compose

from anomalib_i3ad import __version__
from anomalib_i3ad.components.iteration import IterativeModel
from anomalib_i3ad.deploy.files import write_whole
from anomalib_i3ad.post_processing import QuantilePostProcessor
from anomalib_i3ad.visualization import plots
from anomalib_i3ad.visualization.captions import caption_of
from anomalib_i3ad.visualization.film_strip import film_strip_of, plain, result_tiles
from anomalib_i3ad.visualization.sheet import draw_sheet

from . import explanations
from .accuracy import crops, geometry_of, measure_accuracy, predict
from .iterations import FALSE_ALARMS, Iterations, measure_iterations
from .page import Page
from .parsers import report_parser
from .table import read_benchmark
from .trained import images_of, load, make_trainer, model_class

STRIPS = 4  # pictures of each group


def picture_of(model: AnomalibModule, item: ImageItem) -> Image.Image:
    """Film strip of an image, or image and result for models that do not iterate."""
    if isinstance(model.model, IterativeModel):
        return film_strip_of(model, item, "")
    # other models may have normalised the image by which they see
    image: Any = read_image(item.image_path or "", as_tensor=True)
    if crops(model):
        seen: Any = model.pre_processor
        image = Compose(geometry_of(seen.transform))(image)
    processor: Any = model.post_processor
    threshold = float(processor.normalized_pixel_threshold)
    maps = plain(item.anomaly_map), plain(item.pred_mask), plain(item.gt_mask)
    tiles, keys = result_tiles(image[None], *maps, threshold)
    return draw_sheet("", [("", [tile]) for tile in tiles], keys, threshold)


def telling_images(predictions: Sequence[ImageBatch]) -> Iterator[tuple[str, str, list[ImageItem]]]:
    """The images that tell most, errors first: heading, what they are, and items."""
    every = sorted((item for batch in predictions for item in batch), key=attrgetter("pred_score"))
    missed, found, passed, alarms = (
        [item for item in every if bool(item.gt_label) == true and bool(item.pred_label) == predicted]
        for true, predicted in ((True, False), (True, True), (False, False), (False, True))
    )
    spread = [found[round(at)] for at in np.linspace(0, len(found) - 1, min(STRIPS, len(found)))]
    for (heading, what), items, telling in zip(
        explanations.GROUPS.items(), (missed, alarms, found, passed), (missed, alarms[::-1], spread, passed[::-1]),
        strict=True,
    ):  # fmt: skip
        shown = telling[:STRIPS]
        yield heading, f"{len(shown)} of {len(items)} {what}.", shown


def threshold_of(model: AnomalibModule) -> tuple[float, str]:
    """Threshold of scores, and a sentence that says what it is."""
    post: Any = model.post_processor
    threshold = float(post.normalized_image_threshold)
    said = f"An image is called anomalous if its score is above the threshold of {threshold:g}. "
    if not isinstance(post, QuantilePostProcessor):
        return threshold, said + "The threshold was found on validation images when the model was trained."
    images = f"{post.normal_images} of them" if post.normal_images else "some"
    return threshold, (
        f"{said}Score 0.5 was set so that {100 * post.image_quantile:g} % of normal images should score lower, by "
        f"{images} that were kept out of training; no anomalous image was needed."
    )


def add_iterations(page: Page, iterations: Iterations) -> None:
    """Add what each iteration buys."""
    page.heading("The iteration")
    page.paragraph(explanations.ITERATION)
    label = iterations.label
    curves = {"images": iterations.image_auroc, "pixels": iterations.pixel_auroc}
    page.plots([plots.by_iterations(curves), plots.iterations_used(iterations.used, label)])
    if not iterations.has_normal:
        return
    last = len(iterations.image_auroc) - 1
    page.paragraph(
        f"If the threshold is set so that {100 * FALSE_ALARMS:g} % of the normal test images are false alarms:"
    )
    texts = (
        ("found after the iterations, but not after the initial inpainting alone", iterations.rescued(0, last)),
        ("found after the initial inpainting alone, but not after the iterations", iterations.rescued(last, 0)),
    )
    page.items([f"{len(names)} anomalous images are {text}{_listed(names)}" for text, names in texts])


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def write_report(
    model: AnomalibModule, predictions: Sequence[ImageBatch], title: str, benchmark: pd.DataFrame | None, out: Path
) -> None:
    """Write the page.

    Args:
        model: Trained model.
        predictions: Its scored test images, with labels and masks.
        title: Heading.
        benchmark: Of :func:`read_benchmark`, to set the model beside others; may be ``None``.
        out: File to write.
    """
    versions = f"anomalib-i3ad {__version__}, anomalib {version('anomalib')}, torch {version('torch')}"
    page = Page(title, f"{datetime.now(tz=timezone.utc):%Y-%m-%d}, {versions}")
    accuracy = measure_accuracy(predictions)
    threshold, about = threshold_of(model)
    page.paragraph(
        f"The model was trained on normal images only. Then it gave a score to {accuracy.normal + accuracy.anomalous} "
        f"test images that it had not seen: {accuracy.normal} are normal, and {accuracy.anomalous} are anomalous, that "
        "is, they show a defect. This page tells how well the score separates them. Then it shows images, errors "
        "first, and for each what the model found and why."
    )
    page.paragraph(about)
    counts = (
        ("found", f"{accuracy.found} of {accuracy.anomalous}", "Anomalous images that score above the threshold."),
        ("false alarms", f"{accuracy.false_alarms} of {accuracy.normal}", "Normal images that do so, too."),
    )
    explained = [
        (name, figure, text)
        for (name, text), figure in zip(explanations.FIGURES.items(), accuracy.figures(), strict=True)
    ]
    page.table([dict(zip(("figure", "value", "meaning"), row, strict=True)) for row in (*counts, *explained)])
    page.heading("The scores")
    label = torch.cat([batch.gt_label for batch in predictions]).int().numpy()
    score = torch.cat([batch.pred_score for batch in predictions]).float().numpy()
    shown = [plots.score_histogram(score, label, threshold)]
    if accuracy.normal and accuracy.anomalous:
        shown += [plots.roc(score, label, threshold), plots.precision_recall(score, label)]
    page.plots(shown)
    iterates = isinstance(model.model, IterativeModel)
    if iterates:
        add_iterations(page, measure_iterations(model, predictions))
    page.heading("How to read the pictures")
    if iterates:
        page.paragraph("The first column is the result:")
    page.items(explanations.RESULT)
    if iterates:
        page.paragraph(
            "The other columns, to which one scrolls on a phone, are the initial inpainting and each iteration:"
        )
        page.items(explanations.ITERATIONS)
    for heading, what, items in telling_images(predictions):
        if items:
            page.heading(heading)
            page.paragraph(what)
        for item in items:
            page.picture(picture_of(model, item), caption_of(item, threshold))
    if benchmark is not None:
        page.heading("Beside other models")
        page.paragraph("Better is higher, faster is further left.")
        names = (benchmark["model"] + " " + benchmark["category"]).tolist()
        costs, accuracies = (benchmark[name].tolist() for name in ("milliseconds", "image_auroc"))
        page.plots([plots.accuracy_against_latency(names, costs, accuracies)])
    if out.exists() and not out.is_file():  # a pipe, a terminal
        out.write_text(page.render(), encoding="utf-8")
    else:
        write_whole(out.resolve(), [page.render().encode()])


def prepare_place(out: Path) -> None:
    """Make the folder of a file, and check that one can be written there: before minutes of work, not after.

    Raises:
        OSError: If not.
    """
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", f"--out {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=out.resolve().parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"--out {out}") from error


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = report_parser()
    parsed = parser.parse_args(arguments)
    try:
        cls = model_class(parsed.model)
        prepare_place(parsed.out)
        model = load(cls, parsed.ckpt_path)
        benchmark = read_benchmark(parsed.benchmark) if parsed.benchmark else None
        predictions = predict(make_trainer(), model, images_of(parsed))
        title = f"{cls.__name__} on {parsed.category}"
        write_report(model.cpu(), predictions, title, benchmark, parsed.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(parsed.out)  # noqa: T201
    return 0
