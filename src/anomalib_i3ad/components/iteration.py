"""The iteration: hide what does not match, inpaint it, compare, and repeat until only the defect is left.

Nakanishi, Suzuki and Matsuo, 2020, section 2; written once for what is inpainted as pixels and as features.
"""

from abc import abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from anomalib.data import InferenceBatch

from .arguments import check_choice, check_count
from .base import ImageModel
from .holes import grid_holes
from .loops import State, repeat_active
from .scores import ImageScore, Reduction
from .stitching import composite, draw_hidden

#: Least width of the ramp below u, far below rounding: a hard edge.
SHARP = 1e-7
MapOf = Literal["last", "mean", "mean_hidden"]


class Snapshot(NamedTuple):
    """One iteration over one image, or its initial inpainting, of whose four holes the first is shown.

    ``hole`` (1, 1, h, w) of the scene, ``inpainting`` (1, 3, H, W), ``residual`` (1, 1, H, W).
    """

    hole: torch.Tensor
    inpainting: torch.Tensor
    residual: torch.Tensor


class IterationResult(NamedTuple):
    """Result of the iteration, with one entry per image.

    ``inpainting`` (N, C, h, w): the last one. ``anomaly_map`` (N, 1, H, W). ``hole`` (N, 1, h, w) in [0, 1]: what
    still differs. ``iterations`` (N,): iterations after the initial inpainting, 0 to ``max_iterations``.
    """

    inpainting: torch.Tensor
    anomaly_map: torch.Tensor
    hole: torch.Tensor
    iterations: torch.Tensor


class IterativeModel(ImageModel):
    """Base of models that iterate over a scene: the image itself, or another map of it that can be inpainted.

    Arguments as of :class:`~anomalib_i3ad.models.I3AD`.
    """

    #: An image stops when an iteration shrinks its hole by less than this share of its area.
    min_shrink = 0.05
    #: Residuals that are below u by less than this share of u hide partly: else rounding decides what is hidden at u.
    mask_edge = 0.1

    def __init__(self, initial_grid: int, max_iterations: int, anomaly_map: MapOf, image_score: Reduction) -> None:
        super().__init__()
        check_count("initial_grid", initial_grid, at_least=2)
        if initial_grid % 2:
            msg = f"initial_grid {initial_grid} must be an even number of parts, at least 2"
            raise ValueError(msg)
        check_count("max_iterations", max_iterations, at_least=0)
        check_choice("anomaly_map", anomaly_map, get_args(MapOf))
        self.initial_grid = initial_grid
        self.max_iterations = max_iterations
        self.anomaly_map = anomaly_map
        self.image_score = ImageScore(image_score)
        #: u, the residual from which a part of the scene is hidden; NaN until it is calibrated.
        self.mask_threshold: torch.Tensor
        self.register_buffer("mask_threshold", torch.tensor(float("nan")))

    @abstractmethod
    def scene_of(self, image: torch.Tensor) -> torch.Tensor:
        """Scene ``(N, C, h, w)`` of images ``(N, 3, H, W)`` in [0, 1]."""

    def encode(self, scene: torch.Tensor) -> torch.Tensor:
        """Compute once what :meth:`fill` needs of a scene, each place alone: ``(N, E, h, w)``."""
        return scene

    @abstractmethod
    def fill(self, encoded: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Fill what is hidden from what is visible.

        Args:
            encoded: ``(N, E, h, w)``.
            hole: ``(N, 1, h, w)`` in [0, 1]; values between hide partly.

        Returns:
            ``(N, F, h, w)``; only the hole counts.
        """

    def decode(self, filled: torch.Tensor) -> torch.Tensor:
        """Draw a scene ``(N, C, h, w)`` from what :meth:`fill` made, each place alone."""
        return filled

    @abstractmethod
    def prepare(self, scene: torch.Tensor) -> State:
        """Compute once what comparisons need of the scene alone: tensors with one entry per image."""

    @abstractmethod
    def compare(self, prepared: State, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals ``(N, 1, h, w)``, 0 where nothing differs: the one that masks and the one that scores."""

    def compare_hidden(
        self, scene: torch.Tensor, prepared: State, inpainting: torch.Tensor, hole: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals as :meth:`compare`'s, of an inpainting that counts in its hole ``(N, 1, h, w)`` alone.

        They grow with the square of the share that is hidden.
        """
        return self.compare(prepared, composite(scene, inpainting, hole))

    @abstractmethod
    def map_of(self, residual: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Anomaly map ``(N, 1, H, W)`` of images ``(N, 3, H, W)`` from a residual ``(N, 1, h, w)``."""

    @abstractmethod
    def picture_of(self, inpainting: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Inpaintings as pictures of the images' shape ``(N, 3, H, W)``."""

    def grid_holes(self, height: int, width: int) -> torch.Tensor:
        """Initial holes ``(4, 1, height, width)`` of a scene."""
        return grid_holes(self.initial_grid, height, width)

    def hidden_with(self, hole: torch.Tensor) -> torch.Tensor:
        """All that is hidden ``(N, 1, h, w)`` while the part ``(N, 1, h, w)`` of the scene is drawn at first."""
        return hole

    def initial_inpainting(self, scene: torch.Tensor) -> torch.Tensor:
        """Initial inpainting: each part of the scene ``(N, C, h, w)`` drawn while it was hidden, stitched."""
        return self.decode(self.initial_filling(self.encode(scene)))

    def initial_filling(self, encoded: torch.Tensor) -> torch.Tensor:
        """What :meth:`decode` turns into the initial inpainting: ``(N, F, h, w)`` of encoded ``(N, E, h, w)``."""
        holes = self.grid_holes(*encoded.shape[-2:]).to(encoded)
        return draw_hidden(encoded, holes[None], lambda given, hole: self.fill(given, self.hidden_with(hole)))[:, 0]

    def initial_residual(self, scene: torch.Tensor) -> torch.Tensor:
        """Residual ``(N, 1, h, w)`` of the initial inpainting by which u is calibrated."""
        return self.compare(self.prepare(scene), self.initial_inpainting(scene))[0]

    def hole_of(self, residual: torch.Tensor) -> torch.Tensor:
        """Hole ``(N, 1, h, w)`` in [0, 1]: 1 where the residual reaches u, and a ramp just below."""
        u = self.mask_threshold
        return (1 + (residual - u) / (self.mask_edge * u).clamp(min=SHARP)).clamp(0, 1)

    def iterate(self, image: torch.Tensor, snapshots: list[Snapshot] | None = None) -> IterationResult:
        """Run the iteration; every image stops by itself, whatever its neighbours in the batch do.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            snapshots: Filled with every iteration, the initial inpainting first; for one image alone.
        """
        scene = self.scene_of(image)
        encoded, prepared = self.encode(scene), self.prepare(scene)

        def take(shown: torch.Tensor, drawn: torch.Tensor, hole: torch.Tensor, residual: torch.Tensor) -> None:
            if snapshots is not None:
                picture = self.picture_of(composite(scene, drawn, hole), image)
                snapshots.append(Snapshot(shown, picture, self.map_of(residual, image)))

        def inpaint_again(constants: State, state: State) -> tuple[State, torch.Tensor]:
            scene, encoded, *prepared = constants
            _, _, _, hole, *sums = state
            filled = self.fill(encoded, hole)
            inpainting = self.decode(filled)
            masking, scoring = self.compare_hidden(scene, tuple(prepared), inpainting, hole)
            next_hole = self.hole_of(masking)
            take(hole, inpainting, hole, scoring)
            before, after = hole.mean(dim=(1, 2, 3)), next_hole.mean(dim=(1, 2, 3))
            goes_on = (after > 0) & (before - after >= self.min_shrink * before)
            # as residuals do, so that their mean is that of what was drawn, whatever share was hidden
            added = zip(sums, (scoring, hole.square()), strict=False)
            return (filled, hole, scoring, next_hole, *(total + one for total, one in added)), goes_on

        filled = self.initial_filling(encoded)
        inpainting = self.decode(filled)
        masking, residual = self.compare(prepared, inpainting)
        hole = self.hole_of(masking)
        everywhere = torch.ones_like(hole)
        take(self.hidden_with(self.grid_holes(*scene.shape[-2:])[:1].to(scene)), inpainting, everywhere, residual)
        active = hole.mean(dim=(1, 2, 3)) > 0
        # sums of residuals, and of how often a place was inpainted; copies: states of an exported loop share no memory
        sums = [] if self.anomaly_map == "last" else [residual.clone()]
        if self.anomaly_map == "mean_hidden":
            sums.append(torch.ones_like(residual))
        # what inpaintings are made of, not they: an exported loop copies its state, and features are large
        (filled, filled_hole, residual, hole, *sums), iterations = repeat_active(
            inpaint_again,
            (scene, encoded, *prepared),
            (filled, everywhere, residual, hole, *sums),
            active,
            self.max_iterations,
        )
        inpainting = composite(scene, self.decode(filled), filled_hole)
        if self.anomaly_map == "mean":
            # in the iterations it did not need, an image counts the residual of what is still hidden: the rest agrees
            left = (self.max_iterations - iterations)[:, None, None, None]
            residual = (sums[0] + left * residual * hole) / (1 + self.max_iterations)
        elif self.anomaly_map == "mean_hidden":
            residual = sums[0] / sums[1]
        return IterationResult(inpainting, self.map_of(residual, image), hole, iterations)

    def record(self, image: torch.Tensor) -> list[Snapshot]:
        """Every iteration over one image ``(1, 3, H, W)`` in [0, 1], the initial inpainting first."""
        snapshots: list[Snapshot] = []
        self.iterate(image, snapshots)
        return snapshots

    def _score(self, image: torch.Tensor) -> tuple[InferenceBatch, IterationResult]:
        if not torch.compiler.is_exporting() and torch.isnan(self.mask_threshold):
            msg = "mask_threshold is not calibrated: fit the model, or load a fitted checkpoint"
            raise ValueError(msg)
        result = self.iterate(image)
        return InferenceBatch(self.image_score(result.anomaly_map), anomaly_map=result.anomaly_map), result

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`.

        Raises:
            ValueError: If u is not calibrated.
        """
        return self._score(image)[0]

    def explain(self, image: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """See :meth:`ImageModel.explain`.

        Raises:
            ValueError: If u is not calibrated.
        """
        batch, result = self._score(image)
        return batch, {"iterations": result.iterations, "reconstruction": self.picture_of(result.inpainting, image)}
