"""Image files to pixels, and what is wrong with those that are none."""

import re
import struct
import zlib
from pathlib import Path
from stat import S_ISREG

import cv2
import numpy as np

#: Suffixes of the files that are looked at in a folder; those anomalib trains on.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
#: Larger images are shrunk by a whole factor once they are decoded: those under way would take all memory.
MOST_PIXELS = 32_000_000
#: Larger ones are not decoded: a small file may tell of so many that the machine has no memory for them.
MOST_DECODED = 8 * MOST_PIXELS
#: Bytes of so many pixels of 16-bit colours: larger files are not read.
MOST_BYTES = 6 * MOST_DECODED
# as anomalib trains: no alpha, no orientation tag (TIFF's is not passed over); the depth tells what it cannot train on
FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
PNG, JPEG, RIFF, BMP, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF", b"BM", (b"II*\0", b"MM\0*")
#: TIFF with addresses of 64 bits; tags of a page's kind, size, bits, orientation and planes, which are among its first.
BIG_TIFF, KIND, WIDTH, HEIGHT, BITS, TURNED, PLANES = (b"II+\0", b"MM\0+"), 254, 256, 257, 258, 274, 284
FIRST_TAGS = 32
#: Orientations by which rows and columns are exchanged.
QUARTER_TURNS = range(5, 9)
#: Bits of the kind: a small copy or a mask of another page; a plane for each colour; values that have not 32 bits.
NO_PAGE, SEPARATE, FORMATS = 0b101, 2, {3: "H", 16: "Q"}
#: Start of a PGM or PPM file up to its largest value; comments may stand between the numbers.
PNM = re.compile(rb"P[2356]" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
#: Marks the end of a JPEG image, or a segment whose length follows; those that stand alone within pixels are left out.
JPEG_END, JPEG_MARKER = 0xD9, re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
#: Markers of the JPEG segments that hold height and width.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(Exception):
    """An image that cannot be inspected; the message says why."""


def _size_fault(height: int, width: int) -> str | None:
    if height * width <= MOST_DECODED:
        return None
    return f"{width} x {height} pixels; at most {MOST_DECODED // 1_000_000} million are decoded, cut it into parts"


def _png_fault(data: bytes) -> str | None:
    """What is wrong with a PNG file, by its size and the checksums of its parts."""
    position = len(PNG)
    if len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        if wrong := _size_fault(height, width):
            return wrong
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        (expected,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(data[position + 4 : end - 4]) != expected:
            return "damaged PNG file: a checksum is wrong"
        if data[position + 4 : position + 8] == b"IEND":
            return None
        position = end
    return "incomplete PNG file: cut off, or still being written"


def _jpeg_fault(data: bytes) -> str | None:
    """What is wrong with a JPEG file, by its size and end; other data may follow, and a preview lie within."""
    position = len(JPEG)
    while marker := JPEG_MARKER.search(data, position):
        position = marker.end()
        if data[position - 1] == JPEG_END:
            return None
        tells_size = data[position - 1] in JPEG_FRAMES and len(data) >= position + 7
        if tells_size and (wrong := _size_fault(*struct.unpack_from(">HH", data, position + 3))):
            return wrong
        position += int.from_bytes(data[position : position + 2], "big")
    return "incomplete JPEG file: cut off, or still being written"


def _tiff_pages(data: bytes) -> list[dict[int, int]]:
    """Tags of the pages of a TIFF file, of each the first value, as far as its list of pages can be followed.

    Small copies and masks of pages are none.
    """
    order, big = "<" if data.startswith(b"II") else ">", data.startswith(BIG_TIFF)
    count, entry, address, first = ("Q", 20, "Q", 8) if big else ("H", 12, "I", 4)
    pages, known = list[dict[int, int]](), set[int]()
    try:
        (at,) = struct.unpack_from(order + address, data, first)
        while at and at not in known:
            known.add(at)
            (tags,) = struct.unpack_from(order + count, data, at)
            at += struct.calcsize(count)
            values = dict[int, int]()
            for start in range(at, at + entry * min(tags, FIRST_TAGS), entry):
                tag, kind, number = struct.unpack_from(f"{order}HH{address}", data, start)
                form, room = FORMATS.get(kind, "I"), struct.calcsize(address)
                value_at = start + entry - room
                if number * struct.calcsize(form) > room:
                    (value_at,) = struct.unpack_from(order + address, data, value_at)
                (values[tag],) = struct.unpack_from(order + form, data, value_at)
            if not values.get(KIND, 0) & NO_PAGE:
                pages.append(values)
            (at,) = struct.unpack_from(order + address, data, at + entry * tags)
    except (struct.error, OverflowError):
        pass  # damaged: the decoder will say how
    return pages


def _misread(data: bytes) -> str | None:
    """What about a whole file would be read otherwise than it is meant."""
    if data.startswith(TIFF + BIG_TIFF) and (pages := _tiff_pages(data)):
        if len(pages) > 1:
            return f"has {len(pages)} pages; save each as a file of its own"
        if pages[0].get(PLANES) == SEPARATE and pages[0].get(BITS) == 16:  # OpenCV leaves pixels as memory was
            return "TIFF file of 16 bits with a plane for each colour; save the colours of a pixel together"
        if pages[0].get(TURNED) in QUARTER_TURNS:  # training and OpenCV read some of them differently
            return "TIFF file with a tag that turns it by 90 degrees; save it turned, without the tag"
        return _size_fault(pages[0].get(HEIGHT, 0), pages[0].get(WIDTH, 0))
    if (start := PNM.match(data)) and start[3].lstrip(b"0") not in {b"255", b"65535"}:
        return f"PGM or PPM file whose largest value is {start[3].decode()}; save it with 255"
    return None


def fault(data: bytes) -> str | None:
    """What is wrong with a file before its pixels are looked at; decoders return half images without a word.

    Args:
        data: Content of the file.
    """
    if not data:
        return "empty file"
    if data.startswith(PNG):
        return _png_fault(data)
    if data.startswith(JPEG):
        return _jpeg_fault(data)
    if data.startswith(RIFF) and len(data) >= 8 and struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        return "incomplete WebP file: cut off, or still being written"
    if data.startswith(BMP) and len(data) >= 6 and struct.unpack_from("<I", data, 2)[0] > len(data):
        return "incomplete BMP file: cut off, or still being written"
    return None


def decode(data: bytes) -> np.ndarray:
    """Decode an image file.

    Gray, palette, CMYK and transparent images become 8-bit RGB, 16-bit colours lose their lower 8 bits, and the
    camera's orientation tag is ignored, but in TIFF files, as in training. Gray values of more than 8 bits are refused,
    as there, TIFF files that are to be turned by 90 degrees, with transparent parts, which OpenCV would darken, or
    several pages, of which it would read the first, and PGM and PPM files whose largest value is another than it takes
    for white.

    Args:
        data: Content of the file.

    Returns:
        ``(H, W, 3)`` RGB bytes.

    Raises:
        ImageError: If it is no image, or not a whole one.
    """
    wrong = fault(data) or _misread(data)
    if wrong:
        raise ImageError(wrong)
    # FLAGS would not tell of transparency
    flags = cv2.IMREAD_UNCHANGED if data.startswith(TIFF + BIG_TIFF) else FLAGS
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        msg = f"OpenCV cannot decode it: {error.err}"
        raise ImageError(msg) from error
    if image is None:
        msg = "not an image that OpenCV can read"
        raise ImageError(msg)
    gray = image.ndim == 2
    if image.dtype != np.uint8:
        if gray or image.dtype != np.uint16:
            what = "gray values of more than 8 bits" if gray else "colours of neither 8 nor 16 bits"
            msg = f"{what}, which training does not take; convert to 8 bits, here and there"
            raise ImageError(msg)
        image = np.right_shift(image, 8, out=image).astype(np.uint8)  # large ones leave no room for another
    if not gray:
        if (image[..., 3:] < 255).any():
            msg = "TIFF file with transparent parts; save it without transparency"
            raise ImageError(msg)
        image = image[..., :3]
    factor = int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / MOST_PIXELS)))
    if factor > 1:
        size = (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if gray else cv2.COLOR_BGR2RGB)


def read_file(path: str | Path) -> bytes:
    """Content of a file.

    Raises:
        ImageError: If it cannot be read, is too large, or something that one might wait for forever, such as a pipe.
    """
    try:
        status = Path(path).stat()
        if not S_ISREG(status.st_mode):
            msg = "not a file with content"
            raise ImageError(msg)
        if status.st_size > MOST_BYTES:
            msg = f"{status.st_size} bytes; at most {MOST_BYTES} are read, cut it into parts"
            raise ImageError(msg)
        return Path(path).read_bytes()
    except (OSError, ValueError, MemoryError) as error:  # of a path that holds a zero byte; of what memory is left
        msg = f"cannot be read: {getattr(error, 'strerror', None) or str(error) or 'there is no memory for it'}"
        raise ImageError(msg) from error


def read_image(path: str | Path) -> np.ndarray:
    """Read and decode an image file; see :func:`decode`.

    Raises:
        ImageError: If it cannot be read or decoded.
    """
    return decode(read_file(path))
