"""Files that are written whole or not at all, in the place of those that are there."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of another at the end, or is removed where it cannot be written.

    Raises:
        OSError: If that is so; the message names the other file.
    """
    part = path.with_name(f"{sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")  # its name may have no room left
    try:
        yield part
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file that outlives a power cut.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
