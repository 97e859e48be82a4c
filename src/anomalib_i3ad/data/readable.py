"""Refuses image files that training would read otherwise than they are meant, or the line would not read."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image

from anomalib_i3ad.deploy.decoding import ImageError, read_image


def check_readable(path: str) -> None:
    """Check an image's file for what :func:`anomalib_i3ad.deploy.decoding.decode` refuses and anomalib reads.

    anomalib cuts gray values off at 255, and takes the first page of several. A file is opened once, unless it changes.

    Args:
        path: The image's file; one that cannot be opened is not checked.

    Raises:
        ValueError: If it has gray values of more than 8 bits, or is a TIFF, PGM or PPM file that ``decode`` refuses.
    """
    with suppress(OSError):
        _check(path, Path(path).stat().st_mtime_ns)


@cache
def _check(path: str, mtime_ns: int) -> None:
    del mtime_ns  # a file that was changed since is another one
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            msg = (
                f"{path}: gray values of more than 8 bits, all above 255 lost: "
                "convert the images to 8 bits, for training and at the line"
            )
            raise ValueError(msg)
        if image.format in {"TIFF", "PPM"}:  # of which the line takes fewer than anomalib; the latter is also PGM's
            try:
                read_image(path)
            except ImageError as error:
                msg = f"{path}: {error}"
                raise ValueError(msg) from error
