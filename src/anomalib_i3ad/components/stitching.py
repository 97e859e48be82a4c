"""Puts what was drawn in the place of what was hidden."""

from collections.abc import Callable

import torch


def composite(scene: torch.Tensor, drawn: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Take the hole from ``drawn`` and all that is visible, bit for bit, from ``scene``; mix them between."""
    return drawn * hole + scene * (1 - hole)


def draw_hidden(
    image: torch.Tensor, holes: torch.Tensor, draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Hide each part of an image once, draw it from the rest, and stitch the drawn parts together.

    Args:
        image: ``(N, C, H, W)``.
        holes: ``(S, P, 1, H, W)`` in {0, 1}: S ways to divide the image into P disjoint parts that cover it.
        draw: Maps images ``(B, C, H, W)`` and their holes ``(B, 1, H, W)`` to drawings ``(B, C, H, W)``;
            called once, with all N * S * P.

    Returns:
        ``(N, S, C, H, W)``, each pixel taken from the drawing in which it was hidden.
    """
    n, c, h, w = image.shape
    ways, parts = holes.shape[:2]
    images = image[:, None].expand(n, ways * parts, c, h, w).reshape(-1, c, h, w)
    all_holes = holes.flatten(0, 1)[None].expand(n, ways * parts, 1, h, w).reshape(-1, 1, h, w)
    drawn = draw(images, all_holes).reshape(n, ways, parts, c, h, w)
    return (drawn * holes).sum(dim=2)
