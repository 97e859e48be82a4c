"""I3AD's iterative inference (Nakanishi, Suzuki and Matsuo, 2020, section 2)."""

from typing import Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch

from anomalib_i3ad.components.arguments import check_choice, check_sides
from anomalib_i3ad.components.image_model import ImageModel
from anomalib_i3ad.components.loops import while_loop
from anomalib_i3ad.components.masks import lattice_holes
from anomalib_i3ad.components.residuals import build_residual
from anomalib_i3ad.components.scores import ImageScore, Reduction
from anomalib_i3ad.components.stitching import draw_hidden

from .generator import Generator


class Iteration(NamedTuple):
    """What the iteration leaves behind, an entry an image.

    ``inpainting`` (N, 3, H, W): the last x~. ``anomaly_map`` (N, 1, H, W). ``hole`` (N, 1, H, W): what
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

    def iterate(self, image: torch.Tensor) -> Iteration:
        """Run the iteration; every image stops by itself, whatever its neighbours in the batch do.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
        """
        mask_of, score_of = self.mask_residual.against(image), self.score_residual.against(image)
        shared = self.score_residual is self.mask_residual

        def pixels(per_image: torch.Tensor) -> torch.Tensor:
            return per_image[:, None, None, None] > 0

        def hidden(residual: torch.Tensor) -> torch.Tensor:
            return (residual >= self.mask_threshold).to(image.dtype)

        def unfinished(i, inpainting, anomaly_map, hole, active, passes):  # noqa: ANN001, ANN202, ARG001
            return (i < self.max_iterations) & (active > 0).any()

        def inpaint_again(i, inpainting, anomaly_map, hole, active, passes):  # noqa: ANN001, ANN202
            base = image if self.reinpaint == "original" else inpainting
            update = pixels(active)
            inpainting = torch.where(update, self.generator.inpaint(base, hole), inpainting)
            mask_residual = mask_of(inpainting)
            residual = mask_residual if shared else score_of(inpainting)
            if self.anomaly_map == "mean":
                residual = anomaly_map + residual
            anomaly_map = torch.where(update, residual, anomaly_map)
            next_hole = torch.where(update, hidden(mask_residual), hole)
            before, after = hole.mean(dim=(1, 2, 3)), next_hole.mean(dim=(1, 2, 3))
            goes_on = (after > 0) & (before - after >= self.min_shrink * before)
            return i + 1, inpainting, anomaly_map, next_hole, active * goes_on.to(active.dtype), passes + active

        inpainting = self.first_inpainting(image)
        mask_residual = mask_of(inpainting)
        hole = hidden(mask_residual)
        active = (hole.mean(dim=(1, 2, 3)) > 0).to(image.dtype)
        state = (
            torch.zeros((), dtype=torch.int64),
            inpainting,
            mask_residual if shared else score_of(inpainting),
            hole,
            active,
            torch.zeros_like(active),
        )
        _, inpainting, anomaly_map, hole, _, passes = while_loop(unfinished, inpaint_again, state)
        if self.anomaly_map == "mean":
            anomaly_map = anomaly_map / (1 + passes)[:, None, None, None]
        return Iteration(inpainting, anomaly_map, hole, passes)

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`."""
        if not torch.compiler.is_exporting() and torch.isnan(self.mask_threshold):
            msg = "mask_threshold is not calibrated: fit the model, load a fitted checkpoint, or pass a number"
            raise ValueError(msg)
        anomaly_map = self.iterate(image).anomaly_map
        return InferenceBatch(pred_score=self.image_score(anomaly_map), anomaly_map=anomaly_map)
