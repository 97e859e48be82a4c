"""The wish that a run end."""

import time
from threading import Event

#: Most seconds from the wish to the end of waiting for it.
SLICE = 0.1


class Stop(Event):
    """An event that a signal may set.

    The handler of a signal interrupts whatever its thread does. Within :class:`threading.Event` that may hold the lock
    which the handler needs then, and neither would go on; this one has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wished = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._wished

    def set(self) -> None:
        """Set it."""
        self._wished = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for so many seconds; returns whether it is set."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._wished and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE, left))
        return self._wished
