"""The picture a person looks at to see why a part is anomalous."""

from pathlib import Path

import cv2
import numpy as np

from .engine import Inspection
from .files import replacing

#: Largest height and width in pixels of a picture's panels.
HEIGHT, WIDTH = 512, 1024
#: BGR: the outline, plain text, text that tells of a defect, and the scale's frame.
OUTLINE, INK, ALERT, FRAME = (0, 0, 255), (255, 255, 255), (90, 110, 255), (110, 110, 110)
#: Height of a line of text, and least width of a panel, in which its title fits.
LINE, LEAST = 28, 260
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6
#: Height of the colour scale, and space between panels.
BAR, GAP = 14, 8
COLOURS = cv2.COLORMAP_INFERNO


def _write(on: np.ndarray, text: str, left: int, ink: tuple[int, int, int] = INK) -> None:
    cv2.putText(on, text, (left, LINE - 8), FONT, SCALE, ink, 1, cv2.LINE_AA)


def _width(text: str) -> int:
    return cv2.getTextSize(text, FONT, SCALE, 1)[0][0]


def _line(text: str, width: int, ink: tuple[int, int, int] = INK) -> np.ndarray:
    """Text as ``(LINE, width, 3)`` bytes; of a long one the end."""
    text = shown = text.encode("ascii", "replace").decode()  # the font has no others
    while _width(shown) > width:
        text = text[1:]
        shown = f"...{text}"
    line = np.zeros((LINE, width, 3), np.uint8)
    _write(line, shown, 0, ink)
    return line


def _scale(width: int, threshold: float) -> np.ndarray:
    """The map's colours from 0 to 1 with the threshold marked, ``(BAR + LINE, width, 3)``."""
    every = np.rint(np.linspace(0, 255, width)).astype(np.uint8)
    bar = np.repeat(cv2.applyColorMap(every[None], COLOURS), BAR, axis=0)
    cv2.rectangle(bar, (0, 0), (width - 1, BAR - 1), FRAME)  # its lower end is as dark as the picture
    mark = round(threshold * (width - 1))
    cv2.line(bar, (mark, 0), (mark, BAR), INK, 2)
    labels, said = np.zeros((LINE, width, 3), np.uint8), f"{threshold:g}: threshold"
    ends, room = _width("0") + GAP, _width(said)
    for text, left in (
        ("0", 0),
        (said, min(max(mark - room // 2, ends), width - ends - room)),
        ("1", width - _width("1")),
    ):
        _write(labels, text, left)
    return np.vstack([bar, labels])


def picture(
    image: np.ndarray,
    result: Inspection,
    name: str,
    threshold: float,
    pixel_threshold: float,
    height: int = HEIGHT,
) -> np.ndarray:
    """Image with the defect outlined, what the model drew in its place where it has that, and the map.

    Args:
        image: ``(H, W, 3)`` RGB bytes.
        result: Its inspection.
        name: Name of the image.
        threshold: Score above which it is anomalous.
        pixel_threshold: Map value above which a pixel is.
        height: Largest height of a panel in pixels.

    Returns:
        Name, result, score and threshold, and below them panels with their titles, BGR bytes; side by side, those of
        wide images below each other. A panel is at most 1024 pixels wide. The map's colours run from 0 to 1 in every
        picture.
    """
    scale = min(height / image.shape[0], WIDTH / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    width = max(size[0], LEAST)

    def panel(pixels: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        return cv2.resize(pixels, size, interpolation=interpolation)

    def titled(title: str, pixels: np.ndarray, below: np.ndarray) -> np.ndarray:
        framed = np.pad(pixels, ((0, GAP), (0, width - size[0]), (0, 0)))
        space = ((0, BAR + LINE - len(below)), (0, 0), (0, 0))
        return np.pad(np.vstack([_line(title, width), framed, np.pad(below, space)]), ((0, 0), (0, GAP), (0, 0)))

    outlined = panel(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.INTER_AREA)
    # around what was found, not on it
    mask = cv2.dilate(panel(result.mask.astype(np.uint8), cv2.INTER_NEAREST), np.ones((7, 7), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlined = cv2.drawContours(outlined, contours, -1, OUTLINE, 2)
    panels = [titled("defect outlined", outlined, _line(f"red: map above {pixel_threshold:g}, at peaks", width))]
    if result.reconstruction is not None:
        drawn = panel(cv2.cvtColor(result.reconstruction, cv2.COLOR_RGB2BGR))
        panels.append(titled("as it should look", drawn, _line("a sketch by the model", width)))
    heat = np.rint(255 * result.anomaly_map.clip(0, 1)).astype(np.uint8)
    panels.append(titled("anomaly map", panel(cv2.applyColorMap(heat, COLOURS)), _scale(width, pixel_threshold)))
    joined = (np.vstack if size[0] > 2 * size[1] else np.hstack)(panels)
    said = f"{'anomalous' if result.label else 'normal'}: score {result.score:.6f}, threshold {threshold:g}"
    head = [_line(name, joined.shape[1]), _line(said, joined.shape[1], ALERT if result.label else INK)]
    return np.pad(np.vstack([*head, joined]), ((0, 0), (GAP, 0), (0, 0)))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture whole or not at all.

    Args:
        path: A ``.jpg`` file; its folder is made.
        pixels: BGR bytes.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", pixels)
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
