"""Base of all torch models."""

from abc import ABC, abstractmethod

import torch
from anomalib.data import InferenceBatch
from torch import nn


class ImageModel(nn.Module, ABC):
    """Network that scores images, in the same way in validation, at test and in the exported graph."""

    @abstractmethod
    def check_size(self, height: int, width: int) -> None:
        """Check that images of this size can be scored.

        Raises:
            ValueError: If they cannot; the message says which can.
        """

    @abstractmethod
    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """:meth:`forward` without its checks."""

    def explain(self, image: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """:meth:`infer`, and what explains its result; the exported graph holds these tensors by name.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            The result, and nothing or any of ``iterations`` (N,) and ``reconstruction`` (N, 3, H, W).
        """
        return self.infer(image), {}

    def forward(self, image: torch.Tensor) -> InferenceBatch:
        """Score images.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            ``pred_score`` (N,) and ``anomaly_map`` (N, 1, H, W), before normalisation.

        Raises:
            ValueError: If the size does not fit, or the model is not calibrated.
        """
        if not torch.compiler.is_exporting():
            self.check_size(*image.shape[-2:])
        return self.infer(image)
