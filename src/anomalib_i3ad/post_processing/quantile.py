"""Thresholds and normalisation that need normal validation images only."""

import logging
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, Batch, InferenceBatch
from anomalib.data.utils import LabelName
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn import functional as F

from anomalib_i3ad.components.arguments import check_range
from anomalib_i3ad.deploy import masks

logger = logging.getLogger(__name__)

#: Arguments by which thresholds are calibrated.
QUANTILES = ("image_quantile", "pixel_quantile")
#: What to do about validation images that are none, anomalous, or the test's.
FROM_TRAIN = "set the datamodule's val_split_mode to from_train, as --data MVTec has it"
#: Scores below this are rounding noise; no threshold is placed below it.
SMALLEST_THRESHOLD = 1e-6
#: How sure it is, where images are few, that the image quantile of all normal images lies below the threshold.
CONFIDENCE = 0.95
#: Fewer images count as so many: to be as sure with two, the threshold would lie beyond most defects.
FEWEST = 10


def tested_images(data: Any) -> int:
    """How many of a datamodule's validation images are test images."""
    return int(data.val_data.samples.image_path.isin(data.test_data.samples.image_path).sum())


def pooled(values: list[torch.Tensor], trainer: Trainer) -> np.ndarray:
    """Values collected over batches and, when training is distributed, over processes.

    Args:
        values: Tensors of any shape; may be none in some processes.
        trainer: Tells whether there are other processes.

    Returns:
        ``(count,)``, float32.
    """
    found = torch.cat([torch.zeros(0), *(value.detach().flatten().float().cpu() for value in values)]).numpy()
    if trainer.world_size > 1:
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, found)
        found = np.concatenate(gathered)
    return found


def quantile(values: np.ndarray, q: float) -> float:
    """Quantile q in [0, 1] of values of normal validation images, interpolated linearly.

    Raises:
        ValueError: If there are no values.
        FloatingPointError: If they are not finite.
    """
    if not values.size:
        msg = f"there is no normal validation image to calibrate on: {FROM_TRAIN}"
        raise ValueError(msg)
    result = float(np.quantile(values, q))
    if not np.isfinite(result):
        msg = "scores of the validation images are not finite: training diverged, and thresholds are not calibrated"
        raise FloatingPointError(msg)
    return result


def _beyond(scores: np.ndarray, q: float) -> float | None:
    """Upper tolerance limit of a gamma distribution, where positive scores are too few for a quantile; else ``None``.

    The largest of 20 scores differs much from one choice of images to the next. Means of squared errors are about gamma
    distributed, and cube roots of these normally (Wilson and Hilferty, 1931; Krishnamoorthy et al., 2008). The
    tolerance factor of a normal distribution is Natrella's (NIST, Handbook of Statistical Methods, section 7.2.6.3).
    """
    count = scores.size
    if count < 2 or not 0 < count * (1 - q) < 1 or scores.min() <= 0:  # of one there is no deviation
        return None
    mean = scores.mean(dtype=np.float64)
    spread = scores.std(ddof=1, dtype=np.float64) / mean / 3  # of the cube root of scores over their mean
    normal, sure, images = NormalDist().inv_cdf(q), NormalDist().inv_cdf(CONFIDENCE), max(count, FEWEST)
    a, b = 1 - sure**2 / (2 * images - 2), normal**2 - sure**2 / images
    factor = (normal + (normal**2 - a * b) ** 0.5) / a
    if spread > factor / 2:  # scores so far apart are not gamma distributed: the limit would fall with their spread
        return None
    return float(mean * (1 - spread**2 + factor * spread) ** 3)


class QuantilePostProcessor(PostProcessor):
    """Post-processor calibrated on the normal images of the validation set.

    anomalib's own thresholds maximise F1 and degenerate when validation holds only normal images.
    Here image and pixel threshold t are quantiles of the scores of normal images, and a score s
    is normalised to ``s / (s + t)``: 0.5 at the threshold, in [0, 1), and strictly increasing, so that
    no two scores tie however far they lie beyond anything seen in validation. If normal images have scores below 0,
    s and t are first counted from the lowest of these, below which it is negative. Models may have no maps.

    A mask holds what lies above the pixel threshold and is no mere surroundings of a peak, as
    :func:`anomalib_i3ad.deploy.masks.mask_of` has it.

    Where there are too few images for the image quantile, 100 for 0.99, and their scores are positive, the threshold
    is the tolerance limit of a gamma distribution: 95 % sure that the share of all normal images stays below it, less
    sure with fewer than 10 images.

    Args:
        image_quantile: Share of normal images whose scores stay below the image threshold, in [0, 1].
        pixel_quantile: Share of their pixels whose scores stay below the pixel threshold, in [0, 1].
        **kwargs: Passed to :class:`anomalib.post_processing.PostProcessor`.

    Raises:
        ValueError: If a quantile is out of range.
    """

    def __init__(self, image_quantile: float = 0.99, pixel_quantile: float = 0.999, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("image_quantile", image_quantile, at_least=0, at_most=1)
        check_range("pixel_quantile", pixel_quantile, at_least=0, at_most=1)
        self.image_quantile = image_quantile
        self.pixel_quantile = pixel_quantile
        #: Number of images that calibrated the thresholds; ``None`` before, and in checkpoints that do not say.
        self.normal_images: int | None = None
        self._scores: list[torch.Tensor] = []
        self._maps: list[torch.Tensor] = []

    @property
    def is_calibrated(self) -> bool:
        """Whether there is a threshold for images."""
        return bool(torch.isfinite(self._image_threshold))

    def check_calibrated(self) -> None:
        """Check that there is what scores are normalised by and compared with.

        Raises:
            ValueError: If thresholds were never calibrated.
        """
        if (self.enable_normalization or self.enable_thresholding) and not self.is_calibrated:
            msg = "thresholds are not calibrated: fit the model to its end, or load a checkpoint from there"
            raise ValueError(msg)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """As anomalib's, if there are thresholds; see :meth:`check_calibrated`."""
        if not torch.compiler.is_compiling():
            self.check_calibrated()
        return super().forward(predictions)

    def post_process_batch(self, batch: Batch) -> None:
        """As :meth:`forward`, for batches of a test or a prediction."""
        self.check_calibrated()
        super().post_process_batch(batch)

    # named by anomalib for subclasses to extend
    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, *QUANTILES)

    def checkpoint_config(self) -> dict[str, Any]:
        """As anomalib's, with the number of images."""
        return {**super().checkpoint_config(), "normal_images": self.normal_images}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """As anomalib's, but keep arguments that differ from their defaults: the user set them."""
        default = type(self)()
        taken = {k: v for k, v in config.items() if getattr(self, k, None) == getattr(default, k, None)}
        super().load_checkpoint_config(taken)
        self.normal_images = config.get("normal_images")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Warn, before training, of validation images that are test images or anomalous.

        Raises:
            ValueError: If there are none at all.
        """
        del pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set where there is one
        if stage not in {TrainerFn.FITTING, TrainerFn.VALIDATING} or not isinstance(data, AnomalibDataModule):
            return
        if not hasattr(data, "val_data"):
            msg = f"there are no validation images to calibrate on: {FROM_TRAIN}"
            raise ValueError(msg)
        images, tested = data.val_data.samples, tested_images(data)
        anomalous = (images.label_index == LabelName.ABNORMAL).sum()
        if tested:
            logger.warning(
                "%d of %d validation images are test images: thresholds would be fitted to the test set; %s",
                tested, len(images), FROM_TRAIN,
            )  # fmt: skip
        elif anomalous:
            logger.warning(
                "%d of %d validation images are anomalous: thresholds come from the others alone; %s",
                anomalous, len(images), FROM_TRAIN,
            )  # fmt: skip

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a validation that did not end has left."""
        del trainer, pl_module
        self._scores.clear()
        self._maps.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep scores of the batch's normal images, and their maps where the model has any."""
        del trainer, pl_module, args, kwargs
        normal = outputs.gt_label == 0
        self._scores.append(outputs.pred_score[normal].cpu())
        if outputs.anomaly_map is not None:
            self._maps.append(outputs.anomaly_map[normal].cpu())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set both thresholds.

        Raises:
            ValueError: If there was no normal image.
            FloatingPointError: If scores or maps are not finite.
        """
        del pl_module
        # once: pixels are many, and gathered from every process
        scores = pooled(self._scores, trainer)
        limit = _beyond(scores, self.image_quantile)
        found = quantile(scores, self.image_quantile)
        # anomalib's buffers: its properties read them, and they are in its checkpoints
        calibrated = [(self._image_threshold, self.image_min, scores, limit or found)]
        if self._maps:
            maps = pooled(self._maps, trainer)
            calibrated.append((self._pixel_threshold, self.pixel_min, maps, quantile(maps, self.pixel_quantile)))
        for threshold, lowest, values, value in calibrated:
            lowest.fill_(min(quantile(values, 0), 0))
            threshold.fill_(max(value, lowest.item() + SMALLEST_THRESHOLD))
        self._maps.clear()  # they are large
        way = "a tolerance limit" if limit else f"the {self.image_quantile:g} quantile"
        if scores.size != self.normal_images:  # once a fit, which may validate every epoch
            logger.info(
                "Thresholds come from %d normal validation images, for images %s of their scores.", scores.size, way
            )
            if scores.size == 1:
                logger.warning("Of one image the threshold is its own score: other normal images often exceed it.")
        self.normal_images = scores.size

    @property
    def normalized_image_threshold(self) -> torch.Tensor:
        """What image scores are compared with, normalised or, without ``enable_normalization``, as they are."""
        return self._in_scores(super().normalized_image_threshold, self.image_threshold, self.image_min)

    @property
    def normalized_pixel_threshold(self) -> torch.Tensor:
        """As :attr:`normalized_image_threshold`, for maps."""
        return self._in_scores(super().normalized_pixel_threshold, self.pixel_threshold, self.pixel_min)

    def _in_scores(self, limit: torch.Tensor, threshold: torch.Tensor, norm_min: torch.Tensor) -> torch.Tensor:
        if self.enable_normalization:
            return limit
        lowest = norm_min.nan_to_num()
        return lowest + (threshold - lowest) * limit / (1 - limit)  # the reverse of normalisation

    # the one place through which anomalib compares scores and maps with thresholds; its own is static
    def _apply_threshold(  # type: ignore[override]
        self, preds: torch.Tensor | None, threshold: torch.Tensor
    ) -> torch.Tensor | None:
        above = super()._apply_threshold(preds, threshold)
        if preds is None or above is None or preds.ndim < 3:
            return above
        if self.enable_normalization:
            score = preds / (1 - preds).clamp(min=masks.LEAST)
        else:
            score = preds - self.pixel_min.nan_to_num()
        height, width = score.shape[-2:]
        peak = F.max_pool2d(score.reshape(-1, 1, height, width), masks.BLOCK, ceil_mode=True)
        for blocks in masks.SPREADS:
            peak = torch.maximum(peak, masks.FADES**blocks * F.max_pool2d(peak, 2 * blocks + 1, 1, blocks))
        peak = F.interpolate(peak, scale_factor=float(masks.BLOCK))[..., :height, :width]
        return above & (score >= masks.SHARE * peak.reshape(score.shape))

    # the one place through which anomalib normalises scores and maps, in batches and in the exported graph
    @staticmethod
    def _normalize(
        preds: torch.Tensor | None,
        norm_min: torch.Tensor,
        norm_max: torch.Tensor,
        threshold: torch.Tensor,
    ) -> torch.Tensor | None:
        del norm_max  # says nothing about anomalous scores
        if preds is None:
            return None
        lowest = norm_min.nan_to_num()  # NaN in checkpoints of older versions
        distance = preds - lowest
        return distance / (distance.abs() + (threshold - lowest))
