"""One row for every image, written as it comes and never lost or repeated."""

import csv
import errno
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import write_whole

logger = logging.getLogger(__name__)

#: ``size`` in bytes and ``mtime_ns`` tell which content of the file a row belongs to; a camera's images have neither.
FIELDS = (
    "image", "time", "label", "score", "threshold", "iterations", "milliseconds", "picture", "error", "size",
    "mtime_ns",
)  # fmt: skip

JSON_START = b'{"image": '
NO_ROOM = "no room"
#: Size of a file in bytes, and when it was last changed in nanoseconds: what tells one content from the next.
Stamp = tuple[int, int]


def _to_line(row: dict[str, Any], *, as_json: bool) -> bytes:
    """A row as it stands in a file of results; ``None`` is an empty field of a table, and null in JSON."""
    if as_json:
        return json.dumps(row).encode() + b"\n"
    text = io.StringIO()
    csv.DictWriter(text, FIELDS, lineterminator="\r\n").writerow(row)  # it quotes names that hold one of the two
    return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "surrogateescape")


def _header(*, as_json: bool) -> bytes:
    return b"" if as_json else _to_line(dict(zip(FIELDS, FIELDS, strict=True)), as_json=False)


def _from_line(line: bytes, *, as_json: bool) -> dict[str, Any]:
    """The row of a line, ``None`` where it is empty; of a table, as text but for the stamp.

    Raises:
        ValueError: If it is none.
    """
    text = line.decode("utf-8", "surrogateescape")
    try:
        if as_json:
            row = json.loads(text)
        else:
            (fields,) = csv.reader(io.StringIO(text, newline=""), strict=True)
            row = dict(zip(FIELDS, (field or None for field in fields), strict=True))
        if tuple(row) != FIELDS or not isinstance(row["image"], str) or not isinstance(row["picture"], str | None):
            msg = "it has other fields"
            raise ValueError(msg)
        if row["size"] is not None:
            row["size"], row["mtime_ns"] = int(row["size"]), int(row["mtime_ns"])
    except (csv.Error, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return row


def _could_be_torn(lines: list[bytes], *, as_json: bool) -> bool:
    """Whether a process that was killed can have left these lines as a part of its last row."""
    if as_json:
        # a power cut may leave zeros where the rest was to come
        return all(JSON_START.startswith(line.rstrip(b"\0")[: len(JSON_START)]) for line in lines)
    for line in lines[1:]:
        try:
            _from_line(line, as_json=False)
        except ValueError:
            continue
        return not line.endswith(b"\n")  # a whole row: a quotation mark before it was never closed
    return True


def rows_in(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole rows of a file of results, each as it stands there and parsed; only reads.

    Args:
        path: A ``.csv`` or ``.jsonl`` file; no rows if it is not there. What a killed process left of its last row is
            passed over.

    Raises:
        ValueError: If the file was not written by :class:`Results`, or was changed since; the message names the line.
    """
    as_json = path.suffix == ".jsonl"
    header = _header(as_json=as_json)
    if not path.exists():
        return
    number, lines, quotes = 0 if as_json else 1, list[bytes](), 0
    with path.open("rb") as file:
        start = file.read(len(header))
        if start != header[: len(start)]:
            msg = f"{path}: has other columns than {', '.join(FIELDS)}; name another file or folder"
            raise ValueError(msg)
        for line in file:
            lines.append(line)
            quotes += line.count(b'"')
            if line.endswith(b"\n") and (as_json or quotes % 2 == 0):  # a name may hold a line break, within quotes
                try:
                    yield (whole := b"".join(lines)), _from_line(whole, as_json=as_json)
                except ValueError as error:
                    msg = f"{path}: line {number + 1} is no row of results ({error}); name another file or folder"
                    raise ValueError(msg) from error
                number += len(lines)
                lines, quotes = [], 0
    if not _could_be_torn(lines, as_json=as_json):
        msg = f"{path}: from line {number + 1} on, these are no rows of results; name another file or folder"
        raise ValueError(msg)


class Results:
    """A file of results to which rows are added, each whole or not at all.

    Rows go to the operating system at once, so that a process that is killed loses none. What a killed process left
    of its last row is removed when the file is opened again. An image that is inspected anew gets another row; those
    before it are removed when the file is closed. While the file cannot be written, of a full disk or one that is away,
    rows wait in memory.

    Args:
        path: ``.csv`` for a table with a header, ``.jsonl`` for a JSON object a line. Made if it is not there.
        begin: Called before another file is begun, because this one was removed or moved.

    Raises:
        OSError: If the file cannot be opened for writing.
        ValueError: If it has another suffix, or holds something else, which is left as it is.
    """

    def __init__(self, path: Path, begin: Callable[[], None] = lambda: None) -> None:
        if path.suffix not in {".csv", ".jsonl"}:
            msg = f"{path}: results are written as .csv or .jsonl"
            raise ValueError(msg)
        self.path = path
        self._begin = begin
        self._as_json = path.suffix == ".jsonl"
        #: Images that had a row without an error when the file was opened, and what they were like then.
        self.done: dict[str, Stamp] = {}
        self._named: set[str] = set()
        self._repeats = False
        header = _header(as_json=self._as_json)
        self._end = 0
        for line, row in rows_in(path):
            self._end += len(line)
            self._count(row)
            self.done.pop(row["image"], None)
            if row["size"] is not None and not row["error"]:
                self.done[row["image"]] = (row["size"], row["mtime_ns"])
        self._open()
        there = os.fstat(self._file.fileno()).st_size
        self._end += len(header) if there >= len(header) else 0
        if there != self._end:
            os.ftruncate(self._file.fileno(), self._end)
        self._waiting: list[bytes] = []
        #: Why rows wait, or waited last.
        self._why = ""
        #: Whether writing failed otherwise than for lack of room: a share that was away leaves dead files behind.
        self._dead = False
        if not self._end:
            self._write()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)

    def _lines(self) -> bytes:
        """What waits, behind a header where the file has none."""
        return (b"" if self._end else _header(as_json=self._as_json)) + b"".join(self._waiting)

    def _is_open(self) -> bool:
        """Whether the file that is there is the one that is open."""
        try:
            there = self.path.stat()  # or rows wait
            return not self._dead and os.path.samestat(os.fstat(self._file.fileno()), there)
        except FileNotFoundError:
            return False

    def prepare(self) -> None:
        """Prepare the folder for what else is written there.

        Raises:
            OSError: If that cannot be now.
        """
        with suppress(OSError):  # of a share that was away and is back
            if self._is_open():
                return
        self._begin()

    def _go_on(self) -> None:
        """Go on in the file that is there now: another program may have removed, replaced or cut it."""
        is_open = self._is_open()
        if not is_open:
            before = self._file
            self._begin()
            self._open()
            with suppress(OSError):
                before.close()
        size = os.fstat(self._file.fileno()).st_size
        if is_open and size >= self._end:
            self._end = size  # what another program has added stays
            return
        if self._dead:
            self._dead = False
            self._file.seek(self._end)
            if size >= self._end and self._lines().startswith(self._file.read()):
                os.ftruncate(self._file.fileno(), self._end)  # what the last attempt left of its rows
                return
        self._end = size
        told = "was changed by another program; rows go on behind what is left"
        logger.warning(
            "%s: %s", self.path, told if self._end else "was removed, moved or emptied; another one is begun"
        )
        if self._end and self._waiting:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # with the row, which waits where there is no room
                self._waiting[0] = b"\n" + self._waiting[0]

    def _count(self, row: dict[str, Any]) -> None:
        """Note whether an image has another row; a camera's have not, and are not remembered."""
        if row["image"] in self._named:
            self._repeats = True
        elif row["size"] is not None or row["error"]:
            self._named.add(row["image"])

    def _write(self) -> None:
        """Write what waits."""
        try:
            self._go_on()
            lines = self._lines()
            if self._file.write(lines) == len(lines):
                self._end += len(lines)
                self._waiting.clear()
                return
            self._why = NO_ROOM
            os.ftruncate(self._file.fileno(), self._end)  # a full disk took a part
        except OSError as error:
            self._why = NO_ROOM if error.errno == errno.ENOSPC else error.strerror or str(error)
            self._dead = self._why != NO_ROOM
        if len(self._waiting) == 1:
            logger.warning("%s: %s; rows wait in memory until they can be written", self.path, self._why)

    @property
    def waiting(self) -> int:
        """Rows that could not be written yet; they are tried again with the next one."""
        return len(self._waiting)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it replaces the one of the same image, where there is one.

        Args:
            row: An entry for each of ``FIELDS``, ``None`` where there is nothing to say.
        """
        self._count(row)
        self._waiting.append(_to_line(row, as_json=self._as_json))
        self._write()

    def close(self) -> None:
        """Write what waits, close the file, and leave one row of each image in it.

        Raises:
            OSError: If rows still cannot be written, the message says how many are lost; or if there is no room to
                write the file without those that were replaced, it is then done the next time.
        """
        if self._waiting:
            self._write()
        lost = self.waiting
        self._file.close()
        if lost:
            msg = f"{self.path}: {self._why} for the last {lost} rows; mend it and start again, they are inspected anew"
            raise OSError(errno.ENOSPC, msg)
        if self._repeats:
            latest: dict[str, bytes] = {}
            for line, row in rows_in(self.path):
                latest.pop(row["image"], None)
                latest[row["image"]] = line
            write_whole(self.path, [_header(as_json=self._as_json), *latest.values()])
