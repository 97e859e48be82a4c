"""Where images come from: files, folders, folders that fill, videos, cameras."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import cv2
import numpy as np

from .camera import Camera, name_of
from .decoding import SUFFIXES, fault, read_image

#: Seconds between looks into a watched folder, for which a file must be unchanged, and after which a part of one is
#: taken as it is.
POLL, SETTLED, GIVEN_UP = 0.2, 1.0, 30.0


class SourceError(Exception):
    """A source that is not there; the message says what would be right."""


class Frame(NamedTuple):
    """An image to be inspected: its name in the results, a function that reads it, and how many were dropped for it."""

    name: str
    read: Callable[[], np.ndarray]
    dropped: int = 0


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


def camera_frames(camera: Camera) -> Frames:
    """Newest frames of a camera, named by the time at which they were read."""
    for shot in camera:
        if shot is not None:
            taken = shot.taken.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            read = partial(cv2.cvtColor, shot.image, cv2.COLOR_BGR2RGB)
            yield Frame(f"camera {camera.name} {taken}", read, dropped=shot.dropped)
        yield None  # an image that waited for the next one would be old


def frames_of(source: str, done: set[str], stop: Event, *, watch: bool) -> Frames:
    """Images of whatever ``source`` names.

    Args:
        source: Folder, image, video, number of a camera, or address of a stream (``rtsp://...``).
        done: Names to pass over.
        stop: Ends cameras and watched folders.
        watch: Go on with what arrives in the folder.

    Raises:
        SourceError: If there is nothing of that name, or it cannot be watched.
        ConnectionError: If a camera cannot be opened.
    """
    path, camera = Path(source), source.isdigit() or "://" in source
    if watch and not path.is_dir():
        msg = f"{name_of(source) if camera else source}: only a folder can be watched, and it must be there"
        raise SourceError(msg)
    if watch:
        return watched_frames(path, done, stop)
    if camera:
        return camera_frames(Camera(int(source) if source.isdigit() else source, stop))
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
