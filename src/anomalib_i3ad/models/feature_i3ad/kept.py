"""Features of training images, computed once."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import psutil
import torch

logger = logging.getLogger(__name__)

#: Share of the free memory that features may take; beyond it they go to disk.
MEMORY_SHARE = 0.5


class KeptFeatures:
    """Features of images by their paths, in half precision.

    Args:
        count: How many images there are.
        shape: Shape of an image's features.
        folder: Where they go if they do not fit in memory.
    """

    def __init__(self, count: int, shape: Sequence[int], folder: Path | str) -> None:
        size = 2 * count * int(np.prod(shape))
        fits = size < MEMORY_SHARE * psutil.virtual_memory().available
        logger.info("Features of %d images are kept %s: %.0f MB.", count, "in memory" if fits else f"in {folder}", size / 1e6)
        whole = (count, *shape)
        if fits:
            self._values = np.empty(whole, np.float16)
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._values = np.memmap(TemporaryFile(dir=folder), np.float16, shape=whole)
        self._rows: dict[str, int] = {}

    def take(self, paths: Sequence[str], compute: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """Features ``(len(paths), ...)``.

        Args:
            paths: Images, by their paths.
            compute: Maps the positions of those that are not known yet to their features.
        """
        new = [position for position, path in enumerate(paths) if path not in self._rows]
        if new:
            for position, values in zip(new, compute(new).half().cpu().numpy(), strict=True):
                row = self._rows.setdefault(paths[position], len(self._rows))
                self._values[row] = values
        return torch.from_numpy(self._values[[self._rows[path] for path in paths]]).float()
