"""Textures that need no download: a drawn fabric, and photographs that scikit-image carries."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import skimage

from anomalib_i3ad.components.arguments import check_choice, check_count, check_range

from .defects import DEFECTS
from .fabric import Fabric, YarnDefect, smooth_noise
from .mvtec import MVTec

Category = Literal["fabric", "brick", "grass", "gravel"]
TRAIN_SHARE = 0.6  # of a photograph's height


class _Photograph:
    """Part of a photograph, with the interface of :class:`Fabric`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = np.repeat(pixels[..., None] / 255, 3, axis=-1)
        self.shape = pixels.shape

    def cut(self, top: int, left: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        return self._pixels[top : top + size, left : left + size], np.zeros((size, size), bool)


class Textures(MVTec):
    """Pictures of one texture in MVTec AD layout, drawn on first use; no download.

    ``fabric`` is drawn from a seeded generator; ``brick``, ``grass`` and ``gravel`` are photographs
    that come with scikit-image. Training and test pictures are cut from disjoint regions, lit
    unevenly, and test pictures carry drawn defects of several kinds with their masks.

    Args:
        root: Folder that the pictures are written to, and read from later.
        category: ``fabric``, ``brick``, ``grass`` or ``gravel``.
        image_size: Height and width of the pictures in pixels, 64 to 192.
        train_count: Normal training pictures; validation is split off from them.
        test_count: Normal test pictures, and as many with defects.
        seed: Seed of the pictures and of the validation split.
        **kwargs: Passed to :class:`MVTec`.

    Raises:
        ValueError: If an argument is none of these.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/Textures",
        category: Category = "fabric",
        image_size: int = 128,
        train_count: int = 160,
        test_count: int = 42,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_choice("category", category, get_args(Category))
        check_range("image_size", image_size, at_least=64, at_most=192, whole=True)
        check_count("train_count", train_count)
        check_count("test_count", test_count)
        folder = Path(root) / f"{image_size}px_{train_count}+{test_count}_seed{seed}"
        super().__init__(root=folder, category=category, seed=seed, **kwargs)
        self.image_size = image_size
        self.train_count = train_count
        self.test_count = test_count

    def prepare_data(self) -> None:
        """Draw the pictures unless they are there already."""
        if (self.root / self.category).is_dir():
            return
        self.root.mkdir(parents=True, exist_ok=True)
        # drawn aside and moved when complete, so that an interrupted run leaves no half data set
        with tempfile.TemporaryDirectory(dir=self.root) as aside:
            drawn = Path(aside) / self.category
            self._draw(drawn)
            if not (self.root / self.category).is_dir():
                shutil.move(drawn, self.root / self.category)

    def _draw(self, folder: Path) -> None:
        train: Fabric | _Photograph
        test: Fabric | _Photograph
        rng = np.random.default_rng([self.seed or 0, get_args(Category).index(self.category)])
        if self.category == "fabric":
            side = 4 * self.image_size
            train, test = Fabric(side, side, rng), Fabric(side, side, rng)
            kinds = [*get_args(YarnDefect), *DEFECTS]
        else:
            pixels = getattr(skimage.data, self.category)()
            border = round(TRAIN_SHARE * len(pixels))
            train, test = _Photograph(pixels[:border]), _Photograph(pixels[border:])
            kinds = list(DEFECTS)
        for index in range(self.train_count):
            self._write(folder / "train" / "good" / f"{index:03}.png", self._light(self._cut(train, rng)[0], rng))
        for index in range(self.test_count):
            self._write(folder / "test" / "good" / f"{index:03}.png", self._light(self._cut(test, rng)[0], rng))
            kind, number = kinds[index % len(kinds)], index // len(kinds)
            if kind in DEFECTS:
                picture, mask = DEFECTS[kind](self._cut(test, rng)[0], rng)
            else:
                picture, mask = self._cut(test, rng, kind, rng)
            self._write(folder / "test" / kind / f"{number:03}.png", self._light(picture, rng))
            self._write(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask)

    def _cut(
        self, sheet: Fabric | _Photograph, rng: np.random.Generator, *defect: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        top, left = (int(rng.integers(0, side - self.image_size + 1)) for side in sheet.shape)
        return sheet.cut(top, left, self.image_size, *defect)

    @staticmethod
    def _light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        uneven = smooth_noise(picture.shape[:2], len(picture), rng)[..., None]
        return np.clip(picture * rng.uniform(0.92, 1.08) * (1 + 0.04 * uneven), 0, 1)

    @staticmethod
    def _write(path: Path, picture: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.round(255 * picture.astype(np.float64)).astype(np.uint8)
        cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
