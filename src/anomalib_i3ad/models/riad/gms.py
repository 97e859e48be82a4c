"""Gradient magnitude similarity.

Xue et al., Gradient Magnitude Similarity Deviation, IEEE TIP 2014; over scales as in RIAD, section 3.2.
"""

import torch
from torch.nn import functional as F

#: 170 / 255^2, for images in [0, 1].
C = 0.0026
SCALES = 4
#: Least value under the square root, whose gradient is infinite at 0.
EPSILON = 1e-12


def gradient_magnitude(image: torch.Tensor) -> torch.Tensor:
    """Length of the gradient by 3x3 Prewitt filters, edges replicated; ``(N, C, H, W)`` to the same."""
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    down = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    across = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    horizontal = (down[..., 2:] - down[..., :-2]) / 3
    vertical = (across[..., 2:, :] - across[..., :-2, :]) / 3
    # a clamp, since the ONNX exporter drops the addition of so small a number
    return torch.sqrt((horizontal.square() + vertical.square()).clamp(min=EPSILON))


def gms_dissimilarity(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``1 - GMS`` of two batches ``(N, C, H, W)`` in [0, 1], mean over channels.

    Returns:
        ``(N, 1, H, W)`` in [0, 1): exactly 0 where the gradients are equally long.
    """
    g, g_other = gradient_magnitude(image), gradient_magnitude(other)
    # (g - g')^2 / (g^2 + g'^2 + c) is 1 - (2 g g' + c) / (g^2 + g'^2 + c) without its loss of digits
    dissimilarity = (g - g_other).square() / (g.square() + g_other.square() + C)
    return dissimilarity.mean(dim=1, keepdim=True)


def msgms_dissimilarities(image: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
    """``1 - GMS`` at four scales, each half the size of the one before; sides at least 8 pixels."""
    maps = []
    for scale in range(SCALES):
        if scale:
            image, other = F.avg_pool2d(image, 2), F.avg_pool2d(other, 2)
        maps.append(gms_dissimilarity(image, other))
    return maps


def msgms_map(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean over the scales, upsampled to the image: ``(N, 1, H, W)`` in [0, 1)."""
    size = image.shape[-2:]
    maps = msgms_dissimilarities(image, other)
    return torch.stack([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]).mean(dim=0)


def msgms_loss(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean over pixels, then over the scales."""
    return torch.stack([m.mean() for m in msgms_dissimilarities(image, other)]).mean()
