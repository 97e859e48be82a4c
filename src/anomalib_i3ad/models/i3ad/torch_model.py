"""I3AD's iterative inference (Nakanishi, Suzuki and Matsuo, 2020, section 2)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_i3ad.components.arguments import check_choice, check_sides
from anomalib_i3ad.components.features import FrozenFeatures
from anomalib_i3ad.components.film import Frame
from anomalib_i3ad.components.image_model import ImageModel
from anomalib_i3ad.components.loops import State, repeat_active
from anomalib_i3ad.components.masks import lattice_holes
from anomalib_i3ad.components.residuals import FeatureResidual, build_residual
from anomalib_i3ad.components.scores import ImageScore, Reduction
from anomalib_i3ad.components.stitching import draw_hidden

from .generator import Generator

#: Network and layers that the residual ``features`` looks at.
BACKBONE, LAYERS = "tf_efficientnet_lite0", ("blocks.1", "blocks.2")
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
        mask_residual: Residual that decides what is hidden next: ``ssim``, ``l2`` or ``features``; of several, any.
        score_residual: Residual that becomes the anomaly map; of several the mean, each in units of its u.
        mask_threshold: u, the mask residual from which a pixel is hidden; ``None`` leaves it to be
            calibrated. A number for each of :attr:`residuals`, if they are several.
        backbone: Network of timm that ``features`` come from.
        layers: Its layers.
        backbone_weights: File of its weights.
        mask_edge: Pixels whose residual is less than this share of u below it are hidden partly; 0 hides a
            pixel or does not, as the paper.
        max_iterations: Most inpaintings after the lattice pass.
        min_shrink: An image stops when its hole lost less than this share of its area.
        reinpaint: What is masked next, the ``original`` image or the ``previous`` inpainting.
        anomaly_map: ``last`` residual, or ``mean`` over all iterations; an image that stops early keeps its last.
        image_score: ``mean``, ``l4`` or ``max`` of the map, or mean of its ``top_k`` per cent.

    Raises:
        ValueError: If an argument is none of these.
    """

    def __init__(
        self,
        width: int = 12,
        stages: int = 1,
        initial_grid: int | list[int] = 4,
        mask_residual: str | Sequence[str] = "ssim",
        score_residual: str | Sequence[str] = "ssim",
        mask_threshold: float | Sequence[float] | None = None,
        backbone: str = BACKBONE,
        layers: Sequence[str] = LAYERS,
        backbone_weights: str | None = None,
        mask_edge: float = 0.1,
        max_iterations: int = 4,
        min_shrink: float = 0.05,
        reinpaint: Literal["original", "previous"] = "original",
        anomaly_map: Literal["last", "mean"] = "mean",
        image_score: Reduction = "mean",
    ) -> None:
        super().__init__()
        if max_iterations < 0:
            msg = f"max_iterations {max_iterations} must be 0 or more"
            raise ValueError(msg)
        check_choice("reinpaint", reinpaint, ("original", "previous"))
        check_choice("anomaly_map", anomaly_map, ("last", "mean"))
        self.generator = Generator(width, stages)
        of_mask, of_score = ([of] if isinstance(of, str) else list(of) for of in (mask_residual, score_residual))
        names = list(dict.fromkeys([*of_mask, *of_score]))
        features = partial(FrozenFeatures, backbone, layers, backbone_weights)
        #: Every residual that masks or scores.
        self.residuals: Any = nn.ModuleList([build_residual(name, features) for name in names])
        self._of_mask, self._of_score = ([names.index(name) for name in of] for of in (of_mask, of_score))
        self.initial_grid = [initial_grid] if isinstance(initial_grid, int) else list(initial_grid)
        self.max_iterations = max_iterations
        self.mask_edge = mask_edge
        self.min_shrink = min_shrink
        self.reinpaint = reinpaint
        self.anomaly_map = anomaly_map
        self.image_score = ImageScore(image_score)
        thresholds = [float("nan")] * len(names) if mask_threshold is None else mask_threshold
        thresholds = [thresholds] if isinstance(thresholds, (int, float)) else list(thresholds)
        if len(thresholds) != len(names):
            msg = f"mask_threshold {mask_threshold}: {len(names)} are wanted, for {', '.join(names)}"
            raise ValueError(msg)
        #: u of each residual.
        self.mask_threshold: torch.Tensor
        self.register_buffer("mask_threshold", torch.tensor(thresholds, dtype=torch.float32))

    @property
    def feature_residual(self) -> FeatureResidual | None:
        """The residual ``features``, if it masks or scores."""
        return next((residual for residual in self.residuals if isinstance(residual, FeatureResidual)), None)

    def load_pretrained(self) -> None:
        """Load the weights of the network that features come from, if there is one; before training."""
        if self.feature_residual is not None:
            self.feature_residual.features.load_pretrained()

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

    def first_residuals(self, image: torch.Tensor) -> torch.Tensor:
        """Residuals ``(N, len(residuals), H, W)`` of the lattice pass over images ``(N, 3, H, W)`` in [0, 1]."""
        inpainting = self.first_inpainting(image)
        return torch.cat([residual(image, inpainting) for residual in self.residuals], dim=1)

    def hole_of(self, residuals: torch.Tensor) -> torch.Tensor:
        """Hole ``(N, 1, H, W)`` in [0, 1] from residuals: 1 where one that masks reaches its u, and a ramp just below.

        Without the ramp, rounding decides whether a pixel at u is hidden, and two runtimes disagree on it.
        """
        u = self.mask_threshold
        # one by one: indices in a list would be a tensor, which may not be made inside an exported loop
        ramps = [1 + (residuals[:, k : k + 1] - u[k]) / (self.mask_edge * u[k]).clamp(min=SHARP) for k in self._of_mask]
        return torch.stack(ramps).amax(dim=0).clamp(0, 1)

    def map_of(self, residuals: torch.Tensor) -> torch.Tensor:
        """Anomaly map ``(N, 1, H, W)`` from residuals: the one that scores, or the mean of several in units of u."""
        scoring = [residuals[:, k : k + 1] for k in self._of_score]
        if len(scoring) > 1:
            units = [self.mask_threshold[k].clamp(min=SHARP) for k in self._of_score]
            scoring = [residual / unit for residual, unit in zip(scoring, units, strict=True)]
        return torch.stack(scoring).mean(dim=0)

    def film(self, image: torch.Tensor) -> list[Frame]:
        """Every pass of the iteration over one image ``(1, 3, H, W)`` in [0, 1]."""
        frames: list[Frame] = []
        self.iterate(image, frames)
        return frames

    def iterate(self, image: torch.Tensor, frames: list[Frame] | None = None) -> Iteration:
        """Run the iteration; every image stops by itself, whatever its neighbours in the batch do.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            frames: Filled with every pass; for one image alone.
        """
        prepared = [residual.prepare(image) for residual in self.residuals]

        def residuals(constants: Sequence[torch.Tensor], inpainting: torch.Tensor) -> torch.Tensor:
            """All residuals side by side; ``constants`` are what was prepared for each in turn."""
            maps, rest = [], list(constants)
            for residual, own in zip(self.residuals, prepared, strict=True):
                maps.append(residual.compare(tuple(rest[: len(own)]), inpainting))
                rest = rest[len(own) :]
            return torch.cat(maps, dim=1)

        def inpaint_again(constants: State, state: State) -> tuple[State, torch.Tensor]:
            image, *for_residuals = constants
            inpainting, _, hole, *total = state
            inpainting = self.generator.inpaint(image if self.reinpaint == "original" else inpainting, hole)
            found = residuals(for_residuals, inpainting)
            now, next_hole = self.map_of(found), self.hole_of(found)
            if frames is not None:
                frames.append(Frame(hole, inpainting, now))
            before, after = hole.mean(dim=(1, 2, 3)), next_hole.mean(dim=(1, 2, 3))
            goes_on = (after > 0) & (before - after >= self.min_shrink * before)
            return (inpainting, now, next_hole, *(of_all + now for of_all in total)), goes_on

        constants = tuple(value for own in prepared for value in own)
        inpainting = self.first_inpainting(image)
        found = residuals(constants, inpainting)
        anomaly_map, hole = self.map_of(found), self.hole_of(found)
        if frames is not None:
            frames.append(Frame(self.lattices(*image.shape[-2:])[0, :1].to(image), inpainting, anomaly_map))
        active = hole.mean(dim=(1, 2, 3)) > 0
        # a copy: the states of an exported loop may not share memory
        total = [anomaly_map.clone()] if self.anomaly_map == "mean" else []
        (inpainting, anomaly_map, hole, *total), passes = repeat_active(
            inpaint_again, (image, *constants), (inpainting, anomaly_map, hole, *total), active, self.max_iterations
        )
        if total:
            # an image that stopped keeps its last residual, or those that go on would be divided by more
            left = (self.max_iterations - passes)[:, None, None, None]
            anomaly_map = (total[0] + left * anomaly_map) / (1 + self.max_iterations)
        return Iteration(inpainting, anomaly_map, hole, passes)

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`."""
        return self.explain(image)[0]

    def explain(self, image: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """See :meth:`ImageModel.explain`."""
        if not torch.compiler.is_exporting() and torch.isnan(self.mask_threshold).any():
            msg = "mask_threshold is not calibrated: fit the model, load a fitted checkpoint, or pass a number"
            raise ValueError(msg)
        result = self.iterate(image)
        batch = InferenceBatch(pred_score=self.image_score(result.anomaly_map), anomaly_map=result.anomaly_map)
        return batch, {"passes": result.passes, "reconstruction": result.inpainting}
