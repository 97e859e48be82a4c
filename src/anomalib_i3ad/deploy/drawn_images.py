"""Images to compare models on where there are no others."""

import cv2
import numpy as np

DRAWN_SIZES = ((256, 256), (300, 200), (97, 131), (480, 640))


def drawn_images(size: tuple[int, int] | None) -> list[np.ndarray]:
    """Smooth random images ``(H, W, 3)`` of RGB bytes, the same every time.

    Args:
        size: Their height and width in pixels; several sizes if ``None``.
    """
    sizes = [size] * len(DRAWN_SIZES) if size else DRAWN_SIZES
    nodes = np.random.default_rng(0).random((len(sizes), 9, 9, 3), np.float32)
    drawn = [
        cv2.resize(node, (width, height), interpolation=cv2.INTER_CUBIC)
        for node, (height, width) in zip(nodes, sizes, strict=True)
    ]
    return [np.rint(255 * image.clip(0, 1)).astype(np.uint8) for image in drawn]
