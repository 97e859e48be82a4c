"""Contextual attention: fill hidden features with similar visible ones."""

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad.components.stitching import composite

SOFTMAX_SCALE = 10.0
#: Logarithm of the weight of a patch that is hidden.
EXCLUDED = -1e4


def _patches(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Unfold ``(N, C, H, W)`` to ``(N, C * size^2, H / stride * W / stride)``."""
    pick = torch.eye(size * size, dtype=x.dtype, device=x.device).reshape(size * size, 1, size, size)
    pad = (size - stride) // 2
    x = F.pad(x, (pad, size - stride - pad, pad, size - stride - pad))
    return F.conv2d(x, pick.repeat(x.shape[1], 1, 1, 1), stride=stride, groups=x.shape[1]).flatten(2)


class ContextualAttention(nn.Module):
    """Rebuild hidden feature patches as a weighted sum of visible ones.

    Patches are matched by cosine similarity at half the resolution and copied at full resolution.
    Written with convolutions and products only, so that it exports. Source: Yu et al., Generative
    Image Inpainting with Contextual Attention, CVPR 2018, section 4.1 (without fusion).
    """

    def forward(self, features: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            features: ``(N, C, H, W)``, height and width even.
            hole: ``(N, 1, 4 * H, 4 * W)`` in [0, 1]; values between hide partly.

        Returns:
            ``(N, C, H, W)``; visible positions keep their own features.
        """
        _, c, h, w = features.shape
        small = F.avg_pool2d(features, 2)
        queries = F.normalize(_patches(small, 3, 1), dim=1, eps=1e-4)
        similarity = torch.matmul(queries.transpose(1, 2), queries)  # (N, keys, queries)
        # a patch weighs as much as it is visible: else rounding decides which ones are seen at all
        visible = 1 - F.max_pool2d(F.max_pool2d(hole, 8), 3, 1, 1).flatten(1)[:, :, None]
        weights = torch.softmax(SOFTMAX_SCALE * similarity + visible.log().clamp(min=EXCLUDED), dim=1)
        attended = torch.matmul(_patches(features, 4, 2), weights)
        attended = attended.reshape(-1, c * 16, h // 2, w // 2)
        place = torch.eye(16, dtype=features.dtype, device=features.device).reshape(16, 1, 4, 4)
        # every pixel lies in four of the overlapping 4x4 patches; those at the border in fewer, and are darker for it,
        # as in the paper's code
        filled = F.conv_transpose2d(attended, place.repeat(c, 1, 1, 1), stride=2, padding=1, groups=c) / 4
        return composite(features, filled, F.max_pool2d(hole, 4))
