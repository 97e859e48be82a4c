"""Thresholds and normalisation."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch, MVTecAD
from scipy.stats import gamma, nct, norm

from anomalib_i3ad.deploy.masks import mask_of
from anomalib_i3ad.post_processing import QuantilePostProcessor, pooled, quantile
from model_tester import faded_peaks, make_images

ALONE = SimpleNamespace(world_size=1)


def see(processor: QuantilePostProcessor, scores: torch.Tensor, labels: torch.Tensor) -> None:
    """Begin a validation."""
    processor.on_validation_epoch_start(ALONE, None)
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


def validated(processor: QuantilePostProcessor, scores: torch.Tensor, labels: torch.Tensor) -> QuantilePostProcessor:
    see(processor, scores, labels)
    processor.on_validation_epoch_end(ALONE, None)
    return processor


def test_thresholds_are_quantiles_of_normal_images_only() -> None:
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 8.0])
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    processor = validated(QuantilePostProcessor(image_quantile=0.5, pixel_quantile=0.75), scores, labels)
    assert processor.image_threshold.item() == pytest.approx(0.3)
    assert processor.pixel_threshold.item() == pytest.approx(0.4)


def test_a_validation_forgets_the_one_before() -> None:
    processor, normal = QuantilePostProcessor(1.0, 1.0), torch.zeros(3).long()
    for scores in ([5.0, 6.0, 7.0], [0.1, 0.2, 0.3]):
        validated(processor, torch.tensor(scores), normal)
    assert processor.image_threshold.item() == processor.pixel_threshold.item() == pytest.approx(0.3)
    assert processor.normal_images == 3


def test_a_validation_forgets_one_that_did_not_end() -> None:
    processor, normal = QuantilePostProcessor(1.0, 1.0), torch.zeros(3).long()
    see(processor, torch.tensor([5.0, 6.0, 7.0]), normal)
    validated(processor, torch.tensor([0.1, 0.2, 0.3]), normal)
    assert processor.image_threshold.item() == processor.pixel_threshold.item() == pytest.approx(0.3)
    assert processor.normal_images == 3


@pytest.mark.parametrize("off", ["enable_normalization", "enable_thresholding"])
def test_normalisation_and_labels_want_thresholds_each(off: str) -> None:
    given = InferenceBatch(pred_score=torch.tensor([0.2]), anomaly_map=torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="thresholds are not calibrated"):
        QuantilePostProcessor(**{off: False})(given)


def test_says_how_many_images_calibrated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for count, image_quantile, way in ((20, 0.99, "a tolerance limit"), (20, 0.9, "the 0.9 quantile")):
        labels = torch.cat([torch.zeros(count), torch.ones(3)]).long()
        processor = validated(QuantilePostProcessor(image_quantile), torch.rand(count + 3), labels)
        assert processor.normal_images == count
        said = f"Thresholds come from 20 normal validation images, for images {way} of their scores."
        assert said in caplog.messages


def test_few_images_give_the_tolerance_limit_of_a_gamma_distribution() -> None:
    """Against scipy's: the exact tolerance factor is a quantile of the noncentral t distribution."""
    torch.manual_seed(0)
    scores = torch.distributions.Gamma(4.0, 2.0).sample((20,))
    cases = ((0.99, 20, 20, 0.01), (0.995, 20, 20, 0.01), (0.99, 10, 10, 0.01), (0.99, 4, 10, 0.03))
    for q, count, counted, rel in cases:
        few = scores[:count]
        shape = (few.mean() / few.std()).item() ** 2
        threshold = validated(QuantilePostProcessor(q), few, torch.zeros(count).long()).image_threshold
        root = counted**0.5
        share = norm.cdf(nct.ppf(0.95, counted - 1, norm.ppf(q) * root) / root)
        assert threshold == pytest.approx(gamma.ppf(share, shape, scale=few.mean().item() / shape), rel=rel)
    for q in (0.9, 1.0):  # enough images, and nothing beyond the largest
        threshold = validated(QuantilePostProcessor(q), scores, torch.zeros(20).long()).image_threshold
        assert threshold == pytest.approx(np.quantile(scores, q), rel=1e-5)
    few = validated(QuantilePostProcessor(pixel_quantile=1 - 1e-6), scores, torch.zeros(20).long())
    assert few.pixel_threshold == pytest.approx(scores.max().item(), rel=1e-5)  # pixels of an image are not independent
    one = validated(QuantilePostProcessor(), scores[:1], torch.zeros(1).long())
    assert one.image_threshold == one.pixel_threshold == scores[0]


@pytest.mark.parametrize("largest", [2.0, 20.0, 200.0, 20_000.0])
def test_a_score_far_from_the_others_lowers_no_threshold(largest: float) -> None:
    scores = torch.cat([torch.linspace(0.9, 1.1, 98), torch.tensor([largest])])
    threshold = validated(QuantilePostProcessor(), scores, torch.zeros(99).long()).image_threshold
    assert threshold > scores[:-1].max()


def test_says_what_a_threshold_of_one_image_is_worth(caplog: pytest.LogCaptureFixture) -> None:
    for count in (2, 1):
        validated(QuantilePostProcessor(), torch.rand(count), torch.zeros(count).long())
        warned = "Of one image the threshold is its own score" in caplog.text
        assert warned == (count == 1)


def test_no_validation_images_are_told_before_training(texture_root: Path) -> None:
    data = MVTecAD(next(texture_root.glob("*px*")), "fabric", val_split_mode="none", num_workers=0)
    data.setup()
    trainer = SimpleNamespace(datamodule=data)
    with pytest.raises(ValueError, match="no validation images to calibrate on: set the datamodule's val_split_mode"):
        QuantilePostProcessor().setup(trainer, None, "fit")
    QuantilePostProcessor().setup(trainer, None, "test")


def test_few_images_let_the_quantile_be_passed_with_confidence() -> None:
    torch.manual_seed(0)
    for count in (12, 40):
        drawn = torch.distributions.Gamma(20.0, 1.0).sample((400, count))
        none = torch.zeros(count).long()
        beyond = [validated(QuantilePostProcessor(), of_one, none).image_threshold.item() for of_one in drawn]
        assert np.mean(np.array(beyond) > gamma.ppf(0.99, 20)) == pytest.approx(0.95, abs=0.03)


def test_few_images_raise_few_false_alarms() -> None:
    """Of 20 scores, the largest alone would let some calibrations call one normal image in ten anomalous."""
    torch.manual_seed(0)
    normal, shares = torch.distributions.LogNormal(0.0, 0.4), []
    for _ in range(100):
        threshold = validated(QuantilePostProcessor(), normal.sample((20,)), torch.zeros(20).long()).image_threshold
        shares.append((normal.sample((2000,)) > threshold).float().mean().item())
    assert np.mean(shares) < 0.03
    assert np.quantile(shares, 0.95) < 0.08


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        ("same_as_test", "14 of 14 validation images are test images"),
        ("from_test", "3 of 6 validation images are anomalous"),
        ("from_train", ""),
    ],
)
def test_warns_before_training_and_validation_of_unfit_images(
    texture_root: Path, mode: str, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = MVTecAD(next(texture_root.glob("*px*")), "fabric", val_split_mode=mode, num_workers=0)
    data.setup()
    for stage, told in (("test", False), ("fit", bool(warning)), ("validate", bool(warning))):
        caplog.clear()
        QuantilePostProcessor().setup(SimpleNamespace(datamodule=data), None, stage)
        assert [warning in message for message in caplog.messages] == [True] * told


def test_normalised_scores_never_tie_and_split_at_a_half() -> None:
    processor = validated(QuantilePostProcessor(image_quantile=1.0), torch.tensor([0.1, 0.2]), torch.zeros(2).long())
    scores = torch.tensor([0.0, 0.1, 0.2, 0.2001, 5.0, 50.0, 51.0])
    result = processor(InferenceBatch(pred_score=scores, anomaly_map=torch.zeros(7, 1, 2, 2)))
    assert result.pred_score.diff().min() > 0
    assert result.pred_label.tolist() == [False] * 3 + [True] * 4
    assert result.pred_score[2].item() == 0.5
    assert result.pred_score.max() < 1


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("lowest", [0.0, -0.3])
def test_a_mask_reaches_its_share_of_the_peak(normalised: bool, lowest: float) -> None:
    """Against a loop over pairs of blocks, on scores as the model gives them."""
    processor = QuantilePostProcessor(enable_normalization=normalised)
    for buffer, value in ((processor._image_threshold, 1.0), (processor._pixel_threshold, 1.0)):
        buffer.fill_(value)
    processor.image_min.fill_(lowest)
    processor.pixel_min.fill_(lowest)
    maps = 4 * make_images(3, 170, 90)[:, :1] ** 3 + lowest
    found = processor(InferenceBatch(pred_score=torch.ones(3), anomaly_map=maps))
    batch = ImageBatch(image=torch.zeros(3, 3, 170, 90), pred_score=torch.ones(3), anomaly_map=maps[:, 0].clone())
    processor.post_process_batch(batch)
    raw = maps[:, 0].numpy()
    top = np.stack([faded_peaks(values - lowest) for values in raw])
    expected = (raw > 1) & (raw - lowest >= 0.6 * top)
    assert 0.1 < expected.mean() < (raw > 1).mean() - 0.01
    for mask in (found.pred_mask[:, 0], batch.pred_mask):
        assert (mask.numpy() != expected).mean() < 1e-4
    if normalised and lowest == 0:
        at_the_line = np.stack([mask_of(values.numpy(), 0.5) for values in found.anomaly_map[:, 0]])
        assert (at_the_line != expected).mean() < 1e-4


@pytest.mark.parametrize("sensitivity", [0.5, 0.8])
def test_labels_are_the_same_without_normalisation(sensitivity: float) -> None:
    given = torch.linspace(-1, 20, 100)
    predictions = InferenceBatch(pred_score=given, anomaly_map=given.reshape(100, 1, 1, 1))
    found = []
    for normalised in (True, False):
        sensitivities = {"image_sensitivity": sensitivity, "pixel_sensitivity": sensitivity}
        processor = QuantilePostProcessor(1.0, 1.0, enable_normalization=normalised, **sensitivities)
        result = validated(processor, torch.tensor([-0.5, 2.0, 4.0]), torch.zeros(3).long())(predictions)
        found.append((result.pred_label.tolist(), result.pred_mask.flatten().tolist()))
    assert found[0] == found[1]
    # s / (s + t) > 1 - sensitivity, both counted from the lowest score
    limit = 4.5 * (1 - sensitivity) / sensitivity - 0.5
    assert found[0] == ((given > limit).tolist(),) * 2


def test_normal_images_without_any_residual_give_a_threshold_above_zero() -> None:
    processor = validated(QuantilePostProcessor(), torch.zeros(3), torch.zeros(3).long())
    result = processor(InferenceBatch(pred_score=torch.tensor([0.0, 0.01]), anomaly_map=torch.zeros(2, 1, 2, 2)))
    assert result.pred_label.tolist() == [False, True]
    assert not result.pred_mask.any()


def test_scores_below_zero_split_at_the_threshold_too() -> None:
    """As FastFlow's, which lie between -1 and 0."""
    scores = torch.tensor([-0.9, -0.8, -0.7, -0.1])
    processor = validated(QuantilePostProcessor(1.0, 1.0), scores, torch.tensor([0, 0, 0, 1]))
    assert processor.image_threshold.item() == processor.pixel_threshold.item() == pytest.approx(-0.7)
    given = torch.tensor([-5.0, -0.95, -0.9, -0.7, -0.6999, -0.1, 0.0, 3.0])
    result = processor(InferenceBatch(pred_score=given, anomaly_map=given.reshape(8, 1, 1, 1)))
    assert result.pred_label.tolist() == result.pred_mask.flatten().tolist() == [False] * 4 + [True] * 4
    assert result.pred_score.diff().min() > 0
    assert result.pred_score[3].item() == 0.5
    assert result.pred_score.max() < 1


def test_a_model_without_maps_has_an_image_threshold() -> None:
    processor = QuantilePostProcessor(image_quantile=1.0)
    scores = torch.tensor([0.1, 0.2])
    batch = ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=scores, gt_label=torch.zeros(2).long())
    processor.on_validation_batch_end(ALONE, None, batch)
    processor.on_validation_epoch_end(ALONE, None)
    result = processor(InferenceBatch(pred_score=torch.tensor([0.2, 0.3])))
    assert result.pred_label.tolist() == [False, True]
    assert result.anomaly_map is None


def test_checkpoints_from_before_negative_scores_were_known_score_as_before() -> None:
    processor = QuantilePostProcessor()  # whose lowest score is not known
    processor._image_threshold.fill_(0.25)
    result = processor(InferenceBatch(pred_score=torch.tensor([0.25, 0.75]), anomaly_map=torch.zeros(2, 1, 2, 2)))
    assert result.pred_score.tolist() == [0.5, 0.75]


@pytest.mark.parametrize("argument", ["image_quantile", "pixel_quantile"])
@pytest.mark.parametrize("value", [-0.1, 99.0, float("nan")])
def test_quantiles_out_of_range_are_refused_by_name(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{argument} {value} must be a finite number >= 0 and <= 1$"):
        QuantilePostProcessor(**{argument: value})


def test_no_normal_image_and_no_finite_score_are_refused() -> None:
    with pytest.raises(ValueError, match="no normal validation image"):
        validated(QuantilePostProcessor(), torch.ones(2), torch.ones(2).long())
    with pytest.raises(FloatingPointError, match="diverged"):
        validated(QuantilePostProcessor(), torch.tensor([0.1, float("nan")]), torch.zeros(2).long())


def test_quantile_of_more_values_than_torch_takes() -> None:
    values = torch.arange(2**24 + 1, dtype=torch.float32)
    assert quantile(pooled(list(values.chunk(3)), ALONE), 0.25) == pytest.approx(2**22)


def test_arguments_survive_a_checkpoint() -> None:
    saved = QuantilePostProcessor(image_quantile=0.9, pixel_quantile=0.8).checkpoint_config()
    loaded = QuantilePostProcessor()
    loaded.load_checkpoint_config(saved)
    assert (loaded.image_quantile, loaded.pixel_quantile) == (0.9, 0.8)
