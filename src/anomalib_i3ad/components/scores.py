"""Image scores from anomaly maps."""

from typing import Literal, get_args

import torch
from torch import nn

from .arguments import check_choice

Reduction = Literal["mean", "l4", "max", "top_k"]
TOP_K_FRACTION = 0.01


class ImageScore(nn.Module):
    """Reduce anomaly maps to one score per image.

    Args:
        reduction: ``mean``, ``max`` or power mean (``l4``, the fourth root of the mean fourth power) of the map, or
            mean of its highest 1 % (``top_k``).

    Raises:
        ValueError: If ``reduction`` is none of these.
    """

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        check_choice("image_score", reduction, get_args(Reduction))
        self.reduction = reduction

    def forward(self, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Scores ``(N,)`` of maps ``(N, 1, H, W)``, or of whatever an image has many of, ``(N, ...)``."""
        flat = anomaly_map.flatten(1)
        if self.reduction == "mean":
            return flat.mean(dim=1)
        if self.reduction == "l4":
            return flat.square().square().mean(dim=1).sqrt().sqrt()
        if self.reduction == "max":
            return flat.amax(dim=1)
        return flat.topk(max(1, round(TOP_K_FRACTION * flat.shape[1])), dim=1).values.mean(dim=1)
