"""Whose a folder of results is: one process's at a time, and of one model, its thresholds and one source."""

import errno
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import IO, Any

from .files import write_whole
from .results import rows_in

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

#: What lies in the folder: who writes there, what its results belong to, pictures, and the results.
LOCK, BELONGS, PICTURES = "inspect.lock", "run.json", "anomalous"
RESULTS = ("results.csv", "results.jsonl")
#: Where Windows locks a byte: far behind what others must be able to read.
FAR = 1 << 30


class ClaimError(Exception):
    """A folder in which this run may not write; the message says what to do."""


def _hold(file: IO[bytes], folder: Path) -> None:
    """Lock an open file until it is closed or its process ends, however it ends, and write into it who holds it.

    Raises:
        ClaimError: If another process holds it.
        OSError: If it cannot be locked or written to.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        if sys.platform == "win32":
            file.seek(FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, since {now},".encode())
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            raise OSError(error.errno, error.strerror, file.name) from error
        file.seek(0)
        holder = file.read().decode(errors="replace") or "another process"
        msg = f"{folder}: {holder} writes here; wait for its end or give another --out"
        raise ClaimError(msg) from error


def _pictures_of(folder: Path, name: str) -> list[str]:
    """Pictures that a file of results names; one that cannot be read gets another name.

    Raises:
        ValueError: If nothing tells that it was one of results.
    """
    try:
        return [row["picture"] for _, row in rows_in(folder / name) if row["picture"]]
    except ValueError as error:
        if not (folder / BELONGS).exists():
            raise
        aside = next(bad for n in count(1) if not (bad := folder / f"{name}.{n}.bad").exists())
        (folder / name).replace(aside)
        logger.warning("%s; it is kept as %s", error, aside.name)
        return []


def _start_over(folder: Path) -> None:
    """Remove the results of a folder and the pictures that they name; whatever else lies there stays."""
    named = [picture for name in RESULTS for picture in _pictures_of(folder, name)]
    for name in RESULTS:  # first: if this is ended in between, no row names a picture that is gone
        (folder / name).unlink(missing_ok=True)
    own = (folder / PICTURES).resolve()
    for name in named:
        if own in (folder / name).resolve().parents:  # an edited table may name any file
            (folder / name).unlink(missing_ok=True)


def _note(folder: Path, of: dict[str, Any]) -> None:
    """Note what the results of a folder belong to."""
    write_whole(folder / BELONGS, [json.dumps(of, indent=1).encode() + b"\n"])


def _check(folder: Path, of: dict[str, Any]) -> None:
    """Check that the results in a folder belong to this.

    Raises:
        ClaimError: If they belong to something else, or nothing says what they belong to.
    """
    advice = "give another --out, or --again to start over in this one"
    try:
        # of older runs it does not say the format
        held = next(name for name in RESULTS if next(rows_in(folder / name), None))
        before = {"format": held.rpartition(".")[2]} | dict(json.loads((folder / BELONGS).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder / BELONGS}: does not tell what the results beside it belong to; {advice}"
        raise ClaimError(msg) from error
    other = [f"{name} {before.get(name)}, not {value}" for name, value in of.items() if before.get(name) != value]
    if other:
        msg = f"{folder}: its results are of {'; '.join(other)}: {advice}"
        raise ClaimError(msg)


def is_folder_of_results(folder: Path) -> bool:
    """Whether a run, maybe another one, writes there or has written there, or its pictures."""
    held = [folder, folder.parent] if folder.name == PICTURES else [folder]
    # unlike Path.exists, no error where nobody may look
    return any(os.path.exists(one / LOCK) and os.path.exists(one / BELONGS) for one in held)  # noqa: PTH110


def _is_there(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that is there: it may be removed, closed, or dead like the share it was on."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (OSError, ValueError):
        return False


def _device_of(folder: Path) -> int:
    """What tells the disk on which a folder is, or would be made, from others."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists()).stat().st_dev


@contextmanager
def claimed(folder: Path, of: dict[str, Any], *, again: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a folder of results against all other processes.

    Args:
        folder: Made if it is not there.
        of: What the results belong to, by name; kept beside them in ``run.json``.
        again: Remove the results that are there, and their pictures.

    Yields:
        A function that holds the folder anew where it was removed or moved meanwhile; it raises as this one does, and
        ``OSError`` while the folder would be made on another disk: under a mount point nobody would find the rows.

    Raises:
        ClaimError: If another process writes there, or results that are there belong to something else.
        OSError: If the folder cannot be written to.
        ValueError: If there is a file in the place of the results that holds something else.
    """
    with ExitStack() as held:

        def hold() -> IO[bytes]:
            folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((folder / LOCK).open("a+b", buffering=0))
            try:
                _hold(file, folder)
            except OSError:
                file.close()  # or its lock would stand against the next attempt
                raise
            return file

        def renew() -> None:
            nonlocal lock
            if not _is_there(lock, folder / LOCK):
                if not (folder / BELONGS).exists() and _device_of(folder) != device:
                    raise OSError(errno.ENODEV, "its disk is away", str(folder))
                with suppress(OSError):
                    lock.close()
                lock = hold()
            keep_note()

        def keep_note() -> None:
            if folder.is_dir() and not (folder / BELONGS).exists():
                _note(folder, of)

        lock = hold()
        device = _device_of(folder)
        if again:
            _start_over(folder)
        if any(next(rows_in(folder / name), None) for name in RESULTS):
            _check(folder, of)
        else:
            _note(folder, of)
        try:
            yield renew
        finally:
            keep_note()
