"""What a checkpoint may hold, and which arguments a model takes from it."""

import logging
from collections.abc import Iterable, Mapping
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from anomalib.data import AnomalibDataModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_i3ad.post_processing import QUANTILES, QuantilePostProcessor
from anomalib_i3ad.pre_processing import make_exportable

logger = logging.getLogger(__name__)
COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as Base
else:
    # anomalib finds only direct subclasses of AnomalibModule, so models mix this in beside it
    Base = object


def _plain(value: Any) -> Any:
    """Value with lists for tuples: configurations and checkpoints hold one or the other."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    return {name for name in mine if name in theirs and _plain(mine[name]) != _plain(theirs[name])}


def _describe(names: Iterable[str], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={theirs[name]} (this model: {mine[name]})" for name in sorted(names))


class CheckpointMixin(Base):
    """Saves finite weights only, and lets a loaded checkpoint decide the arguments that scores depend on."""

    #: Arguments that matter in training alone.
    training_arguments: ClassVar[set[str]] = {"learning_rate", "max_train_steps", "seed"}
    #: Those of them that are the optimisers', which a fit that goes on takes from the checkpoint as they are.
    optimizer_arguments: ClassVar[set[str]] = {"learning_rate"}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that are not finite.

        Raises:
            FloatingPointError: If there are any.
        """
        super().on_save_checkpoint(checkpoint)
        bad = [name for name, parameter in self.named_parameters() if not torch.isfinite(parameter).all()]
        if bad:
            msg = f"training diverged: {bad[0]} is not finite; the checkpoint is not saved"
            raise FloatingPointError(msg)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the arguments of the checkpoint, and log which.

        An argument that differs from the checkpoint and from its default was set by the user. A fit keeps it if it
        matters in training alone, a validation if scores depend on it, since it calibrates again. After
        ``load_from_checkpoint`` nothing differs.

        Raises:
            ValueError: If the user set an argument that scores depend on and nothing calibrates again, or one of the
                optimisers of a fit that goes on, if thresholds are another post-processor's, or weights do not fit.
        """
        stage = self._trainer.state.fn if self._trainer else None
        self._check_post_processor(checkpoint.get("anomalib_post_processor_config"), stage)
        mine, theirs, kept, taken = self._divided(checkpoint, stage)
        self._load_components(checkpoint, own_size="image_size" not in taken)
        if taken:
            self._rebuild({name: theirs[name] if name in taken else value for name, value in self.hparams.items()})
        if told := taken - self.training_arguments:
            logger.warning("Taken from the checkpoint: %s", _describe(told, mine, theirs))
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, AnomalibDataModule):
            data.setup(stage)  # it resizes as the model does
        self._check_weights(checkpoint["state_dict"], _describe(kept, mine, theirs))

    def _divided(
        self, checkpoint: dict[str, Any], stage: TrainerFn | None
    ) -> tuple[dict[str, Any], dict[str, Any], set[str], set[str]]:
        """Arguments of this model and of the checkpoint, and names of those of both that differ: kept, and taken.

        Raises:
            ValueError: If one was set that the checkpoint decides.
        """
        processor = self.post_processor
        quantiles = QUANTILES if isinstance(processor, QuantilePostProcessor) else ()
        mine = {**self.hparams, **{name: getattr(processor, name) for name in quantiles}}
        theirs = {**checkpoint.get("hyper_parameters", {}), **checkpoint.get("anomalib_post_processor_config", {})}
        defaults = {**signature(type(self)).parameters, **signature(QuantilePostProcessor).parameters}
        differing = _differing(mine, theirs)
        chosen = differing & _differing(mine, {name: parameter.default for name, parameter in defaults.items()})
        refused = chosen - self.training_arguments
        if stage == TrainerFn.FITTING and (fixed := chosen & self.optimizer_arguments):
            msg = (
                f"the fit goes on with the checkpoint's optimisers, of {_describe(fixed, mine, theirs)}: "
                f"do not set {', '.join(sorted(fixed))}"
            )
            raise ValueError(msg)
        if refused and stage != TrainerFn.VALIDATING:
            msg = (
                f"the checkpoint was trained and calibrated with {_describe(refused, mine, theirs)}: "
                f"do not set {', '.join(sorted(refused))}, or calibrate again with Engine.validate"
            )
            raise ValueError(msg)
        kept = chosen & self.training_arguments if stage == TrainerFn.FITTING else refused
        return mine, theirs, kept, (differing - kept) & set(self.hparams)

    def _load_components(self, checkpoint: dict[str, Any], *, own_size: bool) -> None:
        """Load the components of the checkpoint; to resize as before may be this model's own."""
        resize: Any = self.pre_processor
        own = (resize.transform, resize.export_transform) if resize else ()
        super().on_load_checkpoint(checkpoint)
        if resize:
            make_exportable(resize)
        # Engine.validate and load_from_checkpoint(image_size=...) may ask for another size than that of training
        if own and own_size and self.input_size not in {None, self.image_size}:
            resize.transform, resize.export_transform = own

    def _check_post_processor(self, config: dict[str, Any] | None, stage: TrainerFn | None) -> None:
        """Let no thresholds of ours meet anomalib's post-processor, or the reverse: they read them otherwise."""
        if not config or not self.post_processor or stage in {TrainerFn.FITTING, TrainerFn.VALIDATING}:
            return
        ours = set(QUANTILES) <= set(config)
        if ours == isinstance(self.post_processor, QuantilePostProcessor):
            return
        if stage is None and not ours:  # load_from_checkpoint, which builds the default one
            self.post_processor = PostProcessor()
        else:
            name = QuantilePostProcessor.__name__
            theirs, mine = (name if one else f"another than {name}" for one in (ours, not ours))
            msg = (
                f"post_processor: the checkpoint's thresholds are of {theirs}, this model's is {mine}: build the model "
                "with the one it was trained with, or calibrate again with Engine.validate"
            )
            raise ValueError(msg)

    def _rebuild(self, arguments: dict[str, Any]) -> None:
        """Become an untrained model with other arguments and the same components, in place."""
        trainer = self._trainer
        components = {name: getattr(self, name) for name in COMPONENTS}
        given = arguments | {name: component or False for name, component in components.items()}
        taken = signature(type(self)).parameters
        takes_any = Parameter.VAR_KEYWORD in {one.kind for one in taken.values()}
        self.__init__(**{name: value for name, value in given.items() if takes_any or name in taken})
        for name, component in components.items():  # a subclass that takes none builds others, unknown to the trainer
            setattr(self, name, component)
        if trainer and trainer.state.fn:
            self.trainer = trainer
            self.setup(trainer.state.fn)

    def _check_weights(self, state: dict[str, torch.Tensor], differing: str) -> None:
        mine = {name: tuple(value.shape) for name, value in self.model.state_dict(prefix="model.").items()}
        theirs = {name: tuple(value.shape) for name, value in state.items() if name.startswith("model.")}
        if mine != theirs:
            first = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
            shapes = " and ".join(str(weights.get(first, "absent")) for weights in (theirs, mine))
            reason = (
                f"another version of it, other arguments, or as another model ({first} is {shapes} here). "
                "Leave arguments to the checkpoint, or train again."
            )
            if differing:
                reason = f"{differing}. Build the model with the checkpoint's arguments."
            msg = f"the checkpoint does not fit this {type(self).__name__}: it was trained with {reason}"
            raise ValueError(msg)
