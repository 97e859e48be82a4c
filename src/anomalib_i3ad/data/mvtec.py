"""anomalib's MVTec AD datamodule under the name ``MVTec``, validated on held-out normal images."""

from typing import Any

from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode


class MVTec(MVTecAD):
    """MVTec AD, or any folder of its layout.

    Differs from :class:`anomalib.data.MVTecAD` in one default: validation images are drawn from the
    normal training images, so that no threshold is ever fitted to the test set.

    Args:
        val_split_mode: Where validation images come from.
        val_split_ratio: Share of the training images held out.
        seed: Seed of the split.
        **kwargs: Passed to :class:`anomalib.data.MVTecAD`.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TRAIN,
        val_split_ratio: float = 0.1,
        seed: int | None = 0,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, val_split_mode=val_split_mode, val_split_ratio=val_split_ratio, seed=seed, **kwargs)
