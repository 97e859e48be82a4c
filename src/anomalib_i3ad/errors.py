"""What a user can mend ends anomalib's command with a line; everything else keeps its traceback."""

import linecache
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from types import FrameType, TracebackType


def _candidates(error: BaseException) -> Iterator[BaseException]:
    yield error
    for frame, _ in walk_tb(error.__traceback__):
        # jsonargparse tries every type an argument may have, gathers their errors and raises one of its own
        if _package(frame) == "jsonargparse":
            yield from frame.f_locals.get("exceptions", ())


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _is_ours(error: BaseException) -> bool:
    """Whether a line of this package raised it on purpose."""
    frames = list(walk_tb(error.__traceback__))
    if not frames:
        return False
    frame, line = frames[-1]
    code = linecache.getline(frame.f_code.co_filename, line)
    return _package(frame) == __package__ and code.strip().startswith("raise ")


def _what_is_not_there(error: BaseException) -> str | None:
    """What the command names with an option and is not there, if that is the error."""
    if isinstance(error, FileNotFoundError):
        words = [part for word in sys.argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
        for option, value in pairwise(words):
            path = Path(value).absolute()
            if option.startswith("--") and str(path) in str(error) and not path.exists():
                return f"{option} {value}: there is no such file or folder"
    return None


_show_traceback = sys.excepthook


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    told = next(filter(_is_ours, _candidates(error)), None) or _what_is_not_there(error)
    if told is None:
        _show_traceback(kind, error, trace)
    else:
        print(f"error: {told}", file=sys.stderr)  # noqa: T201


sys.excepthook = _show
