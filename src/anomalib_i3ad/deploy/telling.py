"""What a run tells on standard output and error, which may stop no line."""

import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

#: Most letters that are written at once: a pipe that has room takes so many bytes, of up to ten for a letter.
AT_ONCE = getattr(select, "PIPE_BUF", 512) // 10


def _has_room(stream: TextIO) -> bool:
    """Whether a stream takes text at once; of a pipe that nobody empties one would wait forever."""
    if sys.platform == "win32":  # which can tell it of sockets alone
        return True
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):  # no file
        return True


def say(text: str, end: str = "\n", to: Literal["stderr", "stdout"] = "stderr") -> None:
    """Write, if that can be: nobody who listens, a full disk, or letters a console has not, must not stop a line."""
    stream, text = getattr(sys, to), text + end
    if stream is None:
        return
    try:
        for start in range(0, len(text), AT_ONCE):
            if not _has_room(stream):
                return
            print(text[start : start + AT_ONCE], end="", file=stream, flush=True)
    except (OSError, ValueError):
        # what could not be written would be tried again at the end, and change the exit code
        setattr(sys, to, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


class Telling(logging.Handler):
    """Says what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """See :func:`say`."""
        say(self.format(record))


def fill_standard_files() -> None:
    """Open what is closed of standard input, output and error, before a file of the run takes its place.

    Libraries write their messages there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


@contextmanager
def decoders_silenced() -> Iterator[None]:
    """Leave standard error to Python: what decoders write there is lost.

    They tell of every odd file and of every attempt to reach a camera, and would wait for a pipe that nobody empties.
    """
    before, own = sys.stderr, os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        if before is sys.__stderr__ and before is not None:  # nobody else has put another in its place
            # never closed by us: what it could not write would be an error then
            sys.stderr = open(os.dup(own), "w", encoding=before.encoding, errors=before.errors)  # noqa: PTH123, SIM115
        yield
    finally:
        sys.stderr = before
        os.dup2(own, 2)
        os.close(own)
