"""Structural similarity, arranged for one image compared with many."""

import torch

WINDOW_SIZE = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def _window_matrix(length: int, like: torch.Tensor) -> torch.Tensor:
    """Gaussian window along one axis as a matrix ``(length, length)``, the image mirrored about its edges.

    The edge pixel is repeated (SciPy's ``reflect``). On a CPU the product with this matrix is many times
    faster than a convolution of single channels, forward and backward, and needs no padding.
    """
    pixel = torch.arange(length, device=like.device).to(like.dtype)
    target, source = pixel[:, None], pixel[None, :]

    def gaussian(offset: torch.Tensor) -> torch.Tensor:
        return torch.exp(-offset.square() / (2 * SIGMA**2)) * (offset.abs() <= WINDOW_SIZE // 2).to(like.dtype)

    weights = gaussian(source - target) + gaussian(-1 - source - target) + gaussian(2 * length - 1 - source - target)
    return weights / weights.sum(dim=1, keepdim=True)


def _local_mean(x: torch.Tensor) -> torch.Tensor:
    """Gaussian mean ``(N, C, H, W)`` around every pixel."""
    rows, columns = (_window_matrix(side, x) for side in x.shape[-2:])
    return torch.matmul(torch.matmul(rows, x), columns.transpose(0, 1))


def prepare(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Do once what depends on one side of the comparison alone: its local mean and variance.

    Args:
        image: ``(N, C, H, W)`` in [0, 1]; height and width at least 5.

    Returns:
        The image, and two tensors of its shape, for :func:`dissimilarity`.
    """
    centred = image - 0.5
    mean_c = _local_mean(centred)
    return image, mean_c, _local_mean(centred.square()) - mean_c.square()


def dissimilarity(prepared: tuple[torch.Tensor, ...], other: torch.Tensor) -> torch.Tensor:
    """``1 - SSIM``, exactly 0 wherever the two images are equal throughout the window.

    Args:
        prepared: The image, by :func:`prepare`.
        other: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``(N, 1, H, W)`` in [0, 2].
    """
    # With d = other - image: 2 mx my = mx^2 + my^2 - md^2, and likewise for the variances, so
    # that SSIM = (1 - md^2 / A) (1 - vd / B). Unlike the usual form this does not subtract
    # nearly equal numbers in flat regions, where runtimes would otherwise differ by 1e-4.
    image, mean_c, var_x = prepared
    mean_x = mean_c + 0.5
    d = other - image
    mean_d, mean_cd, mean_dd = _local_mean(torch.cat([d, (image - 0.5) * d, d * d], dim=1)).chunk(3, dim=1)
    var_d = mean_dd - mean_d.square()
    var_y = var_x + 2 * (mean_cd - mean_c * mean_d) + var_d
    luminance = mean_d.square() / (mean_x.square() + (mean_x + mean_d).square() + C1)
    structure = var_d / (var_x + var_y + C2)
    return (luminance + structure - luminance * structure).mean(dim=1, keepdim=True)


def ssim(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """SSIM map of images in [0, 1], mean over channels; equals scikit-image's, border included.

    scikit-image's arguments for the same numbers: ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, full=True``. Source: Wang et al., Image Quality
    Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004.

    Args:
        image: ``(N, C, H, W)``; height and width at least 5.
        other: ``(N, C, H, W)``.

    Returns:
        ``(N, 1, H, W)`` in [-1, 1].
    """
    return 1 - dissimilarity(prepare(image), other)
