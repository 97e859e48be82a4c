"""What fits in memory."""

from contextlib import suppress
from pathlib import Path

import psutil

#: Where Linux tells what a container may take at most, by the second and the first version of its control groups.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

#: Share of the free memory that training data may take.
SHARE = 0.5


def fits_in_memory(size: int) -> bool:
    """Whether ``size`` bytes of training data may be kept in memory."""
    available = psutil.virtual_memory().available
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # ValueError: "max" where there is none
            available = min(available, int(limit.read_text()) - psutil.Process().memory_info().rss)
    return size < SHARE * available
