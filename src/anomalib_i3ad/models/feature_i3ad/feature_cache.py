"""Features of training images, computed once."""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch

from anomalib_i3ad.data.memory import fits_in_memory

logger = logging.getLogger(__name__)
#: Errors of a disk or a quota that is too small.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FeatureCache:
    """Features of images by their paths, in half precision.

    Args:
        count: How many images there are.
        shape: Shape of an image's features.
        folder: Where they go if they do not fit in memory.
        processes: How many of this machine keep as many.

    Raises:
        OSError: If they do not fit there either.
    """

    def __init__(self, count: int, shape: Sequence[int], folder: Path | str, processes: int = 1) -> None:
        size = 2 * count * int(np.prod(shape))
        fits = fits_in_memory(size * processes)
        where = "in memory" if fits else f"in {folder}"
        logger.info("Features of %d images are kept %s: %.0f MB.", count, where, size / 1e6)
        whole = (count, *shape)
        self._values: np.ndarray
        if fits:
            self._values = np.empty(whole, np.float16)
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as file:  # the map outlives its name and its handle
                try:
                    os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills later ends the process, unsaid
                except AttributeError:  # not on every system
                    pass
                except OSError as error:
                    if error.errno in FULL:  # nor on every file system
                        told = f"{error.strerror}: features of {count} images need {size / 1e6:.0f} MB"
                        raise OSError(error.errno, told, str(folder)) from error
                self._values = np.memmap(file, np.float16, shape=whole)
        self._rows: dict[str, int] = {}

    def take(self, paths: Sequence[str], compute: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """Features ``(len(paths), ...)``.

        Args:
            paths: Images, by their paths.
            compute: Computes the features of the images at these positions in ``paths``, for those not kept yet.
        """
        new = [position for position, path in enumerate(paths) if path not in self._rows]
        if new:
            for position, values in zip(new, compute(new).half().cpu().numpy(), strict=True):
                row = self._rows.setdefault(paths[position], len(self._rows))
                self._values[row] = values
        return torch.from_numpy(self._values[[self._rows[path] for path in paths]]).float()
