"""What fits in memory."""

import psutil

#: Share of the free memory that training data may take.
SHARE = 0.5


def fits_in_memory(size: int) -> bool:
    """Whether ``size`` bytes of training data may be kept in memory."""
    return size < SHARE * psutil.virtual_memory().available
