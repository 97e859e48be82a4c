"""A few normal cells that are remembered, for places of which what surrounds them tells little."""

from collections.abc import Sequence

import torch
from torch import nn

from anomalib_i3ad.components.rounding import round_to_eight_bits

from .usual import weights_everywhere

#: Cells that are remembered, and how many of the training images' they are chosen from.
REMEMBERED = 512
CANDIDATES = 20_000
#: A cell is compared with the memory rather than with its inpainting where the error that is expected of the inpainting
#: is more than this many times the memory's; by how much more is raised to this power.
HANDICAP = 1.5
STEEPNESS = 4


class Sample:
    """Sample of the cells of a stream of images, as good as random; the same in whatever order they come.

    Args:
        size: Most cells that are kept.
        seed: Seed of the draw.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._keys = torch.empty(0)
        #: Cells ``(M, C)`` so far, and the numbers of their images ``(M,)``.
        self.cells, self.images = torch.empty(0), torch.empty(0)

    def _numbers_of(self, features: torch.Tensor) -> torch.Tensor:
        """A number of each cell ``(N, h, w)``, as good as random; the same of what is the same in the same place."""
        weights = torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(self._seed))
        return (features.cpu().double() * weights).sum(dim=1)

    def add(self, features: torch.Tensor, images: torch.Tensor) -> None:
        """Add the cells of features ``(N, C, h, w)`` of images with these numbers ``(N,)``."""
        numbers = self._numbers_of(features)
        keys, images = numbers.remainder(1).flatten(), images[:, None, None].expand_as(numbers).flatten()
        cells = features.permute(0, 2, 3, 1).flatten(0, 2)
        if len(self.cells):
            keys, images = torch.cat([self._keys, keys]), torch.cat([self.images, images])
            cells = torch.cat([self.cells, cells])
        self._keys, chosen = keys.topk(min(self._size, len(keys)))
        self.cells, self.images = cells[chosen.to(cells.device)], images[chosen]


def spread_out(cells: torch.Tensor, count: int) -> list[int]:
    """Choose ``count`` of ``cells`` ``(M, C)``, each the farthest from those before (PatchCore's greedy coreset).

    Where there are fewer that differ, some come again.
    """
    chosen = [0]
    nearest = torch.full((len(cells),), torch.inf, device=cells.device)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (cells - cells[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(nearest.argmax()))
    return chosen


class Memory(nn.Module):
    """Squared distance of features to the nearest cell that is remembered; usually 1.

    After PatchCore (Roth et al., CVPR 2022, sections 3.2, 3.3); differences are weighed as errors of inpaintings are.

    Args:
        channels: Features of each layer.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        count = sum(channels)
        self.layers = len(channels)
        #: Weights of features, what is remembered in this form, and its usual squared distance; NaN until known.
        self.weights: torch.Tensor
        self.cells: torch.Tensor
        self.usual: torch.Tensor
        for name, shape in (("weights", (count, count)), ("cells", (1, REMEMBERED, count)), ("usual", ())):
            self.register_buffer(name, torch.full(shape, torch.nan))

    def distance(self, features: torch.Tensor, left_out: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distances ``(N, 1, h, w)`` of features ``(N, C, h, w)``.

        Args:
            features: Standardised features.
            left_out: Which cells do not count for an image, ``(N, M)`` bool.
        """
        n, _, h, w = features.shape
        values = torch.matmul(features.permute(0, 2, 3, 1).flatten(1, 2), self.weights)
        # |a - b|^2 less |a|^2
        rest = self.cells.square().sum(dim=2)[:, None] - 2 * torch.matmul(values, self.cells.transpose(1, 2))
        if left_out is not None:
            rest = rest.masked_fill(left_out[:, None], torch.inf)
        nearest = values.square().sum(dim=2) + rest.amin(dim=2)
        return nearest.clamp(min=0).reshape(n, 1, h, w)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features ``(N, C, h, w)`` to sizes ``(N, 1, h, w)``."""
        return self.distance(features) / self.usual

    def share(self, expected: torch.Tensor) -> torch.Tensor:
        """How much the memory counts ``(N, 1, h, w)``, in [0, 1].

        Args:
            expected: What is expected of an inpainting's errors ``(N, 1, h, w)``; usually 1.
        """
        # an inpainting's error is usually 1 in each layer
        return 1 / (1 + (HANDICAP * self.usual / self.layers / expected).pow(STEEPNESS))

    def set_weights(self, products: Sequence[torch.Tensor]) -> None:
        """Set the weights, by each layer's mean products of errors ``(C, C)`` of inpaintings."""
        self.weights.copy_(torch.block_diag(*map(weights_everywhere, products)).half())

    def set_cells(self, candidates: torch.Tensor) -> list[int]:
        """Choose what to remember among cells ``(M, C)``, and return which were chosen."""
        chosen = spread_out(candidates, REMEMBERED)
        self.cells.copy_(round_to_eight_bits(candidates[chosen][None] @ self.weights))
        return chosen

    def set_usual(self, distance: torch.Tensor) -> None:
        """Set the usual squared distance; no less than an inpainting's usual error.

        Of a single image, or of many that are the same, it would be next to 0, and no new image that near.
        """
        self.usual.copy_(distance.clamp(min=self.layers))
