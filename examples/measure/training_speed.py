"""How fast does FeatureI3AD train here, and what takes the time?

    python examples/measure/training_speed.py --root DATA --category bottle

Fits it as its defaults have it and prints the seconds: in all, for reading the images and computing their features
once, and for the steps; then what the parts of a step take, each the fastest of some.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.engine import Engine

from anomalib_i3ad import FeatureI3AD, MVTec
from anomalib_i3ad.evaluation.cost import shortest

REPEATS = 8

parser = ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--root", default="./datasets/MVTecAD")
parser.add_argument("--category", default="bottle")
parser.add_argument("--batch_size", type=int, default=16)
arguments = parser.parse_args()
datamodule = MVTec(arguments.root, arguments.category, arguments.batch_size, num_workers=0)
model = FeatureI3AD(visualizer=False, evaluator=False)
marks: dict[str, float] = {}


def marked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Note when a method of the model ends first."""

    def wrapper(*args: Any) -> Any:
        result = method(*args)
        marks.setdefault(name, time.perf_counter())
        return result

    return wrapper


model.on_fit_start = marked("start", model.on_fit_start)  # type: ignore[method-assign]
model.on_train_start = marked("features", model.on_train_start)  # type: ignore[method-assign]
model.on_validation_start = marked("steps", model.on_validation_start)  # type: ignore[method-assign]
with TemporaryDirectory() as folder:
    begun = time.perf_counter()
    engine = Engine(default_root_dir=folder, logger=False, devices=1, max_epochs=-1, enable_progress_bar=False)
    engine.fit(model, datamodule=datamodule)
    seconds = time.perf_counter() - begun
count, threads = len(datamodule.train_data), torch.get_num_threads()
reading, stepping = marks["features"] - marks["start"], marks["steps"] - marks["features"]
print(f"{count} images, {model.max_train_steps} steps of {arguments.batch_size}, {threads} threads: {seconds:.0f} s")
print(f"reading images and computing features: {reading:.0f} s, steps: {stepping:.0f} s")

model.train()
network, size = model.model, arguments.batch_size
image = torch.rand(size, 3, *model.image_size, device=model.device)
features = torch.randn(size, *network.grid_shape(*model.image_size), device=model.device)
features = features.contiguous(memory_format=torch.channels_last)
hole = torch.rand(size, 1, *features.shape[-2:], device=model.device).round()


def backbone() -> None:
    """Features of a batch, as augmented images need them in every step."""
    with torch.no_grad():
        network.cells_of(image)


def inpainter() -> None:
    """Forward and backward pass, without the losses."""
    torch.cat(network.inpainter(features, hole), dim=1).sum().backward()


def decoder() -> None:
    """Forward and backward pass over the images it learns by."""
    network.decoder(features[:4]).sum().backward()


for part in (backbone, inpainter, decoder):
    part()
    print(f"{part.__name__}: {1000 * shortest(part, REPEATS):.0f} ms a batch")
