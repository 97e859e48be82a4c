"""Losses of I3AD's inpainting GAN (I3AD, section 2.1; Yu et al., ICCV 2019, section 3.3)."""

import torch
from torch.nn import functional as F


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Hinge loss ``E[relu(1 - D(x))] + E[relu(1 + D(G(x)))]`` of logits of any shape."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def adversarial_loss(fake: torch.Tensor) -> torch.Tensor:
    """Generator's hinge loss ``-E[D(G(x))]`` of logits of any shape."""
    return -fake.mean()


def reconstruction_loss(image: torch.Tensor, drawn: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of the image and what each stage drew, hole and surroundings, summed over stages."""
    return torch.stack([F.l1_loss(stage, image) for stage in drawn]).sum()
