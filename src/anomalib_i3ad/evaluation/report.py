"""``anomalib-i3ad report``: one HTML file that shows how a trained model does on its test images, and why."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

import pandas as pd
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.models import AnomalibModule
from anomalib.visualization import visualize_image_item
from PIL import Image

from anomalib_i3ad import __version__
from anomalib_i3ad.components.iteration import IterativeModel
from anomalib_i3ad.visualization import plots
from anomalib_i3ad.visualization.film_strip import film_strip_of

from .accuracy import measure_accuracy, predict
from .iterations import Iterations, measure_iterations
from .page import Page
from .parsers import report_parser
from .trained import images_of, load, make_trainer, model_class

STRIPS = 4
THRESHOLD = 0.5  # of normalised scores


def picture_of(model: AnomalibModule, item: ImageItem) -> Image.Image | None:
    """Film strip of an image, or anomalib's own picture for models that do not iterate."""
    if isinstance(model.model, IterativeModel):
        return film_strip_of(model, item)
    overlays = [("image", ["anomaly_map"]), ("image", ["pred_mask"])]
    return visualize_image_item(item, fields=["image", "gt_mask"], overlay_fields=overlays)


def telling_images(predictions: Sequence[ImageBatch]) -> Iterator[tuple[str, list[ImageItem]]]:
    """The images that tell most, by heading: errors first."""
    every = sorted((item for batch in predictions for item in batch), key=attrgetter("pred_score"))
    missed, found, passed, alarms = (
        [item for item in every if bool(item.gt_label) == anomalous and bool(item.pred_label) == flagged]
        for anomalous, flagged in ((True, False), (True, True), (False, False), (False, True))
    )
    yield "Missed defects, the worst first", missed[:STRIPS]
    yield "False alarms, the worst first", alarms[::-1][:STRIPS]
    yield "Found defects, from the closest call to the clearest", found[:: max(1, len(found) // STRIPS)][:STRIPS]
    yield "Normal images, the closest call first", passed[::-1][:STRIPS]


def add_iterations(page: Page, iterations: Iterations) -> None:
    """Add what each iteration buys."""
    page.heading("The iteration")
    label = iterations.label
    curves = {"image": iterations.image_auroc, "pixel": iterations.pixel_auroc}
    page.plots([plots.by_iterations(curves), plots.iterations_used(iterations.used, label)])
    last = len(iterations.image_auroc) - 1
    for text, names in (
        ("found by the iteration and not by the initial inpainting alone", iterations.rescued(0, last)),
        ("found by the initial inpainting alone and not by the iteration", iterations.rescued(last, 0)),
    ):
        which = f": {', '.join(names)}" if names else ""
        page.paragraph(f"{len(names)} anomalous images {text}, if 5 % of normal ones are alarms{which}.")


def write_report(
    model: AnomalibModule, predictions: Sequence[ImageBatch], title: str, benchmark: Path | None, out: Path
) -> None:
    """Write the page.

    Args:
        model: Trained model.
        predictions: Its scored test images, with labels and masks.
        title: Heading.
        benchmark: ``results.csv`` of ``anomalib-i3ad benchmark``, to set the model beside others; may be ``None``.
        out: File to write.
    """
    versions = f"anomalib-i3ad {__version__}, anomalib {version('anomalib')}, torch {version('torch')}"
    page = Page(title, f"{datetime.now(tz=timezone.utc):%Y-%m-%d}, {versions}")
    accuracy = measure_accuracy(predictions)
    page.table(
        [
            {
                "image AUROC": f"{accuracy.image_auroc:.3f}",
                "pixel AUROC": f"{accuracy.pixel_auroc:.3f}",
                "AU-PRO": f"{accuracy.au_pro:.3f}",
                "image F1": f"{accuracy.image_f1:.3f}",
                "defects found": f"{accuracy.found} of {accuracy.anomalous}",
                "false alarms": f"{accuracy.false_alarms} of {accuracy.normal}",
            }
        ]
    )
    page.paragraph("Scores above 0.5 are anomalous; that threshold comes from normal validation images alone.")
    label = torch.cat([batch.gt_label for batch in predictions]).int().numpy()
    score = torch.cat([batch.pred_score for batch in predictions]).float().numpy()
    shown = [plots.score_histogram(score, label, THRESHOLD)]
    page.plots([*shown, plots.roc(score, label, THRESHOLD), plots.precision_recall(score, label)])
    if isinstance(model.model, IterativeModel):
        add_iterations(page, measure_iterations(model, predictions))
    for heading, items in telling_images(predictions):
        if items:
            page.heading(heading)
        for item in items:
            picture = picture_of(model, item)
            if picture is not None:
                page.picture(picture, "/".join(Path(item.image_path or "").parts[-2:]))
    if benchmark:
        page.heading("Beside other models")
        rows = pd.read_csv(benchmark)
        if "version" in rows:  # as jobs end, rows are added: the last one is of the newest version
            rows = rows[rows["version"].isin(rows["version"].tail(1))]
        rows = rows.groupby(["model", "category"], as_index=False).mean(numeric_only=True)
        names = (rows["model"] + " " + rows["category"]).tolist()
        page.plots([plots.accuracy_against_latency(names, rows["milliseconds"].tolist(), rows["image_auroc"].tolist())])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page.render(), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = report_parser()
    parsed = parser.parse_args(arguments)
    try:
        cls = model_class(parsed.model)
        model = load(cls, parsed.ckpt_path)
        predictions = predict(make_trainer(), model, images_of(parsed.root, parsed.category))
        title = f"{cls.__name__} on {parsed.category}"
        write_report(model.cpu(), predictions, title, parsed.benchmark, parsed.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"anomalib-i3ad report: {error}\n")
    print(parsed.out)  # noqa: T201
    return 0
