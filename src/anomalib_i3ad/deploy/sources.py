"""Where images come from: files, folders, folders that fill, videos, cameras."""

import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import cv2
import numpy as np

from .camera import Camera, name_of
from .decoding import SUFFIXES, ImageError, fault, read_file, read_image
from .results import Stamp
from .results_folder import is_folder_of_results

logger = logging.getLogger(__name__)

#: Least seconds between looks into a watched folder; seconds for which a file must be unchanged, and after which a
#: part of one is taken as it is.
POLL, SETTLED, GIVEN_UP = 0.2, 1.0, 30.0
#: A look at many files is rested from for so many times as long as it took.
RESTS = 4
#: Most digits of a camera's number.
DIGITS = 4
#: How images are counted that were passed over because nothing about them changed, and folders nobody could look into.
BEFORE, UNREADABLE = "inspected before", "folder that cannot be read"


class SourceError(Exception):
    """A source that is not there; the message says what would be right."""


class Frame(NamedTuple):
    """An image to be inspected.

    Its name in the results, a function that reads it, what its file is like, and how many were dropped for it.
    """

    name: str
    read: Callable[[], np.ndarray]
    stamp: Stamp | None = None
    dropped: int = 0


#: Frames, and ``None`` whenever a source has nothing for the moment.
Frames = Iterator[Frame | None]


def stamp_of(path: str | Path) -> Stamp:
    """What a file is like now.

    Raises:
        OSError: If that cannot be told.
    """
    status = os.stat(path)  # noqa: PTH116  # of many files, and a Path takes longer to make
    return status.st_size, status.st_mtime_ns


def _real(path: Path) -> Path:
    """Where a path leads; unlike ``Path.resolve``, no error for a link that leads to itself."""
    return Path(os.path.realpath(path))


def _why_unseen(folder: Path) -> str:
    """Why nobody can look into a folder; empty if one can."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _file_frame(path: str | Path, name: str) -> Frame:
    """A file, as it is before it is read: one that changes meanwhile will be another the next time."""
    try:
        return Frame(name, partial(read_image, path), stamp_of(path))
    except OSError:  # reading it will say why
        return Frame(name, partial(read_image, path))


def _images_below(folder: Path, own: Path | None, passed: Counter[str]) -> Iterator[tuple[str, str]]:
    """Image files below a folder, and their paths within it, sorted within each folder.

    Whatever else is there is counted in ``passed``. There may be many files, so that none of them is a ``Path``.
    """

    def unreadable(_: OSError) -> None:  # or it vanished meanwhile
        passed[UNREADABLE] += 1

    def enters(path: Path) -> bool:
        why = (
            "hidden" if path.name.startswith(".") else
            "linked folder" if os.path.islink(path) else  # noqa: PTH114  # no error where nobody may look
            "folder of results" if _real(path) == own or is_folder_of_results(path) else ""
        )  # fmt: skip
        passed.update([why] if why else [])
        return not why

    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in sorted(folders) if enters(Path(root, name))]
        within = Path(root).relative_to(folder).as_posix()
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if name.startswith("."):
                passed["hidden"] += 1
            elif suffix in SUFFIXES:
                yield os.path.join(root, name), name if within == "." else f"{within}/{name}"  # noqa: PTH118
            else:
                passed[suffix or "without suffix"] += 1


def folder_frames(folder: Path, own: Path | None = None, passed: Counter[str] | None = None) -> Frames:
    """All images below a folder, by their path within it.

    Args:
        folder: Where to look.
        own: Folder below it from which nothing is taken.
        passed: Counts, by kind, what is passed over.
    """
    for path, name in _images_below(folder, own, Counter() if passed is None else passed):
        yield _file_frame(path, name)


def _is_whole(path: str) -> bool:
    """Whether a file can be read, and has all that its header tells of."""
    try:
        return not fault(read_file(path))
    except ImageError:  # another program may still hold it
        return False


def _is_lost(folder: Path, before: bool) -> bool:
    """Whether nobody can look into a watched folder; tells when that is another than before."""
    why = _why_unseen(folder)
    if bool(why) != before:
        logger.warning("%s: %s", folder, f"cannot be read any more: {why}; waiting for it" if why else "is back")
    return bool(why)


def _forget(known: dict[str, Any], there: set[str]) -> None:
    """Forget files that are gone from folders that still hold some: one that is empty may be a disk that is away."""
    folders = {name.rpartition("/")[0] for name in there}
    for name in known.keys() - there:
        if name.rpartition("/")[0] in folders:
            del known[name]


def watched_frames(
    folder: Path, done: Mapping[str, Stamp], stop: Event, own: Path | None, passed: Counter[str]
) -> Frames:
    """Images below a folder as they arrive there or are overwritten, once they are written; until ``stop``.

    Args:
        folder: May vanish and come back.
        done: Images to pass over as long as they are like this.
        stop: Ends the watch.
        own: Folder below it from which nothing is taken.
        passed: Counts, by kind, what the latest look passed over.
    """
    taken: dict[str, Stamp | None] = dict(done)
    seen: dict[str, tuple[Stamp | None, float, float]] = {}  # what it is like, since when, and first seen when
    lost = False
    while not stop.is_set():
        counts, there, began = Counter[str](), set[str](), time.monotonic()
        lost = _is_lost(folder, lost)
        for path, name in _images_below(folder, own, counts):
            if stop.is_set():
                return
            there.add(name)
            try:
                stamp: Stamp | None = stamp_of(path)
            except OSError as error:
                moved_away = isinstance(error, FileNotFoundError) and not os.path.islink(path)  # noqa: PTH114
                if moved_away:
                    seen.pop(name, None)
                    continue
                stamp = taken.get(name)  # of a new one reading will say why
            now = time.monotonic()
            if name in taken and taken[name] == stamp:
                counts[BEFORE] += done.get(name, ()) == stamp
                continue
            before, since, first = seen.get(name, (stamp, now, now))
            if before != stamp:
                since = now
            seen[name] = (stamp, since, first)
            # one that is always being overwritten is taken when it happens to be whole
            settled = now - since > SETTLED or now - first > GIVEN_UP
            if now - since > GIVEN_UP or (settled and _is_whole(path)):
                seen.pop(name)
                taken[name] = stamp
                yield Frame(name, partial(read_image, path), stamp)
            began += time.monotonic() - now  # reading and inspecting it is no part of the look
        rest = max(POLL, RESTS * (time.monotonic() - began))
        for known in (taken, seen):
            _forget(known, there)
        passed.clear()
        passed.update(+counts)
        yield None
        stop.wait(rest)


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
        return "{} of {} bytes, {} ns".format(_real(path), *stamp_of(path))
    return str(_real(path))


def _own_folder(path: Path, pictures: Path) -> Path:
    """Folder from which a run must not take images, since it puts some there.

    Raises:
        SourceError: If there are no others.
    """
    path, pictures = _real(path), _real(pictures)
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
        why = _why_unseen(path)
        if why:
            msg = f"{source}: the folder cannot be read: {why}"
            raise SourceError(msg)
        frames = folder_frames(path, own, passed)
    elif not path.is_file():
        msg = f"{source}: there is no such folder or file; cameras are named by their number or an address with ://"
        raise SourceError(msg)
    elif path.suffix.lower() in SUFFIXES:
        frames = iter([_file_frame(path, path.name)])
    else:
        frames = video_frames(source)
    return _not_done(frames, done, passed, stop)
