"""AnoGAN, and its fast form f-AnoGAN.

Schlegl, Seeböck, Waldstein, Schmidt-Erfurth and Langs, Unsupervised Anomaly Detection with Generative
Adversarial Networks to Guide Marker Discovery, IPMI 2017, https://arxiv.org/abs/1703.05921; Schlegl et al.,
f-AnoGAN, Medical Image Analysis 2019. Which source each default comes from is in the model card beside this file.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import optim

from anomalib_i3ad.components.arguments import check_range
from anomalib_i3ad.components.patches import random_patches
from anomalib_i3ad.components.scores import Reduction
from anomalib_i3ad.models.base import VALIDATED_ONCE, ReconstructionMixin, frozen, image_of

from .loss import discriminator_loss, encoder_loss, generator_loss
from .torch_model import AnoGanModel, Discrimination, Inference

logger = logging.getLogger(__name__)


class AnoGan(ReconstructionMixin, AnomalibModule):
    """Detects anomalies as what a GAN of normal patches cannot draw.

    Training cuts random patches from the images. The GAN is trained first, and the encoder, where inference needs
    one, in the last part of the same fit, with generator and discriminator fixed.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both.
        patch_size: Side in pixels of the patches that the GAN draws, a power of 2.
        stride: Distance in pixels between the overlapping patches by which an image is scored.
        width: Channels of the networks' outermost layers.
        latent_dim: Length of the latent vector.
        inference: Find the latent vector by gradient ``search`` (AnoGAN), by an ``encoder`` (f-AnoGAN), or by a
            search that starts where the encoder points (``encoder+search``).
        search_steps: Steps of the search.
        search_learning_rate: Learning rate of the search's Adam.
        discrimination_weight: Weight lambda of the discrimination term in search and score.
        discrimination: Discrimination term of the score: distance of the discriminator's inner ``features``, or its
            ``logit`` for the drawing (the paper's reference score).
        image_score: ``mean``, ``max`` or power mean (``l4``) of the patches' scores, or mean of the highest 1 %
            (``top_k``).
        encoder_share: Share of the training steps that train the encoder.
        feature_weight: Weight kappa of the features in the encoder's loss.
        learning_rate: Learning rate of the three Adam optimisers.
        betas: Betas of these optimisers.
        max_train_steps: Most training batches of a ``fit``; ``None`` leaves its end to the trainer.
        seed: Seed of weights, order of images, patches and latent vectors, and of the search's start.
        **components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``, as in anomalib.

    Raises:
        ValueError: If an argument is out of range or does not fit ``image_size``.
    """

    training_arguments = ReconstructionMixin.training_arguments | {"betas", "encoder_share", "feature_weight"}
    optimizer_arguments = ReconstructionMixin.optimizer_arguments | {"betas"}

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        patch_size: int = 64,
        stride: int = 32,
        width: int = 64,
        latent_dim: int = 100,
        inference: Inference = "encoder",
        search_steps: int = 500,
        search_learning_rate: float = 0.05,
        discrimination_weight: float = 0.1,
        discrimination: Discrimination = "features",
        image_score: Reduction = "mean",
        encoder_share: float = 1 / 3,
        feature_weight: float = 1.0,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        max_train_steps: int | None = 20_000,
        seed: int = 0,
        **components: Any,
    ) -> None:
        super().__init__(image_size, learning_rate, max_train_steps, seed, **components)
        check_range("encoder_share", encoder_share, above=0, below=1)
        check_range("feature_weight", feature_weight, at_least=0)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            msg = f"betas {betas!r} must be two numbers"
            raise ValueError(msg)
        for beta in betas:
            check_range("betas", beta, at_least=0, below=1)
        self.automatic_optimization = False
        with self.drawing_weights():
            self.model: AnoGanModel = AnoGanModel(
                patch_size=patch_size,
                stride=stride,
                width=width,
                latent_dim=latent_dim,
                inference=inference,
                search_steps=search_steps,
                search_learning_rate=search_learning_rate,
                discrimination_weight=discrimination_weight,
                discrimination=discrimination,
                image_score=image_score,
                seed=self.seed,
            )
        self.model.check_size(*self.image_size)
        self.encoder_share = encoder_share
        self.feature_weight = feature_weight
        self.betas = betas
        self.gan_steps = math.inf

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """A model that searches validates once, at the end, which writes the one checkpoint of the fit.

        To search after every epoch would outlast training.
        """
        once = VALIDATED_ONCE if self.model.searches else {}
        return super().trainer_arguments | once

    def configure_optimizers(self) -> list[optim.Optimizer]:
        """One Adam each for generator, discriminator and encoder."""
        networks = (self.model.generator, self.model.discriminator, self.model.encoder)
        return [optim.Adam(net.parameters(), self.learning_rate, self.betas) for net in networks if net is not None]

    def setup(self, stage: str) -> None:
        """Show a progress bar in the search where the trainer shows one."""
        super().setup(stage)
        self.model.progress = self.trainer.progress_bar_callback is not None

    def on_train_start(self) -> None:
        """Divide the steps of this fit between GAN and encoder.

        Raises:
            ValueError: If nothing ends the fit.
        """
        super().on_train_start()
        if self.model.encoder is None:
            return
        gan_share = 1 - self.encoder_share
        # a step of the GAN counts twice
        steps = self.steps_to_the_end("the encoder is trained in the last part of the fit", 1 + gan_share)
        self.gan_steps = int(gan_share * steps)

    def on_train_end(self) -> None:
        """Warn if the fit ended before the encoder was trained."""
        super().on_train_end()
        if self.model.encoder is not None and self.train_step <= self.gan_steps:
            logger.warning(
                "Training ended at step %d, before the encoder's share, which begins at %.0f: scores mean nothing. "
                "Train longer, or use inference='search'.",
                self.train_step,
                self.gan_steps,
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the checkpoint's encoder if inference is by ``search``, which needs none."""
        if self.model.encoder is None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("model.encoder.")}
        super().on_load_checkpoint(checkpoint)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the GAN, or of the encoder in the last part of the fit."""
        del batch_idx
        rng = self.step_rng()
        patch = random_patches(2 * image_of(batch) - 1, self.model.patch_size, rng)
        if self.train_step < self.gan_steps:
            z = rng.uniform(-1, 1, (len(patch), len(self.model.start)))
            self.train_gan(patch, torch.from_numpy(z).to(patch))
        else:
            self.train_encoder(patch)

    def train_gan(self, patch: torch.Tensor, z: torch.Tensor) -> None:
        """One step of generator and discriminator, both losses taken before either is updated."""
        generator, discriminator = self.model.generator.train(), self.model.discriminator.train()
        drawn = generator(z)
        with frozen(discriminator):
            drawing = generator_loss(discriminator(drawn))
        judging = discriminator_loss(discriminator(patch), discriminator(drawn.detach()))
        self.check_losses(generator_loss=drawing, discriminator_loss=judging)
        self.step_optimizers(drawing + judging, 0, 1)

    def train_encoder(self, patch: torch.Tensor) -> None:
        """One step of the encoder through the fixed generator and discriminator, as they are at test."""
        generator, discriminator = self.model.generator.eval(), self.model.discriminator.eval()
        with frozen(generator), frozen(discriminator):
            drawn = generator(self.model.encode(patch))
            loss = encoder_loss(
                patch, drawn, discriminator.features(patch), discriminator.features(drawn), self.feature_weight
            )
        self.check_losses(encoder_loss=loss)
        self.step_optimizers(loss, 2)
