"""How good a trained model is on its test images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, F1Score
from anomalib.models import AnomalibModule

PIXELS = ("anomaly_map", "gt_mask")


class Accuracy(NamedTuple):
    """Figures over all test images; the last five are at the threshold found from normal validation images.

    AU-PRO counts false positive rates up to 0.3; masks are compared at the model's input size.
    """

    image_auroc: float
    pixel_auroc: float
    au_pro: float
    image_f1: float
    found: int
    defective: int
    false_alarms: int
    good: int


def predict(engine: Engine, model: AnomalibModule, datamodule: AnomalibDataModule) -> list[Any]:
    """Score the test images of a datamodule; they keep their labels and masks."""
    datamodule.prepare_data()
    datamodule.setup("test")
    return engine.predict(model, dataloaders=datamodule.test_dataloader()) or []


def measure_accuracy(predictions: Sequence[ImageBatch]) -> Accuracy:
    """Compute all figures from predicted batches of test images."""
    metrics = (AUROC(["pred_score", "gt_label"]), AUROC(PIXELS), AUPRO(PIXELS), F1Score(["pred_label", "gt_label"]))
    for metric in metrics:
        for batch in predictions:
            metric.update(batch)
    label = torch.cat([batch.gt_label for batch in predictions]).bool()
    rejected = torch.cat([batch.pred_label for batch in predictions]).bool()
    areas = [metric.compute().item() for metric in metrics]
    counts = [int(count.sum()) for count in (rejected & label, label, rejected & ~label, ~label)]
    return Accuracy(*areas, *counts)  # type: ignore[arg-type]
