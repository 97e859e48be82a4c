"""A folder that fills."""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from .decoding import ImageError, fault, read_file, read_image
from .folders import BEFORE, images_below, stamp_of, why_unseen
from .frames import Frame, Frames
from .results import Stamp

logger = logging.getLogger(__name__)

#: Least seconds between looks into a watched folder; seconds for which a file must be unchanged, and after which a
#: part of one is taken as it is.
POLL, SETTLED, GIVEN_UP = 0.2, 1.0, 30.0
#: A look at many files is rested from for so many times as long as it took.
RESTS = 4


def _is_whole(path: str) -> bool:
    """Whether a file can be read, and has all that its header tells of."""
    try:
        return not fault(read_file(path))
    except ImageError:  # another program may still hold it
        return False


def _is_lost(folder: Path, before: bool) -> bool:
    """Whether nobody can look into a watched folder; tells when that is another than before."""
    why = why_unseen(folder)
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
        for path, name in images_below(folder, own, counts):
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
