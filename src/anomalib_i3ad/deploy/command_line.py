"""``anomalib-i3ad inspect``: images in, rows and pictures out, on a PC without torch."""

import argparse
import hashlib
import logging
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from threading import Event

from .decoding import SUFFIXES
from .engine import Inspector
from .folders import UNREADABLE
from .graph import ModelError, files_of
from .pipeline import run
from .progress import Progress
from .results import Results, Stamp
from .results_folder import PICTURES, ClaimError, claimed
from .sources import SourceError, frames_of, identity_of, is_camera
from .stop import Stop
from .telling import Telling, decoders_silenced, fill_standard_files, say

#: Exit codes beside 0: some images or folders could not be inspected, or there never was one; the run could not start,
#: or could not write.
SOME_FAILED, CANNOT = 1, 2


def folder(name: str) -> Path:
    """A folder of the command line.

    Raises:
        argparse.ArgumentTypeError: If it is empty, which is not meant to be where one stands.
    """
    if not name:
        msg = "is empty; name a folder"
        raise argparse.ArgumentTypeError(msg)
    return Path(name)


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="anomalib-i3ad inspect",
        description="Inspect images with an exported model. A second start resumes: what failed, is new or has "
        "changed is inspected. Another model, threshold, source or format needs another --out, or --again.",
        epilog="Exit codes: 0 done, 1 some images or folders could not be inspected, or there never was an image, "
        "2 the run cannot start or write, 128 + n ended by signal n.",
    )
    parser.add_argument("--model", required=True, type=Path, help="exported model.xml, with model.bin beside it")
    parser.add_argument("--source", required=True, help="folder, image, video, number of a camera or stream address")
    parser.add_argument("--out", required=True, type=folder, help="folder for the results and the pictures of defects")
    parser.add_argument("--device", default="CPU", help="CPU (default), GPU, NPU or AUTO")
    parser.add_argument("--hint", choices=("latency", "throughput"), default="throughput", help="what to optimise for")
    parser.add_argument("--cache", type=folder, help="folder for compiled models, for a quicker start")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="table, or a JSON object a line")
    parser.add_argument("--threshold", type=float, help="score above which an image is anomalous; default: the model's")
    parser.add_argument("--pixel-threshold", type=float, help="map value above which a pixel is; default: the model's")
    parser.add_argument("--watch", action="store_true", help="go on with images as they arrive in the folder")
    parser.add_argument("--again", action="store_true", help="remove the results in the folder, and start over")
    return parser


def digest_of(model: Path) -> str:
    """SHA-256 of a model's two files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files_of(model))).hexdigest()


def loaded(chosen: argparse.Namespace) -> tuple[Inspector, str]:
    """The model, and the digest of the files that it was read from.

    Raises:
        ModelError: If it cannot be used, or its files were replaced while they were read.
    """
    digest = digest_of(chosen.model)
    inspector = Inspector(
        chosen.model, chosen.device, chosen.hint, chosen.cache, chosen.threshold, chosen.pixel_threshold
    )
    if digest_of(chosen.model) != digest:
        msg = f"{chosen.model}: was replaced while it was read; start again"
        raise ModelError(msg)
    return inspector, digest


def none_in(source: str, stop: Event) -> int:
    """Say that a source holds no image, unless it was not looked through; returns the exit code."""
    if not stop.is_set():
        say(f"anomalib-i3ad inspect: {source}: holds no image; needed are {', '.join(sorted(SUFFIXES))}")
    return SOME_FAILED


@contextmanager
def stopped_by_signals(stop: Event) -> Iterator[list[int]]:
    """Signals that ask the run to end, as they come; the first sets ``stop``, the second ends the process."""
    signals = list[int]()

    def end(number: int, _: object) -> None:
        if signals:
            os._exit(128 + number)
        signals.append(number)
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def inspect(chosen: argparse.Namespace, stop: Event) -> int:
    """Inspect what was chosen until ``stop``; returns the exit code."""
    inspector, digest = loaded(chosen)
    belongs = {
        "model_sha256": digest,
        "threshold": inspector.image_threshold,
        "pixel_threshold": inspector.pixel_threshold,
        "source": identity_of(chosen.source),
        "format": chosen.format,
    }
    pictures, passed, done = chosen.out / PICTURES, Counter[str](), dict[str, Stamp]()
    # before --again removes anything; what is done they look up as they come
    frames = frames_of(chosen.source, done, stop, watch=chosen.watch, pictures=pictures, passed=passed)
    if chosen.again and not chosen.watch and not is_camera(chosen.source):
        first = next(frames, None)
        if first is None:  # or an empty folder, the place of a disk that is away, would cost the results
            Progress().close(passed)
            return none_in(chosen.source, stop)
        frames = chain([first], frames)
    if stop.is_set():  # before --again removes anything
        return SOME_FAILED
    with (
        claimed(chosen.out, belongs, again=chosen.again) as renew,
        closing(Results(chosen.out / f"results.{chosen.format}", renew)) as results,
    ):
        done.update(results.done)
        progress = run(inspector, frames, results, pictures, stop)
        progress.close(passed)
    if not (chosen.watch or progress.images or done):
        return none_in(chosen.source, stop)
    return SOME_FAILED if progress.failed or passed[UNREADABLE] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those of the command line if ``None``.

    Returns:
        Exit code.
    """
    chosen, stop = make_parser().parse_args(arguments), Stop()
    fill_standard_files()
    logging.basicConfig(format="%(message)s", handlers=[Telling()])
    with stopped_by_signals(stop) as signals, decoders_silenced():
        try:
            code = inspect(chosen, stop)
        except Exception as error:  # noqa: BLE001  # its exit code would be that of a run with broken images
            foreseen = isinstance(error, ModelError | SourceError | ClaimError | ValueError | OSError)
            say(f"anomalib-i3ad inspect: {error if foreseen else traceback.format_exc()}")
            code = CANNOT
    return 128 + signals[0] if signals else code
