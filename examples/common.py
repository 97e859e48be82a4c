"""What the scripts beside this file share: a trained model named on the command line, and its images."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import yaml
from anomalib.engine import Engine
from anomalib.models import AnomalibModule

import anomalib_i3ad
from anomalib_i3ad import MVTec

MODELS = anomalib_i3ad.models.__all__


def make_parser() -> ArgumentParser:
    """Parser of the arguments that :func:`load` and :func:`images` take."""
    parser = ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", default="./datasets/MVTecAD")
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="arguments other than the trained")
    return parser


def images(arguments: Namespace) -> MVTec:
    """Datamodule of the images named."""
    return MVTec(root=arguments.root, category=arguments.category, eval_batch_size=8, num_workers=0)


def assignments(items: list[str]) -> list[tuple[str, Any]]:
    """Names and values of arguments written NAME=VALUE, the values in YAML."""
    return [(name, yaml.safe_load(value)) for name, value in (item.split("=", 1) for item in items)]


def make_engine(folder: str | Path, **kwargs: Any) -> Engine:
    """Engine that leaves nothing outside ``folder``."""
    return Engine(devices=1, logger=False, default_root_dir=folder, **kwargs)


def load(arguments: Namespace, folder: str | Path) -> AnomalibModule:
    """Load the checkpoint; with arguments other than the trained ones it is calibrated anew.

    Args:
        arguments: Parsed by :func:`make_parser`'s parser.
        folder: Where the engine may write.
    """
    changed = dict(assignments(arguments.set))
    cls = getattr(anomalib_i3ad, arguments.model)
    model = cls.load_from_checkpoint(arguments.checkpoint, map_location="cpu", visualizer=False, **changed)
    if changed:
        make_engine(folder).validate(model, datamodule=images(arguments), verbose=False)
    return model.eval()
