"""What every model of this plugin asks of Lightning and anomalib."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities import CombinedLoader
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Normalize

from anomalib_i3ad.components.arguments import check_count, check_range, sides_of
from anomalib_i3ad.data.readable import check_readable
from anomalib_i3ad.post_processing import QuantilePostProcessor
from anomalib_i3ad.pre_processing import AntialiasedResize, make_exportable

from .checkpoint import CheckpointMixin
from .end import EndMixin
from .exports import ExportMixin
from .steps import StepMixin

#: Trainer argument: validation at the end of the fit alone, which writes the one checkpoint.
VALIDATED_ONCE = {"check_val_every_n_epoch": 1_000_000}


def image_of(batch: Batch) -> torch.Tensor:
    """Images ``(N, 3, H, W)`` of a batch as a plain tensor.

    Raises:
        ValueError: If the line would not read an image file; see :func:`check_readable`.
    """
    for path in getattr(batch, "image_path", None) or ():
        check_readable(path)
    assert isinstance(batch.image, torch.Tensor)  # mypy
    return batch.image.as_subclass(torch.Tensor)


def first_batches(loader: Any, count: float) -> Iterator[Any]:
    """As many batches of a loader as the trainer takes; infinity of a stream, which must end by itself."""
    if isinstance(loader, DataLoader):
        # one of our own: with persistent workers a loader has a single iterator, which Lightning's loop holds
        loader = copy(loader)
        loader._iterator = None  # noqa: SLF001
    return islice(loader, None if math.isinf(count) else int(count))


def seeded_by_lightning() -> bool:
    """Whether ``seed_everything`` was called; anomalib 2.7 takes ``--seed_everything`` and never calls it."""
    return "PL_GLOBAL_SEED" in os.environ


def _normalises(transform: Any) -> bool:
    return isinstance(transform, Normalize) or any(map(_normalises, getattr(transform, "transforms", ())))


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients flow through a network, but not into its weights."""
    network.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        network.requires_grad_(requires_grad=True)


def _loadable(value: Any) -> Any:
    """An argument as checkpoints take it that are loaded again: no container of omegaconf's, no number of NumPy's."""
    if OmegaConf.is_config(value):  # from get_model
        return OmegaConf.to_container(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_loadable, value))
    return value.item() if isinstance(value, np.generic) else value


class ReconstructionMixin(EndMixin, StepMixin, CheckpointMixin, ExportMixin):
    """Base of all models, to be named before ``AnomalibModule``: they score what they cannot reconstruct.

    Scores are computed in full precision, in validation, at test and in the exported graph alike; on a GPU as far as
    torch's TF32, its default in convolutions, allows. A fit ends by itself, and always with a validation, which
    calibrates the thresholds.

    Args:
        image_size: Height and width in pixels to which images are resized; an int for both.
        learning_rate: Highest learning rate of all optimisers, above 0.
        max_train_steps: Training steps, of :attr:`train_step`, after which ``fit`` ends by itself, unless the trainer
            ends it earlier; ``None`` leaves its end to the trainer.
        seed: Seed of all that training draws: weights, holes and, on one process, the order of images. If Lightning's
            ``seed_everything`` was called before, that seed decides weights and order; ``torch.manual_seed`` does not.
            Torch's own generator is left as it was.
        pre_processor: As in anomalib, without ``Normalize``; by default a :class:`AntialiasedResize` to ``image_size``.
        post_processor: As in anomalib; by default a :class:`QuantilePostProcessor`.
        evaluator: As in anomalib.
        visualizer: As in anomalib.

    Raises:
        TypeError: If the model does not take an argument.
        ValueError: If an argument is out of range, or the pre-processor normalises images or resizes them as exports
            cannot.
    """

    _generator_before: torch.Tensor | None = None

    def __init__(
        self,
        image_size: int | tuple[int, int],
        learning_rate: float,
        max_train_steps: int | None,
        seed: int,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **unknown: Any,
    ) -> None:
        if unknown:
            msg = f"arguments, or a checkpoint, of another model: {type(self).__name__} got {', '.join(unknown)}"
            raise TypeError(msg)
        size = sides_of("image_size", image_size)
        check_range("learning_rate", learning_rate, above=0)
        if max_train_steps is not None:
            check_count("max_train_steps", max_train_steps)
        if isinstance(pre_processor, PreProcessor):
            if _normalises(pre_processor.transform):
                msg = "pre_processor: the model takes images in [0, 1]; leave Normalize out"
                raise ValueError(msg)
            make_exportable(pre_processor)
        check_range("seed", seed, at_least=0, below=2**64, whole=True)  # what NumPy and torch take
        super().__init__(
            pre_processor=self.configure_pre_processor(size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        for name, value in self.hparams.items():
            self.hparams[name] = _loadable(value)
        height, width = self.input_size or size
        #: Height and width the network sees.
        self.image_size = (height, width)
        if self.image_size != size:  # a pre-processor's own; checkpoints must know it
            self.hparams["image_size"] = [height, width]
        # NumPy's would be in the optimisers' states
        self.learning_rate, self.max_train_steps = _loadable(learning_rate), _loadable(max_train_steps)
        self.seed = int(seed)

    @contextmanager
    def drawing_weights(self) -> Iterator[None]:
        """Draw initial weights from ``seed``, and leave torch's generator as it was."""
        if seeded_by_lightning():
            yield
            return
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(self.seed)
            yield

    def setup(self, stage: str) -> None:
        """Let a fit draw the order of images from ``seed``.

        Raises:
            ValueError: If the trainer would keep weights in half precision.
        """
        super().setup(stage)
        precision = self.trainer.precision
        if precision in {"16-true", "bf16-true"}:
            mixed = precision.replace("true", "mixed")
            msg = f"precision {precision}: thresholds and scores need weights in full precision; choose {mixed} or 32"
            raise ValueError(msg)
        if stage == "fit" and not seeded_by_lightning():
            if self._generator_before is None:
                self._generator_before = torch.get_rng_state()
            torch.default_generator.manual_seed(self.seed)

    def teardown(self, stage: str) -> None:
        """Leave torch's generator as it was before the fit."""
        super().teardown(stage)
        if stage == "fit" and self._generator_before is not None:
            torch.set_rng_state(self._generator_before)
            self._generator_before = None

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize to ``image_size`` (height, width), 256 x 256 by default; values stay in [0, 1]."""
        return PreProcessor(transform=AntialiasedResize(list(image_size or (256, 256))))

    def configure_post_processor(self) -> PostProcessor:
        """Thresholds and normalisation from normal validation images."""
        return QuantilePostProcessor()

    @property
    def learning_type(self) -> LearningType:
        """Normal images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity check: before training there is nothing to calibrate."""
        return {"num_sanity_val_steps": 0}

    def test_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """Score a batch in full precision, whatever the trainer's: the numbers of the exported graph."""
        del args, kwargs
        with torch.autocast(self.device.type, enabled=False):
            return batch.update(**self.model(image_of(batch).float())._asdict())

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """As :meth:`test_step`."""
        return self.test_step(batch, *args, **kwargs)

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """As :meth:`test_step`."""
        return self.test_step(batch, *args, **kwargs)

    def check_losses(self, **losses: torch.Tensor) -> None:
        """Show losses in the progress bar and stop a run that diverges.

        Raises:
            FloatingPointError: If a loss is not finite.
        """
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        if bad:
            msg = (
                f"training diverged at step {self.train_step}: {', '.join(bad)} is not finite. "
                "Lower learning_rate or use precision=32."
            )
            if saved := self._best_checkpoint():
                msg += f" {saved} is intact."
            raise FloatingPointError(msg)
        self.log_dict({name: loss.detach() for name, loss in losses.items()}, prog_bar=True)

    def on_fit_start(self) -> None:
        """Give Lightning's own Trainer the arguments that anomalib's Engine has given to its one.

        Raises:
            ValueError: If the trainer has fitted before, unless this fit goes on from a checkpoint: its counts of
                steps go on, so that this fit would end at once.
        """
        super().on_fit_start()
        for name, value in self.trainer_arguments.items():
            setattr(self.trainer, name, value)
        if self.batches_seen and not self.trainer.ckpt_path:
            msg = "this trainer has fitted before; make an Engine, or Trainer, for each fit"
            raise ValueError(msg)

    def on_train_start(self) -> None:
        """Refuse a fit that could not be calibrated at its end.

        Raises:
            ValueError: If there are no normal validation images.
        """
        super().on_train_start()
        # by itself Lightning counts validation batches only when it first validates, at the end of the fit
        self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
        if not sum(self.trainer.num_val_batches):
            msg = (
                "there are no validation images to calibrate thresholds on: "
                "set the datamodule's val_split_mode to from_train, its val_split_ratio so that it holds out "
                "at least one image, and the trainer's limit_val_batches above 0"
            )
            raise ValueError(msg)
        with torch.random.fork_rng(devices=()):  # a loader draws a seed for its workers
            some = any(self.is_normal(batch).any() for batch in self.validation_batches())
        if not self.trainer.strategy.reduce_boolean_decision(some, all=False):
            msg = (
                "no validation image is normal, so that thresholds could not be calibrated: set the datamodule's "
                "val_split_mode to from_train, or the trainer's limit_val_batches higher"
            )
            raise ValueError(msg)

    def validation_batches(self) -> Iterator[Any]:
        """Batches of validation images, as many as the trainer takes."""
        loaders = CombinedLoader(self.trainer.val_dataloaders).flattened
        return chain(*map(first_batches, loaders, self.trainer.num_val_batches))

    @staticmethod
    def is_normal(batch: Any) -> torch.Tensor:
        """Which images of a validation batch are normal, ``(N,)`` bool.

        Raises:
            ValueError: If nothing tells.
        """
        if batch.gt_label is None:
            msg = "validation images have no gt_label; give them one, 0 if they are normal"
            raise ValueError(msg)
        return batch.gt_label == 0
