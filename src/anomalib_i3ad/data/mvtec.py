"""anomalib's MVTec AD datamodule under the name ``MVTec``, validated on held-out normal images."""

import logging
import math
import os
from copy import copy
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import AnomalibDataset, MVTecAD
from anomalib.data.dataclasses import DatasetItem
from anomalib.data.datasets.image.mvtecad import CATEGORIES
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from lightning.pytorch.trainer.states import TrainerFn
from pandas import DataFrame
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from .memory import fits_in_memory
from .readable import check_readable

logger = logging.getLogger(__name__)
#: Training images that it takes: one, and two to calibrate on.
FEWEST = 3
LAYOUT = "expected train/good/*.png, test/<kind>/*.png and ground_truth/<kind>/*_mask.png, or JPEG, BMP, TIFF"


@cache
def _size_of(path: Path, changed: int) -> tuple[int, int] | None:
    """Width and height, as stored, of an image last changed at this time; ``None`` if it cannot be read to its end."""
    del changed  # asked at every setup
    try:
        with Image.open(path) as image:
            size = image.size
            if image.format == "PNG":
                image.verify()
            else:  # of which Pillow verifies the head alone
                image.draft("L", (1, 1))
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return size


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have one shape, to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(other)


def at_least_two(ratio: float, count: int) -> float:
    """Share of ``count`` images to hold out, two of them or more: of one the threshold would be its own score."""
    return max(ratio, 2.5 / count)  # of which anomalib takes the whole ones


def _named(items: list[str]) -> str:
    return ", ".join(items[:5]) + (" ..." if len(items) > 5 else "")


def _images_in(folder: Path) -> list[Path]:
    """Images of a category and masks, in order; hidden files and folders are left alone.

    Raises:
        ValueError: If some lie in folders that nobody would look into.
    """
    every, misplaced = [], []
    # unlike rglob, it follows links to folders
    files = (Path(root, name) for root, _, names in os.walk(folder, followlinks=True) for name in names)
    for path in sorted(files):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in IMG_EXTENSIONS or any(part.startswith(".") for part in parts):
            continue
        if len(parts) == 3 and (parts[0] != "train" or parts[1] == "good"):
            every.append(path)
        elif parts[0] in {"train", "test"}:
            misplaced.append(str(path))
    if misplaced:
        what = f"{len(misplaced)} images lie neither in train/good nor in test/<kind>"
        msg = f"{what}: {_named(misplaced)}; move or remove them"
        raise ValueError(msg)
    return every


class _Images(AnomalibDataset):
    """Images of one split, with masks of those that are anomalous."""

    def __init__(self, images: list[Path], masks: dict[Path, Path]) -> None:
        super().__init__()
        self.samples = DataFrame(
            {
                "image_path": str(path),
                "split": path.parts[-3],
                "label": path.parts[-2],
                "label_index": int(LabelName.NORMAL if path.parts[-2] == "good" else LabelName.ABNORMAL),
                "mask_path": str(masks.get(path, "")),
            }
            for path in images
        )
        self.samples.attrs["task"] = TaskType.SEGMENTATION.value


class _Remembered(Dataset[DatasetItem]):
    """A data set whose items are made once."""

    def __init__(self, dataset: AnomalibDataset) -> None:
        self._dataset = dataset
        self._items: dict[int, DatasetItem] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> DatasetItem:
        if index not in self._items:
            self._items[index] = self._dataset[index]
        return copy(self._items[index])  # collating may set another image


def _masks_of(test: list[Path], truth: list[Path], folder: Path) -> dict[Path, Path]:
    """Mask of each anomalous test image, of those in a folder.

    Raises:
        ValueError: If one has none.
    """
    by_name = {(mask.parts[-2], mask.stem.removesuffix("_mask")): mask for mask in truth}
    anomalous = {path: (path.parts[-2], path.stem) for path in test if path.parts[-2] != "good"}
    missing = [f"{kind}/{stem}_mask.png" for kind, stem in anomalous.values() if (kind, stem) not in by_name]
    if missing:
        what = f"lacks masks of {len(missing)} anomalous test images"
        msg = f"{folder} {what}: {_named(missing)}"
        raise ValueError(msg)
    return {path: by_name[name] for path, name in anomalous.items()}


def _check_files(train: list[Path], test: list[Path], masks: dict[Path, Path]) -> None:
    """Check that all images and masks can be read, and that these are as large as their images.

    Raises:
        ValueError: If that is not so.
    """
    read = [*train, *test, *masks.values()]
    sizes = {path: size for path in read if (size := _size_of(path, path.stat().st_mtime_ns))}
    broken = [str(path) for path in read if path not in sizes]
    if broken:
        msg = f"{len(broken)} images cannot be read; repair or remove them: {', '.join(broken)}"
        raise ValueError(msg)
    others = [str(mask) for path, mask in masks.items() if not _same_shape(sizes[mask], sizes[path])]
    if others:
        what = f"{len(others)} masks are of another shape than their images, whose EXIF orientation is ignored"
        msg = f"{what}: {_named(others)}"
        raise ValueError(msg)
    for path in [*train, *test]:
        check_readable(str(path))


class MVTec(MVTecAD):
    """MVTec AD, or any folder of its layout.

    Differs from :class:`anomalib.data.MVTecAD`: validation images are drawn from the normal training
    images, so that no threshold is ever fitted to the test set; images may be of any format that anomalib's ``Folder``
    takes; those that cannot be read or have no mask are named before training starts; and training images can be
    kept in memory.

    Args:
        val_split_mode: Where validation images come from.
        val_split_ratio: Share of the training images held out, at least two.
        seed: Seed of the split.
        cache: Decode and resize every training image once and keep it in memory (12 bytes per pixel of the model's
            size), in this process without workers; ``None`` does so if images are not augmented and fit in memory.
        **kwargs: Passed to :class:`anomalib.data.MVTecAD`.

    Raises:
        ValueError: If ``cache`` is combined with augmentations, which it would freeze, or with worker processes.
    """

    def __init__(
        self,
        *args: Any,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TRAIN,
        val_split_ratio: float = 0.1,
        seed: int | None = 0,
        cache: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, val_split_mode=val_split_mode, val_split_ratio=val_split_ratio, seed=seed, **kwargs)
        if cache and (self.train_augmentations is not None or self.num_workers):
            msg = (
                "cache=True keeps finished images in this process: use it without augmentations and with num_workers=0"
            )
            raise ValueError(msg)
        self.cache = cache

    def train_dataloader(self) -> DataLoader:
        """As anomalib's, over images kept in memory with ``cache``."""
        loader = super().train_dataloader()
        dataset = _Remembered(loader.dataset)
        cache = self.cache
        if cache is None and self.train_augmentations is None:
            first: Any = dataset[0].image
            processes = getattr(self.trainer, "num_devices", 1)
            cache = fits_in_memory(len(dataset) * first.nbytes * processes)
        if not cache:
            return loader
        return DataLoader(dataset, loader.batch_size, shuffle=True, collate_fn=loader.collate_fn)

    def prepare_data(self) -> None:
        """Download MVTec AD if it is not in its usual folder and no other folder was named.

        Raises:
            ValueError: If ``root`` holds other categories but not this one.
            FileNotFoundError: If it holds none, and this one cannot or should not be downloaded.
        """
        others = sorted(path.parent.name for path in self.root.glob("*/train"))
        if others and self.category not in others:
            msg = f"{self.root} has no category {self.category!r}, only {', '.join(others)}; {LAYOUT} in it"
            raise ValueError(msg)
        usual = Path(signature(MVTecAD).parameters["root"].default)
        own = self.root / self.category
        if not others and not own.is_dir() and (self.root != usual or self.category not in CATEGORIES):
            msg = f"--data.root {self.root}: there is no folder {own}; {LAYOUT} in it"
            raise FileNotFoundError(msg)
        super().prepare_data()

    # anomalib's hook that lists the images; setup, which calls it, runs several times and splits them too
    def _setup(self, _stage: str | None = None) -> None:
        folder = self.root / self.category
        # where anomalib finds no test images it would silently take training ones instead
        every = _images_in(folder)
        train, test, truth = ([p for p in every if p.parts[-3] == split] for split in ("train", "test", "ground_truth"))
        for split, found in (("train", train), ("test", test)):
            if not found:
                msg = f"{folder / split} holds no images: {LAYOUT}"
                raise ValueError(msg)
        masks = _masks_of(test, truth, folder / "ground_truth")
        _check_files(train, test, masks)
        normal = len(train)
        if len(masks) == len(test) and self.test_split_mode != TestSplitMode.NONE:
            # anomalib then takes normal test images from these
            normal -= math.floor(normal * self.test_split_ratio)
        self._hold_out_two(normal, needed=_stage in {TrainerFn.FITTING, TrainerFn.VALIDATING})
        self.train_data, self.test_data = _Images(train, {}), _Images(test, masks)

    def _hold_out_two(self, count: int, needed: bool) -> None:
        """Raise a ``val_split_ratio`` that holds out fewer than two of ``count`` training images."""
        if self.val_split_mode != ValSplitMode.FROM_TRAIN or count * self.val_split_ratio >= 2:
            return
        if count >= FEWEST:
            what = "%d training images: two are held out to calibrate on, more than val_split_ratio says."
            logger.warning(what, count)
            self.val_split_ratio = at_least_two(self.val_split_ratio, count)
        elif needed:
            msg = f"{count} training images in {self.root / self.category}: it takes {FEWEST}, two to calibrate on"
            raise ValueError(msg)
