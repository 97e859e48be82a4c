"""How fast does I3AD train here, and what takes the time?

    python examples/training_speed.py --config configs/i3ad_cpu.yaml --root DATA --category bottle

Prints two Markdown tables. Images per second of a training step (generator, and discriminator if the configuration
has one) in every form, each the fastest of some steps, all in one run. Then what each part of a step takes in the form
that trains by default, as a share of their sum, with images decoded every time or kept in memory (``cache``);
validation is one epoch's, spread over the steps between two of them.
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
from anomalib_i3ad.models.i3ad.generator import composite
from anomalib_i3ad.models.i3ad.loss import adversarial_loss, discriminator_loss, reconstruction_loss

REPEATS, BATCHES = 8, 6

parser = ArgumentParser()
parser.add_argument("--config", type=Path, default=Path("configs/i3ad_cpu.yaml"))
parser.add_argument("--root", default="./datasets/MVTecAD")
parser.add_argument("--category", default="bottle")
arguments = parser.parse_args()
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
config = yaml.safe_load(arguments.config.read_text())
model = I3AD(**config["model"]["init_args"], visualizer=False).to(device)
batch_size = config["data"]["init_args"]["train_batch_size"]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the fastest run, everything on the device included."""

    def finished() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    finished()  # compiles, and fills caches
    return shortest(finished, REPEATS)


def loading(cache: bool) -> float:
    """Seconds a batch takes to load, from the second epoch on."""
    datamodule = MVTec(arguments.root, arguments.category, batch_size, num_workers=0, cache=cache)
    datamodule.prepare_data()
    datamodule.setup()
    datamodule.train_data.augmentations = model.pre_processor.transform
    loader = datamodule.train_dataloader()
    if cache:
        for _ in loader:
            pass
    start = time.perf_counter()
    for count, _ in enumerate(loader, start=1):
        if count == BATCHES:
            break
    return (time.perf_counter() - start) / count


def step_parts(compiled: bool = False, autocast: bool = False) -> dict[str, Callable[[], Any]]:
    """Forward and backward of each network on one batch."""
    image = torch.rand(batch_size, 3, *model.image_size, device=device)
    generator: Any = torch.compile(model.model.generator) if compiled else model.model.generator
    discriminator: Any = torch.compile(model.discriminator) if compiled and model.discriminator else model.discriminator
    hole = torch.rand(batch_size, 1, *model.image_size, device=device).round()
    in_half = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    def draw() -> None:
        model.zero_grad()
        with in_half:
            loss = reconstruction_loss(image, generator(image, hole))
        loss.backward()

    def judge() -> None:
        model.zero_grad()
        fake = image.flip(0).requires_grad_()
        with in_half:
            logits = discriminator(torch.cat([image, composite(image, fake, hole)]), torch.cat([hole, hole]))
            real, drawn = logits.chunk(2)
            loss = discriminator_loss(real, drawn) + adversarial_loss(discriminator(fake, hole))
        loss.backward()

    return {"generator": draw} | ({"discriminator": judge} if discriminator is not None else {})


def step(**form: bool) -> float:
    """Seconds of the networks' part of a step."""
    return sum(timed(work) for work in step_parts(**form).values())


forms = {
    "FP32, contiguous": {}, "FP32, channels last (default)": {}, "bf16": {"autocast": True},
    "FP32, torch.compile": {"compiled": True}, "bf16, torch.compile": {"compiled": True, "autocast": True},
}  # fmt: skip
print(f"{arguments.config.name} on {device.type}, {torch.get_num_threads()} threads, batches of {batch_size}\n")
print("| form | images/s |\n|---|---|")
for name, form in forms.items():
    model.to(memory_format=torch.contiguous_format if "contiguous" in name else torch.channels_last)
    print(f"| {name} | {batch_size / step(**form):.1f} |", flush=True)
model.to(memory_format=torch.channels_last)

datamodule = MVTec(arguments.root, arguments.category, batch_size, num_workers=0)
datamodule.prepare_data()
datamodule.setup()
epoch, held_out = len(datamodule.train_dataloader()), datamodule.val_data
image = torch.rand(batch_size, 3, *model.image_size, device=device)
lattices, rng = model.model.lattices(*model.image_size).flatten(0, 1), np.random.default_rng(0)
networks = [net for net in (model.model.generator, model.discriminator) if net is not None]
optimizers = [torch.optim.Adam(net.parameters()) for net in networks]
model.model.mask_threshold.fill_(0)  # every pass is run


def validate() -> None:
    """Calibrate u on a batch and score it."""
    with torch.no_grad():
        model.model.first_residuals(image)
        model.eval()(image)


parts = {
    "drawing holes": lambda: training_holes(batch_size, *model.image_size, rng, lattices, model.lattice_probability),
    **step_parts(),
    "optimisers": lambda: [optimizer.step() for optimizer in optimizers],
}
seconds = {name: timed(work) for name, work in parts.items()}
every = config["trainer"]["check_val_every_n_epoch"]
seconds["validation"] = timed(validate) * len(held_out) / batch_size / epoch / every
print("\n| part of a step | ms | share, decoding | share, cache |\n|---|---|---|---|")
totals = []
for cache in (False, True):
    seconds["loading"] = loading(cache)
    totals.append(dict(seconds))
for name in totals[0]:
    shares = " | ".join(f"{total[name] / sum(total.values()):.0%}" for total in totals)
    took = " or ".join(dict.fromkeys(f"{1000 * total[name]:.0f}" for total in totals))
    print(f"| {name} | {took} | {shares} |")
