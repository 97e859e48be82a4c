"""Inspection of many images: decoding, inference and writing at the same time, whatever is wrong with some of them."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from .decoding import ImageError
from .engine import Inspection, Inspector, Ticket
from .frames import Frame, Frames
from .overlay import picture, write_picture
from .progress import Progress
from .results import FIELDS, Results

#: Threads that decode, each of which may hold a large image.
MOST_DECODERS = 4
#: Most bytes of a file's name, less those of the suffix of its picture.
LONGEST = 250


class Outcome(NamedTuple):
    """A frame, and its pixels and inspection, or why there are none."""

    frame: Frame
    image: np.ndarray | None = None
    result: Inspection | None = None
    error: str = ""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"


def _start(inspector: Inspector, decoded: Future[np.ndarray]) -> Ticket | str:
    try:
        return inspector.start(decoded.result())
    except Exception as error:  # noqa: BLE001  # one image must not stop the line, nor one too large for what memory is left
        return _reason(error)


def _finish(inspector: Inspector, frame: Frame, ticket: Ticket | str) -> Outcome:
    if isinstance(ticket, str):
        return Outcome(frame, error=ticket)
    try:
        return Outcome(frame, ticket.image, inspector.finish(ticket))
    except Exception as error:  # noqa: BLE001
        return Outcome(frame, error=f"inference failed: {_reason(error)}")


def outcomes(inspector: Inspector, frames: Frames, decoders: int) -> Iterator[Outcome]:
    """Inspect frames in their order, decoding ahead and keeping the device busy.

    Args:
        inspector: The model.
        frames: Images, and ``None`` whenever nothing more is to be waited for.
        decoders: Threads that decode.
    """
    decoding: deque[tuple[Frame, Future[np.ndarray]]] = deque()
    running: deque[tuple[Frame, Ticket | str]] = deque()

    def advance(ahead: int, under_way: int) -> Iterator[Outcome]:
        """Go on until no more than so many images are being decoded and inspected."""
        while len(decoding) > ahead:
            while len(running) >= inspector.parallel:
                yield _finish(inspector, *running.popleft())
            frame, future = decoding.popleft()
            running.append((frame, _start(inspector, future)))
        while len(running) > under_way:
            yield _finish(inspector, *running.popleft())

    with ThreadPoolExecutor(decoders) as pool:
        try:
            for frame in frames:
                if frame is None:
                    yield from advance(0, 0)
                else:
                    decoding.append((frame, pool.submit(frame.read)))
                    yield from advance(decoders, inspector.parallel)
        except Exception:  # of the source: images under way get their rows nevertheless
            yield from advance(0, 0)
            raise
        yield from advance(0, 0)


def _picture_of(frame: Frame) -> str:
    """Path of a frame's picture, within the folder of pictures."""
    # names of cameras' images hold the time, and Windows takes no colon; files with and without one are two
    name = frame.name if frame.stamp else frame.name.replace(":", "-")
    folder, slash, file = name.rpartition("/")
    if len(os.fsencode(file)) > LONGEST:
        file = f"{file[: LONGEST // 5]}-{sha256(os.fsencode(file)).hexdigest()[:16]}"  # letters have up to 4 bytes
    return f"{folder}{slash}{file}.jpg"


def _draw(outcome: Outcome, path: Path, results: Results, inspector: Inspector) -> str:
    """Write the picture of an anomalous image; why that could not be, if it could not."""
    frame, image, result, _ = outcome
    try:
        results.prepare()  # or the picture would lie under the mount point of a disk that is away
        if image is not None and result is not None:
            write_picture(
                path, picture(image, result, frame.name, inspector.image_threshold, inspector.pixel_threshold)
            )
    except Exception as error:  # noqa: BLE001
        return f"picture not written: {getattr(error, 'strerror', None) or error}"
    return ""


def _write(outcome: Outcome, results: Results, pictures: Path, inspector: Inspector) -> str:
    """Write a result's picture, where there is to be one, and then its row; returns the row's error."""
    frame, _, result, error = outcome
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    row: dict[str, Any] = {**dict.fromkeys(FIELDS), "image": frame.name, "time": now}
    path = pictures / _picture_of(frame)
    if result and result.label:
        error = _draw(outcome, path, results, inspector)
        row["picture"] = None if error else path.relative_to(pictures.parent).as_posix()
    else:
        with suppress(OSError):  # what an earlier content of the file looked like
            path.unlink()
    if result:
        row["label"] = "anomalous" if result.label else "normal"
        row["score"], row["threshold"] = round(result.score, 6), inspector.image_threshold
        row["iterations"], row["milliseconds"] = result.iterations, round(result.milliseconds, 2)
    row["error"] = error or None
    if frame.stamp:
        row["size"], row["mtime_ns"] = frame.stamp
    results.append(row)
    return error


def run(inspector: Inspector, frames: Frames, results: Results, pictures: Path, stop: Event) -> Progress:
    """Inspect all frames; a row for each, and a picture of each that is anomalous.

    Whatever is wrong with an image becomes its row. Rows are written as images are done, in the order of the frames.

    Args:
        inspector: The model.
        frames: Images.
        results: Where rows go.
        pictures: Folder for pictures.
        stop: When set, no new image is begun; those under way get their rows.

    Returns:
        The figures of the run, and its errors.
    """

    def until_stop() -> Frames:
        for frame in frames:
            if stop.is_set():
                return
            yield frame

    progress, decoders = Progress(), min(MOST_DECODERS, os.cpu_count() or 1)
    writing: deque[tuple[str, Future[str]]] = deque()

    def written() -> None:
        name, future = writing.popleft()
        if error := future.result():
            progress.fail(f"{name}: {error}")

    with ThreadPoolExecutor(1) as writer:
        for outcome in outcomes(inspector, until_stop(), decoders):
            progress.add(outcome.result, outcome.frame.dropped)
            writing.append((outcome.frame.name, writer.submit(_write, outcome, results, pictures, inspector)))
            while writing and (len(writing) > 2 * inspector.parallel or writing[0][1].done()):
                written()
        while writing:
            written()
    return progress
