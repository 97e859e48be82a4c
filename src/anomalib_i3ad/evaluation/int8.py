"""What does INT8 cost in accuracy, and what does it bring? Both exports in the runtime, image by image in turn."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from anomalib.deploy import CompressionType
from rich.progress import track

from anomalib_i3ad.deploy import Inspector
from anomalib_i3ad.deploy.engine import Inspection
from anomalib_i3ad.models.exports import ExportMixin

from .accuracy import Accuracy, measure_accuracy


class Form(NamedTuple):
    """One form of an exported model: accuracy on the test images, what it said of each, and kilobytes of weights."""

    accuracy: Accuracy
    results: list[Inspection]
    kilobytes: float

    @property
    def milliseconds(self) -> np.ndarray:
        """Time of each image, without decoding."""
        return np.array([result.milliseconds for result in self.results])


def export_forms(model: ExportMixin, folder: Path, datamodule: AnomalibDataModule) -> dict[str, Path]:
    """Export a model in FP32 and in INT8, quantised by normal training images.

    Returns:
        Their ``.xml`` files by name.
    """
    import nncf  # noqa: PLC0415  # takes seconds to import, and only this needs it

    nncf.set_log_level(logging.WARNING)  # or it tells of every operation
    types = {"FP32": None, "INT8": CompressionType.INT8_PTQ}
    return {
        name: model.to_openvino(folder, name.lower(), compression_type=compression, datamodule=datamodule)
        for name, compression in types.items()
    }


def _as_batch(item: Any, result: Inspection, *, cropped: bool) -> ImageBatch:
    anomaly_map = torch.from_numpy(result.anomaly_map)[None]
    mask = None if cropped else item.gt_mask[None]
    return ImageBatch(
        image=torch.zeros(1, 3, *anomaly_map.shape[1:]), gt_label=item.gt_label[None], gt_mask=mask,
        mask_path=[item.mask_path], anomaly_map=anomaly_map, pred_score=torch.tensor([result.score]),
        pred_label=torch.tensor([result.label]), pred_mask=torch.from_numpy(result.mask)[None],
    )  # fmt: skip


def measure_forms(paths: dict[str, Path], dataset: AnomalibDataset, *, cropped: bool = False) -> dict[str, Form]:
    """Inspect test images by forms of one model in turn.

    Args:
        paths: ``.xml`` files by name.
        dataset: Images with their labels and masks.
        cropped: Whether they crop images, so that masks, which are whole, tell nothing of their maps.
    """
    inspectors = {name: Inspector(path) for name, path in paths.items()}
    results: dict[str, list[Inspection]] = {name: [] for name in paths}
    batches: dict[str, list[ImageBatch]] = {name: [] for name in paths}
    for index in track(range(len(dataset)), "inspecting"):
        item: Any = dataset[index]
        for name, inspector in inspectors.items():
            result = inspector.inspect(item.image_path)
            results[name].append(result)
            batches[name].append(_as_batch(item, result, cropped=cropped))
    return {
        name: Form(measure_accuracy(batches[name]), results[name], path.with_suffix(".bin").stat().st_size / 1000)
        for name, path in paths.items()
    }


def what_is_int8(path: Path) -> list[str]:
    """A sentence for every network of an exported model, from the report beside its file."""
    report = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return [
        f"{found['where']}: {len(found['quantized'])} of {found['convolutions']} convolutions in INT8"
        for found in report["int8"]
    ]
