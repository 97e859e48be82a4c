"""AnoGAN's latent search, f-AnoGAN's encoder, and the anomaly score both share."""

from typing import Literal, get_args

import torch
from anomalib.data import InferenceBatch

from anomalib_i3ad.components.arguments import check_choice, check_count, check_range
from anomalib_i3ad.components.base import ImageModel
from anomalib_i3ad.components.loops import repeat
from anomalib_i3ad.components.patches import Windows, check_patches
from anomalib_i3ad.components.scores import ImageScore, Reduction

from .loss import cross_entropy
from .networks import Critic, Generator

Inference = Literal["search", "encoder", "encoder+search"]
Discrimination = Literal["features", "logit"]
#: Adam's constants; the ONNX exporter drops an addition of 1e-8 or less.
BETAS = (0.9, 0.999)
EPSILON = 1e-7


class AnoGanModel(ImageModel):
    """Finds the latent vector whose drawing comes nearest to a patch, and scores what differs.

    Arguments as of :class:`~anomalib_i3ad.models.AnoGan`.
    """

    def __init__(
        self,
        patch_size: int,
        stride: int,
        width: int,
        latent_dim: int,
        inference: Inference,
        search_steps: int,
        search_learning_rate: float,
        discrimination_weight: float,
        discrimination: Discrimination,
        image_score: Reduction,
        seed: int,
    ) -> None:
        super().__init__()
        check_choice("inference", inference, get_args(Inference))
        check_choice("discrimination", discrimination, get_args(Discrimination))
        counts = {"patch_size": patch_size, "stride": stride, "width": width, "latent_dim": latent_dim}
        for name, value in (counts | {"search_steps": search_steps}).items():
            check_count(name, value)
        check_range("search_learning_rate", search_learning_rate, above=0)
        check_range("discrimination_weight", discrimination_weight, at_least=0, at_most=1)
        self.generator = Generator(patch_size, width, latent_dim)
        self.discriminator = Critic(patch_size, width, 1)
        self.encoder = None if inference == "search" else Critic(patch_size, width, latent_dim)
        self.patch_size = patch_size
        self.stride = stride
        self.searches = inference != "encoder"
        self.search_steps = search_steps
        self.search_learning_rate = search_learning_rate
        self.discrimination_weight = discrimination_weight
        self.discrimination = discrimination
        self.image_score = ImageScore(image_score)
        #: Show a progress bar while searching.
        self.progress = False
        generator = torch.Generator().manual_seed(seed)
        #: Latent vector at which a search without encoder starts.
        self.start: torch.Tensor
        self.register_buffer("start", 2 * torch.rand(latent_dim, generator=generator) - 1)

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`."""
        check_patches(height, width, self.patch_size, self.stride)

    def encode(self, patch: torch.Tensor) -> torch.Tensor:
        """Latent vectors ``(N, latent_dim)`` in [-1, 1] of patches ``(N, 3, size, size)`` in [-1, 1]."""
        assert self.encoder is not None
        return torch.tanh(self.encoder(patch))

    def gradient(self, z: torch.Tensor, patch: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Gradient ``(N, latent_dim)`` of the search's loss by z (Schlegl et al. 2017, equation 3).

        ``(1 - lambda) * sum|x - G(z)| + lambda * sum|f(x) - f(G(z))|``, an image's own sums.

        Args:
            z: ``(N, latent_dim)``.
            patch: x, ``(N, 3, size, size)`` in [-1, 1].
            features: f(x).
        """
        weight = self.discrimination_weight
        drawn, to_latent = self.generator.linearise(z)
        drawn_features, to_pixels = self.discriminator.features.linearise(drawn)
        by_features = to_pixels(torch.sign(drawn_features - features))
        return to_latent((1 - weight) * torch.sign(drawn - patch) + weight * by_features)

    def search(self, patch: torch.Tensor, features: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Descend from ``start`` by Adam, with a state of its own for every patch.

        Shapes as in :meth:`gradient`.
        """
        first, second = BETAS

        def descend(
            i: torch.Tensor, z: torch.Tensor, mean: torch.Tensor, square: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            gradient = self.gradient(z, patch, features)
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient.square()
            step = (i + 1).to(z.dtype)
            unbiased = mean / (1 - torch.pow(first, step))
            scale = torch.sqrt(square / (1 - torch.pow(second, step))) + EPSILON
            return z - self.search_learning_rate * unbiased / scale, mean, square

        state = (start, torch.zeros_like(start), torch.zeros_like(start))
        return repeat(self.search_steps, descend, state, "searching" if self.progress else None)[0]

    def locate(self, patch: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Latent vectors ``(N, latent_dim)`` of patches in [-1, 1] with features f(x)."""
        start = self.start.expand(patch.shape[0], -1) if self.encoder is None else self.encode(patch)
        return self.search(patch, features, start) if self.searches else start

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`.

        A patch's score is ``A(x)``; the map is the mean absolute difference, averaged where patches overlap.
        """
        _, _, h, w = image.shape
        windows = Windows(h, w, self.patch_size, self.stride, image)
        cut = windows.cut(2 * image - 1)
        patch = cut.flatten(0, 2)
        features = self.discriminator.features(patch)
        drawn = self.generator(self.locate(patch, features))
        difference = (patch - drawn).abs()
        drawn_features = self.discriminator.features(drawn)
        if self.discrimination == "features":
            discrimination = (features - drawn_features).abs().sum(dim=(1, 2, 3))
        else:
            discrimination = cross_entropy(self.discriminator.head(drawn_features).flatten(1), real=True)
        weight = self.discrimination_weight
        score = (1 - weight) * difference.sum(dim=(1, 2, 3)) + weight * discrimination
        anomaly_map = windows.stitch((difference.mean(dim=1, keepdim=True) / 2).unflatten(0, cut.shape[:3]))
        patch_scores = score.unflatten(0, (-1, 1, len(windows)))
        return InferenceBatch(pred_score=self.image_score(patch_scores), anomaly_map=anomaly_map)
