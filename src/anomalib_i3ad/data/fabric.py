"""A plain-woven fabric, drawn from a seeded generator."""

from typing import Literal

import cv2
import numpy as np

PERIOD = 8.0  # pixels from yarn to yarn
COVER = 0.9  # yarn width over period
BACKGROUND = 0.08
DYE = np.array([0.80, 0.74, 0.62])  # RGB

YarnDefect = Literal["missing_yarn", "double_yarn"]


def smooth_noise(shape: tuple[int, int], cell: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance at its nodes, ``cell`` pixels apart; ``(H, W)``."""
    nodes = rng.normal(size=(shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    return cv2.resize(nodes, shape[::-1], interpolation=cv2.INTER_CUBIC)


class Fabric:
    """A sheet of woven fabric from which pictures are cut.

    Warp runs vertically, weft horizontally, one over the other in turn; every yarn has its own
    thickness, brightness and course.

    Args:
        height: Height of the sheet in pixels.
        width: Width of the sheet in pixels.
        rng: Source of randomness.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        self.shape = (height, width)
        self._warp = self._lay(columns + 0.7 * smooth_noise(self.shape, 40, rng), rng)
        self._weft = self._lay(rows + 0.7 * smooth_noise(self.shape, 40, rng), rng)
        self._fibre = 0.06 * rng.normal(size=self.shape).astype(np.float32)
        self._light = 1 + 0.06 * smooth_noise(self.shape, 100, rng)

    @staticmethod
    def _lay(position: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index of the yarn at each pixel, distance from its axis in half widths, and its brightness."""
        index = np.floor(position / PERIOD).astype(int)
        index -= index.min()
        count = index.max() + 1
        half_width = COVER * PERIOD / 2 * rng.uniform(0.9, 1.08, count)
        offset = position % PERIOD - PERIOD / 2
        return index, np.abs(offset) / half_width[index], rng.uniform(0.82, 1.0, count)[index]

    def cut(
        self, top: int, left: int, size: int, defect: YarnDefect | None = None, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut a picture; with ``defect``, a stretch of one warp yarn is missing or doubled.

        Args:
            top: Upper edge on the sheet.
            left: Left edge on the sheet.
            size: Height and width in pixels.
            defect: What to do to a yarn.
            rng: Source of randomness of the defect.

        Returns:
            Picture ``(size, size, 3)`` float in [0, 1] and mask ``(size, size)`` bool of the defect.
        """
        window = np.s_[top : top + size, left : left + size]
        warp, warp_distance, warp_tone = (a[window] for a in self._warp)
        weft, weft_distance, weft_tone = (a[window] for a in self._weft)
        mask = np.zeros((size, size), bool)
        if defect is not None and rng is not None:
            yarn = rng.integers(warp.min() + 3, warp.max() - 3)
            start = rng.integers(0, size // 4)
            stretch = np.zeros_like(mask)
            stretch[start : start + rng.integers(size // 2, 3 * size // 4)] = True
            if defect == "missing_yarn":
                mask = (warp == yarn) & stretch
                warp_distance = np.where(mask, np.inf, warp_distance)
            else:  # a second yarn beside it rides on top of the weave
                mask = ((warp == yarn) | (warp == yarn + 1)) & stretch
                weft_distance = np.where(mask, np.inf, weft_distance)
                warp_tone = np.where(mask, 1.12, warp_tone)
        over = (warp + weft) % 2 == 0
        seen_warp = np.where(over, warp_distance < 1, (warp_distance < 1) & (weft_distance >= 1))
        distance = np.where(seen_warp, warp_distance, weft_distance)
        along = np.where(seen_warp, weft_distance, warp_distance)
        tone = np.where(seen_warp, warp_tone, weft_tone)
        # round across the yarn, and dipping under its neighbours along it
        shade = np.sqrt(np.clip(1 - distance**2, 0, 1)) * (1 - 0.25 * np.clip(along, 0, 1) ** 2)
        grey = np.where(distance < 1, tone * (0.35 + 0.65 * shade) + self._fibre[window], BACKGROUND)
        picture = (grey * self._light[window])[..., None] * DYE
        return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.6), 0, 1), mask
