"""A camera, of which only the newest image matters."""

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import cv2
import numpy as np

logger = logging.getLogger(__name__)

#: Seconds between attempts to reach a camera, between looks whether images are still wanted, and that a camera gets
#: to let go at the end.
RECONNECT, POLL, LEAVE = 2.0, 0.2, 5.0


class Shot(NamedTuple):
    """An image ``(H, W, 3)`` of BGR bytes, when it was read, and how many right before it were dropped."""

    image: np.ndarray
    taken: datetime
    dropped: int


def name_of(address: int | str) -> str:
    """Name of a camera, for files, results and messages: its number, or the scheme and host of its address.

    Nothing else of an address is told: users and passwords stand before the host, but in paths and queries, too.
    """
    scheme, _, rest = str(address).partition("://")
    host = re.fullmatch(r"(?:[^/?#]*@)?([^/?#@]+)(?:[/?#][^@]*)?", rest)  # none where it is unclear which part it is
    return re.sub(r"[^\w.-]+", "-", f"{scheme}://{host[1]}" if host else scheme)


class Camera:
    """A camera; iterated, it gives the newest image each time, and ``None`` whenever there is none for a while.

    A thread reads ahead, so that no image waits behind older ones; those that nobody was free for are dropped and
    counted. A camera that fails later is opened again, as long as it takes.

    Args:
        address: Its number, or the address of a stream.
        stop: Ends it; set when the iteration is closed.

    Raises:
        ConnectionError: If it cannot be opened now.
    """

    def __init__(self, address: int | str, stop: Event) -> None:
        self.name = name_of(address)
        # other backends take an address for the name of a file, and log it with its password
        self._where: list[Any] = [address, cv2.CAP_FFMPEG if isinstance(address, str) else cv2.CAP_ANY]
        self._stop = stop
        self._newest: Queue[Shot] = Queue(1)
        self._fails = False
        self._capture = cv2.VideoCapture(*self._where)
        if not self._capture.isOpened():
            none, refused = "nothing answers at its address", "it refuses user, password or path"
            if isinstance(address, int):
                none, refused = "there is none of that number", "another program holds it"
            msg = f"camera {self.name} cannot be opened: {none}, or {refused}"
            raise ConnectionError(msg)

    def _read(self) -> np.ndarray | None:
        """An image, or none; where that changes it is told, once, not all night."""
        why = ""
        try:
            there, image = self._capture.read()
        except Exception as error:  # noqa: BLE001  # no image must end the thread that others wait for
            there, why = False, f" ({error})"
        if there and self._fails:
            logger.warning("camera %s gives images again", self.name)
        if not (there or self._fails):
            logger.warning("camera %s gives no image%s; trying again every %.0f s", self.name, why, RECONNECT)
        self._fails = not there
        return image if there else None

    def _keep(self, image: np.ndarray) -> None:
        """Let an image take the place of the one that nobody was free for."""
        taken, dropped = datetime.now(timezone.utc), 0
        with suppress(Empty):
            dropped = self._newest.get_nowait().dropped + 1
        self._newest.put(Shot(image, taken, dropped))

    def _read_ahead(self) -> None:
        while not self._stop.is_set():
            image = self._read()
            if image is not None:
                self._keep(image)
                continue
            self._capture.release()
            if not self._stop.wait(RECONNECT):
                self._capture.open(*self._where)
        self._capture.release()

    def _next(self) -> Shot | None:
        try:
            return self._newest.get(timeout=POLL)
        except Empty:
            return None

    def __iter__(self) -> Iterator[Shot | None]:
        """Start to read, until ``stop``."""
        reader = Thread(target=self._read_ahead, daemon=True)
        reader.start()
        try:
            while not self._stop.is_set():
                yield self._next()
        finally:
            self._stop.set()
            reader.join(LEAVE)
