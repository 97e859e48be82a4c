"""Exports of a model: always on the CPU, whatever it was trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from lightning import LightningModule
from torchmetrics import Metric

from anomalib_i3ad.post_processing import QuantilePostProcessor

from .checkpoint import Base


@contextmanager
def on_cpu(module: LightningModule) -> Iterator[None]:
    """Move a model to the CPU, and back afterwards."""
    device = module.device
    module.cpu()
    try:
        yield
    finally:
        module.to(device)


class ExportMixin(Base):
    """Exports on the CPU; a graph for OpenVINO holds the iteration as a loop and is compared with the model."""

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export to torch as anomalib does, but from the CPU, so that every machine can load it."""
        with on_cpu(self):
            return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:
        """Export to ONNX as anomalib does, but from the CPU and with an operator set in which loops convert.

        Raises:
            ValueError: If the model is not calibrated.
        """
        kwargs.setdefault("opset_version", 18)
        with on_cpu(self):
            if isinstance(self.post_processor, QuantilePostProcessor):
                self.post_processor.check_calibrated()
            return super().to_onnx(*args, **kwargs)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO, with a report beside the files; arguments as anomalib's.

        The graph is compared with the model before anything is written. ``INT8_PTQ`` quantises the networks inside
        loops, too, by normal training images of ``datamodule``. ``anomalib-i3ad convert`` gives the file other forms.

        Args:
            export_root: Files are written to ``weights/openvino`` below it. If none is named, ``Engine.export`` and
                the command take the folder of the checkpoint's run.
            model_file_name: Name of the files.
            input_size: Height and width in pixels the graph takes; any if ``None``.
            compression_type: See :func:`anomalib_i3ad.export.export`.
            datamodule: Its training images; by default that of the last run.
            metric: Not used.
            task: Not used.
            max_drop: Not used.
            ov_kwargs: Passed to :func:`openvino.convert_model`.
            onnx_kwargs: Passed to :func:`torch.onnx.export`.

        Raises:
            ValueError: See :func:`anomalib_i3ad.export.export`.
        """
        from anomalib_i3ad.export import export  # noqa: PLC0415  # NNCF takes seconds to import

        del metric, task, max_drop
        if datamodule is None and self._trainer is not None:
            datamodule = getattr(self._trainer, "datamodule", None)
        folder = Path(export_root) / "weights" / "openvino"
        with on_cpu(self):
            return export(
                self, folder, model_file_name, input_size, compression_type, datamodule, onnx_kwargs, ov_kwargs
            )
