"""How fast does I3AD train here, and what takes the time?

    python examples/training_speed.py --config configs/i3ad_cpu.yaml --root DATA --category bottle

Prints two Markdown tables. What each part of a step takes in the form that trains by default, as a share of their sum,
with images decoded every time or kept in memory (``cache``); validation
is spread over the steps between two. Then images per second of a step's forward and backward pass in every form, each
the fastest of some steps, all in one run.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from anomalib_i3ad import I3AD, MVTec
from anomalib_i3ad.comparison.cost import shortest
from anomalib_i3ad.components.masks import training_holes

REPEATS, BATCHES = 8, 6

parser = ArgumentParser()
parser.add_argument("--config", type=Path, default=Path("configs/i3ad_cpu.yaml"))
parser.add_argument("--root", default="./datasets/MVTecAD")
parser.add_argument("--category", default="bottle")
arguments = parser.parse_args()
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
config = yaml.safe_load(arguments.config.read_text())
batch_size = config["data"]["init_args"]["train_batch_size"]
model = I3AD(**config["model"]["init_args"], visualizer=False).to(device)
networks = [net for net in (model.model.generator, model.discriminator) if net is not None]
image = torch.rand(batch_size, 3, *model.image_size, device=device)
hole = torch.rand(batch_size, 1, *model.image_size, device=device).round()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the fastest run, everything on the device included."""

    def finished() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    finished()  # compiles, and fills caches
    return shortest(finished, REPEATS)


def learning(autocast: bool = False) -> float:
    """Seconds of a step's forward and backward pass."""

    def learn() -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss, _ = model.losses(image, hole)
        loss.backward()

    return timed(learn)


def loading(datamodule: MVTec) -> float:
    """Seconds a batch takes to load, from the second epoch on if images are kept."""
    datamodule.train_data.augmentations = model.pre_processor.transform
    loader = datamodule.train_dataloader()
    if datamodule.cache:
        for _ in loader:
            pass
    start = time.perf_counter()
    for count, _ in enumerate(loader, start=1):
        if count == BATCHES:
            break
    return (time.perf_counter() - start) / count


def validate() -> None:
    """Calibrate u on a batch and score it."""
    with torch.no_grad():
        model.model.first_residuals(image)
        model.model(image)


def draw_holes() -> torch.Tensor:
    """Holes of a batch."""
    lattices = model.model.lattices(*model.image_size).flatten(0, 1)
    rng = np.random.default_rng(0)
    return training_holes(batch_size, *model.image_size, rng, lattices, model.lattice_probability)


datamodules = []
for cache in (False, True):
    datamodules.append(MVTec(arguments.root, arguments.category, batch_size, num_workers=0, cache=cache))
    datamodules[-1].prepare_data()
    datamodules[-1].setup()
seconds = {"drawing holes": timed(draw_holes), "generator": learning()}
if model.discriminator is not None:
    both, discriminator = seconds["generator"], model.discriminator
    model.discriminator = None
    seconds["generator"] = learning()
    seconds["discriminator"], model.discriminator = both - seconds["generator"], discriminator
optimizers = [torch.optim.Adam(network.parameters()) for network in networks]
seconds["optimisers"] = timed(lambda: [optimizer.step() for optimizer in optimizers])
model.model.mask_threshold.fill_(0)  # every pass is run
steps = len(datamodules[0].train_dataloader()) * config["trainer"]["check_val_every_n_epoch"]
model.eval()
seconds["validation"] = timed(validate) * len(datamodules[0].val_data) / batch_size / steps
model.train()
totals = [{**seconds, "loading": loading(datamodule)} for datamodule in datamodules]

print(f"{arguments.config.name} on {device.type}, {torch.get_num_threads()} threads, batches of {batch_size}\n")
print("| part of a step | ms | share, decoding | share, cache |\n|---|---|---|---|")
for part in totals[0]:
    shares = " | ".join(f"{total[part] / sum(total.values()):.0%}" for total in totals)
    took = " or ".join(dict.fromkeys(f"{1000 * total[part]:.0f}" for total in totals))
    print(f"| {part} | {took} | {shares} |", flush=True)

print("\n| form | images/s |\n|---|---|")
for compiled in (False, True):
    if compiled:
        for network in networks:
            network.compile()
    for name, layout, autocast in (
        ("FP32, contiguous", torch.contiguous_format, False),
        ("FP32, channels last (default)", torch.channels_last, False),
        ("bf16, channels last", torch.channels_last, True),
    ):
        model.to(memory_format=layout)
        print(f"| {name}{', torch.compile' if compiled else ''} | {batch_size / learning(autocast):.1f} |", flush=True)
