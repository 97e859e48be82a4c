"""What does each choice that I3AD's sources leave open change? Measured without real images, on the embedded textures.

    python examples/choices.py
    python examples/choices.py --textures brick --seeds 0 1 2 --only mask_quantile=0.9 width=16

Trains a small I3AD on every texture and seed, once as ``BASE`` has it and once for every choice that training depends
on; the others are tried on the base's generator, calibrated anew. Prints a Markdown table after every texture and seed:
image and pixel AUROC and their differences from the base, each the mean of those so far, with the deviation of the
differences. Small, shortly trained and on drawn defects: it ranks, and promises nothing.
"""

import logging
from argparse import ArgumentParser
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import assignments, make_engine
from lightning import seed_everything
from rich.progress import track
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_i3ad import I3AD, Textures
from anomalib_i3ad.comparison.accuracy import measure_accuracy, predict

BASE: dict[str, Any] = {
    "image_size": 64,
    "width": 8,
    "discriminator_width": 16,
    "adversarial_weight": 0.0,
    "learning_rate": 2e-3,
    "lr_schedule": "cosine",
    "max_train_steps": 400,
}
#: Choices that training depends on; ``flips`` is the datamodule's.
TRAINING: dict[str, list[Any]] = {
    "lattice_probability": [0.0, 1.0],
    "adversarial_weight": [0.01, 0.1, 1.0],
    "width": [4, 16],
    "stages": [2],
    "learning_rate": [1e-3, 4e-3],
    "flips": [True],
}
INFERENCE: dict[str, list[Any]] = {
    "initial_grid": [2, 8, 16, [4, 8], [2, 4, 8]],
    "mask_residual": ["l2", ["ssim", "l2"]],
    "score_residual": ["l2", ["ssim", "l2"]],
    "mask_quantile": [0.8, 0.9, 0.99],
    "max_iterations": [0, 1, 2, 8],
    "min_shrink": [0.0, 0.2],
    "mask_edge": [0.0],
    "reinpaint": ["previous"],
    "anomaly_map": ["last"],
    "image_score": ["l4", "top_k", "max"],
}
Figures = tuple[float, float]


def measure(
    *, images: dict[str, Any], seed: int, base: I3AD | None = None, flips: bool = False, **model_arguments: Any
) -> tuple[I3AD, Figures]:
    """Image and pixel AUROC of a model; trained, or calibrated on the generator of ``base``."""
    seed_everything(seed)
    model = I3AD(**model_arguments, seed=seed, evaluator=False, visualizer=False)
    with TemporaryDirectory() as folder:
        augmentations = RandomHorizontalFlip() if flips else None
        datamodule = Textures(**images, train_augmentations=augmentations, train_batch_size=8, num_workers=0)
        engine = make_engine(
            folder,
            max_epochs=-1,
            check_val_every_n_epoch=10_000,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if base is None:
            engine.fit(model, datamodule=datamodule)
        else:
            model.model.generator.load_state_dict(base.model.generator.state_dict())
            engine.validate(model, datamodule=datamodule, verbose=False)
        return model, measure_accuracy(predict(engine, model, datamodule))[:2]


def main() -> None:
    """Measure every choice and print the table."""
    parser = ArgumentParser()
    parser.add_argument("--textures", nargs="+", default=["fabric", "brick"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="NAME=VALUE", help="these choices alone")
    parser.add_argument("--root", type=Path, default=Path("datasets/Textures"))
    parser.add_argument("--steps", type=int, default=BASE["max_train_steps"])
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    choices = [(name, value) for name, values in (TRAINING | INFERENCE).items() for value in values]
    if arguments.only:
        choices = assignments(arguments.only)
    common = {**BASE, "max_train_steps": arguments.steps}
    found: list[list[Figures]] = [[] for _ in range(1 + len(choices))]
    for texture, seed in product(arguments.textures, arguments.seeds):
        images = {"category": texture, "root": arguments.root, "image_size": BASE["image_size"]}
        base, figures = measure(images=images, seed=seed, **common)
        found[0].append(figures)
        for number, (name, value) in enumerate(track(choices, f"{texture} {seed}"), start=1):
            trained = None if name in TRAINING else base
            _, figures = measure(images=images, seed=seed, base=trained, **{**common, name: value})
            found[number].append(figures)
        print(f"\n{len(found[0])} of texture and seed, {texture} {seed} the last\n")
        print(table(choices, found), flush=True)


def table(choices: list[tuple[str, Any]], found: list[list[Figures]]) -> str:
    """Markdown of the figures found so far, the base's first."""
    lines = ["| choice | image AUROC | change | pixel AUROC | change |", "|---|---|---|---|---|"]
    names = [f"{name}={value}" for name, value in choices]
    for name, figures in zip(["base", *names], np.array(found), strict=True):
        change = figures - np.array(found[0])
        columns = (
            f"{figures[:, k].mean():.3f} | {change[:, k].mean():+.3f} ± {change[:, k].std():.3f}" for k in range(2)
        )
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
