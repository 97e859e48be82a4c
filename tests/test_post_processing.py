"""Thresholds and normalisation."""

from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch

from anomalib_i3ad.post_processing import QuantilePostProcessor, quantile

ALONE = SimpleNamespace(world_size=1)


def validated(processor: QuantilePostProcessor, scores: torch.Tensor, labels: torch.Tensor) -> QuantilePostProcessor:
    maps = scores[:, None, None, None] * torch.ones(1, 1, 4, 4)
    for part in range(0, len(scores), 3):
        rows = slice(part, part + 3)
        batch = ImageBatch(
            image=torch.zeros(len(scores[rows]), 3, 4, 4),
            pred_score=scores[rows],
            anomaly_map=maps[rows],
            gt_label=labels[rows],
        )
        processor.on_validation_batch_end(ALONE, None, batch)
    processor.on_validation_epoch_end(ALONE, None)
    return processor


def test_thresholds_are_quantiles_of_normal_images_only() -> None:
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 8.0])
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    processor = validated(QuantilePostProcessor(image_quantile=0.5, pixel_quantile=0.75), scores, labels)
    assert processor.image_threshold.item() == pytest.approx(0.3)
    assert processor.pixel_threshold.item() == pytest.approx(0.4)


def test_normalised_scores_never_tie_and_split_at_a_half() -> None:
    processor = validated(QuantilePostProcessor(image_quantile=1.0), torch.tensor([0.1, 0.2]), torch.zeros(2).long())
    scores = torch.tensor([0.0, 0.1, 0.2, 0.2001, 5.0, 50.0, 51.0])
    result = processor(InferenceBatch(pred_score=scores, anomaly_map=torch.zeros(7, 1, 2, 2)))
    assert result.pred_score.diff().min() > 0
    assert result.pred_label.tolist() == [False] * 3 + [True] * 4
    assert result.pred_score[2].item() == 0.5
    assert result.pred_score.max() < 1


def test_normal_images_without_any_residual_give_a_threshold_above_zero() -> None:
    processor = validated(QuantilePostProcessor(), torch.zeros(3), torch.zeros(3).long())
    result = processor(InferenceBatch(pred_score=torch.tensor([0.0, 0.01]), anomaly_map=torch.zeros(2, 1, 2, 2)))
    assert result.pred_label.tolist() == [False, True]
    assert not result.pred_mask.any()


def test_no_normal_image_and_no_finite_score_are_refused() -> None:
    with pytest.raises(ValueError, match="no normal validation image"):
        validated(QuantilePostProcessor(), torch.ones(2), torch.ones(2).long())
    with pytest.raises(FloatingPointError, match="diverged"):
        validated(QuantilePostProcessor(), torch.tensor([0.1, float("nan")]), torch.zeros(2).long())


def test_quantile_of_more_values_than_torch_takes() -> None:
    values = torch.arange(2**24 + 1, dtype=torch.float32)
    assert quantile(list(values.chunk(3)), 0.25, ALONE) == pytest.approx(2**22)


def test_arguments_survive_a_checkpoint() -> None:
    saved = QuantilePostProcessor(image_quantile=0.9, pixel_quantile=0.8).checkpoint_config()
    loaded = QuantilePostProcessor()
    loaded.load_checkpoint_config(saved)
    assert (loaded.image_quantile, loaded.pixel_quantile) == (0.9, 0.8)
