"""Film strip: how an iteration came to its result, iteration by iteration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import Visualizer
from lightning import Trainer
from PIL import Image, ImageDraw
from torch.nn import functional as F

from anomalib_i3ad.components.iteration import IterativeModel, Snapshot

TILE = 160  # pixels
GAP = 4
LINE = 16
HIDDEN = np.array([0.55, 0.55, 0.6])
OUTLINE = np.array([0.1, 1.0, 0.3])


def _pixels(image: torch.Tensor, mode: str = "bilinear") -> np.ndarray:
    """``(1, C, H, W)`` in [0, 1] as a tile ``(TILE, TILE, C)``."""
    align = {} if mode == "nearest" else {"align_corners": False}
    tile = F.interpolate(image.detach().float().cpu(), (TILE, TILE), mode=mode, **align)  # type: ignore[arg-type]
    return tile[0].permute(1, 2, 0).clamp(0, 1).numpy()


def outlined(tile: np.ndarray, mask: torch.Tensor) -> np.ndarray:
    """Draw the outline of a mask ``(H, W)`` on a tile."""
    inside = F.interpolate(mask.detach().float().cpu()[None, None], (TILE, TILE))
    # max-pooling minus the region itself: two pixels around it
    around = (F.max_pool2d(inside, 5, 1, 2) - inside)[0, 0].numpy() > 0
    return np.where(around[..., None], OUTLINE, tile)


def coloured(residual: torch.Tensor) -> np.ndarray:
    """Map in [0, 1] ``(1, 1, H, W)`` in colours; the scale is the same for every image."""
    return mpl.colormaps["inferno"](_pixels(residual)[..., 0])[..., :3]


def draw_film_strip(
    image: torch.Tensor,
    snapshots: Sequence[Snapshot],
    pixel_threshold: float,
    caption: str,
    pred_mask: torch.Tensor | None = None,
    gt_mask: torch.Tensor | None = None,
) -> Image.Image:
    """Draw an image, then for each iteration what was hidden, the inpainting, and its residual.

    Residuals r are shown as r / (r + t) for the pixel threshold t: half the scale is the threshold, for every image.

    Args:
        image: ``(1, 3, H, W)`` in [0, 1].
        snapshots: Iterations, the first one the initial inpainting.
        pixel_threshold: Residual from which a pixel is anomalous.
        caption: One line over the strip.
        pred_mask: ``(H, W)``, outlined in the image below the input.
        gt_mask: ``(H, W)``, outlined in the input.
    """
    tile = _pixels(image)
    first = [("input", tile) if gt_mask is None else ("input, true defect outlined", outlined(tile, gt_mask))]
    if pred_mask is not None:
        first.append(("found", outlined(tile, pred_mask)))
    columns = [first]
    for number, snapshot in enumerate(snapshots):
        hole = _pixels(snapshot.hole, "nearest")
        shown = snapshot.residual / (snapshot.residual + pixel_threshold)
        columns.append(
            [
                (
                    f"hidden, iteration {number}" if number else "hidden, one part of four",
                    tile * (1 - hole) + HIDDEN * hole,
                ),
                ("inpainted", _pixels(snapshot.inpainting)),
                ("difference", coloured(shown)),
            ]
        )
    strip = Image.new("RGB", (GAP + len(columns) * (TILE + GAP), LINE + GAP + 3 * (TILE + LINE)), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((GAP, 2), caption, fill="black")
    for column, tiles in enumerate(columns):
        left = GAP + column * (TILE + GAP)
        for row, (title, pixels) in enumerate(tiles):
            top = LINE + GAP + row * (TILE + LINE)
            draw.text((left, top), title, fill=(90, 90, 90))
            strip.paste(Image.fromarray(np.round(255 * pixels).astype(np.uint8)), (left, top + LINE))
    return strip


def film_strip_of(model: Any, item: Any) -> Image.Image:
    """Film strip of a scored image.

    Args:
        model: Lightning model whose torch model is an :class:`IterativeModel`.
        item: Image at the model's input size, with its result.

    Raises:
        TypeError: If the model does not iterate.
    """
    if not isinstance(model.model, IterativeModel):
        msg = f"{type(model).__name__} does not iterate: film strips are for I3AD and FeatureI3AD"
        raise TypeError(msg)
    image = item.image.as_subclass(torch.Tensor)[None].float()
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        snapshots = model.model.record(image)
    verdict = "anomalous" if item.pred_label else "normal"
    caption = f"{Path(item.image_path or '').name}: {verdict}, score {float(item.pred_score):.3f} (threshold 0.5)"
    true = None if item.gt_mask is None or not item.gt_mask.any() else item.gt_mask.as_subclass(torch.Tensor)
    found = item.pred_mask.as_subclass(torch.Tensor).reshape(item.pred_mask.shape[-2:])
    return draw_film_strip(image, snapshots, float(model.post_processor.pixel_threshold), caption, found, true)


class FilmStripVisualizer(Visualizer):
    """Writes the film strip of every image that ``test`` or ``predict`` scores, one iteration more an image.

    ``anomalib test --model anomalib_i3ad.I3AD --model.visualizer anomalib_i3ad.visualization.FilmStripVisualizer ...``

    Args:
        output_dir: Folder; ``images`` below the run's by default, as anomalib's own pictures.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        super().__init__()
        self.output_dir = output_dir

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Draw and write."""
        del outputs, args, kwargs
        folder = self.output_dir or Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        for item in batch:
            name = generate_output_filename(
                input_path=item.image_path or "",
                output_path=folder,
                dataset_name=getattr(datamodule, "name", None),
                category=getattr(datamodule, "category", None),
            )
            film_strip_of(pl_module, item).save(Path(name).with_suffix(".png"))

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_test_batch_end`."""
        self.on_test_batch_end(*args, **kwargs)
