"""RIAD: reconstruction by inpainting.

Zavrtanik, Kristan and Skočaj, Reconstruction by inpainting for visual anomaly detection, Pattern
Recognition 2021. Which source each default comes from is in the model card beside this file.
"""

import math
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import optim

from anomalib_i3ad.models.base import ReconstructionMixin, image_of

from .cell_sets import random_cell_sets
from .loss import riad_loss
from .torch_model import RiadModel

DECAY_AT = 250 / 300  # share of training after which the learning rate falls
DECAY = 0.1


class Riad(ReconstructionMixin, AnomalibModule):
    """Detects anomalies as what a network cannot inpaint from its surroundings.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both. Multiples of
            32 and of every cell size.
        width: Channels of the U-Net's first level, which decide its speed and size.
        cell_sizes: Sides of the hidden cells in pixels; training draws one for each batch, test uses all.
        parts: Number of disjoint sets the cells are divided into; each is hidden once.
        learning_rate: Learning rate of Adam, a tenth of it in the last sixth of a fit whose steps are known.
        max_train_steps: Most steps of a ``fit``, of one batch each or of the trainer's ``accumulate_grad_batches``;
            ``None`` leaves its end to the trainer.
        seed: Seed of weights, order of images and the cell sets, in training and at test.
        **components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``, as in anomalib.

    Raises:
        ValueError: If an argument is out of range or does not fit ``image_size``.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        width: int = 64,
        cell_sizes: tuple[int, ...] = (2, 4, 8, 16),
        parts: int = 3,
        learning_rate: float = 1e-4,
        max_train_steps: int | None = 15_000,
        seed: int = 0,
        **components: Any,
    ) -> None:
        super().__init__(image_size, learning_rate, max_train_steps, seed, **components)
        with self.drawing_weights():
            self.model: RiadModel = RiadModel(
                image_size=self.image_size, width=width, cell_sizes=cell_sizes, parts=parts, seed=self.seed
            )
        self.to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> Any:
        """Adam, whose learning rate falls once."""
        optimizer = optim.Adam(self.model.parameters(), self.learning_rate)
        steps = self.planned_steps()
        if math.isinf(steps):
            return optimizer
        falls = round(DECAY_AT * steps)  # not in checkpoints: a fit that goes on may be longer
        schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 if step < falls else DECAY)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Inpaint every part of the images once, at a cell size drawn at random."""
        del batch_idx
        image, rng = image_of(batch), self.step_rng()
        cell = int(rng.choice(self.model.cell_sizes))
        sets = random_cell_sets(cell, self.model.parts, *self.image_size, rng).to(image.device)
        terms = riad_loss(image, self.model.reconstruct(image, sets[None])[:, 0])
        self.check_losses(**terms)
        return torch.stack(list(terms.values())).sum()
