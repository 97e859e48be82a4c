"""Refuses image files of more than 8 bits, whose values anomalib would cut off."""

from contextlib import suppress
from functools import cache

from PIL import Image


@cache
def check_depth(path: str) -> None:
    """Check that an image has no gray values of more than 8 bits: anomalib cuts them off at 255 as it reads them.

    Args:
        path: The image's file, opened once; a file that cannot be opened is not checked.

    Raises:
        ValueError: If it has.
    """
    with suppress(OSError), Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            msg = (
                f"{path}: gray values of more than 8 bits, all above 255 lost: "
                "convert the images to 8 bits, for training and at the line"
            )
            raise ValueError(msg)
