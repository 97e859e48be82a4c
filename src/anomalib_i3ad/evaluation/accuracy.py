"""Accuracy of a trained model on its test images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.data.utils import read_mask
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, F1Score
from anomalib.models import AnomalibModule
from lightning import Trainer
from torch.nn import functional as F
from torchvision.transforms.v2 import CenterCrop, Resize

#: Height and width in pixels at which maps and masks of all models are compared, whatever their own.
RESOLUTION = (256, 256)
#: Heads of the columns that :meth:`Accuracy.cells` fills.
COLUMNS = ("image AUROC", "pixel AUROC", "AU-PRO", "image F1", "pixel F1", "found", "false alarms")


def figure_of(value: float) -> str:
    """Text of a figure; ``-`` for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


class Accuracy(NamedTuple):
    """Figures over all test images; from F1 on, at the thresholds found from normal validation images.

    AU-PRO counts false positive rates up to 0.3; maps and masks are compared at 256 x 256 pixels. Figures of pixels
    are NaN for models without maps and data sets without masks, and all that take anomalous images, or normal ones,
    where there are none.
    """

    image_auroc: float
    pixel_auroc: float
    au_pro: float
    image_f1: float
    pixel_f1: float
    found: int
    anomalous: int
    false_alarms: int
    normal: int

    def figures(self) -> list[str]:
        """Texts of all but the counts."""
        return [figure_of(value) for value in self[: self._fields.index("found")]]

    def cells(self) -> list[str]:
        """Text of a row in a table with :data:`COLUMNS`."""
        return [*self.figures(), f"{self.found}/{self.anomalous}", f"{self.false_alarms}/{self.normal}"]


def geometry_of(transform: Any) -> list[Any]:
    """Resizes and crops of a transform, in their order."""
    if isinstance(transform, Resize | CenterCrop):
        return [transform]
    return [part for each in getattr(transform, "transforms", ()) for part in geometry_of(each)]


def crops(model: AnomalibModule) -> bool:
    """Whether a model sees but the middle of an image."""
    transform: Any = getattr(model.pre_processor, "transform", None)
    return any(isinstance(part, CenterCrop) for part in geometry_of(transform))


def predict(runner: Engine | Trainer, model: AnomalibModule, datamodule: AnomalibDataModule) -> list[Any]:
    """Score the test images of a datamodule by a model's weights as they are; they keep their labels and masks.

    A model that crops images is compared with masks cropped alike, on what it sees.
    """
    datamodule.prepare_data()
    datamodule.setup("test")
    batches: list[Any] = runner.predict(model, dataloaders=datamodule.test_dataloader()) or []
    whole = not crops(model)  # as the masks of files are; those of the batch are cropped as its images
    samples = datamodule.test_data.samples
    masks = dict(zip(samples["image_path"], samples["mask_path"], strict=True))
    for batch in batches:
        if getattr(batch, "image_path", None):  # those of videos have none
            # collated, a batch whose first image is normal has lost its paths
            found = [masks[path] for path in batch.image_path]
            batch.mask_path = [mask if isinstance(mask, str) else "" for mask in found] if whole else None
    return batches


def _files_of(mask: Path, image: Path) -> list[Path]:
    """Files of an image's mask: all in a folder of the image's kind and name, as MVTec LOCO has them, or the one."""
    return sorted(mask.parent.iterdir()) if mask.parts[-3:-1] == (image.parent.name, image.stem) else [mask]


def _defects_in(mask: torch.Tensor) -> int:
    return cv2.connectedComponents(mask[0, 0].byte().numpy())[0] - 1


def _mask_of(path: Path) -> torch.Tensor:
    mask: Any = read_mask(path, as_tensor=True)
    mask = (mask[None, None] > 0).float()
    nearest = F.interpolate(mask, RESOLUTION)
    if _defects_in(nearest) != _defects_in(mask):  # of a large mask thin ones would be lost, or count as many
        return F.adaptive_max_pool2d(mask, RESOLUTION)[0]
    return nearest[0]


def _as_maps(values: Any) -> torch.Tensor:
    return values.as_subclass(torch.Tensor).float().reshape(len(values), 1, *values.shape[-2:])


def compared(maps: Any) -> torch.Tensor:
    """Anomaly maps, tensors ``(N, 1, h, w)``, at :data:`RESOLUTION`."""
    return F.interpolate(_as_maps(maps), RESOLUTION, mode="bilinear")


def true_masks(batch: ImageBatch) -> torch.Tensor:
    """Masks ``(N, 1, H, W)`` of a batch at :data:`RESOLUTION`, bool, from their files where it has them."""
    masks = F.interpolate(_as_maps(batch.gt_mask), RESOLUTION)
    for row, path in enumerate(batch.mask_path or ()):
        if path and path != "None":  # what anomalib calls the mask of a normal image
            image = Path(batch.image_path[row] if batch.image_path else "")
            masks[row] = torch.stack([_mask_of(file) for file in _files_of(Path(path), image)]).amax(dim=0)
    return masks > 0


def _at_one_resolution(batch: ImageBatch) -> ImageBatch:
    found = F.interpolate(_as_maps(batch.pred_mask), RESOLUTION)
    return ImageBatch(
        image=torch.zeros(len(found), 3, *RESOLUTION), anomaly_map=compared(batch.anomaly_map),
        gt_mask=true_masks(batch)[:, 0], pred_mask=found[:, 0] > 0,
        pred_score=batch.pred_score, pred_label=batch.pred_label, gt_label=batch.gt_label,
    )  # fmt: skip


def measure_accuracy(predictions: Sequence[ImageBatch]) -> Accuracy:
    """Compute all figures from predicted batches of test images."""
    images: Any = (AUROC(["pred_score", "gt_label"]), F1Score(["pred_label", "gt_label"]))
    maps = ("anomaly_map", "gt_mask")
    pixels: Any = (AUROC(maps), AUPRO(maps), F1Score(["pred_mask", "gt_mask"]))
    for batch in predictions:
        for metric in images:
            metric.update(batch)
        if batch.anomaly_map is not None and batch.gt_mask is not None:
            at_one_resolution = _at_one_resolution(batch)
            for metric in pixels:
                metric.update(at_one_resolution)
    label = torch.cat([batch.gt_label for batch in predictions]).bool()
    flagged = torch.cat([batch.pred_label for batch in predictions]).bool()
    # of one class torchmetrics gives 0
    image_auroc, image_f1, pixel_auroc, au_pro, pixel_f1 = (
        metric.compute().item() if metric.update_called and label.any() else math.nan for metric in (*images, *pixels)
    )
    if label.all():
        image_auroc = math.nan
    counts = (int(count.sum()) for count in (flagged & label, label, flagged & ~label, ~label))
    return Accuracy(image_auroc, pixel_auroc, au_pro, image_f1, pixel_f1, *counts)
