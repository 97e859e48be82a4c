"""RIAD's reconstruction by inpainting and its map (Zavrtanik et al., Pattern Recognition 2021, section 3)."""

from collections.abc import Sequence

import numpy as np
import torch
from anomalib.data import InferenceBatch
from torch.nn import functional as F

from anomalib_i3ad.components.arguments import check_count, check_own_size, check_range, check_sides
from anomalib_i3ad.components.base import ImageModel
from anomalib_i3ad.components.scores import ImageScore
from anomalib_i3ad.components.stitching import draw_hidden

from .cell_sets import random_cell_sets
from .gms import msgms_map
from .unet import UNet

SMOOTHING = 21


class RiadModel(ImageModel):
    """Inpaints an image part by part, with cells of several sizes, and compares gradients.

    Arguments as of :class:`~anomalib_i3ad.models.Riad`.
    """

    def __init__(
        self, image_size: tuple[int, int], width: int, cell_sizes: Sequence[int], parts: int, seed: int
    ) -> None:
        super().__init__()
        check_count("width", width)
        if not isinstance(cell_sizes, Sequence):
            msg = f"cell_sizes {cell_sizes!r} must be a list of sides in pixels"
            raise ValueError(msg)  # noqa: TRY004  # as every wrong argument
        check_count("number of cell_sizes", len(cell_sizes))
        for cell in cell_sizes:
            check_count("cell_sizes", cell)
        check_range("parts", parts, at_least=2, at_most=256, whole=True)  # numbered in a byte
        self.unet = UNet(width)
        self.image_score = ImageScore("max")
        self.image_size = image_size
        self.cell_sizes = list(cell_sizes)
        self.parts = parts
        check_sides(*image_size, self.unet.size_divisor, "U-Net")
        rng = np.random.default_rng(seed)
        #: Sets that are hidden at test, for each cell size; drawn once and kept in the checkpoint.
        self.cell_sets: torch.Tensor
        self.register_buffer(
            "cell_sets", torch.stack([random_cell_sets(cell, parts, *image_size, rng) for cell in self.cell_sizes])
        )

    def reconstruct(self, image: torch.Tensor, cell_sets: torch.Tensor) -> torch.Tensor:
        """Inpaint every part of the image from the others.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            cell_sets: ``(S, H, W)``, S ways to divide it into ``parts``.

        Returns:
            ``(N, S, 3, H, W)``, each pixel taken from the inpainting in which it was hidden.
        """
        part = torch.arange(self.parts, device=image.device)[:, None, None, None]
        holes = (cell_sets.long()[:, None, None] == part).to(image.dtype)
        return draw_hidden(image, holes, lambda images, hole: self.unet(images * (1 - hole)))

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`: the cell sets were drawn for one size."""
        check_own_size(height, width, self.image_size)

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`; all inpaintings, ``parts`` for each cell size, are one batch."""
        # the ways to divide the image become channels, over which the similarity is averaged
        drawn = self.reconstruct(image, self.cell_sets).flatten(1, 2)
        residual = msgms_map(image.repeat(1, len(self.cell_sizes), 1, 1), drawn)
        anomaly_map = F.avg_pool2d(residual, SMOOTHING, stride=1, padding=SMOOTHING // 2, count_include_pad=False)
        return InferenceBatch(pred_score=self.image_score(anomaly_map), anomaly_map=anomaly_map)
