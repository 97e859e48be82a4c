"""SSIM-AE, and the same autoencoder with an L2 loss.

Bergmann, Löwe, Fauser, Sattlegger and Steger, Improving Unsupervised Defect Segmentation by Applying
Structural Similarity to Autoencoders, VISAPP 2019, https://arxiv.org/abs/1807.02011. Which source each
default comes from is in the model card beside this file.
"""

from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import optim

from anomalib_i3ad.components.arguments import check_choice, check_range
from anomalib_i3ad.components.patches import random_patches
from anomalib_i3ad.components.residuals import RESIDUALS, Residual
from anomalib_i3ad.components.scores import Reduction
from anomalib_i3ad.models.base import ReconstructionMixin, image_of

from .loss import reconstruction_loss
from .torch_model import Mode, SsimAeModel


class SsimAe(ReconstructionMixin, AnomalibModule):
    """Detects anomalies as what an autoencoder of normal images cannot reproduce.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both. 128 or 256
            squared in mode ``objects``.
        mode: ``objects`` reads an image as a whole; ``textures`` trains on random patches and averages
            the maps of overlapping windows.
        patch_size: Side of patches and windows in pixels, 128 or 256; mode ``textures``.
        stride: Distance in pixels between windows; mode ``textures``.
        latent_dim: Length of the latent vector.
        grayscale: Work on luminance instead of three colours.
        loss: ``ssim``, or ``l2`` as in the paper's baseline.
        score_residual: What becomes the anomaly map: ``ssim`` or ``l2``.
        image_score: ``mean``, ``max`` or power mean (``l4``) of the map, or mean of its highest 1 % (``top_k``).
        learning_rate: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        max_train_steps: Most steps of a ``fit``, of one batch each or of the trainer's ``accumulate_grad_batches``;
            ``None`` leaves its end to the trainer.
        seed: Seed of weights, order of images and training patches.
        **components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``, as in anomalib.

    Raises:
        ValueError: If an argument is out of range or does not fit ``image_size``.
    """

    training_arguments = ReconstructionMixin.training_arguments | {"loss", "weight_decay"}
    optimizer_arguments = ReconstructionMixin.optimizer_arguments | {"weight_decay"}

    def __init__(
        self,
        image_size: int | tuple[int, int] = 128,
        mode: Mode = "objects",
        patch_size: int = 128,
        stride: int = 30,
        latent_dim: int = 100,
        grayscale: bool = False,
        loss: Residual = "ssim",
        score_residual: Residual = "ssim",
        image_score: Reduction = "max",
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-5,
        max_train_steps: int | None = 10_000,
        seed: int = 0,
        **components: Any,
    ) -> None:
        super().__init__(image_size, learning_rate, max_train_steps, seed, **components)
        check_range("weight_decay", weight_decay, at_least=0)
        check_choice("loss", loss, RESIDUALS)
        with self.drawing_weights():
            self.model: SsimAeModel = SsimAeModel(
                size=self.image_size[0] if mode == "objects" else patch_size,
                latent_dim=latent_dim,
                grayscale=grayscale,
                mode=mode,
                stride=stride,
                score_residual=score_residual,
                image_score=image_score,
            )
        self.model.check_size(*self.image_size)
        self.loss_kind = loss
        self.weight_decay = float(weight_decay)

    def configure_optimizers(self) -> optim.Optimizer:
        """Adam."""
        return optim.Adam(self.model.parameters(), self.learning_rate, weight_decay=self.weight_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Reconstruct whole images or random patches."""
        del batch_idx
        image = self.model.to_channels(image_of(batch))
        if self.model.mode == "textures":
            image = random_patches(image, self.model.size, self.step_rng())
        loss = reconstruction_loss(image, self.model.autoencoder(image), self.loss_kind)
        self.check_losses(train_loss=loss)
        return loss
