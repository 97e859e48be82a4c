"""What each pass of the iteration buys, over the images of a test set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from sklearn.metrics import roc_auc_score

from anomalib_i3ad.components.film import maps_by_pass

#: Share of good images rejected by the limit at which images before and after the iteration are compared.
REJECTED = 0.05


class Passes(NamedTuple):
    """Figures after 0, 1, 2, ... passes.

    ``used``, ``label``, ``names`` (N): passes an image took, 1 if it is defective, its file. ``score`` (N, passes).
    ``image_auroc``, ``pixel_auroc`` (passes).
    """

    used: np.ndarray
    label: np.ndarray
    names: list[str]
    score: np.ndarray
    image_auroc: list[float]
    pixel_auroc: list[float]

    def found(self, after: int) -> np.ndarray:
        """Which images exceed the limit that 5 % of good images exceed, ``(N,)`` bool."""
        score = self.score[:, after]
        return score > np.quantile(score[self.label == 0], 1 - REJECTED)

    def rescued(self, before: int = 0, after: int = -1) -> list[str]:
        """Defective images found after one pass and not after another."""
        gained = self.found(after) & ~self.found(before) & (self.label == 1)
        return [name for name, is_one in zip(self.names, gained, strict=True) if is_one]


def measure_passes(model: Any, predictions: Sequence[Any]) -> Passes:
    """Iterate again over scored test images, as if the iteration ended after each pass.

    Args:
        model: Trained I3AD.
        predictions: Batches of test images with their masks, at the model's input size.
    """
    limit = model.model.max_iterations
    maps, used = [], []
    for item in track([item for batch in predictions for item in batch], "iterating"):
        image = item.image.as_subclass(torch.Tensor)[None].float()
        with torch.no_grad():
            frames = model.model.film(image.to(model.device))
        maps.append(maps_by_pass(frames, limit, model.model.anomaly_map).cpu())
        used.append(len(frames) - 1)
    label = torch.cat([batch.gt_label for batch in predictions]).int().numpy()
    mask = torch.cat([batch.gt_mask for batch in predictions]).bool().flatten().numpy()
    score = torch.stack([model.model.image_score(of_image) for of_image in maps]).numpy()
    return Passes(
        used=np.array(used),
        label=label,
        names=["/".join(Path(path).parts[-2:]) for batch in predictions for path in batch.image_path],
        score=score,
        image_auroc=[roc_auc_score(label, column) for column in score.T],
        pixel_auroc=[
            roc_auc_score(mask, torch.cat([of_image[number] for of_image in maps]).flatten().numpy())
            for number in range(1 + limit)
        ],
    )
