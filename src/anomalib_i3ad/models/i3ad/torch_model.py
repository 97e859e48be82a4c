"""I3AD's torch model: the iteration over pixels (Nakanishi, Suzuki and Matsuo, 2020, section 2)."""

import torch

from anomalib_i3ad.components.arguments import check_choice, check_sides
from anomalib_i3ad.components.iteration import IterativeModel, MapOf
from anomalib_i3ad.components.loops import State
from anomalib_i3ad.components.residuals import RESIDUALS, Residual, prepare_for
from anomalib_i3ad.components.scores import Reduction

from .generator import Generator


class I3ADModel(IterativeModel):
    """Inpaints the image itself; arguments as of :class:`~anomalib_i3ad.models.I3AD`."""

    def __init__(
        self,
        width: int,
        stages: int,
        initial_grid: int,
        mask_residual: Residual,
        score_residual: Residual,
        max_iterations: int,
        anomaly_map: MapOf,
        image_score: Reduction,
    ) -> None:
        super().__init__(initial_grid, max_iterations, anomaly_map, image_score)
        check_choice("mask_residual", mask_residual, RESIDUALS)
        check_choice("score_residual", score_residual, RESIDUALS)
        self.generator = Generator(width, stages)
        self.mask_residual = mask_residual
        self.score_residual = score_residual

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
        return prepare_for(scene, self.mask_residual, self.score_residual)

    def compare(self, prepared: State, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`IterativeModel.compare`."""
        masking = RESIDUALS[self.mask_residual](prepared, inpainting)
        if self.score_residual == self.mask_residual:
            return masking, masking
        return masking, RESIDUALS[self.score_residual](prepared, inpainting)

    def map_of(self, residual: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.map_of`: the residual is one of pixels already."""
        del image
        return residual

    def picture_of(self, inpainting: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.picture_of`."""
        del image
        return inpainting
