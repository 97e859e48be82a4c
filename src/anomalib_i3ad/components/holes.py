"""Holes: 1 where a pixel is hidden from the generator and must be inpainted, 0 where it is visible.

The sources write the complement, M = 1 where visible; this package uses holes everywhere.
"""

import cv2
import numpy as np
import torch

# Free-form strokes, in pixels of a 256 px image (Yu et al., ICCV 2019, section 3.4 and public code).
REFERENCE_SIDE = 256
STROKES = (1, 3)
VERTICES = (4, 11)
BRUSH_WIDTH = (12, 40)
TURN = 2 * np.pi / 5
TURN_SPREAD = 2 * np.pi / 15
BOX_SIDE = (0.375, 0.5)


def grid_holes(grid: int, height: int, width: int) -> torch.Tensor:
    """Four complementary holes of the cells of a grid (I3AD, figure "initial masks").

    Args:
        grid: Cells along each side, even, a divisor of both; a cell is ``height / grid`` by ``width / grid`` pixels.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        ``(4, 1, height, width)`` float in {0, 1}; every pixel is hidden in exactly one of the four.
    """
    row = torch.arange(height).div(height // grid, rounding_mode="floor") % 2
    column = torch.arange(width).div(width // grid, rounding_mode="floor") % 2
    member = 2 * row[:, None] + column[None, :]
    return torch.stack([(member == k).float() for k in range(4)])[:, None]


def free_form_hole(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw brush strokes and one box; at 256 px about 31 % of the pixels (Yu et al. 2019, section 3.4).

    Args:
        height: Image height in pixels; brush and box scale with the image.
        width: Image width in pixels.
        rng: Source of randomness.

    Returns:
        ``(height, width)`` float32 in {0, 1}.
    """
    hole = np.zeros((height, width), np.float32)
    diagonal = float(np.hypot(height, width))
    scale = np.sqrt(height * width) / REFERENCE_SIDE
    for _ in range(rng.integers(*STROKES, endpoint=True)):
        brush = max(1, round(scale * rng.uniform(*BRUSH_WIDTH)))
        point = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        start = rng.uniform(0, 2 * np.pi)
        for vertex in range(rng.integers(*VERTICES, endpoint=True)):
            turn = TURN + rng.uniform(-TURN_SPREAD, TURN_SPREAD)
            angle = start + (turn if vertex % 2 else 2 * np.pi - turn)
            length = np.clip(rng.normal(diagonal / 8, diagonal / 16), 0, diagonal / 4)
            end = np.clip(point + length * np.array([np.cos(angle), np.sin(angle)]), 0, [width - 1, height - 1])
            # OpenCV draws thick lines with round ends, so joints are round
            cv2.line(hole, point.astype(int).tolist(), end.astype(int).tolist(), 1.0, brush)
            point = end
    box_height, box_width = (max(1, round(side * rng.uniform(*BOX_SIDE))) for side in (height, width))
    top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
    hole[top : top + box_height, left : left + box_width] = 1
    return hole


def training_holes(
    count: int,
    height: int,
    width: int,
    rng: np.random.Generator,
    holes_of_grid: torch.Tensor,
    grid_probability: float,
) -> torch.Tensor:
    """Draw one hole per image: free-form, or with ``grid_probability`` one of the grid holes.

    Args:
        count: Number of holes.
        height: Image height in pixels.
        width: Image width in pixels.
        rng: Source of randomness.
        holes_of_grid: ``(K, 1, height, width)``, the grid holes to choose from.
        grid_probability: Share of grid holes, in [0, 1].

    Returns:
        ``(count, 1, height, width)`` float in {0, 1}.
    """
    holes = torch.empty(count, 1, height, width)
    for hole in holes:
        if rng.random() < grid_probability:
            hole.copy_(holes_of_grid[rng.integers(len(holes_of_grid))])
        else:
            hole.copy_(torch.from_numpy(free_form_hole(height, width, rng)))
    return holes
