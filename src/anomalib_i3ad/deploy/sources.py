"""Where images come from: files, folders, folders that fill, videos, cameras."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import cv2
import numpy as np

from .decoding import SUFFIXES, fault, read_image

logger = logging.getLogger(__name__)

#: Seconds between looks into a watched folder, for which a file must be unchanged, after which a part of one is taken
#: as it is, and between attempts to reach a camera.
POLL, SETTLED, GIVEN_UP, RECONNECT = 0.2, 1.0, 30.0, 2.0


class SourceError(Exception):
    """A source that is not there; the message says what would be right."""


class Frame(NamedTuple):
    """An image to be inspected: its name in the results, and a function that reads it."""

    name: str
    read: Callable[[], np.ndarray]


#: Frames, and ``None`` whenever a source has nothing for the moment.
Frames = Iterator[Frame | None]


def _images_below(folder: Path) -> Iterator[Path]:
    """Image files below a folder, sorted within each folder; folders that vanish are passed over."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122  # many files, and this is many times faster
                yield Path(root, name)


def folder_frames(folder: Path) -> Frames:
    """All images below a folder, by their path within it."""
    for path in _images_below(folder):
        yield Frame(path.relative_to(folder).as_posix(), partial(read_image, path))


def watched_frames(folder: Path, done: set[str], stop: Event) -> Frames:
    """Images below a folder as they arrive there, once they are written; until ``stop``.

    Args:
        folder: May vanish and come back.
        done: Names to pass over; those of yielded frames are added.
        stop: Ends the watch.
    """
    seen: dict[str, tuple[tuple[int, int], float]] = {}
    while not stop.is_set():
        for path in _images_below(folder):
            name = path.relative_to(folder).as_posix()
            if name in done:
                continue
            try:
                status = path.stat()
                state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
                if seen.get(name, ((), 0.0))[0] != state:
                    seen[name] = (state, now)
                unchanged = now - seen[name][1]
                ready = unchanged > GIVEN_UP or (unchanged > SETTLED and not fault(path.read_bytes()))
            except OSError:  # moved away meanwhile
                seen.pop(name, None)
                continue
            if ready:
                seen.pop(name)
                done.add(name)
                yield Frame(name, partial(read_image, path))
        yield None
        stop.wait(POLL)


def video_frames(path: str) -> Frames:
    """Frames of a video file, numbered from 0.

    Raises:
        SourceError: If it cannot be opened.
    """
    video = cv2.VideoCapture(path)
    if not video.isOpened():
        msg = f"{path}: neither an image nor a video that OpenCV can open"
        raise SourceError(msg)
    number = 0
    while True:
        there, image = video.read()
        if not there:
            return
        yield Frame(f"{Path(path).name}#{number:08d}", partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB))
        number += 1


def camera_frames(address: int | str, stop: Event) -> Frames:
    """Frames of a camera, named by the time they were taken; until ``stop``.

    A camera that fails is opened again, as long as it takes.

    Args:
        address: Its number, or the address of a stream.
        stop: Ends it.
    """
    while not stop.is_set():
        camera = cv2.VideoCapture(address)
        there = camera.isOpened()
        while there and not stop.is_set():
            there, image = camera.read()
            if there:
                taken = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                yield Frame(f"camera {address} {taken}", partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB))
                yield None  # nothing waits for the next frame
        camera.release()
        if not stop.is_set():
            logger.warning("camera %s gives no image; trying again every %.0f s", address, RECONNECT)
            stop.wait(RECONNECT)


def frames_of(source: str, done: set[str], stop: Event, *, watch: bool) -> Frames:
    """Images of whatever ``source`` names.

    Args:
        source: Folder, image, video, number of a camera, or address of a stream (``rtsp://...``).
        done: Names to pass over.
        stop: Ends cameras and watched folders.
        watch: Go on with what arrives in the folder.

    Raises:
        SourceError: If there is nothing of that name, or it cannot be watched.
    """
    path = Path(source)
    if watch and not path.is_dir():
        msg = f"{source}: only a folder can be watched, and it must be there"
        raise SourceError(msg)
    if watch:
        return watched_frames(path, done, stop)
    if source.isdigit() or "://" in source:
        return camera_frames(int(source) if source.isdigit() else source, stop)
    if path.is_dir():
        frames = folder_frames(path)
    elif not path.is_file():
        msg = f"{source}: there is no such folder or file; cameras are named by their number or an address with ://"
        raise SourceError(msg)
    elif path.suffix.lower() in SUFFIXES:
        frames = iter([Frame(path.name, partial(read_image, path))])
    else:
        frames = video_frames(source)
    return (frame for frame in frames if frame is None or frame.name not in done)
