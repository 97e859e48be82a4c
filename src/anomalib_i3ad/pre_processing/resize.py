"""A resize that gives the same pixels in the engine and in the exported graph."""

from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

#: As torchvision keeps it: as it was given, or by name.
BILINEAR = (InterpolationMode.BILINEAR, InterpolationMode.BILINEAR.value, Image.Resampling.BILINEAR)


def _interpolation_weights(size_in: int, size_out: int, like: torch.Tensor) -> torch.Tensor:
    """Triangle-filter weights ``(size_out, size_in)`` of one axis; ``size_in`` may be symbolic.

    Distances are taken between integers, in units of ``1 / (2 * size_out)`` pixels: a runtime that chooses bf16 by
    itself cannot tell pixel 200 from 201.
    """
    source = 2 * torch.arange(size_in, device=like.device) + 1
    target = 2 * torch.arange(size_out, device=like.device) + 1
    distance = (source[None, :] * size_out - target[:, None] * size_in).abs().to(like.dtype)
    weights = torch.relu(1 - distance / (2 * torch.sym_max(size_in, size_out)))  # type: ignore[arg-type]  # not symbolic
    return weights / weights.sum(dim=1, keepdim=True)


def _exportable(transform: Transform | None) -> Transform | None:
    if isinstance(transform, Compose):
        return Compose([_exportable(part) for part in transform.transforms])
    if not isinstance(transform, Resize) or isinstance(transform, AntialiasedResize) or not transform.antialias:
        return transform
    if transform.interpolation in BILINEAR and transform.size and len(transform.size) == 2:
        return AntialiasedResize(transform.size)
    msg = f"pre_processor: exports cannot do {transform}; take AntialiasedResize([height, width]), or antialias=False"
    raise ValueError(msg)


def make_exportable(pre_processor: PreProcessor) -> None:
    """Put an :class:`AntialiasedResize` in the place of each bilinear ``Resize``, so that exports see the same pixels.

    Raises:
        ValueError: If there is another resize with antialiasing, which exports could not do.
    """
    pre_processor.transform = _exportable(pre_processor.transform)
    pre_processor.export_transform = get_exportable_transform(pre_processor.transform)


class AntialiasedResize(Resize):
    """Bilinear resize with antialiasing, as two matrix products.

    Same numbers as ``torchvision.transforms.v2.Resize(size, antialias=True)`` on float images.
    anomalib turns antialiasing off in the graph it exports, since ONNX cannot express it; this one
    exports as it is, with static or dynamic input size. Masks are resized to the nearest pixel.

    Args:
        size: Height and width of the output in pixels.
    """

    def __init__(self, size: list[int]) -> None:
        super().__init__(list(size), antialias=True)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize images ``(..., H, W)`` in [0, 1]; called by torchvision."""
        if not isinstance(inpt, torch.Tensor) or isinstance(inpt, tv_tensors.Mask) or not inpt.is_floating_point():
            return super().transform(inpt, params)
        height, width = self.size
        # a symbolic side of a graph for images of any size equals nothing
        if all(isinstance(side, int) and side == own for side, own in zip(inpt.shape[-2:], self.size, strict=True)):
            return inpt
        if isinstance(inpt, tv_tensors.TVTensor):  # torch.export cannot trace the unwrapping
            return tv_tensors.wrap(self.transform(inpt.as_subclass(torch.Tensor), params), like=inpt)
        rows = _interpolation_weights(inpt.shape[-2], height, inpt)
        columns = _interpolation_weights(inpt.shape[-1], width, inpt)
        return torch.matmul(torch.matmul(rows, inpt), columns.transpose(0, 1))
