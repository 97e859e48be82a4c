"""FeatureI3AD's torch model: the iteration over the features of a frozen network."""

from collections.abc import Sequence
from math import lcm

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad.components.arguments import check_count, check_own_size
from anomalib_i3ad.components.iteration import IterativeModel
from anomalib_i3ad.components.loops import State
from anomalib_i3ad.components.scores import Reduction

from .features import FrozenFeatures
from .memory import Memory
from .networks import Decoder, Inpainter
from .usual import UsualError

#: Side of a cell in pixels; finer feature maps are averaged, coarser ones interpolated.
CELL = 8
#: Side in cells of the neighbourhood over which features are averaged (PatchCore, Roth et al., CVPR 2022, section 3.1).
NEIGHBOURHOOD = 3
#: Rings of cells around a part of the grid that are hidden with it: their features have seen its pixels, by the
#: network and by the average over neighbours.
MARGIN = 2
#: Share of the errors in the geometric mean of cosines and errors.
ERROR_SHARE = 2 / 3
#: Standard deviation, in cells, of the Gaussian by which the map interpolates between cells.
SPREAD = 0.65


def _spreading(cells: int, like: torch.Tensor) -> torch.Tensor:
    """Gaussian weights ``(CELL * cells, cells)`` by which pixels along an axis take the residuals of its cells."""
    pixel = (torch.arange(CELL * cells, device=like.device).to(like.dtype) + 0.5) / CELL - 0.5
    distance = pixel[:, None] - torch.arange(cells, device=like.device).to(like.dtype)[None, :]
    weights = torch.exp(-distance.square() / (2 * SPREAD**2))
    return weights / weights.sum(dim=1, keepdim=True)


class FeatureI3ADModel(IterativeModel):
    """Inpaints standardised features of cells of 8 x 8 pixels.

    The scene is ``(N, C + L, h, w)``: C features, and after them the expected residual of each of L layers, 0 where
    nothing is hidden.

    Arguments as of :class:`~anomalib_i3ad.models.FeatureI3AD`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        backbone: str,
        layers: Sequence[str],
        backbone_weights: str | None,
        width: int,
        initial_grid: int,
        max_iterations: int,
        image_score: Reduction,
    ) -> None:
        super().__init__(initial_grid, max_iterations, "mean_hidden", image_score)
        check_count("width", width)
        self.features = FrozenFeatures(backbone, layers, backbone_weights)
        channels, count = sum(self.features.channels), len(self.features.channels)
        self.inpainter = Inpainter(channels, count, width)
        self.decoder = Decoder(channels)
        #: Standardisation of features, from the training images; NaN until it is known.
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.full((1, channels, 1, 1), float("nan")))
        self.image_size = image_size
        self._check_sides(*image_size)
        cells = [side // CELL for side in image_size]
        #: Usual 1 - cosine of each layer ``(1, L, 1, 1)``, and usual errors of features, from the training images.
        self.usual_cosine: torch.Tensor
        self.register_buffer("usual_cosine", torch.full((1, count, 1, 1), float("nan")))
        self.usual_errors = nn.ModuleList(UsualError(of_layer, cells) for of_layer in self.features.channels)
        self.memory = Memory(self.features.channels)

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`: what errors are usual is known of one size."""
        check_own_size(height, width, self.image_size)

    def _check_sides(self, height: int, width: int) -> None:
        """Backbone, grid and inpainter must fit, and a part and its margin must leave cells visible."""
        divisor = lcm(CELL * self.inpainter.size_divisor, *self.features.strides, CELL * self.initial_grid)
        least = CELL * self.initial_grid * (2 * MARGIN + 1)
        if height % divisor or width % divisor or min(height, width) < least:
            msg = (
                f"image of {height}x{width} pixels: with initial_grid {self.initial_grid} sides are multiples of "
                f"{divisor}, {divisor * -(-least // divisor)} or more (image_size)"
            )
            raise ValueError(msg)
        odd = [stride for stride in self.features.strides if stride < CELL and CELL % stride]
        if odd:
            msg = f"layers with features every {odd[0]} pixels do not fit cells of {CELL}; take others"
            raise ValueError(msg)
        self.features.check_size(height, width)

    def grid_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape ``(C, h, w)`` of the features of images of this size."""
        return self.inpainter.channels, height // CELL, width // CELL

    def cells_of(self, image: torch.Tensor) -> torch.Tensor:
        """Features ``(N, C, H / 8, W / 8)`` of images ``(N, 3, H, W)`` in [0, 1], as they come from the network."""
        maps = []
        for values, stride in zip(self.features(image), self.features.strides, strict=True):
            if stride > CELL:
                maps.append(F.interpolate(values, scale_factor=stride / CELL, mode="bilinear"))
            else:
                maps.append(F.avg_pool2d(values, CELL // stride) if stride < CELL else values)
        return F.avg_pool2d(torch.cat(maps, dim=1), NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)

    def standardised(self, cells: torch.Tensor) -> torch.Tensor:
        """Standardised features ``(N, C, h, w)`` of those that come from the network."""
        return (cells - self.mean) / self.std

    def scene_of(self, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.scene_of`."""
        return self.scene_of_features(self.standardised(self.cells_of(image)))

    def scene_of_features(self, features: torch.Tensor) -> torch.Tensor:
        """Scene of standardised features ``(N, C, h, w)``."""
        return torch.cat([features, torch.zeros_like(features[:, : len(self.features.channels)])], dim=1)

    def encode(self, scene: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.encode`."""
        return self.inpainter.encode(self.features_in(scene))

    def fill(self, encoded: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.fill`."""
        return self.inpainter.fill(encoded, hole)

    def decode(self, filled: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.decode`."""
        return torch.cat(self.inpainter.decode(filled), dim=1)

    def hidden_with(self, hole: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.hidden_with`: the part and the guard margin around it."""
        return F.max_pool2d(hole, 2 * MARGIN + 1, stride=1, padding=MARGIN)

    def features_in(self, scene: torch.Tensor) -> torch.Tensor:
        """Standardised features ``(N, C, h, w)`` of a scene."""
        return scene[:, : self.inpainter.channels]

    def directions(self, features: torch.Tensor) -> State:
        """Features ``(N, C, h, w)`` before they were standardised, in unit length; ``(N, C_l, h, w)`` by layer."""
        layers = (features * self.std + self.mean).split(self.features.channels, dim=1)
        return tuple(F.normalize(values, dim=1) for values in layers)

    def prepare(self, scene: torch.Tensor) -> State:
        """See :meth:`IterativeModel.prepare`."""
        features = self.features_in(scene)
        return (scene, self.memory(features), *self.directions(features))

    def cosines(self, directions: State, drawn: torch.Tensor) -> torch.Tensor:
        """``1 - cosine similarity`` of features and standardised features ``(N, C, h, w)`` drawn in their place.

        Returns:
            ``(N, L, h, w)`` in [0, 2], one channel for each layer.
        """
        # of unit vectors: 1 - a b = |a - b|^2 / 2, which is exactly 0 where they are equal
        pairs = zip(directions, self.directions(drawn), strict=True)
        return torch.cat([(one - other).square().sum(dim=1, keepdim=True) / 2 for one, other in pairs], dim=1)

    def errors(self, error: torch.Tensor) -> torch.Tensor:
        """Sizes ``(N, L, h, w)`` of errors of features ``(N, C, h, w)``, one channel for each layer; usually 1."""
        layers = zip(self.usual_errors, error.split(self.features.channels, dim=1), strict=True)
        return torch.cat([usual(of_layer) for usual, of_layer in layers], dim=1)

    def compare(self, prepared: State, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`IterativeModel.compare`: geometric mean of cosines and errors against what is usual; usually 1.

        Where the inpainting is expected to err, the distance to the memory counts instead.
        """
        scene, distance, *directions = prepared
        drawn, expected = self.features_in(inpainting), inpainting[:, self.inpainter.channels :]
        # what is expected is usually as large as what is usual
        cosines = self.cosines(tuple(directions), drawn) * 2 / (expected + self.usual_cosine)
        errors = self.errors(self.features_in(scene) - drawn)
        # the power of each, not of their product, which would be too large for half precision
        powers = cosines.pow((1 - ERROR_SHARE) / len(directions)) * errors.pow(ERROR_SHARE / len(directions))
        share = self.memory.share((expected / self.usual_cosine).mean(dim=1, keepdim=True))
        residual = powers.prod(dim=1, keepdim=True).pow(1 - share) * distance.pow(share)
        return residual, residual

    def compare_hidden(
        self, scene: torch.Tensor, prepared: State, inpainting: torch.Tensor, hole: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`IterativeModel.compare_hidden`: each cell alone, also by the memory."""
        del scene
        residual = self.compare(prepared, inpainting)[0] * hole.square()
        return residual, residual

    def map_of(self, residual: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.map_of`: smoothly interpolated."""
        del image
        rows, columns = (_spreading(side, residual) for side in residual.shape[-2:])
        return torch.matmul(rows, torch.matmul(residual, columns.transpose(0, 1)))

    def picture_of(self, inpainting: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """See :meth:`IterativeModel.picture_of`: what the decoder makes of it."""
        return F.interpolate(self.decoder(self.features_in(inpainting)), image.shape[-2:], mode="bilinear")
