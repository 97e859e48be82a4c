"""A sheet of titled tiles with a legend, from which film strips are made."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

TILE = 256  # pixels of a tile's longer side
GAP = 8
LINE = 26  # height of a line of text
BAR = 18  # height of the colour scale
CAPTION = 34  # height of the line over the sheet
FONT, LARGE = ImageFont.load_default(18), ImageFont.load_default(22)
INK, FAINT = (20, 20, 20), (90, 90, 90)
HIDDEN = np.array([0.25, 0.45, 0.75])  # no colour of parts and of gray images
#: Outlines; one is dark and one is bright, so that they differ without their colours, too.
FOUND, TRUE = np.array([0.95, 0.1, 0.1]), np.array([0.1, 0.95, 1.0])
COLOURS = mpl.colormaps["inferno"]


class Tile(NamedTuple):
    """``pixels`` (h, w, 3) in [0, 1], at most TILE along each side, and a title of at most 28 letters."""

    title: str
    pixels: np.ndarray


def pixels_of(image: torch.Tensor, mode: str = "bilinear") -> np.ndarray:
    """``(1, C, H, W)`` in [0, 1] as a tile ``(h, w, C)`` of the same proportions."""
    smooth = {} if mode == "nearest" else {"align_corners": False, "antialias": True}
    size = [max(1, round(TILE * side / max(image.shape[-2:]))) for side in image.shape[-2:]]
    tile = F.interpolate(image.detach().float().cpu(), size, mode=mode, **smooth)  # type: ignore[arg-type]
    return tile[0].permute(1, 2, 0).clamp(0, 1).numpy()


def outlined(pixels: np.ndarray, mask: torch.Tensor, colour: np.ndarray) -> np.ndarray:
    """Draw the outline of a mask ``(H, W)`` on a tile, around what it holds."""
    inside = F.interpolate(mask.detach().float().cpu()[None, None], pixels.shape[:2])
    # max-pooling minus the region itself: two pixels around it
    around = (F.max_pool2d(inside, 5, 1, 2) - inside)[0, 0].numpy() > 0
    return np.where(around[..., None], colour, pixels)


def coloured(anomaly_map: torch.Tensor) -> np.ndarray:
    """Map in [0, 1] ``(1, 1, H, W)`` in colours; the scale is the same for every image."""
    return COLOURS(pixels_of(anomaly_map)[..., 0])[..., :3]


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * pixels).astype(np.uint8))


def top_of(row: int, caption: str) -> int:
    """Where a row of tiles begins, the titles not counted."""
    return (CAPTION if caption else 0) + (1 + row) * LINE + row * TILE


def draw_sheet(
    caption: str,
    columns: Sequence[tuple[str, Sequence[Tile]]],
    keys: Sequence[tuple[np.ndarray, str]],
    threshold: float,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draw columns of tiles under their headings, and below them the colour scale and what else needs a word.

    Args:
        caption: Line over the sheet; may be empty.
        columns: Heading and tiles of each.
        keys: Colours and what they mean.
        threshold: What is marked on the colour scale.
        notes: Lines below all else.
    """
    below = top_of(max(len(tiles) for _, tiles in columns), caption) + GAP
    bottom = below + max(BAR + LINE, len(keys) * LINE)
    right = 2 * GAP + TILE  # of the colour scale
    needed = [
        len(columns) * (TILE + GAP),
        LARGE.getlength(caption) + GAP,
        *(FONT.getlength(note) + GAP for note in notes),
        *(right + LINE + FONT.getlength(text) for _, text in keys),
    ]
    sheet = Image.new("RGB", (GAP + round(max(needed)), bottom + len(notes) * LINE + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    if caption:
        draw.text((GAP, GAP // 2), caption, INK, LARGE)
    for number, (heading, tiles) in enumerate(columns):
        left = GAP + number * (TILE + GAP)
        draw.text((left, top_of(0, caption) - LINE), heading, INK, FONT)
        for row, (title, pixels) in enumerate(tiles):
            top = top_of(row, caption)
            draw.text((left, top), title, FAINT, FONT)
            sheet.paste(_picture(pixels), (left, top + LINE))
    scale = np.broadcast_to(COLOURS(np.linspace(0, 1, TILE))[:, :3], (BAR, TILE, 3))
    sheet.paste(_picture(scale), (GAP, below))
    mark, said, ends = round(threshold * TILE), f"{threshold:g}: threshold", FONT.getlength("0") + GAP
    draw.line([(GAP + mark, below), (GAP + mark, below + BAR + 3)], "white", 2)
    room = ends + FONT.getlength(said) / 2
    places = ((0, "la", "0"), (min(max(mark, room), TILE - room), "ma", said), (TILE, "ra", "1"))
    for place, anchor, text in places:
        draw.text((GAP + place, below + BAR + 3), text, INK, FONT, anchor)
    for number, (colour, text) in enumerate(keys):
        top = below + number * LINE
        draw.rectangle((right, top + 2, right + BAR, top + 2 + BAR), tuple(np.round(255 * colour).astype(int)))
        draw.text((right + LINE, top), text, INK, FONT)
    for number, note in enumerate(notes):
        draw.text((GAP, bottom + number * LINE), note, FAINT, FONT)
    return sheet
