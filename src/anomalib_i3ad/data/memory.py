"""What fits in memory."""

from contextlib import suppress
from pathlib import Path

import psutil

#: Where Linux tells what a container may take at most; "max" where there is no limit.
LIMIT = Path("/sys/fs/cgroup/memory.max")

#: Share of the free memory that training data may take.
SHARE = 0.5


def fits_in_memory(size: int) -> bool:
    """Whether ``size`` bytes of training data may be kept in memory."""
    available = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        available = min(available, int(LIMIT.read_text()))
    return size < SHARE * available
