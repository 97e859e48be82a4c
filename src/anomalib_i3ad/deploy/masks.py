"""Which pixels of a map are anomalous."""

import cv2
import numpy as np

#: Side in pixels of the blocks among which the highest value is looked for. Maps are smooth: a strong defect lifts its
#: surroundings above the threshold, too.
BLOCK = 8


def mask_of(anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """Pixels above a threshold that reach half of the highest score in their block and the eight around it.

    Args:
        anomaly_map: ``(h, w)`` in [0, 1), of normalised scores ``s / (s + t)``, where t is the calibrated threshold.
        threshold: Value of the map.

    Returns:
        ``(h, w)`` bool.
    """
    height, width = anomaly_map.shape
    whole = np.pad(anomaly_map, ((0, -height % BLOCK), (0, -width % BLOCK)))
    highest = whole.reshape(len(whole) // BLOCK, BLOCK, -1, BLOCK).max(axis=(1, 3))
    top = cv2.dilate(highest, np.ones((3, 3), np.uint8)).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    # half of s is n / (2 - n) where s is n
    return (anomaly_map > threshold) & (anomaly_map >= top / (2 - top))
