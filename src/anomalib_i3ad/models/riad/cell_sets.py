"""Sets of cells that are hidden together (Zavrtanik et al., Pattern Recognition 2021, section 3.1)."""

import numpy as np
import torch


def random_cell_sets(cell: int, parts: int, height: int, width: int, rng: np.random.Generator) -> torch.Tensor:
    """Divide square cells at random into equally large sets (RIAD, section 3.1).

    Args:
        cell: Side of a cell in pixels.
        parts: Number of sets; they differ by at most one cell.
        height: Image height in pixels.
        width: Image width in pixels.
        rng: Source of randomness.

    Returns:
        ``(height, width)`` uint8, the set each pixel belongs to, 0 to ``parts - 1``.

    Raises:
        ValueError: If ``cell`` does not divide both sides.
    """
    if height % cell or width % cell:
        msg = (
            f"cell_sizes {cell} does not divide the image of {height}x{width} pixels: "
            f"choose an image_size that is a multiple of {cell}, or another cell size"
        )
        raise ValueError(msg)
    rows, columns = height // cell, width // cell
    member = rng.permutation(rows * columns).reshape(rows, columns) % parts
    return torch.from_numpy(member.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1))
