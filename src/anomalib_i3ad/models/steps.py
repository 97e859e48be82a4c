"""Training steps: how many there are, what each draws, how optimisers take one."""

import math

import numpy as np
import torch

from .checkpoint import Base


class StepMixin(Base):
    """Counts and takes training steps.

    A step updates weights once, by one batch or by as many as the trainer accumulates (``accumulate_grad_batches``).
    """

    max_train_steps: int | None
    seed: int

    @property
    def train_step(self) -> int:
        """Training steps taken, over all epochs and resumed runs."""
        # Lightning counts the steps of every optimiser; where we step them ourselves, nothing is accumulated
        return self.trainer.global_step if self.automatic_optimization else self.batches_seen

    @property
    def batches_seen(self) -> int:
        """Training batches seen, over all epochs and resumed runs."""
        # the one count that Lightning keeps in checkpoints, whatever the number of optimisers
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return total.processed  # type: ignore[attr-defined]  # declared too narrowly

    def planned_steps(self, optimizer_steps: float = 1) -> float:
        """Number of training steps of this fit; infinity if nothing ends it.

        Args:
            optimizer_steps: Optimisers that step in a training step; the trainer's ``max_steps`` counts each.
        """
        trainer, limits = self.trainer, [math.inf]
        trainer.fit_loop.setup_data()  # by itself Lightning counts batches only after optimisers are configured
        batches = trainer.num_training_batches  # infinity of a stream
        if self.max_train_steps is not None:
            limits.append(self.max_train_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and batches < math.inf:
            # gradients are accumulated within an epoch
            limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
        if trainer.max_steps > 0:
            limits.append(trainer.max_steps / optimizer_steps)
        return min(limits)

    def steps_to_the_end(self, why: str, optimizer_steps: float = 1) -> float:
        """As :meth:`planned_steps`, where a model must know the end.

        Raises:
            ValueError: If nothing ends the fit; the message says ``why`` that matters.
        """
        steps = self.planned_steps(optimizer_steps)
        if math.isinf(steps):
            msg = f"{why}: set max_train_steps, or the trainer's max_epochs"
            raise ValueError(msg)
        return steps

    def step_rng(self) -> np.random.Generator:
        """Random generator of a training batch; depends on seed, batch and process alone.

        So a resumed run draws what an uninterrupted one would have drawn.
        """
        return np.random.default_rng([self.seed, self.batches_seen, self.global_rank])

    def step_optimizers(self, loss: torch.Tensor, *which: int) -> None:
        """One backward pass, then a step of all optimisers, or of those with these indices, and of all schedules."""
        configured = self.optimizers()
        optimizers = configured if isinstance(configured, list) else [configured]
        if which:
            optimizers = [optimizers[index] for index in which]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]  # none of ours wants a metric
