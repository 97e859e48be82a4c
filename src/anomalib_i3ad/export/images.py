"""Images that a graph is calibrated and checked on."""

from copy import copy

import torch
from anomalib.data import AnomalibDataModule
from torch.nn import functional as F

from anomalib_i3ad.deploy import drawn_images as drawn


def training_images(
    datamodule: AnomalibDataModule, most: int, input_size: tuple[int, int] | None
) -> list[torch.Tensor]:
    """Normal training images ``(1, 3, H, W)`` in [0, 1], spread evenly over the training set.

    Args:
        datamodule: Where they come from.
        most: How many at most.
        input_size: Height and width in pixels they are resized to; their own if ``None``.
    """
    datamodule.prepare_data()
    datamodule.setup("fit")
    dataset = copy(datamodule.train_data)
    dataset.augmentations = None
    step = max(1, len(dataset) / most)
    images = []
    for item in (dataset[int(i * step)] for i in range(min(most, len(dataset)))):
        assert item.image is not None  # mypy
        image = item.image.as_subclass(torch.Tensor)[None].float()
        if input_size:
            image = F.interpolate(image, input_size, mode="bilinear", antialias=True)
        if not item.gt_label:
            images.append(image)
    return images


def drawn_images(input_size: tuple[int, int] | None) -> list[torch.Tensor]:
    """Smooth random images ``(1, 3, H, W)`` in [0, 1], always the same, where there is no datamodule.

    Args:
        input_size: Their height and width in pixels; several sizes if ``None``.
    """
    return [torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 for pixels in drawn.drawn_images(input_size)]


def flat_images(like: torch.Tensor) -> list[torch.Tensor]:
    """A black and a white image of another's shape: these show divisions by zero."""
    return [torch.zeros_like(like), torch.ones_like(like)]
