"""What does each choice change? Measured without real images, on the embedded textures and defects drawn into them.

    python examples/measure/choices.py FeatureI3AD
    python examples/measure/choices.py I3AD --textures brick --seeds 0 1 2 --only mask_quantile=0.9 width=16

Trains a model on every texture and seed, once as its base has it and once for every choice that training depends on;
the others are tried on the base's network, calibrated anew. Prints a Markdown table after every texture and seed: image
AUROC, pixel AUROC, AU-PRO and pixel F1 and their differences from the base, each the mean of those so far, with the
deviation of the differences. Defects lie anywhere: only in the middle, they would favour what is blind at the border.
Shortly trained and on drawn defects: it ranks, and promises nothing.
"""

import logging
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np
import torch
from anomalib.engine import Engine
from lightning import seed_everything
from rich.progress import track
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_i3ad import I3AD, FeatureI3AD, Textures
from anomalib_i3ad.data.defects import DEFECTS, Drawn
from anomalib_i3ad.deploy import masks
from anomalib_i3ad.evaluation.accuracy import measure_accuracy, predict
from anomalib_i3ad.evaluation.markdown import markdown
from anomalib_i3ad.evaluation.trained import assignments
from anomalib_i3ad.models.feature_i3ad import memory, usual
from anomalib_i3ad.models.feature_i3ad import torch_model as features


class Study(NamedTuple):
    """A model's base, the choices that training depends on, those that it does not, and how its images are fed.

    A choice in capitals is a constant of the code, of ``deploy.masks`` or of the model, ``EXPECTED`` whether residuals
    are compared with what is expected; ``flips`` is the datamodule's.
    """

    cls: Any
    base: dict[str, Any]
    training: dict[str, list[Any]]
    inference: dict[str, list[Any]]
    images: dict[str, Any]
    steps: int


STUDIES = {
    "I3AD": Study(
        I3AD,
        {"image_size": 64, "width": 8},
        {
            "grid_probability": [0.0, 1.0],
            "adversarial_weight": [0.01, 0.1, 1.0],
            "width": [4, 16],
            "stages": [2],
            "learning_rate": [1e-3, 4e-3],
            "flips": [True],
        },
        {
            "initial_grid": [2, 8, 16],
            "mask_residual": ["l2"],
            "score_residual": ["l2"],
            "mask_quantile": [0.8, 0.9, 0.99],
            "max_iterations": [0, 1, 2, 8],
            "anomaly_map": ["last"],
            "image_score": ["l4", "top_k", "max"],
        },
        {"image_size": 64, "train_batch_size": 8},
        400,
    ),
    "FeatureI3AD": Study(
        FeatureI3AD,
        {},
        {
            "MARGIN": [0, 1],
            "NEIGHBOURHOOD": [1],
            "PRIOR": [1e9],
            "COMPONENTS": [24, 48],
            "FLOOR": [0.1, 1e9],
            "POWER": [1, 3],
            "noise": [0.0, 1.0],
            "layers": [["blocks.1", "blocks.2", "blocks.4"], ["blocks.2"]],
            "width": [16, 64],
            "flips": [True],
        },
        {
            "HANDICAP": [1e9, 1.0, 2.0],
            "EXPECTED": [False],
            "ERROR_SHARE": [0.5, 0.8],
            "max_iterations": [0, 1, 4],
            "mask_quantile": [0.9, 0.98, 0.999],
            "image_score": ["max", "mean", "l4"],
            "SHARE": [0.0, 0.25, 0.75],
            "FADES": [0.0, 0.9],
        },
        {"image_size": 192, "train_batch_size": 16},
        500,
    ),
}
FIGURES = ("image AUROC", "pixel AUROC", "AU-PRO", "pixel F1")
Figures = tuple[float, ...]
COMPARE = features.FeatureI3ADModel.compare


def compare_alone(self: Any, prepared: Any, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FeatureI3AD's comparison without the expected residual: as if the usual one were expected."""
    drawn = self.features_in(inpainting)
    usual = self.usual_cosine.expand(len(drawn), -1, *drawn.shape[-2:])
    return COMPARE(self, prepared, torch.cat([drawn, usual], dim=1))


@contextmanager
def constants(choices: dict[str, Any]) -> Iterator[None]:
    """Give constants of the code other values."""
    with ExitStack() as stack:
        for name, value in choices.items():
            if name == "EXPECTED":
                stack.enter_context(patch.object(features.FeatureI3ADModel, "compare", compare_alone))
            else:
                module = next(module for module in (features, memory, usual, masks) if hasattr(module, name))
                stack.enter_context(patch.object(module, name, value))
        yield


def measure(
    study: Study, images: dict[str, Any], seed: int, choices: dict[str, Any], trained: Any = None
) -> tuple[Any, Figures]:
    """:data:`FIGURES` of a model; trained, or calibrated on the network of ``trained``."""
    flips = choices.pop("flips", False)
    changed = {name: choices.pop(name) for name in list(choices) if name.isupper()}
    seed_everything(seed)
    with TemporaryDirectory() as folder, constants(changed):
        model = study.cls(**choices, seed=seed, evaluator=False, visualizer=False)
        augmentations = RandomHorizontalFlip() if flips else None
        datamodule = Textures(**study.images, **images, train_augmentations=augmentations, num_workers=0)
        engine = Engine(
            default_root_dir=folder,
            logger=False,
            devices=1,
            max_epochs=-1,
            check_val_every_n_epoch=10_000,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if trained is None:
            engine.fit(model, datamodule=datamodule)
        else:
            model.load_state_dict(trained.state_dict())
            engine.validate(model, datamodule=datamodule, verbose=False)
        accuracy = measure_accuracy(predict(engine, model, datamodule))
        return model, (accuracy.image_auroc, accuracy.pixel_auroc, accuracy.au_pro, accuracy.pixel_f1)


def fainter_anywhere(draw: Callable[[np.ndarray, Any], Drawn], strength: float) -> Callable[[np.ndarray, Any], Drawn]:
    """Defect in any place, cut by the border or not, mixed with the picture it is drawn into."""

    def drawn(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
        offset = rng.integers(len(picture), size=2)
        moved = np.roll(picture, offset, axis=(0, 1))
        defective, mask = draw(moved, rng)
        mixed = moved + strength * (defective - moved)
        return np.roll(mixed, -offset, axis=(0, 1)), np.roll(mask, -offset, axis=(0, 1))

    return drawn


class Parts:
    """Pictures of one part, cut from a texture, at any angle and place on a grey ground; defects lie on the part."""

    def __init__(self, cut: Callable[..., Drawn]) -> None:
        self._cut = cut
        self._part: np.ndarray | None = None
        self._inside = np.empty(0)

    def laid(self, sheet: Any, rng: np.random.Generator) -> Drawn:
        """The part, in place of a cut from a sheet of texture."""
        if self._part is None:
            self._part = self._cut(sheet, rng)[0]
        size = len(self._part)
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(0, 360), 1.0)
        turn[:, 2] += rng.uniform(-size / 16, size / 16, 2)
        bar = np.zeros((size, size))
        bar[size * 3 // 8 : size * 5 // 8, size // 8 : size * 7 // 8] = 1
        self._inside = cv2.warpAffine(bar, turn, (size, size))[..., None]
        picture = self._inside * cv2.warpAffine(self._part, turn, (size, size)) + (1 - self._inside) * 0.7
        return picture, np.zeros((size, size), bool)

    def hit_by(self, draw: Callable[[np.ndarray, Any], Drawn]) -> Callable[[np.ndarray, Any], Drawn]:
        """A defect of the part that was laid last, and not of the ground."""

        def drawn(picture: np.ndarray, rng: np.random.Generator) -> Drawn:
            defective, mask = draw(picture, rng)
            while not (mask & (self._inside[..., 0] == 1)).any():
                defective, mask = draw(picture, rng)
            return picture + self._inside * (defective - picture), mask & (self._inside[..., 0] > 0)

        return drawn


def main() -> None:
    """Measure every choice and print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(STUDIES))
    parser.add_argument("--textures", nargs="+", default=["fabric", "brick"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="NAME=VALUE", help="these choices alone")
    parser.add_argument("--root", type=Path, default=Path("datasets/Textures"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--strength", type=float, default=1.0, help="share of a defect in the picture; less is fainter")
    parser.add_argument("--parts", action="store_true", help="one part at any angle; of photographs, not of fabric")
    arguments = parser.parse_args()
    if arguments.parts and "fabric" in arguments.textures:
        parser.error("--parts: fabric has defects of its own; choose among brick, grass and gravel (--textures)")
    logging.disable(logging.WARNING)
    study = STUDIES[arguments.model]
    root = arguments.root / f"{'parts' if arguments.parts else 'anywhere'}{arguments.strength:g}"
    every = study.training | study.inference
    choices = [(name, value) for name, values in every.items() for value in values]
    if arguments.only:
        choices = assignments(arguments.only)
        known = [*every, *filter(str.isupper, vars(masks))]  # the latter are of any model
        if unknown := {name for name, _ in choices}.difference(known):
            parser.error(f"--only {', '.join(sorted(unknown))}: not among {', '.join(known)}")
    base = {**study.base, "max_train_steps": arguments.steps or study.steps}
    found: list[list[Figures]] = [[] for _ in range(1 + len(choices))]
    for texture, seed in product(arguments.textures, arguments.seeds):
        images = {"category": texture, "root": root}
        defects = {kind: fainter_anywhere(drawn, arguments.strength) for kind, drawn in DEFECTS.items()}
        datamodule = Textures(**study.images, **images)
        cut = datamodule._cut  # noqa: SLF001
        if arguments.parts:
            parts = Parts(cut)
            cut, defects = parts.laid, {kind: parts.hit_by(drawn) for kind, drawn in defects.items()}
        with patch.dict(DEFECTS, defects), patch.object(datamodule, "_cut", cut):
            datamodule.prepare_data()
        trained, figures = measure(study, images, seed, dict(base))
        found[0].append(figures)
        for number, (name, value) in enumerate(track(choices, f"{texture} {seed}"), start=1):
            start = None if name in study.training else trained
            found[number].append(measure(study, images, seed, {**base, name: value}, start)[1])
        print(f"\n{len(found[0])} of texture and seed, {texture} {seed} the last\n")
        print(table(choices, found), flush=True)


def table(choices: list[tuple[str, Any]], found: list[list[Figures]]) -> str:
    """Markdown of the figures found so far, the base's first."""
    rows = []
    names = [f"{name}={value}" for name, value in choices]
    for name, figures in zip(["base", *names], np.array(found), strict=True):
        change = figures - np.array(found[0])
        cells = (
            (f"{figures[:, k].mean():.3f}", f"{change[:, k].mean():+.3f} ± {change[:, k].std():.3f}")
            for k in range(len(FIGURES))
        )
        rows.append([name, *chain(*cells)])
    return markdown(["choice", *chain(*((figure, "change") for figure in FIGURES))], rows)


if __name__ == "__main__":
    main()
