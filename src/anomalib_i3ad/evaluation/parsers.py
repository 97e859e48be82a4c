"""Parsers of the commands that train and evaluate; imports nothing that takes long, so that ``--help`` is quick."""

from argparse import SUPPRESS, ArgumentParser
from pathlib import Path


def benchmark_parser() -> ArgumentParser:
    """Parser of ``anomalib-i3ad benchmark``."""
    parser = ArgumentParser(
        prog="anomalib-i3ad benchmark",
        description="Train and test many models; a row is written as each job ends. A second start resumes: it skips "
        "what is done with the same versions and arguments, and repeats what failed.",
    )
    parser.add_argument("--config", type=Path, required=True, help="models, data and seeds; see configs/benchmark")
    parser.add_argument("--out", type=Path, help="folder for results.csv and checkpoints; runs/benchmark/NAME")
    parser.add_argument("--time-again", action="store_true", help="measure latencies of finished jobs once more")
    return parser


def _add_trained_model(parser: ArgumentParser) -> None:
    """Add what names a trained model and its images, as ``anomalib test`` has it."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="class or class path of the model: I3AD, anomalib_i3ad.I3AD, Padim",
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint that training wrote")
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="folder in MVTec AD layout")
    parser.add_argument("--data.category", dest="category", required=True, help="folder of the category in it")
    held_out = parser.add_argument_group(
        "split of the training images: give what the model was trained with; it decides which normal images it has not "
        "seen, for thresholds found anew, and where the test images are all anomalous"
    )
    held_out.add_argument("--data.val_split_ratio", dest="val_split_ratio", type=float, default=SUPPRESS)
    held_out.add_argument("--data.seed", dest="seed", type=int, default=SUPPRESS)


def evaluate_parser() -> ArgumentParser:
    """Parser of ``anomalib-i3ad evaluate``."""
    parser = ArgumentParser(
        prog="anomalib-i3ad evaluate",
        description="Measure a trained model on its test images, by the thresholds of its checkpoint, and print tables "
        "of Markdown: accuracy, then what the options below add.",
    )
    _add_trained_model(parser)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE",
        help="arguments of the model other than the trained ones, in YAML; thresholds are then calibrated anew, on the "
        "validation images",
    )  # fmt: skip
    parser.add_argument("--iterations", action="store_true", help="what each iteration of the model buys")
    parser.add_argument(
        "--exported", action="store_true",
        help="export to ONNX and OpenVINO: how far ONNX Runtime (if installed) and OpenVINO are from Engine.predict, "
        "and what INT8 costs and brings",
    )  # fmt: skip
    return parser


def report_parser() -> ArgumentParser:
    """Parser of ``anomalib-i3ad report``."""
    parser = ArgumentParser(
        prog="anomalib-i3ad report",
        description="Write one HTML file that shows how a trained model does on its test images, and why.",
    )
    _add_trained_model(parser)
    parser.add_argument("--benchmark", type=Path, help="results.csv, to set the model beside others")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (report.html)")
    return parser
