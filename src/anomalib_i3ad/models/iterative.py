"""What I3AD and FeatureI3AD share: the calibration of u, and the schedule of the learning rate."""

import math
from typing import Any

from torch import optim

from anomalib_i3ad.components.arguments import check_range
from anomalib_i3ad.post_processing import pooled, quantile

from .base import ReconstructionMixin, image_of

#: Share of the cosine schedule's steps in which the learning rate rises.
WARM_UP = 0.05


class IterativeMixin(ReconstructionMixin):
    """Base of the models whose torch model is an :class:`IterativeModel`.

    Args:
        mask_quantile: u is this quantile of the first residual on normal validation images, in (0, 1).
        **arguments: As of :class:`ReconstructionMixin`.

    Raises:
        ValueError: If an argument is out of range.
    """

    model: Any  # an IterativeModel

    def __init__(self, *, mask_quantile: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_range("mask_quantile", mask_quantile, above=0, below=1)
        self.mask_quantile = mask_quantile

    def with_cosine(
        self, *optimizers: optim.Optimizer
    ) -> tuple[list[optim.Optimizer], list[optim.lr_scheduler.LRScheduler]]:
        """Optimisers and their schedules: the learning rate rises first and falls to 0 by the end of the fit.

        Raises:
            ValueError: If nothing ends the fit.
        """
        steps = self.steps_to_the_end("the learning rate falls until the end of the fit", len(optimizers))

        def share(step: int) -> float:
            falling = (1 + math.cos(math.pi * min(1, step / steps))) / 2
            return min(1, (step + 1) / (WARM_UP * steps)) * falling

        return list(optimizers), [optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]

    def on_validation_epoch_start(self) -> None:
        """Calibrate u on the first residual of normal validation images.

        Raises:
            ValueError: If validation holds no normal image.
            FloatingPointError: If residuals are not finite.
        """
        residuals = []
        for batch in self.validation_batches():
            image = image_of(batch)[self.is_normal(batch)].to(self.device)
            if len(image):
                image = self.pre_processor(image) if self.pre_processor else image
                residuals.append(self.model.initial_residual(self.model.scene_of(image)).cpu())
        self.model.mask_threshold.fill_(quantile(pooled(residuals, self.trainer), self.mask_quantile))
