"""Compares an exported graph with its model, and writes the report."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from anomalib.deploy import CompressionType
from anomalib.models import AnomalibModule

from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.difference import Difference, difference, largest
from anomalib_i3ad.deploy.graph import FP32, OUTPUTS, detail_names, with_details
from anomalib_i3ad.post_processing import QUANTILES

from .images import flat_images
from .quantization import Quantized

logger = logging.getLogger(__name__)

SCORE_TOLERANCE = 1e-4
MAP_TOLERANCE = 1e-3
#: Share of pixels: rounding decides those at a threshold.
MASK_TOLERANCE = 1e-3
PACKAGES = ("anomalib-i3ad", "anomalib", "torch", "openvino", "nncf")


def _as_engine(module: AnomalibModule, image: torch.Tensor) -> Any:
    """As ``Engine.predict`` has it: a module called by itself takes the transform that is meant for exports."""
    transform: Any = module.pre_processor and module.pre_processor.transform
    inferred = module.model(transform(image) if transform else image)
    return module.post_processor(inferred) if module.post_processor else inferred


def compare(
    module: AnomalibModule, model: ov.Model, images: Sequence[torch.Tensor], *, compressed: bool = False
) -> dict[str, Any]:
    """Run model and graph on the same images.

    Args:
        module: The trained model, on the CPU and in evaluation mode.
        model: Its graph.
        images: ``(1, 3, H, W)`` in [0, 1].
        compressed: Only other labels are then worth a warning.

    Returns:
        Entries of the report: the largest differences, equal labels, and iterations used where there are any.

    Raises:
        ValueError: If a result of the graph is not finite.
    """
    compiled = new_core().compile_model(with_details(model.clone()), "CPU", FP32)
    iterates = "iterations" in detail_names(model)
    images = [*images, *flat_images(images[0])]
    found, masks, iterations = list[Difference](), list[float](), list[float]()
    for image in images:
        result = compiled(image.numpy())
        for name in ("pred_score", "anomaly_map"):
            if not np.isfinite(result[name]).all():
                msg = (
                    f"the graph's {name} is not finite, so nothing was written: "
                    "fit the model, which calibrates its thresholds, before exporting it"
                )
                raise ValueError(msg)
        with torch.no_grad():
            expected = _as_engine(module, image)
        found.append(difference(result, {name: getattr(expected, name) for name in OUTPUTS}))
        masks.append(float((result["pred_mask"] != expected.pred_mask.numpy()).mean()))
        if iterates:
            iterations += result["iterations"].tolist()
    score, anomaly_map, labels, count = largest(found)
    mask = max(masks)
    close = score <= SCORE_TOLERANCE and anomaly_map <= MAP_TOLERANCE and mask <= MASK_TOLERANCE
    if labels < count or not (close or compressed):
        logger.warning(
            "The exported graph differs from the model: scores by %.1e, maps by %.1e, masks in %.2g %% of the pixels; "
            "%d of %d labels are equal.",
            score, anomaly_map, 100 * mask, labels, count,
        )  # fmt: skip
    agreement = {
        "images": count, "score": score, "anomaly_map": anomaly_map, "pred_mask": mask, "equal_labels": labels,
    }  # fmt: skip
    return {"agreement_with_torch": agreement} | ({"iterations": iterations} if iterations else {})


def describe(
    module: AnomalibModule, path: Path, compression_type: CompressionType | str | None, quantized: list[Quantized]
) -> dict[str, Any]:
    """Entries of the report that say what was exported.

    Args:
        module: The trained model.
        path: The ``.xml`` file that was written.
        compression_type: How it was compressed.
        quantized: What became INT8.
    """
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    processor: Any = module.post_processor
    network_size: Any = module.image_size
    own: Any = module.model.named_buffers(recurse=False)
    graph = new_core().read_model(path)
    return {
        "model": type(module).__name__,
        "versions": versions,
        "arguments": {
            name: value
            for name, value in module.hparams.items()
            if isinstance(value, int | float | str | list | tuple | None)
        },
        "input": {
            "shape": str(graph.input(0).get_partial_shape()),
            "type": graph.input(0).get_element_type().get_type_name(),
        },
        "network_size": list(network_size),
        "thresholds": {
            "image": processor.image_threshold.item(),
            "pixel": processor.pixel_threshold.item(),
            **{name: value.tolist() for name, value in own if name.endswith("threshold")},
        },
        "calibration": {
            name: getattr(processor, name) for name in (*QUANTILES, "normal_images") if hasattr(processor, name)
        },
        "compression": CompressionType(compression_type).value if compression_type else "fp32",
        "int8": [found._asdict() for found in quantized],
        "bytes": {file.name: file.stat().st_size for file in (path, path.with_suffix(".bin"))},
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")
