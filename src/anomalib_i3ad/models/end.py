"""The end of a fit: when it comes, and that the last weights are calibrated and saved."""

import logging
from typing import Any

import torch

from anomalib_i3ad.post_processing import QuantilePostProcessor

from .steps import StepMixin

logger = logging.getLogger(__name__)
#: ``max_epochs`` of a trainer whose epochs, steps and time nobody limited.
UNSET_EPOCHS = 1000


class EndMixin(StepMixin):
    """Ends a fit after ``max_train_steps``, and any fit with a validation, which calibrates the thresholds."""

    #: Sums of the weights that were calibrated last.
    _validated: list[float] | None = None
    _has_ended = False
    #: Checkpoint of the fit that this one goes on from.
    _saved_before = ""

    def on_train_start(self) -> None:
        """Tell how long the fit will be."""
        super().on_train_start()
        self._validated, self._has_ended = None, False  # an earlier fit
        self._saved_before = self._best_checkpoint()
        if self.max_train_steps is None:
            return
        steps = self.planned_steps()
        logger.info("Training ends after at most %d steps.", steps)
        if steps < self.max_train_steps and self.trainer.max_epochs == UNSET_EPOCHS:
            logger.warning(
                "That is %d epochs, the trainer's limit where none is set, before max_train_steps=%d: "
                "set max_epochs, -1 for no limit.",
                UNSET_EPOCHS, self.max_train_steps,
            )  # fmt: skip
        self._stop_after_the_last_step()  # a fit that goes on may have taken it

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """End the fit after ``max_train_steps``."""
        super().on_train_batch_end(*args, **kwargs)
        self._stop_after_the_last_step()

    def _stop_after_the_last_step(self) -> None:
        if self.max_train_steps is not None and self.train_step >= self.max_train_steps:
            self.trainer.should_stop = True

    def on_validation_end(self) -> None:
        """Remember which weights were calibrated."""
        super().on_validation_end()
        self._validated = self._sums_of_weights()

    def _sums_of_weights(self) -> list[float]:
        return [weight.detach().double().sum().item() for weight in self.parameters()]

    def on_train_epoch_end(self) -> None:
        """Validate, and so calibrate, the final weights where the trainer's schedule would not."""
        super().on_train_epoch_end()
        trainer = self.trainer
        ends = (
            trainer.should_stop
            or 0 < trainer.max_steps <= trainer.global_step
            or (trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1)
        )
        if ends:
            self._validate()

    def on_train_end(self) -> None:
        """Validate, and save, where a callback ended the fit or averaged weights after the model was asked."""
        super().on_train_end()
        self._has_ended = True
        if self._validate() and self._is_of_this_step(saved := self._best_checkpoint()):
            self.trainer.save_checkpoint(saved)  # of one step the callback saves no two

    def _best_checkpoint(self) -> str:
        return getattr(self.trainer.checkpoint_callback, "best_model_path", "")

    def _is_of_this_step(self, path: str) -> bool:
        """Whether a checkpoint is of this step of this fit; a callback may keep an earlier one that was better."""
        if path in {"", self._saved_before}:
            return False
        return bool(torch.load(path, "cpu", weights_only=False)["global_step"] == self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As :meth:`CheckpointMixin.on_save_checkpoint`; at the end, what the model holds and no callback's average."""
        super().on_save_checkpoint(checkpoint)
        if self._has_ended:
            checkpoint["state_dict"] = self.state_dict()

    def _validate(self) -> bool:
        """Validate unless it was done with these weights; whether it was needed."""
        trainer, processor = self.trainer, self.post_processor
        # a callback that averages weights also averages thresholds, those from before the first validation, too
        lost = isinstance(processor, QuantilePostProcessor) and not processor.is_calibrated
        if not lost and self._validated == self._sums_of_weights():
            return False
        trainer.validating = True  # as Lightning's own training loop runs it
        trainer.fit_loop.epoch_loop.val_loop.run()  # trainer.validate cannot be called within a fit
        trainer.training = True
        return True
