"""I3AD's iterative inference (Nakanishi, Suzuki and Matsuo, 2020, section 2)."""

from typing import Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch

from anomalib_i3ad.components.arguments import check_choice, check_sides
from anomalib_i3ad.components.image_model import ImageModel
from anomalib_i3ad.components.loops import State, repeat_active
from anomalib_i3ad.components.masks import lattice_holes
from anomalib_i3ad.components.residuals import build_residual
from anomalib_i3ad.components.scores import ImageScore, Reduction
from anomalib_i3ad.components.stitching import draw_hidden

from .generator import Generator

#: Least width of the ramp below u, far below rounding: a hard edge.
SHARP = 1e-7


class Iteration(NamedTuple):
    """What the iteration leaves behind, an entry an image.

    ``inpainting`` (N, 3, H, W): the last x~. ``anomaly_map`` (N, 1, H, W). ``hole`` (N, 1, H, W) in [0, 1]: what
    still differs. ``passes`` (N,): inpaintings after the lattice pass, 0 to ``max_iterations``.
    """

    inpainting: torch.Tensor
    anomaly_map: torch.Tensor
    hole: torch.Tensor
    passes: torch.Tensor


class I3ADModel(ImageModel):
    """Hide what does not match, inpaint it, compare, and repeat until only the defect is left.

    Args:
        width: Channels of the generator's first layer.
        stages: 1, or 2 with contextual attention.
        initial_grid: Lattice size of the first pass, or several that are averaged.
        mask_residual: Residual that decides what is hidden next.
        score_residual: Residual that becomes the anomaly map.
        mask_threshold: u, the mask residual from which a pixel is hidden; ``None`` leaves it to be
            calibrated.
        mask_edge: Pixels whose residual is less than this share of u below it are hidden partly; 0 hides a
            pixel or does not, as the paper.
        max_iterations: Most inpaintings after the lattice pass.
        min_shrink: An image stops when its hole lost less than this share of its area.
        reinpaint: What is masked next, the ``original`` image or the ``previous`` inpainting.
        anomaly_map: ``last`` residual, or ``mean`` of all iterations.
        image_score: ``mean`` or ``max`` of the map, or mean of its ``top_k`` per cent.

    Raises:
        ValueError: If an argument is none of these.
    """

    def __init__(
        self,
        width: int = 24,
        stages: int = 1,
        initial_grid: int | list[int] = 4,
        mask_residual: str = "ssim",
        score_residual: str = "ssim",
        mask_threshold: float | None = None,
        mask_edge: float = 0.1,
        max_iterations: int = 4,
        min_shrink: float = 0.05,
        reinpaint: Literal["original", "previous"] = "original",
        anomaly_map: Literal["last", "mean"] = "last",
        image_score: Reduction = "mean",
    ) -> None:
        super().__init__()
        if max_iterations < 0:
            msg = f"max_iterations {max_iterations} must be 0 or more"
            raise ValueError(msg)
        check_choice("reinpaint", reinpaint, ("original", "previous"))
        check_choice("anomaly_map", anomaly_map, ("last", "mean"))
        self.generator = Generator(width, stages)
        self.mask_residual = build_residual(mask_residual)
        self.score_residual = self.mask_residual if score_residual == mask_residual else build_residual(score_residual)
        self.initial_grid = [initial_grid] if isinstance(initial_grid, int) else list(initial_grid)
        self.max_iterations = max_iterations
        self.mask_edge = mask_edge
        self.min_shrink = min_shrink
        self.reinpaint = reinpaint
        self.anomaly_map = anomaly_map
        self.image_score = ImageScore(image_score)
        self.mask_threshold: torch.Tensor
        self.register_buffer("mask_threshold", torch.tensor(float("nan") if mask_threshold is None else mask_threshold))

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`: generator and lattices must fit."""
        check_sides(height, width, self.generator.size_divisor, "generator")
        self.lattices(height, width)

    def lattices(self, height: int, width: int) -> torch.Tensor:
        """Initial holes ``(len(initial_grid), 4, 1, height, width)``."""
        return torch.stack([lattice_holes(grid, height, width) for grid in self.initial_grid])

    def first_inpainting(self, image: torch.Tensor) -> torch.Tensor:
        """Inpaint every pixel from its surroundings: the lattice pass, stitched.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            ``(N, 3, H, W)``, each pixel taken from the pass in which it was hidden; the mean over grids.
        """
        holes = self.lattices(*image.shape[-2:]).to(image)
        return draw_hidden(image, holes, lambda images, hole: self.generator(images, hole)[-1]).mean(dim=1)

    def hole_of(self, residual: torch.Tensor) -> torch.Tensor:
        """Hole ``(N, 1, H, W)`` in [0, 1] from a mask residual: 1 from u on, and a ramp just below it.

        Without the ramp, rounding decides whether a pixel at u is hidden, and two runtimes disagree on it.
        """
        ramp = (self.mask_edge * self.mask_threshold).clamp(min=SHARP)
        return (1 + (residual - self.mask_threshold) / ramp).clamp(0, 1)

    def iterate(self, image: torch.Tensor) -> Iteration:
        """Run the iteration; every image stops by itself, whatever its neighbours in the batch do.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
        """
        of_mask, of_score = self.mask_residual, self.score_residual
        shared = of_score is of_mask
        for_mask = of_mask.prepare(image)
        for_score = () if shared else of_score.prepare(image)

        def residuals(constants: State, inpainting: torch.Tensor) -> State:
            """Mask and score residual; ``constants`` are what was prepared for the two."""
            mask_residual = of_mask.compare(constants[: len(for_mask)], inpainting)
            return mask_residual, mask_residual if shared else of_score.compare(constants[len(for_mask) :], inpainting)

        def inpaint_again(constants: State, state: State) -> tuple[State, torch.Tensor]:
            image, *prepared = constants
            inpainting, anomaly_map, hole = state
            inpainting = self.generator.inpaint(image if self.reinpaint == "original" else inpainting, hole)
            mask_residual, residual = residuals(tuple(prepared), inpainting)
            next_hole = self.hole_of(mask_residual)
            before, after = hole.mean(dim=(1, 2, 3)), next_hole.mean(dim=(1, 2, 3))
            goes_on = (after > 0) & (before - after >= self.min_shrink * before)
            return (inpainting, anomaly_map + residual if mean else residual, next_hole), goes_on

        mean = self.anomaly_map == "mean"
        inpainting = self.first_inpainting(image)
        mask_residual, residual = residuals((*for_mask, *for_score), inpainting)
        hole = self.hole_of(mask_residual)
        active = hole.mean(dim=(1, 2, 3)) > 0
        (inpainting, anomaly_map, hole), passes = repeat_active(
            inpaint_again, (image, *for_mask, *for_score), (inpainting, residual, hole), active, self.max_iterations
        )
        if mean:
            anomaly_map = anomaly_map / (1 + passes)[:, None, None, None]
        return Iteration(inpainting, anomaly_map, hole, passes)

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`."""
        return self.explain(image)[0]

    def explain(self, image: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """See :meth:`ImageModel.explain`."""
        if not torch.compiler.is_exporting() and torch.isnan(self.mask_threshold):
            msg = "mask_threshold is not calibrated: fit the model, load a fitted checkpoint, or pass a number"
            raise ValueError(msg)
        result = self.iterate(image)
        batch = InferenceBatch(pred_score=self.image_score(result.anomaly_map), anomaly_map=result.anomaly_map)
        return batch, {"passes": result.passes, "reconstruction": result.inpainting}
