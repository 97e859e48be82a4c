"""``anomalib-i3ad convert``: an exported model in the form that a device or a server wants."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from .graph import FP32, OUTPUTS, ModelError, read_model, save_model, takes_bytes, unroll, with_image_input


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="anomalib-i3ad convert",
        description="Bring an exported model into the form that a device or a server wants. Needs no torch.",
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


def difference(before: ov.Model, after: ov.Model, size: tuple[int, int]) -> float:
    """Largest difference between the scores and maps of two forms of a model on a smooth random image.

    Args:
        before: Graph that takes floats or bytes.
        after: Another form of it.
        size: Height and width of the image in pixels.
    """
    rng = np.random.default_rng(0)
    rows, columns = (np.cumsum(rng.normal(size=(side, 3)), axis=0)[:, None] for side in size)
    waves = rows + columns.transpose(1, 0, 2)
    image = (255 * (waves - waves.min()) / np.ptp(waves)).astype(np.uint8)[None]
    results = []
    for model in (before, after):
        given = image if takes_bytes(model) else image.transpose(0, 3, 1, 2).astype(np.float32) / 255
        results.append(ov.Core().compile_model(model, "CPU", FP32)(given))
    return max(
        float(np.abs(results[0][name].astype(float) - results[1][name]).max()) for name in (OUTPUTS[0], OUTPUTS[2])
    )


def check_out(out: Path, model: Path) -> None:
    """Check that a file can be written without losing the model.

    Raises:
        ModelError: If it cannot.
    """
    if out.suffix != ".xml" or out.resolve() == model.resolve():
        msg = f"{out}: --out is an .xml file other than the model itself"
        raise ModelError(msg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those of the command line if ``None``.

    Returns:
        Exit code.
    """
    chosen = make_parser().parse_args(arguments)
    out = chosen.out
    try:
        check_out(out, chosen.model)
        before, model = read_model(chosen.model), read_model(chosen.model)
        if chosen.unroll:
            model = unroll(model)
        if chosen.image_input:
            model = with_image_input(model)
        if chosen.size:
            model.reshape([1, *chosen.size, 3] if takes_bytes(model) else [1, 3, *chosen.size])
        if chosen.model_server:
            out = out.with_suffix("") / "1" / "model.xml"
        differs = difference(before, model, tuple(chosen.size or (300, 200)))
        save_model(model, out, half=chosen.fp16)
    except (ModelError, ValueError, OSError, RuntimeError) as error:
        print(f"anomalib-i3ad convert: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 2
    print(f"{out}: score and map differ from {chosen.model} by at most {differs:.1e} (before any rounding to FP16)")
    return 0
