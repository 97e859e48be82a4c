"""Real images, where ``I3AD_DATA`` names a folder of them."""

from pathlib import Path

import numpy as np
from anomalib.data.utils import read_image

from anomalib_i3ad import I3AD
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.graph import FP32
from model_tester import MAP_TOLERANCE, SCORE_TOLERANCE, make_engine


def test_engine_and_export_agree_on_images_that_need_resizing(real_data: Path, untrained: I3AD, exported: Path) -> None:
    compiled = new_core().compile_model(exported, "CPU", FP32)
    folder = real_data / "MVTecAD" / "bottle" / "test" / "broken_small"
    predictions = make_engine().predict(untrained, data_path=folder)
    assert len(predictions) == 22
    for batch in predictions:
        result = compiled(read_image(batch.image_path[0], as_tensor=True).numpy()[None])
        assert np.abs(result["pred_score"] - batch.pred_score.numpy()).max() < SCORE_TOLERANCE
        assert np.abs(result["anomaly_map"] - batch.anomaly_map.numpy()).max() < MAP_TOLERANCE
        assert (result["pred_label"] == batch.pred_label.numpy()).all()
