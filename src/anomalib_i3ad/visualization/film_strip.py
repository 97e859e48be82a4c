"""Film strip: a result, and how it came about, iteration by iteration."""

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import Visualizer
from lightning import Trainer
from PIL import Image

from anomalib_i3ad.components.iteration import IterativeModel, Snapshot

from .captions import caption_of
from .sheet import FOUND, HIDDEN, TRUE, Tile, coloured, draw_sheet, outlined, pixels_of

#: What of the map becomes the score.
SCORE_FROM = {
    "mean": "the mean of the map",
    "l4": "the map, in which the highest values count most",
    "max": "the highest value of the map",
    "top_k": "the highest 1 % of the map",
}

Keys = list[tuple[np.ndarray, str]]


def plain(field: Any) -> torch.Tensor | None:
    """Mask or map ``(H, W)`` of an item."""
    return None if field is None else field.as_subclass(torch.Tensor).reshape(field.shape[-2:])


def result_tiles(
    image: torch.Tensor,
    anomaly_map: torch.Tensor | None,
    pred_mask: torch.Tensor | None,
    gt_mask: torch.Tensor | None,
    map_threshold: float,
) -> tuple[list[Tile], Keys]:
    """Tiles of an image and its result, and what the outlines mean; arguments as :func:`draw_film_strip`."""
    pixels = pixels_of(image)
    tiles, marked, keys = [Tile("image", pixels)], pixels, []
    if pred_mask is not None:
        marked = outlined(marked, pred_mask, FOUND)
        told = f"map above {map_threshold:g}, at peaks" if pred_mask.any() else f"nothing above {map_threshold:g}"
        keys.append((FOUND, f"found: {told}"))
    if gt_mask is not None and gt_mask.any():
        marked = outlined(marked, gt_mask, TRUE)
        keys.append((TRUE, "true defect"))
    if keys:
        tiles.append(Tile("image, outlined", marked))
    if anomaly_map is not None:
        tiles.append(Tile("anomaly map", coloured(anomaly_map[None, None])))
    return tiles, keys


def draw_film_strip(
    image: torch.Tensor,
    snapshots: Sequence[Snapshot],
    pixel_threshold: float,
    caption: str,
    anomaly_map: torch.Tensor | None = None,
    pred_mask: torch.Tensor | None = None,
    gt_mask: torch.Tensor | None = None,
    map_threshold: float = 0.5,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draw an image and its result, then for each iteration what was hidden, the reconstruction, and the difference.

    Residuals r are shown as r / (r + t) for the pixel threshold t, as in normalised maps: t is half the scale.

    Args:
        image: ``(1, 3, H, W)`` in [0, 1].
        snapshots: Iterations, the first one the initial inpainting.
        pixel_threshold: Residual from which a pixel is anomalous.
        caption: One line over the strip; may be empty.
        anomaly_map: ``(H, W)``, the normalised map from which the score was taken.
        pred_mask: ``(H, W)``, outlined as found.
        gt_mask: ``(H, W)``, outlined as the true defect.
        map_threshold: Value of the normalised map above which a pixel is anomalous.
        notes: Lines below the strip.
    """
    tiles, keys = result_tiles(image, anomaly_map, pred_mask, gt_mask, map_threshold)
    columns = [("Result", tiles)]
    for number, snapshot in enumerate(snapshots):
        hole = pixels_of(snapshot.hole, "nearest")
        shown = snapshot.residual / (snapshot.residual + pixel_threshold)
        iteration = [
            Tile("hidden" if number else "hidden, one of four times", tiles[0].pixels * (1 - hole) + HIDDEN * hole),
            Tile("reconstruction", pixels_of(snapshot.inpainting)),
            Tile("difference", coloured(shown)),
        ]
        columns.append((f"Iteration {number}" if number else "Initial inpainting", iteration))
    return draw_sheet(caption, columns, [*keys, (HIDDEN, "hidden from the model")], map_threshold, notes)


def film_strip_of(model: Any, item: Any, caption: str) -> Image.Image:
    """Film strip of a scored image.

    Args:
        model: Lightning model whose torch model is an :class:`IterativeModel`.
        item: Image at the model's input size, with its result.
        caption: One line over the strip; may be empty.

    Raises:
        TypeError: If the model does not iterate.
    """
    network = model.model
    if not isinstance(network, IterativeModel):
        msg = f"{type(model).__name__} does not iterate: film strips are for I3AD and FeatureI3AD"
        raise TypeError(msg)
    image = item.image.as_subclass(torch.Tensor)[None].float()
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        snapshots = network.record(image)
    count = 1 + network.max_iterations
    made = {
        "last": "the last difference",
        "mean": f"the mean of {count} differences, 0 where nothing was left to hide",
        "mean_hidden": "at each place the mean of its differences while it was hidden",
    }
    processor = model.post_processor
    return draw_film_strip(
        image, snapshots, float(processor.pixel_threshold), caption,
        plain(item.anomaly_map), plain(item.pred_mask), plain(item.gt_mask),
        float(processor.normalized_pixel_threshold),
        [
            f"anomaly map: {made[network.anomaly_map]}",
            f"score: from {SCORE_FROM[network.image_score.reduction]}",
        ],
    )  # fmt: skip


class FilmStripVisualizer(Visualizer):
    """Writes the film strip of every image that ``test`` or ``predict`` scores; the model runs once more for each.

    ``anomalib test --model anomalib_i3ad.I3AD --model.visualizer anomalib_i3ad.visualization.FilmStripVisualizer ...``

    Args:
        output_dir: Folder; ``images`` below the run's by default, as anomalib's own pictures.

    Raises:
        TypeError: While images are scored, if the model does not iterate.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        super().__init__()
        self.output_dir = output_dir
        #: The image of each strip's file: two images may have one name.
        self._drawn: dict[Path, str | None] = {}

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
            caption = caption_of(item, float(pl_module.post_processor.normalized_image_threshold))
            # beside part.jpg there may be a part.bmp, and beside monday/good/1.png a tuesday/good/1.png
            name = name if name.suffix == ".png" else name.with_name(f"{name.name}.png")
            names = chain([name], (name.with_stem(f"{name.stem}_{number}") for number in count(1)))
            own = next(path for path in names if self._drawn.setdefault(path, item.image_path) == item.image_path)
            film_strip_of(pl_module, item, caption).save(own)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_test_batch_end`."""
        self.on_test_batch_end(*args, **kwargs)
