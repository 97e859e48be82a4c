"""anomalib's MVTec AD datamodule under the name ``MVTec``, validated on held-out normal images."""

from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataset, MVTecAD
from anomalib.data.dataclasses import DatasetItem
from anomalib.data.utils import ValSplitMode
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from anomalib_i3ad.components.memory import fits_in_memory

LAYOUT = "expected train/good/*.png, test/<kind>/*.png and ground_truth/<kind>/*_mask.png"


def _is_broken(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


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
        return self._items[index]


class MVTec(MVTecAD):
    """MVTec AD, or any folder of its layout.

    Differs from :class:`anomalib.data.MVTecAD`: validation images are drawn from the normal training
    images, so that no threshold is ever fitted to the test set; images that cannot be read are named
    before training starts instead of after; and training images can be kept in memory.

    Args:
        val_split_mode: Where validation images come from.
        val_split_ratio: Share of the training images held out.
        seed: Seed of the split.
        cache: Decode and resize every training image once and keep it, 12 bytes a pixel of the model's size, in this
            process without workers; ``None`` does so where images are not augmented and fit in memory.
        **kwargs: Passed to :class:`anomalib.data.MVTecAD`.

    Raises:
        ValueError: If ``cache`` meets augmentations, which it would freeze, or worker processes.
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
            cache = fits_in_memory(len(dataset) * first.nbytes)
        if not cache:
            return loader
        return DataLoader(dataset, loader.batch_size, shuffle=True, collate_fn=loader.collate_fn)

    def prepare_data(self) -> None:
        """Download MVTec AD if ``root`` is not there at all.

        Raises:
            ValueError: If ``root`` holds other categories but not this one.
        """
        others = sorted(path.parent.name for path in self.root.glob("*/train"))
        if others and self.category not in others:
            msg = f"{self.root} has no category {self.category!r}, only {', '.join(others)}; {LAYOUT} in it"
            raise ValueError(msg)
        super().prepare_data()

    # anomalib's hook where images are looked for: setup around it is called again and again, and also splits
    def _setup(self, _stage: str | None = None) -> None:
        folder = self.root / self.category
        # as anomalib looks for them; where it finds no test images it would silently take training ones instead
        every = sorted(path for path in folder.rglob("*.png") if len(path.relative_to(folder).parts) == 3)
        images = {split: [path for path in every if path.parts[-3] == split] for split in ("train", "test")}
        for split, found in images.items():
            if not found:
                msg = f"{folder / split} holds no images: {LAYOUT}; links to folders inside {folder} are not followed"
                raise ValueError(msg)
        broken = [str(path) for path in images["train"] + images["test"] if _is_broken(path)]
        if broken:
            msg = f"{len(broken)} images cannot be read; repair or remove them: {', '.join(broken)}"
            raise ValueError(msg)
        super()._setup(_stage)
