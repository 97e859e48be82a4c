"""Where images come from: files, folders, folders that fill, videos, cameras."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import cv2

from .camera import Camera, name_of
from .decoding import SUFFIXES
from .folders import BEFORE, file_frame, folder_frames, real, stamp_of, why_unseen
from .frames import Frame, Frames
from .results import Stamp
from .watch import watched_frames

logger = logging.getLogger(__name__)

#: Most digits of a camera's number.
DIGITS = 4


class SourceError(Exception):
    """A source that is not there; the message says what would be right."""


def video_frames(path: str) -> Frames:
    """Frames of a video file, numbered from 0.

    Raises:
        SourceError: If it cannot be opened.
    """
    # of a name that is not Unicode, as text, it would make a segmentation fault
    name: Any = path if sys.platform == "win32" else os.fsencode(path)
    video = cv2.VideoCapture(name)
    if not video.isOpened():
        msg = f"{path}: neither an image nor a video that OpenCV can open"
        raise SourceError(msg)
    return _frames_in(video, path)


def _frames_in(video: cv2.VideoCapture, path: str) -> Frames:
    number, told, stamp = 0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)), stamp_of(Path(path))
    while True:
        try:
            there, image = video.read()
        except Exception as error:
            msg = f"{path}: frame {number} cannot be read, nor what follows it ({error})"
            raise SourceError(msg) from error
        if not there:
            if not number:
                msg = f"{path}: a video of which no frame can be read"
                raise SourceError(msg)
            if number < told:  # which some formats only estimate
                logger.warning("%s: %d frames can be read of the %d that it tells of", path, number, told)
            return
        name = f"{Path(path).name}#{number:08d}"
        yield Frame(name, partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB), stamp)
        number += 1


def camera_frames(camera: Camera) -> Frames:
    """Newest frames of a camera, named by the time at which they were read."""
    for shot in camera:
        if shot is not None:
            taken = shot.taken.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            read = partial(cv2.cvtColor, shot.image, cv2.COLOR_BGR2RGB)
            yield Frame(f"camera {camera.name} {taken}", read, dropped=shot.dropped)
        yield None  # an image that waited for the next one would be old


def is_camera(source: str) -> bool:
    """Whether a source is the number of a camera or the address of a stream."""
    is_number = source.isdecimal() and len(source) <= DIGITS and not Path(source).exists()
    return is_number or "://" in source


def identity_of(source: str) -> str:
    """What tells a source from others: where a folder or file is, and of a video, whose images have no files, which.

    Of the rest of a camera's address it holds 16 bits, which tell two cameras of one host apart, and no password.

    Args:
        source: As for :func:`frames_of`.

    Raises:
        SourceError: If it is empty.
    """
    if not source:
        msg = "--source is empty; name a folder, an image, a video or a camera"
        raise SourceError(msg)
    path = Path(source)
    if is_camera(source):
        without_user = re.sub("//[^/?#]*@", "//", source)
        return f"camera {name_of(source)}, {sha256(without_user.encode()).hexdigest()[:4]}"
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return "{} of {} bytes, {} ns".format(real(path), *stamp_of(path))
    return str(real(path))


def _own_folder(path: Path, pictures: Path) -> Path:
    """Folder from which a run must not take images, since it puts some there.

    Raises:
        SourceError: If there are no others.
    """
    path, pictures = real(path), real(pictures)
    if pictures in {path, *path.parents}:
        msg = f"{path}: the run puts its own pictures there; give another --out"
        raise SourceError(msg)
    out = pictures.parent
    return out if path in out.parents else pictures


def _not_done(frames: Frames, done: Mapping[str, Stamp], passed: Counter[str], stop: Event) -> Frames:
    for frame in frames:
        if stop.is_set():
            return
        # one that nobody can look at any more keeps its row: another program may have put it away
        if frame is not None and frame.name in done and frame.stamp in {None, done[frame.name]}:
            passed[BEFORE] += 1
        else:
            yield frame


def frames_of(
    source: str,
    done: Mapping[str, Stamp],
    stop: Event,
    *,
    watch: bool,
    pictures: Path | None = None,
    passed: Counter[str] | None = None,
) -> Frames:
    """Images of whatever ``source`` names.

    Args:
        source: Folder, image, video, number of a camera, or address of a stream (``rtsp://...``).
        done: Images to pass over as long as their files are like this.
        stop: Ends the source.
        watch: Go on with what arrives in the folder.
        pictures: Folder of the run's own pictures; no image is taken from it, nor from the folder that it lies in
            where that is below the source.
        passed: Counts, by kind, what is passed over.

    Raises:
        SourceError: If there is nothing of that name, or it cannot be watched, or holds the run's own pictures.
        ConnectionError: If a camera cannot be opened.
    """
    path, camera = Path(source), is_camera(source)
    passed = Counter() if passed is None else passed
    own = None if pictures is None else _own_folder(path, pictures)
    if watch and not path.is_dir():
        msg = f"{name_of(source) if camera else source}: only a folder can be watched, and it must be there"
        raise SourceError(msg)
    if watch:
        return watched_frames(path, done, stop, own, passed)
    if camera:
        return camera_frames(Camera(int(source) if source.isdecimal() else source, stop))
    if path.is_dir():
        why = why_unseen(path)
        if why:
            msg = f"{source}: the folder cannot be read: {why}"
            raise SourceError(msg)
        frames = folder_frames(path, own, passed)
    elif not path.is_file():
        msg = f"{source}: there is no such folder or file; cameras are named by their number or an address with ://"
        raise SourceError(msg)
    elif path.suffix.lower() in SUFFIXES:
        frames = iter([file_frame(path, path.name)])
    else:
        frames = video_frames(source)
    return _not_done(frames, done, passed, stop)
