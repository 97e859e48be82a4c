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
            called once, with all S * P * N, hole by hole.

    Returns:
        ``(N, S, C, H, W)``, each pixel taken from the drawing in which it was hidden.
    """
    # feature maps never in five dimensions: else an exported graph rearranges them in memory; and neither len(),
    # split() nor repeat_interleave(), which fix the batch size in it
    n, (ways, parts) = image.shape[0], holes.shape[:2]
    hidden = holes.flatten(0, 1)[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)
    # not each part with its own hole: an exported file would hold the holes twice
    drawn = draw(image.repeat(ways * parts, 1, 1, 1), hidden) * hidden
    kept = [drawn.narrow(0, i * n, n) for i in range(ways * parts)]
    return torch.stack([sum(kept[i + 1 : i + parts], kept[i]) for i in range(0, len(kept), parts)], dim=1)
