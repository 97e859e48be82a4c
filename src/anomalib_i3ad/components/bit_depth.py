"""Image files whose values do not survive being read."""

from contextlib import suppress
from functools import cache

from PIL import Image


@cache
def check_depth(path: str) -> None:
    """Check that an image has no gray values of more than 8 bits: anomalib cuts them off at 255 as it reads them.

    Args:
        path: Its file, looked at once; images that have none are as they are.

    Raises:
        ValueError: If it has.
    """
    with suppress(OSError), Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            msg = (
                f"{path}: gray values of more than 8 bits, all above 255 lost; convert to 8 bits, here and at the line"
            )
            raise ValueError(msg)
