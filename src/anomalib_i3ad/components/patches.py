"""Patches: cut at random in training; overlapping windows with averaged maps at test."""

from collections.abc import Callable

import numpy as np
import torch

from .loops import repeat


def check_patches(height: int, width: int, size: int, stride: int) -> None:
    """Check that windows of ``size`` every ``stride`` pixels cover an image without gaps.

    Raises:
        ValueError: If they do not.
    """
    if min(height, width) < size:
        msg = f"image of {height}x{width} pixels is smaller than patch_size {size}"
        raise ValueError(msg)
    if not 1 <= stride <= size:
        msg = f"stride {stride} must be from 1 to patch_size {size}: a larger one would leave pixels unseen"
        raise ValueError(msg)


def random_patches(image: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Cut as many random patches from every image as would tile it.

    Args:
        image: ``(N, C, H, W)``, sides at least ``size``.
        size: Side of a patch in pixels.
        rng: Source of randomness.

    Returns:
        ``(N * (H // size) * (W // size), C, size, size)``.
    """
    n, _, h, w = image.shape
    count = (h // size) * (w // size)
    tops, lefts = (rng.integers(0, side - size + 1, (n, count)) for side in (h, w))
    return torch.stack(
        [
            image[index, :, top : top + size, left : left + size]
            for index in range(n)
            for top, left in zip(tops[index], lefts[index], strict=True)
        ]
    )


def window_starts(length: int, size: int, stride: int) -> torch.Tensor:
    """First pixels of the windows that cover one side of an image, the last flush with its end."""
    count = (length - size + stride - 1) // stride + 1
    return (torch.arange(count) * stride).clamp(max=length - size)


class Windows:
    """Overlapping square windows that cover an image.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        size: Side of a window in pixels.
        stride: Distance in pixels between windows; those at the far edges overlap more.
        like: Tensor of the images' device and type.
    """

    def __init__(self, height: int, width: int, size: int, stride: int, like: torch.Tensor) -> None:
        pixel = torch.arange(size, device=like.device)
        self.tops, self.lefts = (window_starts(side, size, stride).to(like.device) for side in (height, width))
        self._rows, self._columns = self.tops[:, None] + pixel, self.lefts[:, None] + pixel
        # 1 where pixel i of a window is pixel j of the image: placing windows is then a matrix product
        self._place_rows, self._place_columns = (
            (pixels[..., None] == torch.arange(side, device=like.device)).to(like.dtype)
            for pixels, side in ((self._rows, height), (self._columns, width))
        )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.tops) * len(self.lefts)

    def cut(self, image: torch.Tensor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Cut windows from ``(N, C, H, W)``, of all rows or those with these indices.

        Returns:
            ``(N, R, K, C, size, size)`` for R rows of K windows.
        """
        return image[:, :, self._rows[rows]][..., self._columns].permute(0, 2, 4, 1, 3, 5)

    def _place(self, windows: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        """Sum of ``(N, R, K, C, size, size)`` at their places, ``(N, C, H, W)``."""
        down, across = self._place_rows[rows].flatten(0, 1), self._place_columns.flatten(0, 1)
        grid = windows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return torch.matmul(down.transpose(0, 1), torch.matmul(grid, across))

    def _overlaps(self) -> torch.Tensor:
        """How many windows see each pixel, ``(H, W)``."""
        return self._place_rows.sum(dim=(0, 1))[:, None] * self._place_columns.sum(dim=(0, 1))

    def stitch(self, windows: torch.Tensor) -> torch.Tensor:
        """Average overlapping windows ``(N, R, K, C, size, size)`` into ``(N, C, H, W)``."""
        return self._place(windows, slice(None)) / self._overlaps()

    def average(self, image: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Map every window and average the maps; one row of windows is a batch, so memory stays bounded.

        Args:
            image: ``(N, C, H, W)``.
            function: Maps ``(B, C, size, size)`` to ``(B, 1, size, size)``.

        Returns:
            ``(N, 1, H, W)``.
        """

        def add_row(row: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor]:
            rows = row.reshape(1).to(image.device)
            windows = self.cut(image, rows)
            maps = function(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
            return (total + self._place(maps, rows),)

        (total,) = repeat(len(self.tops), add_row, (torch.zeros_like(image[:, :1]),))
        return total / self._overlaps()
