"""I3AD's torch model: the iteration over pixels (Nakanishi, Suzuki and Matsuo, 2020, section 2)."""

from typing import Any

import torch
from torch import nn

from anomalib_i3ad.components.arguments import check_sides
from anomalib_i3ad.components.iteration import IterativeModel, MapOf
from anomalib_i3ad.components.loops import State
from anomalib_i3ad.components.residuals import build_residual
from anomalib_i3ad.components.scores import Reduction

from .generator import Generator


class I3ADModel(IterativeModel):
    """Inpaints the image itself; arguments as of :class:`~anomalib_i3ad.models.I3AD`."""

    def __init__(
        self,
        width: int,
        stages: int,
        initial_grid: int,
        mask_residual: str,
        score_residual: str,
        max_iterations: int,
        anomaly_map: MapOf,
        image_score: Reduction,
    ) -> None:
        super().__init__(initial_grid, max_iterations, anomaly_map, image_score)
        self.generator = Generator(width, stages)
        #: The residual that masks and the one that scores; one, if it is the same.
        self.residuals: Any = nn.ModuleList([build_residual("mask_residual", mask_residual)])
        if score_residual != mask_residual:
            self.residuals.append(build_residual("score_residual", score_residual))

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`: generator and grid must fit."""
        check_sides(height, width, self.generator.size_divisor, "generator")
        check_sides(height, width, self.initial_grid, f"initial_grid of {self.initial_grid}")

    def scene_of(self, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.scene_of`: the image itself."""
        return image

    def fill(self, encoded: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.fill`: in pixels, of pixels."""
        return self.generator(encoded, hole)[-1]

    def prepare(self, scene: torch.Tensor) -> State:
        """See :meth:`IterativeModel.prepare`."""
        return tuple(value for residual in self.residuals for value in residual.prepare(scene))

    def compare(self, prepared: State, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`IterativeModel.compare`."""
        maps, rest = [], prepared
        for residual in self.residuals:
            maps.append(residual.compare(rest[: residual.prepared], inpainting))
            rest = rest[residual.prepared :]
        return maps[0], maps[-1]

    def map_of(self, residual: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.map_of`: the residual is one of pixels already."""
        del image
        return residual

    def picture_of(self, inpainting: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.picture_of`."""
        del image
        return inpainting
