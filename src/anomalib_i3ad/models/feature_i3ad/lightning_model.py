"""FeatureI3AD: I3AD's iteration over features instead of pixels.

A method of this project, after Nakanishi, Suzuki and Matsuo, Iterative Image Inpainting with Structural Similarity
Mask for Anomaly Detection, 2020. Where each choice comes from is in the model card beside this file.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import torch
from anomalib.data import AnomalibDataModule, Batch
from anomalib.models.components import AnomalibModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import optim
from torch.nn import functional as F

from anomalib_i3ad.components.arguments import check_range
from anomalib_i3ad.components.holes import training_holes
from anomalib_i3ad.components.rounding import round_to_half
from anomalib_i3ad.components.scores import Reduction
from anomalib_i3ad.models.base import VALIDATED_ONCE, first_batches, image_of
from anomalib_i3ad.models.iterative import IterativeMixin

from .feature_cache import FeatureCache
from .loss import inpainting_loss, likelihood_loss
from .memory import CANDIDATES, Sample
from .torch_model import FeatureI3ADModel

Sums = tuple[torch.Tensor, ...]
ADAM_BETAS = (0.9, 0.99)
#: Share of training holes that are grid holes, the rest are free-form.
GRID_PROBABILITY = 0.5
#: Weight of the expected residual's likelihood in the loss.
LIKELIHOOD_WEIGHT = 0.1
#: Images of a batch that train the decoder; with more it would cost more than the inpainter.
DECODED = 4
#: Least deviation that a feature is divided by, as a share of the mean one: less would let runtimes differ by rounding.
LEAST_STD = 1e-2


class FeatureI3AD(IterativeMixin, AnomalibModule):
    """Detects anomalies by inpainting, again and again, the features that do not look normal.

    A frozen network that was trained on ImageNet sees the image once. A small network learns to inpaint the features
    of hidden cells of normal images, and to predict its own error. At test, cells that differ from their inpainting by
    more than usual are hidden and inpainted again from the cells that are left; where inpainting can tell little, as of
    parts at any angle, they are compared with normal cells that are remembered. A fit validates once, at its end,
    whatever the trainer's schedule.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both. Multiples of 8 times
            ``initial_grid`` and of the layers' strides, at least 40 times ``initial_grid``.
        backbone: Name of a timm model; it is frozen.
        layers: Its layers whose features are inpainted.
        backbone_weights: File of its ImageNet weights; ``None`` takes the extra ``features``, or timm's hub.
        width: Channels of the inpainter's first layer, which decide its speed and size.
        noise: Standard deviation of the noise on visible features in training, in units of their own.
        learning_rate: Highest learning rate of Adam, which rises first and falls to 0 by a cosine.
        max_train_steps: Most steps of a ``fit``, of one batch each or of the trainer's ``accumulate_grad_batches``;
            ``None`` leaves its end to the trainer.
        seed: Seed of weights, order of images, training holes, noise and the cells that are remembered.

        initial_grid: Parts of the initial inpainting along each side; even, and a divisor of the features' sides.
        mask_quantile: Cells are hidden if their residual reaches this quantile of normal images' initial residuals.
        max_iterations: Most iterations after the initial inpainting.
        image_score: ``mean``, ``max`` or power mean (``l4``) of the map, or mean of its highest 1 % (``top_k``).

        **components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``, as in anomalib.

    Raises:
        ValueError: If an argument is out of range or does not fit ``image_size``.
    """

    training_arguments = IterativeMixin.training_arguments | {"backbone_weights", "noise"}

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        backbone: str = "tf_efficientnet_lite0",
        layers: Sequence[str] = ("blocks.2", "blocks.4"),
        backbone_weights: str | None = None,
        width: int = 32,
        noise: float = 0.5,
        learning_rate: float = 1e-3,
        max_train_steps: int | None = 1000,
        seed: int = 0,
        initial_grid: int = 4,
        mask_quantile: float = 0.9999,
        max_iterations: int = 2,
        image_score: Reduction = "top_k",
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
        check_range("noise", noise, at_least=0)
        with self.drawing_weights():
            self.model: FeatureI3ADModel = FeatureI3ADModel(
                image_size=self.image_size,
                backbone=backbone,
                layers=layers,
                backbone_weights=backbone_weights,
                width=width,
                initial_grid=initial_grid,
                max_iterations=max_iterations,
                image_score=image_score,
            )
        self.to(memory_format=torch.channels_last)
        self.noise = noise
        self._cache: FeatureCache | None = None

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Validation once, at the end, which writes the one checkpoint: a fit takes minutes, in a hundred epochs."""
        return super().trainer_arguments | VALIDATED_ONCE

    def configure_optimizers(self) -> tuple[list[optim.Optimizer], list[Any]]:
        """Adam with its schedule, for inpainter and decoder."""
        trained = [*self.model.inpainter.parameters(), *self.model.decoder.parameters()]
        optimizers, schedules = self.with_cosine(optim.Adam(trained, self.learning_rate, ADAM_BETAS))
        return optimizers, [{"scheduler": schedule, "interval": "step"} for schedule in schedules]

    def on_fit_start(self) -> None:
        """Load the backbone's weights, unless they came with a checkpoint."""
        super().on_fit_start()
        self.model.features.load_pretrained(*self.image_size)

    def on_train_start(self) -> None:
        """Compute the features of all training images, and their mean and deviation, unless a fit goes on."""
        super().on_train_start()
        self._cache = None  # of a fit that did not end, which leaves its room to this one
        self._cache = self._new_cache()
        if not (self.batches_seen and torch.isfinite(self.model.std).all()):
            self._measure_moments()

    def _new_cache(self) -> FeatureCache | None:
        """Room for the features of all training images, or none where they are computed anew in each epoch."""
        loader: Any = self.trainer.train_dataloader
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        # a datamodule may cut several items from one file, by whose path they would be kept; collating may augment
        if (
            not isinstance(datamodule, AnomalibDataModule)
            or datamodule.train_augmentations is not None
            or datamodule.external_collate_fn is not None
            or datamodule.train_data.samples.image_path.nunique() != len(loader.dataset)
        ):
            return None
        shape = self.model.grid_shape(*self.image_size)
        return FeatureCache(len(loader.dataset), shape, self.trainer.default_root_dir, self.trainer.num_devices)

    def _measure_moments(self) -> None:
        """Measure mean and deviation of the training images' features."""

        def moments(cells: torch.Tensor, batch: Batch) -> Sums:
            del batch
            count = torch.tensor(cells[:, 0].numel())
            cells = cells.cpu().double()  # not every GPU has double precision
            return count, cells.sum(dim=(0, 2, 3)), cells.square().sum(dim=(0, 2, 3))

        count, total, squares = self.sum_over_training_images(moments)
        mean = total / count
        self.model.mean.copy_(mean[None, :, None, None])
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.model.std.copy_(std.clamp(min=LEAST_STD * std.mean().item())[None, :, None, None])

    def sum_over_training_images(self, measure: Callable[[torch.Tensor, Batch], Sums]) -> Sums:
        """Sums of what ``measure`` makes of features ``(N, C, h, w)`` and their batch, over batches and processes."""
        totals: Sums = ()
        loader: Any = self.trainer.train_dataloader
        count = self.trainer.num_training_batches
        if math.isinf(count):  # of a stream, maybe one without an end, what the fit will see
            count = self.planned_steps() * self.trainer.accumulate_grad_batches
        for batch in first_batches(loader, count):
            batch.image = image_of(batch).to(self.device)
            if self.pre_processor:
                batch.image = self.pre_processor(batch.image)
            cells = self.cells_of(batch)
            with torch.no_grad():
                found = measure(cells, batch)
            totals = tuple(one + other for one, other in zip(totals, found, strict=True)) if totals else found
        if self.trainer.world_size == 1:
            return totals
        gathered: Any = self.all_gather(totals)
        return tuple(
            of_all.reshape(-1, *total.shape).sum(dim=0) for of_all, total in zip(gathered, totals, strict=True)
        )

    def numbers_of(self, batch: Any) -> torch.Tensor:
        """Numbers ``(N,)`` that tell images apart, by their pixels; by their paths, if augmentation changes these."""
        augmented = getattr(getattr(self.trainer, "datamodule", None), "train_augmentations", None) is not None
        if augmented and batch.image_path:
            return torch.tensor([crc32(os.fsencode(path)) for path in batch.image_path])
        return torch.tensor([crc32(image.float().cpu().contiguous().numpy().data) for image in batch.image])

    def on_train_end(self) -> None:
        """Free the cached features, which calibration may still need."""
        super().on_train_end()
        self._cache = None

    def cells_of(self, batch: Any) -> torch.Tensor:
        """Features ``(N, C, h, w)`` of a training batch, cached or computed."""
        image = image_of(batch)
        self.model.check_size(*image.shape[-2:])
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if self._cache is None or batch.image_path is None:
                return self.model.cells_of(image.float())
            cached = self._cache.take(batch.image_path, lambda new: self.model.cells_of(image[new].float()))
        return cached.to(self.device, memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Inpaint holes in noisy features, and draw images from features."""
        del batch_idx
        model, rng = self.model, self.step_rng()
        features = model.standardised(self.cells_of(batch))
        n, _, h, w = features.shape
        hole = model.hidden_with(training_holes(n, h, w, rng, model.grid_holes(h, w), GRID_PROBABILITY).to(features))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        # uniform: drawn several times faster than normal noise on a CPU
        largest = 3**0.5 * self.noise
        noisy = torch.empty_like(features).uniform_(-largest, largest, generator=generator).add_(features)
        drawn, expected = model.inpainter(noisy, hole)
        pictures = model.decoder(features[:DECODED])
        with torch.autocast(self.device.type, enabled=False):
            drawn, expected, pictures = drawn.float(), expected.float(), pictures.float()
            residual = model.cosines(model.directions(features), drawn)
            losses = {
                "cosine_loss": inpainting_loss(residual, hole),
                "square_loss": inpainting_loss((drawn - features).square().mean(dim=1, keepdim=True), hole),
                "likelihood_loss": LIKELIHOOD_WEIGHT * likelihood_loss(residual, expected, hole),
                "decoder_loss": F.l1_loss(
                    pictures, F.interpolate(image_of(batch)[:DECODED], pictures.shape[-2:], mode="area")
                ),
            }
        self.check_losses(**losses)
        return torch.stack(list(losses.values())).sum()

    def on_validation_epoch_start(self) -> None:
        """Within a fit, round the weights and measure what is usual on the training images; then calibrate u.

        Raises:
            ValueError: If that was never measured.
        """
        if self.trainer.state.fn is TrainerFn.FITTING:
            for network in (self.model.inpainter, self.model.decoder):
                round_to_half(network)
            self.measure_usual()
        elif self.model.usual_cosine.isnan().any():
            msg = "the model was not fitted to its end, so it cannot be calibrated: fit it, or load a fitted checkpoint"
            raise ValueError(msg)
        super().on_validation_epoch_start()

    def measure_usual(self) -> None:
        """Measure the usual cosines and errors of initial inpaintings, and remember cells, of the training images."""
        model, layers = self.model, self.model.features.channels
        usual_errors: Any = model.usual_errors
        sample = Sample(CANDIDATES // self.trainer.world_size, self.seed)

        def inpainted(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = model.standardised(cells)
            return features, model.features_in(model.initial_inpainting(model.scene_of_features(features)))

        # of every image the mean over its cells
        def sizes(cells: torch.Tensor, batch: Batch) -> Sums:
            features, drawn = inpainted(cells)
            sample.add(features, self.numbers_of(batch))
            cosine = model.cosines(model.directions(features), drawn).mean(dim=(2, 3)).sum(dim=0)
            errors = [error.permute(0, 2, 3, 1).flatten(0, 2) for error in (features - drawn).split(layers, dim=1)]
            count = torch.tensor(len(cells), device=cells.device)
            return count, cosine, *(count / len(of_cells) * of_cells.T @ of_cells for of_cells in errors)

        def products(cells: torch.Tensor, batch: Batch) -> Sums:
            features, drawn = inpainted(cells)
            # an image is like itself: nothing that is remembered of it counts
            of_itself = self.numbers_of(batch)[:, None] == origins
            of_itself &= ~of_itself.all(dim=1, keepdim=True)  # unless all is, as of a single image
            distance = model.memory.distance(features, of_itself.to(features.device)).mean(dim=(1, 2, 3)).sum()
            errors = zip(usual_errors, (features - drawn).split(layers, dim=1), strict=True)
            blocks = [usual.in_blocks(usual.components_of(error)) for usual, error in errors]
            return distance, *(len(cells) / part.shape[1] * part.transpose(1, 2) @ part for part in blocks)

        count, cosine, *of_features = self.sum_over_training_images(sizes)
        model.usual_cosine.copy_((cosine / count)[None, :, None, None])
        for usual, total in zip(usual_errors, of_features, strict=True):
            usual.set_components(total / count)
        model.memory.set_weights([total / count for total in of_features])
        gathered: Any = self.all_gather((sample.cells, sample.images))  # as they are of a single process
        candidates, origins = gathered[0].flatten(0, -2), gathered[1].flatten().cpu()
        origins = origins[model.memory.set_cells(candidates)]
        distance, *of_components = self.sum_over_training_images(products)
        for usual, total in zip(usual_errors, of_components, strict=True):
            usual.set_covariance(total / count, int(count))
        model.memory.set_usual(distance / count)
