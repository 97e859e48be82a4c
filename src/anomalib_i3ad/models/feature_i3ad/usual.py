"""How large the errors of an inpainting usually are, and how they vary together."""

from collections.abc import Sequence

import torch
from torch import nn

from anomalib_i3ad.components.rounding import round_to_eight_bits

#: Most principal components of a layer's errors that are compared.
COMPONENTS = 96
#: Side in cells of the blocks that share a covariance.
BLOCK = 2
#: In the covariance of a block, the mean over all blocks counts as much as so many images.
PRIOR = 30
#: Share of the mean variance that is added to every variance: what hardly varies is no sign of a defect.
FLOOR = 0.4
#: Power of the covariance in the size of an error; 1 would be the squared Mahalanobis distance.
POWER = 2


def _floored(covariance: torch.Tensor) -> torch.Tensor:
    """Covariances ``(..., K, K)``, with :data:`FLOOR` added to their variances."""
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    return covariance + FLOOR * variance * torch.eye(covariance.shape[-1]).to(covariance)


def _roots_of_inverse(power: torch.Tensor) -> torch.Tensor:
    """Triangular W with ``|W^T e|^2 = e^T P^-1 e``, of powers P ``(..., K, K)`` of covariances: L^-T, of P = L L^T."""
    return torch.linalg.inv(torch.linalg.cholesky(power)).transpose(-2, -1)


def weights_everywhere(products: torch.Tensor) -> torch.Tensor:
    """Weights W ``(C, C)`` of a layer by which ``|W^T e|^2`` is the size of an error, whatever its place; usually 1.

    Args:
        products: Mean over images and cells of the products of errors ``(C, C)``.
    """
    products = products.cpu().double()  # not every GPU has double precision
    weights = _roots_of_inverse(torch.linalg.matrix_power(_floored(products), POWER))
    return weights / (weights * (products @ weights)).sum().sqrt()


class UsualError(nn.Module):
    """Size of a layer's errors, ``|C^-1 e|^2`` by its mean in their block of cells; usually 1.

    C is the covariance of the errors' principal components in a block. PaDiM (Defard et al., ICPR 2021, section III-B)
    takes ``e^T C^-1 e`` of features themselves, cell by cell. Here components that vary least count more than that:
    they tell normal from anomalous best (Rippel et al., ICPR 2020, on features of whole images).

    Args:
        channels: Features of the layer.
        cells: Height and width of the grid; even.
    """

    def __init__(self, channels: int, cells: Sequence[int]) -> None:
        super().__init__()
        height, width = cells
        #: Principal components of errors.
        self.kept = min(COMPONENTS, channels)
        blocks = height // BLOCK * (width // BLOCK)
        #: These components, and what they are multiplied with in each block, 0 below its diagonal; NaN until known.
        self.components: torch.Tensor
        self.whitening: torch.Tensor
        for name, shape in (("components", (self.kept, channels)), ("whitening", (blocks, self.kept, self.kept))):
            self.register_buffer(name, torch.full(shape, float("nan")))

    def components_of(self, error: torch.Tensor) -> torch.Tensor:
        """Components ``(N, h, w, K)`` of errors of features ``(N, C, h, w)``."""
        return torch.matmul(error.permute(0, 2, 3, 1), self.components.T)

    def in_blocks(self, components: torch.Tensor) -> torch.Tensor:
        """Components ``(N, h, w, K)``, block by block: ``(B, BLOCK * BLOCK * N, K)``."""
        n, h, w, _ = components.shape
        values = components.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, -1).permute(1, 3, 2, 4, 0, 5)
        return values.reshape(len(self.whitening), BLOCK * BLOCK * n, -1)

    def forward(self, error: torch.Tensor) -> torch.Tensor:
        """Map errors of features ``(N, C, h, w)`` to sizes ``(N, 1, h, w)``."""
        n, _, h, w = error.shape
        blocks, half = self.in_blocks(self.components_of(error)), self.kept // 2
        # below its diagonal the whitening is 0: a quarter of it need not be stored, nor read from memory, which takes
        # longer than the products
        upper = torch.matmul(blocks[..., :half], self.whitening[:, :half, :half])
        size = upper.square().sum(dim=-1) + torch.matmul(blocks, self.whitening[..., half:]).square().sum(dim=-1)
        size = size.reshape(h // BLOCK, w // BLOCK, BLOCK, BLOCK, n).permute(4, 0, 2, 1, 3)
        return size.reshape(n, 1, h, w)

    def set_components(self, products: torch.Tensor) -> None:
        """Set the components.

        Args:
            products: Mean over images and cells of the products of errors ``(C, C)``.
        """
        products = products.cpu()  # not every GPU has double precision
        # of every feature as large as any
        scale = 1 / products.diagonal().sqrt()
        vectors = torch.linalg.eigh((products * scale[:, None] * scale).double())[1]
        self.components.copy_(vectors[:, -self.kept :].T * scale)

    def set_covariance(self, products: torch.Tensor, count: int) -> None:
        """Set the whitening, and the size of components.

        Args:
            products: Mean of the products of components ``(B, K, K)`` in each block, of :meth:`in_blocks`.
            count: How many images they are the mean of.
        """
        products = products.cpu().double()
        covariance = (count * products + PRIOR * products.mean(dim=0)) / (count + PRIOR)
        covariance = _floored(covariance)
        # by its mean in every block: where parts lie anywhere, how large errors are at a place misleads
        mean = torch.linalg.matrix_power(covariance, 1 - POWER).diagonal(dim1=1, dim2=2).mean(dim=1)
        power = torch.linalg.matrix_power(covariance, POWER) * mean[:, None, None]
        # components of one size, and with it all that is in a column: then 8 bits are enough
        size = power.mean(dim=0).diagonal().sqrt()
        whitening = size[:, None] * _roots_of_inverse(power)
        self.whitening.copy_(round_to_eight_bits(whitening))
        rounded = self.whitening.cpu().double()
        usual = (rounded * (products / size / size[:, None] @ rounded)).sum(dim=(1, 2)).mean()
        self.components.div_((size * usual.sqrt())[:, None].to(self.components))
