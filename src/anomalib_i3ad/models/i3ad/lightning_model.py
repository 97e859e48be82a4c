"""I3AD: iterative image inpainting with a structural-similarity mask.

Nakanishi, Suzuki and Matsuo, Iterative Image Inpainting with Structural Similarity Mask for Anomaly
Detection, 2020, https://openreview.net/forum?id=b4ach0lGuYO. Which source each default comes from
is in the model card beside this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import optim

from anomalib_i3ad.components.arguments import check_choice
from anomalib_i3ad.components.masks import training_holes
from anomalib_i3ad.components.scores import Reduction
from anomalib_i3ad.models.reconstruction import ReconstructionMixin, frozen, image_of
from anomalib_i3ad.post_processing import quantile

from .discriminator import Discriminator
from .generator import composite
from .loss import adversarial_loss, discriminator_loss, reconstruction_loss
from .torch_model import BACKBONE, LAYERS, I3ADModel

#: Share of the cosine schedule's steps in which the learning rate rises.
WARM_UP = 0.05


class I3AD(ReconstructionMixin, AnomalibModule):
    """Detects anomalies by inpainting, again and again, what does not look normal.

    A gated-convolution network, with ``adversarial_weight`` a GAN, learns to inpaint normal images. At
    test the image is inpainted piece by piece, hidden where it differs from its inpainting, and inpainted
    again until only the defect is left.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both.
        width: Channels of the generator's first layer, even; speed and size follow it.
        stages: 1, or 2 to refine the inpainting with contextual attention.
        discriminator_width: Channels of the discriminator's first layer.
        l1_weight: Weight of the L1 term beside the adversarial one.
        adversarial_weight: Weight of the adversarial term, 1 in the sources; 0 trains without a discriminator.
        feature_weight: Weight of the inpainting's feature residual in the loss, which sharpens textures; needs
            ``features`` to mask or score.
        lattice_probability: Share of training holes that are lattice holes, the rest are free-form.
        learning_rate: Learning rate of both Adam optimisers.
        lr_schedule: ``constant``, or ``cosine``: up in the first steps and down to 0 at the end of the fit.
        betas: Betas of both Adam optimisers.
        max_train_steps: Training batches after which ``fit`` ends by itself; the trainer's own
            limits may end it earlier. ``None`` leaves it to the trainer.
        seed: Seed of weights, order of images and training holes.
        initial_grid: Lattice size of the first pass, even and dividing the image; several are averaged.
        mask_residual: What decides which pixels are hidden again: ``ssim``, ``l2`` or ``features``, or several, any
            of which may hide a pixel.
        score_residual: What becomes the anomaly map; of several the mean, each in units of its u.
        mask_threshold: Residual u from which a pixel is hidden again, for several residuals a list; ``None``
            calibrates it.
        backbone: Network of timm that ``features`` come from.
        layers: Its layers.
        backbone_weights: File of its ImageNet weights; ``None`` takes the extra ``features`` or timm's hub.
        mask_edge: Pixels whose residual is less than this share of u below it are hidden partly; 0 hides a
            pixel or does not, as the paper.
        mask_quantile: u is this quantile of the first residual on normal validation images.
        max_iterations: Most inpaintings after the lattice pass.
        min_shrink: An image stops when its hole lost less than this share of its area.
        reinpaint: What is hidden and inpainted again: the ``original`` or the ``previous`` inpainting.
        anomaly_map: The ``last`` residual, or the ``mean`` over iterations; an image that stops early keeps its last.
        image_score: ``mean``, fourth root of the mean fourth power (``l4``) or ``max`` of the map, or mean
            of its highest per cent (``top_k``).
        pre_processor: As in anomalib.
        post_processor: As in anomalib.
        evaluator: As in anomalib.
        visualizer: As in anomalib.

    Raises:
        ValueError: If an argument is none of the above or does not fit ``image_size``.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 128,
        width: int = 12,
        stages: int = 1,
        discriminator_width: int = 64,
        l1_weight: float = 1.0,
        adversarial_weight: float = 0.0,
        feature_weight: float = 0.0,
        lattice_probability: float = 0.5,
        learning_rate: float = 2e-3,
        lr_schedule: Literal["constant", "cosine"] = "cosine",
        betas: tuple[float, float] = (0.5, 0.999),
        max_train_steps: int | None = 2400,
        seed: int = 0,
        initial_grid: int | list[int] = 4,
        mask_residual: str | list[str] = "ssim",
        score_residual: str | list[str] = "ssim",
        mask_threshold: float | list[float] | None = None,
        backbone: str = BACKBONE,
        layers: Sequence[str] = LAYERS,
        backbone_weights: str | None = None,
        mask_edge: float = 0.1,
        mask_quantile: float = 0.97,
        max_iterations: int = 4,
        min_shrink: float = 0.05,
        reinpaint: Literal["original", "previous"] = "original",
        anomaly_map: Literal["last", "mean"] = "mean",
        image_score: Reduction = "mean",
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(image_size, max_train_steps, seed, pre_processor, post_processor, evaluator, visualizer)
        self.automatic_optimization = False
        self.model: I3ADModel = I3ADModel(
            width=width,
            stages=stages,
            initial_grid=initial_grid,
            mask_residual=mask_residual,
            score_residual=score_residual,
            mask_threshold=mask_threshold,
            backbone=backbone,
            layers=layers,
            backbone_weights=backbone_weights,
            mask_edge=mask_edge,
            max_iterations=max_iterations,
            min_shrink=min_shrink,
            reinpaint=reinpaint,
            anomaly_map=anomaly_map,
            image_score=image_score,
        )
        self.model.check_size(*self.image_size)
        self.discriminator = Discriminator(discriminator_width) if adversarial_weight else None
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, same numbers
        self.l1_weight = l1_weight
        self.adversarial_weight = adversarial_weight
        if feature_weight and self.model.feature_residual is None:
            msg = f"feature_weight {feature_weight} needs 'features' in mask_residual or score_residual"
            raise ValueError(msg)
        self.feature_weight = feature_weight
        self.lattice_probability = lattice_probability
        check_choice("lr_schedule", lr_schedule, ("constant", "cosine"))
        self.learning_rate = learning_rate
        self.lr_schedule = lr_schedule
        self.betas = betas
        self.calibrates_mask = mask_threshold is None
        self.mask_quantile = mask_quantile

    def on_fit_start(self) -> None:
        """Load the weights of the network that features come from, if there is one and no checkpoint brought them."""
        super().on_fit_start()
        self.model.load_pretrained()

    def configure_optimizers(self) -> tuple[list[optim.Optimizer], list[optim.lr_scheduler.LRScheduler]]:
        """One Adam each for the generator and the discriminator, and their schedules.

        Raises:
            ValueError: If the cosine has no end.
        """
        networks = [net for net in (self.model.generator, self.discriminator) if net is not None]
        optimizers: list[optim.Optimizer] = [
            optim.Adam(net.parameters(), self.learning_rate, self.betas) for net in networks
        ]
        if self.lr_schedule == "constant":
            return optimizers, []
        steps = self.planned_steps(optimizer_steps=len(optimizers))
        if math.isinf(steps):
            msg = "lr_schedule cosine wants an end: set max_train_steps, or the trainer's max_epochs or max_steps"
            raise ValueError(msg)

        def share(step: int) -> float:
            falling = (1 + math.cos(math.pi * min(1, step / steps))) / 2
            return min(1, (step + 1) / (WARM_UP * steps)) * falling

        return optimizers, [optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]

    def draw_holes(self, image: torch.Tensor) -> torch.Tensor:
        """Holes ``(N, 1, H, W)`` for a training batch."""
        n, _, h, w = image.shape
        lattices = self.model.lattices(h, w).flatten(0, 1)
        return training_holes(n, h, w, self.step_rng(), lattices, self.lattice_probability).to(image)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of generator and discriminator, both judged before either moves."""
        del batch_idx
        image = image_of(batch)
        loss, shown = self.losses(image, self.draw_holes(image))
        self.check_losses(**shown)
        self.step_optimizers(loss)

    def losses(self, image: torch.Tensor, hole: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What a step minimises, and the terms it consists of.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            hole: ``(N, 1, H, W)`` in {0, 1}.
        """
        drawn = self.model.generator(image, hole)
        l1 = reconstruction_loss(image, drawn)
        loss, shown = self.l1_weight * l1, {"l1_loss": l1}
        inpainted = composite(image, drawn[-1], hole)
        if self.feature_weight:
            assert self.model.feature_residual is not None  # mypy
            features = self.model.feature_residual(image, inpainted).mean()
            loss = loss + self.feature_weight * features
            shown["feature_loss"] = features
        if self.discriminator is not None:
            # the generator's term must not leave gradients in the discriminator: one backward
            # pass then serves both, which is also what lets DDP see every gradient once
            with frozen(self.discriminator):
                adversarial = adversarial_loss(self.discriminator(inpainted, hole))
            logits = self.discriminator(torch.cat([image, inpainted.detach()]), torch.cat([hole, hole]))
            judged = discriminator_loss(*logits.chunk(2))
            loss = loss + self.adversarial_weight * adversarial + judged
            shown |= {"generator_loss": adversarial, "discriminator_loss": judged}
        return loss, shown

    def on_validation_epoch_start(self) -> None:
        """Calibrate u on the first residual of normal validation images.

        Raises:
            ValueError: If validation holds no normal image.
        """
        if not self.calibrates_mask:
            return
        found = []
        for batch in self.trainer.val_dataloaders or ():
            image = image_of(batch)[batch.gt_label == 0].to(self.device)
            if len(image):
                image = self.pre_processor(image) if self.pre_processor else image
                with torch.autocast(self.device.type, enabled=False):
                    found.append(self.model.first_residuals(image).cpu())
        for index in range(len(self.model.residuals)):
            u = quantile([residuals[:, index] for residuals in found], self.mask_quantile, self.trainer)
            self.model.mask_threshold[index] = u

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to a ``.pt`` file; as anomalib's, without the discriminator, which is for training only."""
        discriminator, self.discriminator = self.discriminator, None
        try:
            return super().to_torch(export_root, model_file_name)
        finally:
            self.discriminator = discriminator
