"""The picture a person looks at to see why a part is anomalous."""

from pathlib import Path

import cv2
import numpy as np

from .engine import Inspection

#: Largest height and width in pixels of a picture's panels.
HEIGHT, WIDTH = 512, 1024
OUTLINE, INK = (0, 0, 255), (255, 255, 255)
#: Height of a line of text, and least width of a panel, in which its title fits.
LINE, LEAST = 20, 160
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def _line(text: str, width: int) -> np.ndarray:
    """Text as ``(LINE, width, 3)`` bytes; of a long one the end."""
    text = shown = text.encode("ascii", "replace").decode()  # the font has no others
    while cv2.getTextSize(shown, FONT, SCALE, 1)[0][0] > width:
        text = text[1:]
        shown = f"...{text}"
    return cv2.putText(np.zeros((LINE, width, 3), np.uint8), shown, (0, LINE - 6), FONT, SCALE, INK, 1, cv2.LINE_AA)


def picture(image: np.ndarray, result: Inspection, name: str, threshold: float) -> np.ndarray:
    """Image with the defect outlined, what the model drew in its place where it has that, and the map.

    Args:
        image: ``(H, W, 3)`` RGB bytes.
        result: Its inspection.
        name: Name of the image.
        threshold: Score above which it is anomalous.

    Returns:
        Name, score and threshold, and below them panels side by side with their titles, BGR bytes; each panel at most
        512 pixels high and 1024 wide. The map's colours run from 0 to 1 in every picture.
    """
    height, width = image.shape[:2]
    scale = min(HEIGHT / height, WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def panel(pixels: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        return cv2.resize(pixels, size, interpolation=interpolation)

    outlined = panel(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.INTER_AREA)
    mask = panel(result.mask.astype(np.uint8), cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    panels = {"defect outlined": cv2.drawContours(outlined, contours, -1, OUTLINE, 2)}
    if result.reconstruction is not None:
        panels["as it should look"] = panel(cv2.cvtColor(result.reconstruction, cv2.COLOR_RGB2BGR))
    heat = np.rint(255 * result.anomaly_map.clip(0, 1)).astype(np.uint8)
    panels["anomaly map"] = panel(cv2.applyColorMap(heat, cv2.COLORMAP_VIRIDIS))

    cell = max(size[0], LEAST)
    whole = cell * len(panels)
    space = ((0, 0), (0, cell - size[0]), (0, 0))
    columns = [np.vstack([_line(title, cell), np.pad(pixels, space)]) for title, pixels in panels.items()]
    score = f"score {result.score:.6f}, threshold {threshold:g}"
    return np.vstack([_line(name, whole), _line(score, whole), np.hstack(columns)])


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture whole or not at all.

    Args:
        path: A ``.jpg`` file; its folder is made.
        pixels: BGR bytes.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", pixels)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data.tobytes())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
