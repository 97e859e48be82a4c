"""``anomalib-i3ad convert``: an exported model in the form that a device or a server wants."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from .core import new_core
from .difference import Difference, difference, largest
from .drawn_images import drawn_images
from .engine import fitted
from .graph import (
    FP32,
    ModelError,
    fixed_size,
    in_form,
    read_model,
    reason_of,
    save_model,
    takes_bytes,
)
from .telling import say


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="anomalib-i3ad convert",
        description="Bring an exported model into the form that a device or a server wants. Needs no torch.",
        epilog="Exit codes: 0 written, 2 the model cannot be read, converted or written.",
    )
    parser.add_argument("--model", required=True, type=Path, help="exported model.xml, with model.bin beside it")
    parser.add_argument("--out", required=True, type=Path, help="file to write, NAME.xml")
    parser.add_argument(
        "--image-input", action="store_true", help="take N x H x W x 3 RGB bytes, not N x 3 x H x W floats"
    )
    parser.add_argument("--unroll", action="store_true", help="write loops out, for devices that cannot run one")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="fix the size of the images, one at a time"
    )
    parser.add_argument("--fp16", action="store_true", help="store weights in half the space")
    parser.add_argument(
        "--model-server", action="store_true", help="write NAME/1/model.xml, as OpenVINO Model Server expects it"
    )
    return parser


def compare(before: ov.Model, after: ov.Model) -> Difference:
    """Compare two forms of a model on drawn images, which each gets in the size that it takes, as from the runtime.

    Args:
        before: Graph that takes floats or bytes.
        after: Another form of it.
    """
    images = drawn_images(fixed_size(before))
    return largest(map(difference, _results(before, images), _results(after, images)))


def _results(model: ov.Model, images: list[np.ndarray]) -> Iterator[Any]:
    compiled, size, as_bytes = new_core().compile_model(model, "CPU", FP32), fixed_size(model), takes_bytes(model)
    for image in images:
        given = fitted(image, size)[None]
        yield compiled(given if as_bytes else given.transpose(0, 3, 1, 2) / np.float32(255))


def place_for(out: Path, model: Path, *, served: bool) -> Path:
    """File to write.

    Args:
        out: What was asked for.
        model: The model that must not be lost.
        served: For OpenVINO Model Server.

    Raises:
        ModelError: If it is no ``.xml`` file, or the model itself.
    """
    path = out.with_suffix("") / "1" / "model.xml" if served else out  # version 1, where the server looks
    if out.suffix != ".xml" or path.resolve() == model.resolve():
        msg = f"{path}: --out is an .xml file other than the model itself"
        raise ModelError(msg)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those of the command line if ``None``.

    Returns:
        Exit code.
    """
    chosen = make_parser().parse_args(arguments)
    try:
        out = place_for(chosen.out, chosen.model, served=chosen.model_server)
        model = in_form(
            read_model(chosen.model),
            size=chosen.size,
            unrolled=chosen.unroll,
            image_input=chosen.image_input,
            half=chosen.fp16,
        )
        found = compare(read_model(chosen.model), model)
        save_model(model, out)
    except (ModelError, ValueError, OSError, RuntimeError) as error:
        say(f"anomalib-i3ad convert: {reason_of(error)}")
        return 2
    say(
        f"{out}: score and map differ from {chosen.model} by at most {np.max([found.score, found.anomaly_map]):.1e}, "
        f"and {found.images - found.equal_labels} labels, on {found.images} drawn images",
        to="stdout",
    )
    return 0
