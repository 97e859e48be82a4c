"""What fits in memory."""

import psutil

#: Share of the free memory that training data may take.
SHARE = 0.5


def fits_in_memory(size: int) -> bool:
    """Whether so many bytes may be kept."""
    return size < SHARE * psutil.virtual_memory().available
