"""How far two forms of a model are from each other."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Difference(NamedTuple):
    """The most by which a score and a map value differ, NaN if one is, and on how many images the labels are equal."""

    score: float
    anomaly_map: float
    equal_labels: int
    images: int


def _most(one: Any, other: Any) -> float:
    one = np.asarray(one)
    return float(np.abs(one - np.asarray(other).reshape(one.shape)).max())


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    """Compare ``pred_score``, ``anomaly_map`` and ``pred_label`` of an image by two forms."""
    score, anomaly_map = (_most(one[name], other[name]) for name in ("pred_score", "anomaly_map"))
    return Difference(score, anomaly_map, int(one["pred_label"].item() == other["pred_label"].item()), 1)


def largest(differences: Iterable[Difference]) -> Difference:
    """Difference over images, of those of one or more."""
    scores, maps, equal, images = zip(*differences, strict=True)
    return Difference(float(np.max(scores)), float(np.max(maps)), sum(equal), sum(images))
