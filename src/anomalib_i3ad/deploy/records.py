"""One row for every image, written as it comes and never lost or repeated."""

import csv
import errno
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FIELDS = ("image", "time", "label", "score", "passes", "milliseconds", "picture", "error")


class Records:
    """A file of results to which rows are added, each whole or not at all.

    Rows go to the operating system at once, so that a process that is killed loses none. What a killed process left
    of its last row is removed when the file is opened again. When the disk is full, rows wait in memory.

    Args:
        path: ``.csv`` for a table with a header, ``.jsonl`` for a JSON object a line. Made if it is not there.

    Raises:
        OSError: If the file cannot be opened for writing.
        ValueError: If it has another suffix, or is a table of other columns.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in {".csv", ".jsonl"}:
            msg = f"{path}: results are written as .csv or .jsonl"
            raise ValueError(msg)
        self.path = path
        self._as_json = path.suffix == ".jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        content = self._file.read()
        whole = self._whole_rows(content)
        self._file.truncate(len(whole))
        self._end = len(whole)
        self._waiting: list[bytes] = []
        #: Images that had a row when the file was opened.
        self.done = self._names(whole.decode("utf-8", "surrogateescape"))
        if not whole and not self._as_json:
            self._write(self._line(dict(zip(FIELDS, FIELDS, strict=True))))

    def _whole_rows(self, content: bytes) -> bytes:
        """Content up to the end of its last whole row; a row of a table may hold line breaks within quotes."""
        end = content.rfind(b"\n") + 1
        while not self._as_json and content.count(b'"', 0, end) % 2:
            end = content.rfind(b"\n", 0, end - 1) + 1
        return content[:end]

    def _names(self, text: str) -> set[str]:
        if self._as_json:
            return {json.loads(line)["image"] for line in text.splitlines()}
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if text and tuple(rows.fieldnames or ()) != FIELDS:
            msg = f"{self.path}: has other columns than {', '.join(FIELDS)}; name another file or folder"
            raise ValueError(msg)
        return {row["image"] for row in rows}

    def _line(self, row: dict[str, Any]) -> bytes:
        if self._as_json:
            return json.dumps(row).encode() + b"\n"
        text = io.StringIO()
        csv.DictWriter(text, FIELDS, lineterminator="\n").writerow(row)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def _write(self, line: bytes) -> None:
        self._waiting.append(line)
        lines = b"".join(self._waiting)
        try:
            written = self._file.write(lines)
        except OSError:
            written = 0
        if written == len(lines):
            self._end += written
            self._waiting.clear()
        else:  # a full disk may have taken a part
            os.ftruncate(self._file.fileno(), self._end)
            if len(self._waiting) == 1:
                logger.warning("%s: no room; rows wait in memory until there is", self.path)

    @property
    def waiting(self) -> int:
        """Rows that could not be written yet; they are tried again with the next one."""
        return len(self._waiting)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row.

        Args:
            row: An entry for each of ``FIELDS``; ``image`` is unique.
        """
        self._write(self._line(row))

    def close(self) -> None:
        """Write what waits and close the file.

        Raises:
            OSError: If rows still cannot be written; the message says how many are lost.
        """
        if self._waiting:
            self._write(b"")
        lost = self.waiting
        self._file.close()
        if lost:
            msg = (
                f"{self.path}: no room for the last {lost} rows; make room and start again, they will be inspected anew"
            )
            raise OSError(errno.ENOSPC, msg)
