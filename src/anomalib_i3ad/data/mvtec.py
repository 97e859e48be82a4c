"""anomalib's MVTec AD datamodule under the name ``MVTec``, validated on held-out normal images."""

from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode
from PIL import Image

LAYOUT = "expected train/good/*.png, test/<kind>/*.png and ground_truth/<kind>/*_mask.png"


def _is_broken(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


class MVTec(MVTecAD):
    """MVTec AD, or any folder of its layout.

    Differs from :class:`anomalib.data.MVTecAD` in two ways: validation images are drawn from the
    normal training images, so that no threshold is ever fitted to the test set, and images that
    cannot be read are named before training starts instead of after.

    Args:
        val_split_mode: Where validation images come from.
        val_split_ratio: Share of the training images held out.
        seed: Seed of the split.
        **kwargs: Passed to :class:`anomalib.data.MVTecAD`.
    """

    def __init__(
        self,
        *args: Any,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TRAIN,
        val_split_ratio: float = 0.1,
        seed: int | None = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, val_split_mode=val_split_mode, val_split_ratio=val_split_ratio, seed=seed, **kwargs)

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
