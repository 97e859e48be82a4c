"""What is said of a scored image in words."""

from pathlib import Path
from typing import Any

#: By what was said and what is true, both whether the image is anomalous.
TRUTH = {
    (True, True): "; correct",
    (False, False): "; correct",
    (True, False): "; false alarm: the image is normal",
    (False, True): "; missed: the image is anomalous",
}


def name_of(path: str | Path | None) -> str:
    """A file with its folder, which in data sets tells the kind of defect."""
    return "/".join(Path(path or "").parts[-2:])


def caption_of(item: Any, threshold: float) -> str:
    """Name of a scored image, what it was found to be, by which score, and whether that is true if it is known."""
    if item.pred_label is None:  # the post-processor applies no thresholds
        return f"{name_of(item.image_path)}: score {float(item.pred_score):.3f}"
    anomalous = bool(item.pred_label)
    found = "anomalous" if anomalous else "normal"
    truth = "" if item.gt_label is None else TRUTH[anomalous, bool(item.gt_label)]
    return f"{name_of(item.image_path)}: {found}, score {float(item.pred_score):.3f}, threshold {threshold:g}{truth}"
