"""I3AD: iterative image inpainting with a structural-similarity mask.

Nakanishi, Suzuki and Matsuo, Iterative Image Inpainting with Structural Similarity Mask for Anomaly
Detection, 2020, https://openreview.net/forum?id=b4ach0lGuYO. Which source each default comes from
is in the model card beside this file.
"""

from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import optim

from anomalib_i3ad.components.arguments import check_range
from anomalib_i3ad.components.holes import training_holes
from anomalib_i3ad.components.iteration import MapOf
from anomalib_i3ad.components.residuals import Residual
from anomalib_i3ad.components.scores import Reduction
from anomalib_i3ad.components.stitching import composite
from anomalib_i3ad.models.base import frozen, image_of
from anomalib_i3ad.models.iterative import IterativeMixin

from .discriminator import Discriminator
from .loss import adversarial_loss, discriminator_loss, reconstruction_loss
from .torch_model import I3ADModel

#: Of both optimisers (Yu et al. 2019, public code).
ADAM_BETAS = (0.5, 0.999)


class I3AD(IterativeMixin, AnomalibModule):
    """Detects anomalies by inpainting, again and again, what does not look normal.

    A network of gated convolutions learns to inpaint holes in normal images. At test every part of the image is
    inpainted once. Then, in each iteration, what differs from its inpainting is hidden and inpainted again, until only
    the defect is hidden.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both.
        width: Channels of the generator's first layer, even; they decide its speed and size.
        stages: 1, or 2 to refine the inpainting with contextual attention.
        adversarial_weight: Weight of the GAN's loss beside L1, 1 in the sources; 0 trains no discriminator.
        grid_probability: Share of training holes that are grid holes, the rest are free-form.
        learning_rate: Highest learning rate of Adam, which rises first and falls to 0 by a cosine.
        max_train_steps: Most training batches of a ``fit``; ``None`` leaves its end to the trainer.
        seed: Seed of weights, order of images and training holes.

        initial_grid: Parts of the initial inpainting along each side; even, and a divisor of the image's sides.
        mask_residual: What decides which pixels are hidden again: ``ssim`` or ``l2``.
        score_residual: What becomes the anomaly map: ``ssim`` or ``l2``.
        mask_quantile: Pixels are hidden if their residual reaches this quantile of normal images' initial residuals.
        max_iterations: Most iterations after the initial inpainting.
        anomaly_map: The ``last`` residual, the ``mean`` over iterations, in which what is no longer hidden counts 0, or
            ``mean_hidden``, at each place over the iterations in which it was hidden.
        image_score: ``mean``, ``max`` or power mean (``l4``) of the map, or mean of its highest 1 % (``top_k``).

        **components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``, as in anomalib.

    Raises:
        ValueError: If an argument is out of range or does not fit ``image_size``.
    """

    training_arguments = IterativeMixin.training_arguments | {"adversarial_weight", "grid_probability"}

    def __init__(
        self,
        image_size: int | tuple[int, int] = 128,
        width: int = 12,
        stages: int = 1,
        adversarial_weight: float = 0.0,
        grid_probability: float = 0.5,
        learning_rate: float = 2e-3,
        max_train_steps: int | None = 2400,
        seed: int = 0,
        initial_grid: int = 4,
        mask_residual: Residual = "ssim",
        score_residual: Residual = "ssim",
        mask_quantile: float = 0.97,
        max_iterations: int = 4,
        anomaly_map: MapOf = "mean",
        image_score: Reduction = "mean",
        **components: Any,
    ) -> None:
        super().__init__(
            image_size=image_size,
            learning_rate=learning_rate,
            max_train_steps=max_train_steps,
            seed=seed,
            mask_quantile=mask_quantile,
            **components,
        )
        check_range("adversarial_weight", adversarial_weight, at_least=0)
        check_range("grid_probability", grid_probability, at_least=0, at_most=1)
        self.automatic_optimization = False
        with self.drawing_weights():
            self.model: I3ADModel = I3ADModel(
                width=width,
                stages=stages,
                initial_grid=initial_grid,
                mask_residual=mask_residual,
                score_residual=score_residual,
                max_iterations=max_iterations,
                anomaly_map=anomaly_map,
                image_score=image_score,
            )
            self.discriminator = Discriminator() if adversarial_weight else None
        self.model.check_size(*self.image_size)
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, same numbers
        self.adversarial_weight = adversarial_weight
        self.grid_probability = grid_probability

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the checkpoint's discriminator where this model trains none.

        Raises:
            ValueError: If this model trains one and the checkpoint has none.
        """
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        others = {name: value for name, value in state.items() if not name.startswith("discriminator.")}
        if self.discriminator is None:
            checkpoint["state_dict"] = others
        elif len(others) == len(state):
            msg = f"adversarial_weight={self.adversarial_weight}: the checkpoint has no discriminator; leave it at 0"
            raise ValueError(msg)

    def configure_optimizers(self) -> tuple[list[optim.Optimizer], list[optim.lr_scheduler.LRScheduler]]:
        """One Adam each for the generator and the discriminator, and their schedules."""
        networks = [net for net in (self.model.generator, self.discriminator) if net is not None]
        optimizers = [optim.Adam(net.parameters(), self.learning_rate, ADAM_BETAS) for net in networks]
        return self.with_cosine(*optimizers)

    def draw_holes(self, image: torch.Tensor) -> torch.Tensor:
        """Holes ``(N, 1, H, W)`` for a training batch."""
        n, _, h, w = image.shape
        return training_holes(n, h, w, self.step_rng(), self.model.grid_holes(h, w), self.grid_probability).to(image)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of generator and discriminator, both losses taken before either is updated."""
        del batch_idx
        image = image_of(batch)
        loss, shown = self.losses(image, self.draw_holes(image))
        self.check_losses(**shown)
        self.step_optimizers(loss)

    def losses(self, image: torch.Tensor, hole: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a training step, and its terms by name.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            hole: ``(N, 1, H, W)`` in {0, 1}.
        """
        drawn = self.model.generator(image, hole)
        l1 = reconstruction_loss(image, drawn)
        loss, shown = l1, {"l1_loss": l1}
        if self.discriminator is not None:
            inpainted = composite(image, drawn[-1], hole)
            # the generator's term must not leave gradients in the discriminator: one backward
            # pass then serves both, which is also what lets DDP see every gradient once
            with frozen(self.discriminator):
                adversarial = adversarial_loss(self.discriminator(inpainted, hole))
            logits = self.discriminator(torch.cat([image, inpainted.detach()]), torch.cat([hole, hole]))
            judged = discriminator_loss(*logits.chunk(2))
            loss = loss + self.adversarial_weight * adversarial + judged
            shown |= {"generator_loss": adversarial, "discriminator_loss": judged}
        return loss, shown

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to a ``.pt`` file; as anomalib's, without the discriminator, which is for training only."""
        discriminator, self.discriminator = self.discriminator, None
        try:
            return super().to_torch(export_root, model_file_name)
        finally:
            self.discriminator = discriminator
