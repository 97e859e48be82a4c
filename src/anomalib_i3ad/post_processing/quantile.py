"""Thresholds and normalisation that need normal validation images only."""

from typing import Any

import numpy as np
import torch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer

#: Scores below this are rounding noise; no threshold is placed under it.
SMALLEST_THRESHOLD = 1e-6


def quantile(values: list[torch.Tensor], q: float, trainer: Trainer) -> float:
    """Quantile of values collected over batches and, when training is distributed, over processes.

    Unlike :func:`torch.quantile` it takes more than 16 million values.

    Args:
        values: Tensors of any shape, one or more a batch; may be empty in some processes.
        q: Quantile in [0, 1].
        trainer: Tells whether there are other processes.

    Returns:
        The quantile, interpolated linearly.

    Raises:
        ValueError: If there are no values at all.
        FloatingPointError: If the values are not finite.
    """
    pooled = torch.cat([torch.zeros(0), *(value.detach().flatten().float().cpu() for value in values)]).numpy()
    if trainer.world_size > 1:
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, pooled)
        pooled = np.concatenate(gathered)
    if not pooled.size:
        msg = "there is no normal validation image to calibrate on: set the datamodule's val_split_mode to from_train"
        raise ValueError(msg)
    result = float(np.quantile(pooled, q))
    if not np.isfinite(result):
        msg = "scores of the validation images are not finite: training diverged, and nothing is calibrated on it"
        raise FloatingPointError(msg)
    return result


class QuantilePostProcessor(PostProcessor):
    """Post-processor calibrated on the normal images of the validation set.

    anomalib's own thresholds maximise F1 and degenerate when validation holds only normal images.
    Here image and pixel threshold t are quantiles of the scores of normal images, and a score s
    is normalised to ``s / (s + t)``: 0.5 at the threshold, in [0, 1), and strictly increasing, so that
    no two scores tie however far they lie beyond anything seen in validation. Where a model gives scores below 0,
    they are counted from the lowest of normal images, and only what is lower still stays below 0.
    Models may have no maps.

    Args:
        image_quantile: Share of normal images that stay under the image threshold.
        pixel_quantile: Share of their pixels that stay under the pixel threshold.
        **kwargs: Passed to :class:`anomalib.post_processing.PostProcessor`.
    """

    def __init__(self, image_quantile: float = 0.99, pixel_quantile: float = 0.999, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_quantile = image_quantile
        self.pixel_quantile = pixel_quantile
        self._scores: list[torch.Tensor] = []
        self._maps: list[torch.Tensor] = []

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "image_quantile", "pixel_quantile")

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
        """Set both thresholds."""
        del pl_module
        for threshold, lowest, values, q in (
            (self._image_threshold, self.image_min, self._scores, self.image_quantile),
            (self._pixel_threshold, self.pixel_min, self._maps, self.pixel_quantile),
        ):
            if values is self._maps and not values:
                continue
            lowest.fill_(min(quantile(values, 0, trainer), 0))
            threshold.fill_(max(quantile(values, q, trainer), lowest.item() + SMALLEST_THRESHOLD))
            values.clear()

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
        lowest = norm_min.nan_to_num()  # of checkpoints from before it was known
        distance = preds - lowest
        return distance / (distance.abs() + (threshold - lowest))
