"""Which pixels of a map are anomalous."""

import cv2
import numpy as np

#: Maps are smooth: a strong defect lifts its surroundings above the threshold, too. A pixel must also reach this share
#: of the peak; the peak is that of a block of so many pixels a side, and fades by this factor from block to block.
SHARE, BLOCK, FADES = 0.6, 8, 0.8
#: Blocks by which the peaks are spread one after another: by 8 in all, with every factor as it should be.
SPREADS = (1, 1, 2, 4)
#: Least distance of a map from 1.
LEAST = 1e-7


def mask_of(anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """Pixels above a threshold that reach 0.6 of what the peaks around them leave there.

    Args:
        anomaly_map: ``(h, w)`` in [0, 1), of normalised scores ``s / (s + t)``, where t is the calibrated threshold.
        threshold: Value of the map.

    Returns:
        ``(h, w)`` bool.
    """
    score = anomaly_map / np.maximum(1 - anomaly_map, LEAST)
    height, width = score.shape
    whole = np.pad(score, ((0, -height % BLOCK), (0, -width % BLOCK)))
    peak = whole.reshape(len(whole) // BLOCK, BLOCK, -1, BLOCK).max(axis=(1, 3))
    for blocks in SPREADS:
        near = cv2.dilate(peak, np.ones((2 * blocks + 1, 2 * blocks + 1), np.uint8))
        peak = np.maximum(peak, FADES**blocks * near)
    peak = peak.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    mask: np.ndarray = (anomaly_map > threshold) & (score >= SHARE * peak)
    return mask
