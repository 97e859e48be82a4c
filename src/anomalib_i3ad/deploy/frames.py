"""What sources give: images to be inspected."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .results import Stamp


class Frame(NamedTuple):
    """An image to be inspected.

    Its name in the results, a function that reads it, what its file is like, and how many were dropped for it.
    """

    name: str
    read: Callable[[], np.ndarray]
    stamp: Stamp | None = None
    dropped: int = 0


#: Frames, and ``None`` whenever a source has nothing for the moment.
Frames = Iterator[Frame | None]
