"""Images in folders."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .decoding import SUFFIXES, read_image
from .frames import Frame, Frames
from .results import Stamp
from .results_folder import is_folder_of_results

#: How images are counted that were passed over because nothing about them changed, and folders nobody could look into.
BEFORE, UNREADABLE = "inspected before", "folder that cannot be read"


def stamp_of(path: str | Path) -> Stamp:
    """What a file is like now.

    Raises:
        OSError: If that cannot be told.
    """
    status = os.stat(path)  # noqa: PTH116  # of many files, and a Path takes longer to make
    return status.st_size, status.st_mtime_ns


def real(path: Path) -> Path:
    """Where a path leads; unlike ``Path.resolve``, no error for a link that leads to itself."""
    return Path(os.path.realpath(path))


def why_unseen(folder: Path) -> str:
    """Why nobody can look into a folder; empty if one can."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def file_frame(path: str | Path, name: str) -> Frame:
    """A file, as it is before it is read: one that changes meanwhile will be another the next time."""
    try:
        return Frame(name, partial(read_image, path), stamp_of(path))
    except OSError:  # reading it will say why
        return Frame(name, partial(read_image, path))


def images_below(folder: Path, own: Path | None, passed: Counter[str]) -> Iterator[tuple[str, str]]:
    """Image files below a folder, and their paths within it, sorted within each folder.

    Whatever else is there is counted in ``passed``. There may be many files, so that none of them is a ``Path``.
    """

    def unreadable(_: OSError) -> None:  # or it vanished meanwhile
        passed[UNREADABLE] += 1

    def enters(path: Path) -> bool:
        why = (
            "hidden" if path.name.startswith(".") else
            "linked folder" if os.path.islink(path) else  # noqa: PTH114  # no error where nobody may look
            "folder of results" if real(path) == own or is_folder_of_results(path) else ""
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
    for path, name in images_below(folder, own, Counter() if passed is None else passed):
        yield file_frame(path, name)
