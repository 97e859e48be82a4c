"""Defects drawn into pictures of a texture, with their masks."""

from collections.abc import Callable

import cv2
import numpy as np

from .fabric import smooth_noise

Drawn = tuple[np.ndarray, np.ndarray]
SOFT_EDGE = 0.8  # pixels


def _blob(size: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Irregular round region ``(size, size)`` bool, entirely inside the picture."""
    centre = rng.uniform(0.2 * size, 0.8 * size, 2)
    rows, columns = np.mgrid[:size, :size]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return distance < radius * (1 + 0.2 * smooth_noise((size, size), max(4, size // 8), rng))


def _blend(picture: np.ndarray, other: np.ndarray, mask: np.ndarray) -> Drawn:
    weight = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), SOFT_EDGE)[..., None]
    return np.clip((1 - weight) * picture + weight * other, 0, 1), mask


def scratch(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A bright or dark scratch, a bent line right across a third of the picture or more."""
    size = len(picture)
    start = rng.uniform(0.15, 0.4, 2) * size
    end = rng.uniform(0.6, 0.85, 2) * size
    if rng.random() < 0.5:
        start[0], end[0] = end[0], start[0]
    bend = (start + end) / 2 + rng.normal(0, 0.06 * size, 2)
    line = np.zeros((size, size), np.uint8)
    points = np.array([start, bend, end]).round().astype(np.int32)
    cv2.polylines(line, [points], isClosed=False, color=1, thickness=max(2, round(size / 42)))
    return _blend(picture, np.full_like(picture, rng.choice([0.02, 0.98])), line > 0)


def spot(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A stain through which the texture still shows."""
    tint = rng.permutation([0.15, 0.45, 0.75]) * rng.uniform(0.6, 1.0)
    return _blend(picture, picture * tint, _blob(len(picture), len(picture) * rng.uniform(0.07, 0.12), rng))


def hole(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A hole through which a dark ground shows."""
    return _blend(picture, np.full_like(picture, 0.03), _blob(len(picture), len(picture) * rng.uniform(0.06, 0.1), rng))


def blur(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A region rubbed smooth."""
    rubbed = cv2.GaussianBlur(picture, (0, 0), len(picture) / 20)
    return _blend(picture, rubbed, _blob(len(picture), len(picture) * rng.uniform(0.12, 0.18), rng))


def foreign_texture(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A patch of noise with the picture's own mean and contrast."""
    noise = np.stack([smooth_noise(picture.shape[:2], 3, rng)] * 3, axis=-1)
    other = np.clip(picture.mean(axis=(0, 1)) * (1 + 0.4 * noise), 0, 1)
    return _blend(picture, other, _blob(len(picture), len(picture) * rng.uniform(0.1, 0.15), rng))


#: Defects of any texture, by the name of their folder.
DEFECTS: dict[str, Callable[[np.ndarray, np.random.Generator], Drawn]] = {
    "scratch": scratch,
    "spot": spot,
    "hole": hole,
    "blur": blur,
    "foreign_texture": foreign_texture,
}
