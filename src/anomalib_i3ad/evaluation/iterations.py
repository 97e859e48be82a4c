"""What each iteration buys, over the images of a test set."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from sklearn.metrics import roc_auc_score

from anomalib_i3ad.visualization.captions import name_of

from .accuracy import compared, true_masks

#: Share of false alarms at which what is found after one iteration is compared with what is found after another.
FALSE_ALARMS = 0.05


class Iterations(NamedTuple):
    """Figures after 0, 1, 2, ... iterations.

    ``used``, ``label``, ``names`` (N): iterations an image took, 1 if it is anomalous, its file. ``score``
    (N, iterations). ``image_auroc``, ``pixel_auroc`` (iterations).
    """

    used: np.ndarray
    label: np.ndarray
    names: list[str]
    score: np.ndarray
    image_auroc: list[float]
    pixel_auroc: list[float]

    def found(self, after: int) -> np.ndarray:
        """Which images score higher than all but 5 % of the normal ones, ``(N,)`` bool; none without normal ones."""
        score = self.score[:, after]
        return score > (np.quantile(score[self.label == 0], 1 - FALSE_ALARMS) if self.has_normal else math.inf)

    @property
    def has_normal(self) -> bool:
        """Whether there are normal images, beside which anomalous ones are found."""
        return bool((self.label == 0).any())

    def rescued(self, before: int, after: int) -> list[str]:
        """Anomalous images found after one iteration and not after another."""
        gained = self.found(after) & ~self.found(before) & (self.label == 1)
        return [name for name, is_one in zip(self.names, gained, strict=True) if is_one]


def _auroc(label: np.ndarray, score: np.ndarray) -> float:
    return float(roc_auc_score(label, score)) if 0 < label.sum() < label.size else math.nan


def measure_iterations(model: Any, predictions: Sequence[Any]) -> Iterations:
    """Score test images again after 0, 1, 2, ... iterations.

    Args:
        model: Trained model that iterates.
        predictions: Batches of test images with their masks.
    """
    network, most = model.model, model.model.max_iterations
    images = [batch.image.as_subclass(torch.Tensor).float().to(model.device) for batch in predictions]
    label = torch.cat([batch.gt_label for batch in predictions]).int().numpy()
    mask = torch.cat([true_masks(batch) for batch in predictions]).flatten().numpy()
    scores, pixel_auroc = [], []
    try:
        for network.max_iterations in track(range(1 + most), "iterating"):
            with torch.no_grad():
                results = [network.iterate(image) for image in images]
            anomaly_map = torch.cat([result.anomaly_map for result in results])
            scores.append(network.image_score(anomaly_map).cpu().numpy())
            pixel_auroc.append(_auroc(mask, compared(anomaly_map).flatten().cpu().numpy()))
    finally:
        network.max_iterations = most
    score = np.stack(scores, axis=1)
    return Iterations(
        used=torch.cat([result.iterations for result in results]).round().int().cpu().numpy(),
        label=label,
        names=[name_of(path) for batch in predictions for path in batch.image_path],
        score=score,
        image_auroc=[_auroc(label, column) for column in score.T],
        pixel_auroc=pixel_auroc,
    )
