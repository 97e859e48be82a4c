"""From a trained model to an OpenVINO graph that has been checked against it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openvino as ov
import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.models import AnomalibModule
from torch import nn

from anomalib_i3ad.components.arguments import sides_of
from anomalib_i3ad.deploy import graph as graphs
from anomalib_i3ad.deploy.graph import MODEL_INFO, OUTPUTS, OWN_INFO

from .check import compare, describe, write_report
from .images import drawn_images, training_images
from .on_demand import on_demand
from .quantization import Quantized, compress_weights, quantize
from .storage import store_small

#: Training images by which INT8 is calibrated, and images on which the graph is compared with torch.
CALIBRATION_IMAGES = 64
COMPARED_IMAGES = 16
COMPRESSIONS = (CompressionType.FP16, CompressionType.INT8, CompressionType.INT8_PTQ)


class ExportedGraph(nn.Module):
    """What a graph computes: pre-processing, model, post-processing, and the details a result is explained by.

    Args:
        module: The trained model.
    """

    def __init__(self, module: AnomalibModule) -> None:
        super().__init__()
        # its parts, since tracing leaves copies of the classes behind, which would be known as models
        self.pre_processor, self.post_processor = module.pre_processor, module.post_processor
        self.model: Any = module.model
        self.detail_names: list[str] = []

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Anomalib's four outputs of images ``(N, 3, H, W)`` in [0, 1], and after them the details."""
        batch, details = self.model.explain(self.pre_processor(image) if self.pre_processor else image)
        self.detail_names = list(details)
        judged = self.post_processor(batch)
        return *(getattr(judged, name) for name in OUTPUTS), *details.values()


def convert(
    module: AnomalibModule,
    input_size: tuple[int, int] | None,
    onnx_kwargs: dict[str, Any],
    ov_kwargs: dict[str, Any],
) -> ov.Model:
    """Trace a model and convert it; details follow the outputs as results."""
    graph = ExportedGraph(module).eval()
    # no two axes of one size, or tracing takes them for one: a batch of 1 for the one channel of a hole
    example = torch.rand(2, 3, *(input_size or (260, 258)))
    dim = torch.export.Dim
    shapes = {0: dim("batch")} | ({} if input_size else {2: dim("height"), 3: dim("width")})
    with TemporaryDirectory() as folder, torch.no_grad():
        graph(example)
        path = Path(folder) / "model.onnx"
        own = {
            "dynamo": True,
            "input_names": ["input"],
            "output_names": [*OUTPUTS, *graph.detail_names],
            "dynamic_shapes": (shapes,),
        }
        torch.onnx.export(graph, (example,), path, **{"opset_version": 18, "verbose": False, **onnx_kwargs, **own})
        model = ov.convert_model(path, **ov_kwargs)
    if input_size:
        model = graphs.fix_size(model, input_size)
    ov.layout_helpers.set_layout(model.input(0), ov.Layout("NCHW"))
    return graphs.set_detail_names(model, graph.detail_names)


def describe_for_runtimes(model: ov.Model, module: AnomalibModule) -> None:
    """Write into the graph what OpenVINO's Model API and our own runtime read from it.

    The graph resizes, scales and normalises by itself, so that thresholds are those of normalised scores; it takes RGB.
    """
    size: Any = module.image_size
    processor: Any = module.post_processor
    thresholds = {
        "image_threshold": str(float(processor.normalized_image_threshold)),
        "pixel_threshold": str(float(processor.normalized_pixel_threshold)),
    }
    own = {"model": type(module).__name__, **thresholds}
    info = {
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomaly",
        **thresholds,
        "normalization_scale": "1.0",
        "resize_type": "standard",
        "reverse_input_channels": "False",
        "orig_height": str(size[0]),
        "orig_width": str(size[1]),
    }
    for section, values in ((MODEL_INFO, info), (OWN_INFO, own)):
        for name, value in values.items():
            model.set_rt_info(value, [section, name])


def check_exportable(
    module: AnomalibModule, compression_type: CompressionType | str | None, datamodule: AnomalibDataModule | None
) -> None:
    """Check that a model can be exported so; arguments as :func:`export`.

    Raises:
        ValueError: If it is not calibrated or gives raw scores, INT8 has no images, or there is no such compression.
    """
    processor: Any = module.post_processor
    if not processor:
        msg = "post_processor: without one there are no labels; build the model with post_processor=True"
        raise ValueError(msg)
    if not (processor.enable_normalization and processor.enable_thresholding):
        msg = "post_processor: exported are normalised scores and labels; leave its normalization and thresholding on"
        raise ValueError(msg)
    if not all(torch.isfinite(value) for value in (processor.image_threshold, processor.pixel_threshold)):
        msg = "thresholds are not calibrated: fit the model, or load a fitted checkpoint, before exporting it"
        raise ValueError(msg)
    if compression_type not in {None, *COMPRESSIONS}:
        msg = f"compression_type {compression_type!s}: choose FP16, INT8 (weights alone) or INT8_PTQ"
        raise ValueError(msg)
    if compression_type == CompressionType.INT8_PTQ and datamodule is None:
        msg = "INT8_PTQ needs normal training images: name a datamodule (--data MVTec --data.root ...)"
        raise ValueError(msg)


def export(
    module: AnomalibModule,
    folder: Path,
    model_file_name: str = "model",
    input_size: tuple[int, int] | None = None,
    compression_type: CompressionType | str | None = None,
    datamodule: AnomalibDataModule | None = None,
    onnx_kwargs: dict[str, Any] | None = None,
    ov_kwargs: dict[str, Any] | None = None,
) -> Path:
    """Export, check, and write the graph with a report beside it.

    Args:
        module: Trained model, on the CPU.
        folder: Where ``<model_file_name>.xml``, ``.bin`` and ``.json``, the report, are written.
        model_file_name: Name of the files.
        input_size: Height and width in pixels of the images that the graph takes; any if ``None``.
        compression_type: ``None`` for FP32, ``FP16`` for a smaller file, ``INT8_PTQ`` for speed; ``INT8``
            compresses weights alone.
        datamodule: Its normal training images calibrate INT8, and are those on which graph and model are compared.
        onnx_kwargs: Passed to :func:`torch.onnx.export`; names and shapes stay the graph's own.
        ov_kwargs: Passed to :func:`openvino.convert_model`.

    Returns:
        The ``.xml`` file.

    Raises:
        ValueError: If the model is not calibrated or does not normalise, the graph's results are not finite, INT8 has
            no images, or there is no such compression; nothing is written.
    """
    check_exportable(module, compression_type, datamodule)
    module = module.eval()
    network_size: Any = module.image_size
    if input_size is not None:
        input_size = sides_of("input_size", input_size)
    elif not module.pre_processor:  # which would bring images of any size to the network's
        input_size = network_size
    compared = training_images(datamodule, COMPARED_IMAGES, input_size) if datamodule else drawn_images(input_size)
    model = convert(module, input_size, onnx_kwargs or {}, ov_kwargs or {})
    describe_for_runtimes(model, module)
    quantized: list[Quantized] = []
    if compression_type == CompressionType.INT8_PTQ and datamodule is not None:
        # at the network's size: the graph's own resize then leaves them as they are, and large ones fit in memory
        images = training_images(datamodule, CALIBRATION_IMAGES, input_size or network_size)
        model, quantized = quantize(model, [image.numpy() for image in images])
    elif compression_type == CompressionType.INT8:
        model = compress_weights(model)
    model = graphs.in_form(store_small(on_demand(model)), half=compression_type == CompressionType.FP16)
    agreement = compare(module, model, compared, compressed=compression_type is not None)
    path = graphs.save_model(model, folder / f"{model_file_name}.xml")
    report = describe(module, path, compression_type, quantized) | agreement
    write_report(report, path.with_suffix(".json"))
    return path
