"""Parsers of the commands that train and evaluate; imports nothing that takes long, so that ``--help`` is quick."""

from argparse import ArgumentParser
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


def report_parser() -> ArgumentParser:
    """Parser of ``anomalib-i3ad report``."""
    parser = ArgumentParser(
        prog="anomalib-i3ad report",
        description="Write one HTML file that shows how a trained model does on its test images, and why.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="class of the model, such as FeatureI3AD")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint that training wrote")
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="folder in MVTec AD layout")
    parser.add_argument("--data.category", dest="category", required=True, help="folder of the category in it")
    parser.add_argument("--benchmark", type=Path, help="results.csv, to set the model beside others")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (report.html)")
    return parser
