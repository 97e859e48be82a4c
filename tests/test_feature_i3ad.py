"""FeatureI3AD: features, inpainter, losses, calibration."""

import os
import resource
import signal
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.stats import chisquare
from torch.utils.data import DataLoader, IterableDataset, Subset
from torchvision.transforms.v2 import Compose, Lambda, RandomHorizontalFlip, RandomInvert

from anomalib_i3ad import FeatureI3AD, Textures
from anomalib_i3ad.components.holes import training_holes
from anomalib_i3ad.components.rounding import fold_normalisation
from anomalib_i3ad.data import memory
from anomalib_i3ad.models.feature_i3ad.feature_cache import FeatureCache
from anomalib_i3ad.models.feature_i3ad.features import FrozenFeatures, packaged_weights
from anomalib_i3ad.models.feature_i3ad.lightning_model import GRID_PROBABILITY, LEAST_STD
from anomalib_i3ad.models.feature_i3ad.loss import inpainting_loss, likelihood_loss
from anomalib_i3ad.models.feature_i3ad.memory import Memory, Sample, spread_out
from anomalib_i3ad.models.feature_i3ad.networks import Decoder, Inpainter
from anomalib_i3ad.models.feature_i3ad.torch_model import FeatureI3ADModel
from anomalib_i3ad.models.feature_i3ad.usual import UsualError
from model_tester import ONNX_RUNTIME, OPENVINO, ConfigurationTester, ModelTester, make_engine, make_images

TINY = {"image_size": 96, "width": 8, "initial_grid": 2}


class TestFeatureI3AD(ModelTester):
    """The shared tests, with the default network."""

    model_class = FeatureI3AD
    name = "feature_i3ad"
    tiny = TINY
    unfit = {"width": 6}
    score_bound = 10
    adam = {"betas": (0.9, 0.99), "weight_decay": 0}
    runtimes = (ONNX_RUNTIME,)

    def test_calibration_lives_in_the_checkpoint(self, fitted) -> None:
        mine, theirs = fitted[0].model, FeatureI3AD.load_from_checkpoint(fitted[1]).model
        saved = dict(theirs.named_buffers())
        usual = {f"usual_errors.{layer}.{name}" for layer in (0, 1) for name in ("components", "whitening")}
        assert usual | {"mean", "std", "usual_cosine", "mask_threshold"} <= set(saved)
        for name, value in mine.named_buffers():
            assert torch.isfinite(value).all()
            assert torch.equal(value, saved[name])

    def test_every_fit_ends_calibrated(self, texture_root: Path) -> None:
        """Also one that a callback ends, and one that ends at the step at which an earlier one did."""
        model = FeatureI3AD(**TINY, visualizer=False)
        ends = EarlyStopping("cosine_loss", stopping_threshold=100, check_on_train_epoch_end=True)
        steps = set()
        for limits in ({"callbacks": [ends]}, {"max_epochs": 1}):
            model.model.mask_threshold.fill_(float("nan"))
            engine = make_engine(**limits)
            engine.fit(model, datamodule=self.datamodule(texture_root))
            steps.add(engine.trainer.global_step)
            saved = FeatureI3AD.load_from_checkpoint(engine.best_model_path).model
            assert 0 < saved.mask_threshold == model.model.mask_threshold
            for value in saved.parameters():
                assert torch.equal(value, value.half())
        assert len(steps) == 1
        with pytest.raises(ValueError, match="this trainer has fitted before"):  # it would end after one step
            engine.fit(model, datamodule=self.datamodule(texture_root))

    @pytest.mark.parametrize(
        ("indices", "limits", "steps"), [(partial(range, 8), {}, 4), (count, {"max_train_steps": 2}, 2)]
    )
    def test_trains_on_a_stream(self, textures: Textures, indices, limits, steps: int) -> None:
        """Also on one without an end."""

        class Stream(IterableDataset):
            def __iter__(self) -> Iterator[ImageItem]:
                return (textures.train_data[index % 10] for index in indices())

        textures.prepare_data()
        textures.setup()
        batches = DataLoader(Stream(), 4, collate_fn=ImageBatch.collate)
        model = FeatureI3AD(**TINY, **limits, visualizer=False)
        make_engine().fit(model, batches, textures.val_dataloader())
        assert model.train_step == steps
        images = torch.stack([textures.train_data[index].image for index in range(8)])
        expected = model.model.cells_of(model.pre_processor(images)).mean(dim=(0, 2, 3))
        torch.testing.assert_close(model.model.mean.flatten(), expected, rtol=1e-4, atol=1e-4)

    def test_trains_in_every_epoch_where_worker_processes_stay(self, textures: Textures) -> None:
        textures.setup()
        settings = {"num_workers": 1, "persistent_workers": True}
        loader = DataLoader(Subset(textures.train_data, range(4)), 2, collate_fn=ImageBatch.collate, **settings)
        model, seen = FeatureI3AD(**TINY, visualizer=False), []
        draw = model.step_rng
        model.step_rng = lambda: seen.append(model.current_epoch) or draw()
        make_engine(max_epochs=2).fit(model, loader, textures.val_dataloader())
        assert seen == [0, 0, 1, 1]

    def test_is_not_calibrated_before_it_was_fitted(self, textures: Textures) -> None:
        with pytest.raises(ValueError, match="was not fitted to its end"):
            make_engine().validate(FeatureI3AD(**TINY), datamodule=textures)

    def test_takes_images_of_its_own_size_alone(self, fitted, texture_root: Path) -> None:
        with pytest.raises(ValueError, match="image of 96x192 pixels: this model takes 96x96"):
            fitted[0].model(make_images(1, 96, 192))
        with pytest.raises(ValueError, match="image of 64x64 pixels: this model takes 96x96"):
            make_engine().fit(FeatureI3AD(**TINY, pre_processor=False), datamodule=self.datamodule(texture_root))

    def test_half_precision_holds_what_it_has_learned(self, fitted) -> None:
        for value in fitted[0].model.parameters():
            assert torch.equal(value, value.half())
        for usual in fitted[0].model.usual_errors:
            largest = usual.whitening.abs().amax(dim=1, keepdim=True)
            units = usual.whitening / 2 ** torch.ceil(torch.log2(largest / 127))
            assert torch.equal(units, units.to(torch.int8).float())
            assert units.abs().amax(dim=1).min() >= 64

    def test_standardises_by_the_training_images(self, fitted, texture_root: Path) -> None:
        datamodule = self.datamodule(texture_root)
        datamodule.setup()
        model = fitted[0]
        images = torch.stack([item.image.as_subclass(torch.Tensor) for item in datamodule.train_data])
        with torch.no_grad():
            cells = np.concatenate([model.model.cells_of(model.pre_processor(image[None])) for image in images])
        np.testing.assert_allclose(model.model.mean.flatten(), cells.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(model.model.std.flatten(), cells.std(axis=(0, 2, 3)), rtol=1e-3)

    def test_a_feature_that_never_varies_is_divided_by_a_share_of_what_others_do(self, texture_root: Path) -> None:
        model = FeatureI3AD(**TINY, visualizer=False)
        cells_of, never = model.model.cells_of, torch.tensor([0])
        model.model.cells_of = lambda image: cells_of(image).index_fill(1, never, 3.0)
        make_engine(max_epochs=1, limit_train_batches=1).fit(model, datamodule=self.datamodule(texture_root))
        least, *others = model.model.std.flatten().tolist()
        assert least == pytest.approx(LEAST_STD * np.mean([0, *others]), rel=0.01)

    def test_trains_inpainter_and_decoder(self, fitted) -> None:
        before = FeatureI3AD(**TINY).model
        for name in ("inpainter", "decoder"):
            for one, other in zip(
                getattr(before, name).parameters(), getattr(fitted[0].model, name).parameters(), strict=True
            ):
                assert not torch.equal(one.half().float(), other)  # rounding alone changes some

    def test_frees_the_features_of_its_training_images(self, fitted) -> None:
        assert fitted[0]._cache is None

    def test_calibrates_on_normal_validation_images(self, fitted, textures: Textures) -> None:
        model = FeatureI3AD.load_from_checkpoint(fitted[1], mask_quantile=0.5, visualizer=False)
        make_engine().validate(model, datamodule=textures, verbose=False)
        images = torch.cat([batch.image.as_subclass(torch.Tensor) for batch in textures.val_dataloader()])
        with torch.no_grad():
            residual = model.model.eval().initial_residual(model.model.scene_of(images))
        assert model.model.mask_threshold.item() == pytest.approx(np.quantile(residual.numpy(), 0.5), rel=1e-5)
        assert model.model.mask_threshold < fitted[0].model.mask_threshold

    def test_usual_residual_is_that_of_the_training_images(self, fitted, texture_root: Path, monkeypatch) -> None:
        datamodule = self.datamodule(texture_root)
        datamodule.setup()
        model = fitted[0].model
        images = torch.stack([fitted[0].pre_processor(item.image[None])[0] for item in datamodule.train_data])
        with torch.no_grad():
            scene = model.scene_of(images.as_subclass(torch.Tensor))
            drawn = model.features_in(model.initial_inpainting(scene))
            error = model.features_in(scene) - drawn
            before, after = (values * model.std + model.mean for values in (model.features_in(scene), drawn))
            sizes = model.errors(error)
        parts = (slice(40), slice(40, None))
        for layer, part in enumerate(parts):
            mean = (1 - torch.cosine_similarity(before[:, part], after[:, part])).mean().item()
            assert model.usual_cosine[0, layer].item() == pytest.approx(mean, rel=1e-3)
        for layer, part in enumerate(parts):
            np.testing.assert_allclose(sizes[:, layer], measured(error[:, part])(error[:, part])[:, 0], rtol=0.02)
            assert sizes[:, layer].mean().item() == pytest.approx(1, rel=1e-3)
        # with all errors of a layer seen at once
        weights = np.zeros((152, 152))
        for part in parts:
            flat = error[:, part].double().permute(0, 2, 3, 1).flatten(0, 2).numpy()
            products = flat.T @ flat / len(flat)
            inverse = np.linalg.inv(products + 0.4 * np.trace(products) / len(products) * np.eye(len(products)))
            weights[part, part] = inverse / np.sqrt(np.square(flat @ inverse).sum(axis=1).mean())
        places = model.features_in(scene).permute(0, 2, 3, 1).flatten(1, 2).double().numpy() @ weights
        remembered = np.linalg.solve(*(of.double().numpy().T for of in (model.memory.weights, model.memory.cells[0]))).T
        remembered = remembered @ weights
        distance = np.stack([np.square(cdist(of_image, remembered)) for of_image in places])
        nearest = distance.min(axis=1)  # of each image to each that is remembered, which is of one of them
        assert nearest.min(axis=0).max() < 1e-3 * distance.mean()
        distance.transpose(0, 2, 1)[nearest.argmin(axis=0), np.arange(512)] = np.inf
        usual = distance.min(axis=2).mean()
        assert model.memory.usual.item() == pytest.approx(usual, rel=5e-3)
        monkeypatch.setattr("anomalib_i3ad.models.feature_i3ad.usual.round_to_eight_bits", lambda whitening: whitening)
        for part in parts:
            by_hand = sizes_by_hand(error[:, part].double().numpy())
            np.testing.assert_allclose(measured(error[:, part])(error[:, part])[:, 0], by_hand, rtol=0.02)

    def test_the_backbone_keeps_its_features_and_needs_its_weights_only_once(self, fitted, monkeypatch) -> None:
        pretrained, (image,) = FeatureI3AD(**TINY).model.features, make_images(1, 96, 96)
        weights = packaged_weights("tf_efficientnet_lite0")
        pretrained.network.load_state_dict({name: weights[name] for name in pretrained.network.state_dict()})
        with torch.no_grad():
            pairs = zip(fitted[0].model.features(image[None]), pretrained(image[None]), strict=True)
        assert all(torch.dist(found, expected) < 0.01 * expected.norm() for found, expected in pairs)
        fold_normalisation(pretrained.network, 64, 64)
        expected = pretrained.network.state_dict()
        for name, value in fitted[0].model.features.network.state_dict().items():
            assert torch.equal(value, expected[name])
        monkeypatch.setattr("timm.create_model", None)  # no weights are fetched for a checkpoint
        fitted[0].model.features.load_pretrained(64, 64)


class TestResNet(ConfigurationTester):
    """Shared tests, with another family of networks, layers of three strides, and images that are not square."""

    runtimes = (OPENVINO,)
    model_class = FeatureI3AD
    tiny = {**TINY, "image_size": (96, 128), "backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"]}
    score_bound = 1000
    adam = TestFeatureI3AD.adam

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _random_weights(cls):
        """Its ImageNet weights would be a download."""
        patch = pytest.MonkeyPatch()
        patch.setattr("anomalib_i3ad.models.feature_i3ad.features.FrozenFeatures.load_pretrained", lambda *_: None)
        yield
        patch.undo()


def measured(error: torch.Tensor) -> UsualError:
    n, channels, *cells = error.shape
    usual = UsualError(channels, cells)
    of_cells = error.permute(0, 2, 3, 1).flatten(0, 2)
    usual.set_components(of_cells.T @ of_cells / len(of_cells))
    blocks = usual.in_blocks(usual.components_of(error))
    usual.set_covariance(blocks.transpose(1, 2) @ blocks / blocks.shape[1], n)
    return usual


def sizes_by_hand(error: np.ndarray) -> np.ndarray:
    """Sizes ``(N, h, w)`` of errors ``(N, C, h, w)`` of a layer, in float64, from the text of the card."""
    n, _, height, width = error.shape
    of_one_size = error / np.sqrt(np.square(error).mean(axis=(0, 2, 3), keepdims=True))
    flat = of_one_size.transpose(0, 2, 3, 1).reshape(-1, error.shape[1])
    components = np.linalg.svd(flat, full_matrices=False)[2][:96]
    values = np.einsum("kc,nchw->hwnk", components, of_one_size)
    blocks = values.reshape(height // 2, 2, width // 2, 2, n, -1).transpose(0, 2, 1, 3, 4, 5)
    blocks = blocks.reshape(height // 2 * (width // 2), 4 * n, -1)
    products = np.stack([block.T @ block / (4 * n) for block in blocks])
    covariance = (n * products + 30 * products.mean(axis=0)) / (n + 30)
    found = []
    for block, matrix in zip(blocks, covariance, strict=True):
        floor = 0.4 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
        inverse = np.linalg.inv(matrix + floor)
        found.append(np.square(inverse @ block.T).sum(axis=0) / np.trace(inverse))
    sizes = np.stack(found) / np.mean(found)
    return sizes.reshape(height // 2, width // 2, 2, 2, n).transpose(4, 0, 2, 1, 3).reshape(n, height, width)


@pytest.fixture
def model() -> FeatureI3ADModel:
    torch.manual_seed(0)
    model = FeatureI3AD(image_size=128, width=8, initial_grid=2).model.eval()
    model.mean.normal_()
    model.std.uniform_(0.5, 2)
    model.usual_cosine.uniform_(0.2, 0.5)
    for usual, channels in zip(model.usual_errors, (40, 112), strict=True):
        usual.set_components(torch.eye(channels))
        mixing = torch.randn(64, usual.kept, usual.kept)
        usual.set_covariance(mixing @ mixing.transpose(1, 2), 10)
    model.memory.set_weights([torch.eye(40), torch.eye(112)])
    model.memory.set_cells(torch.randn(600, 152))
    model.memory.usual.fill_(1.6)
    return model


class TestCells:
    @pytest.mark.parametrize(
        ("backbone", "layers"),
        [("tf_efficientnet_lite0", ["blocks.2", "blocks.4"]), ("resnet18", ["layer1", "layer2", "layer3"])],
    )
    def test_bring_every_stride_to_one_grid(self, backbone: str, layers: list[str]) -> None:
        """Against timm's own maps, resized and averaged by hand."""
        model = FeatureI3AD((96, 128), backbone, layers, initial_grid=2).model.eval()
        image = make_images(2, 96, 128)
        with torch.no_grad():
            cells, maps = model.cells_of(image), model.features(image)
        assert cells.shape == (2, *model.grid_shape(96, 128)) == (2, sum(m.shape[1] for m in maps), 12, 16)
        by_hand = []
        for values in maps:
            array = values.numpy()
            if array.shape[-1] > 16:
                array = array.reshape(*array.shape[:2], 12, 2, 16, 2).mean(axis=(3, 5))
            elif array.shape[-1] < 16:
                array = torch.nn.functional.interpolate(values, (12, 16), mode="bilinear").numpy()
            by_hand.append(array)
        whole = np.pad(np.concatenate(by_hand, axis=1), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        shifted = [whole[..., i : i + 12, j : j + 16] for i in range(3) for j in range(3)]
        np.testing.assert_allclose(cells, np.nanmean(shifted, axis=0), rtol=1e-4, atol=1e-5)

    def test_layers_are_those_named_where_timm_takes_not_all_by_default(self) -> None:
        assert FrozenFeatures("dla34", ["level3", "level2"]).strides == [4, 8]

    def test_residual_is_one_minus_the_cosine(self, model: FeatureI3ADModel) -> None:
        cells, other = torch.randn(2, 2, 152, 8, 8)
        residual = model.cosines(model.directions(model.standardised(cells)), model.standardised(other))
        for layer, part in enumerate((slice(40), slice(40, None))):
            similarity = torch.nn.functional.cosine_similarity(cells[:, part], other[:, part])
            torch.testing.assert_close(residual[:, layer], 1 - similarity, rtol=0, atol=1e-5)

    def test_residual_sets_cosine_error_and_distance_against_what_is_usual(self, model: FeatureI3ADModel) -> None:
        scene, inpainting = torch.randn(2, 2, 154, 16, 16)
        inpainting[:, 152:].abs_()
        residual = model.compare(model.prepare(scene), inpainting)[0]
        cosines, errors = 1, 1
        for layer, part in enumerate((slice(40), slice(40, 152))):
            errors *= model.usual_errors[layer](scene[:, part] - inpainting[:, part])[:, 0]
            one, other = ((given[:, part] * model.std[:, part] + model.mean[:, part]) for given in (scene, inpainting))
            usual = (inpainting[:, 152 + layer] + model.usual_cosine[:, layer]) / 2
            cosines *= (1 - torch.cosine_similarity(one, other)) / usual
        inpainted = (cosines * errors**2) ** (1 / 6)
        # both layers' features weigh as their sizes are usually 1; an inpainting's error is usually 2, the distance 1.6
        weights = torch.tensor([40**-0.5] * 40 + [112**-0.5] * 112).half().float()
        places = (scene[:, :152].permute(0, 2, 3, 1) * weights).reshape(-1, 152)
        remembered = KDTree(model.memory.cells[0]).query(places)[0].reshape(2, 16, 16) ** 2 / 1.6
        expected = (inpainting[:, 152:] / model.usual_cosine).mean(dim=1)
        share = 1 / (1 + (1.5 * 0.8 / expected) ** 4)
        assert share.min() < 0.1
        assert share.max() > 0.9
        by_hand = inpainted ** (1 - share) * torch.tensor(remembered) ** share
        torch.testing.assert_close(residual[:, 0], by_hand.float(), rtol=1e-4, atol=1e-5)
        assert not model.compare(model.prepare(scene), scene.clone())[0].any()

    def test_map_spreads_a_cell_around_its_place(self, model: FeatureI3ADModel) -> None:
        residual = torch.zeros(1, 1, 8, 12)
        residual[0, 0, 3, 5] = 1.0
        anomaly_map = model.map_of(residual, torch.zeros(1, 3, 64, 96))[0, 0]
        assert anomaly_map.shape == (64, 96)
        rows, columns = np.mgrid[:64, :96] + 0.5
        weight = anomaly_map.numpy() / anomaly_map.sum().item()
        assert (weight * rows).sum() == pytest.approx(3.5 * 8, abs=0.05)
        assert (weight * columns).sum() == pytest.approx(5.5 * 8, abs=0.05)
        flat = model.map_of(torch.full((1, 1, 8, 12), 0.3), torch.zeros(1, 3, 64, 96))
        torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


class TestMemory:
    def test_each_cell_that_is_remembered_is_the_farthest_from_those_before(self) -> None:
        cells = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        points = cells.double().numpy()
        chosen = [0]
        for _ in range(19):
            distances = cdist(points, points[chosen])
            chosen.append(int(distances.min(axis=1).argmax()))
        assert spread_out(cells, 20) == chosen

    def test_remembers_what_is_far_apart_weighed_as_errors_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anomalib_i3ad.models.feature_i3ad.memory.REMEMBERED", 20)
        memory, weights = Memory([2, 1]), torch.tensor([[0.1, 0, 0], [0.3, 5, 0], [0, 0, 1]])
        memory.weights.copy_(weights)
        cells = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        chosen = memory.set_cells(cells)
        assert chosen == spread_out(cells, 20)
        expected = (cells[chosen].double() @ weights.double()).numpy()
        # of each column 64 steps at least
        assert (np.abs(memory.cells[0].numpy() - expected) <= np.abs(expected).max(axis=0) / 127).all()

    def test_rounding_makes_no_distance_negative(self) -> None:
        memory = Memory([2, 1])
        memory.weights.copy_(torch.eye(3))
        memory.cells.copy_(1000 + torch.rand(memory.cells.shape, generator=torch.Generator().manual_seed(0)))
        distance = memory.distance(memory.cells.reshape(1, 16, -1, 3).permute(0, 3, 1, 2))
        assert (distance >= 0).all()

    def test_sample_depends_on_neither_batches_nor_their_order(self) -> None:
        features = torch.randn(10, 6, 3, 4, generator=torch.Generator().manual_seed(0))
        whole, parts = Sample(50, 3), Sample(50, 3)
        images = features[:, 0, 0, 0].mul(1e6).long()
        whole.add(features, images)
        for part in reversed(torch.arange(10).split([1, 6, 3])):
            parts.add(features[part], images[part])
        assert torch.equal(whole.cells, parts.cells)
        assert torch.equal(whole.images, parts.images)
        origin = (features.permute(0, 2, 3, 1).flatten(1, 2) == whole.cells[:, None, None]).all(dim=-1).any(dim=-1)
        assert torch.equal(images[origin.long().argmax(dim=1)], whole.images)
        assert len(whole.cells.unique(dim=0)) == 50

    def test_sample_is_uniform(self) -> None:
        """Over seeds, and cells that look alike too."""
        features = torch.randn(5, 6, 2, 4, generator=torch.Generator().manual_seed(0))
        features[:, :, 0] = 1
        features[:, 0] = torch.arange(40).reshape(5, 2, 4)
        counts = torch.zeros(40)
        for seed in range(400):
            sample = Sample(10, seed)
            for part in features:
                sample.add(part[None], torch.zeros(1))
            counts[sample.cells[:, 0].int()] += 1
        assert chisquare(counts.numpy()).pvalue > 0.001

    @pytest.mark.parametrize(("expected", "share"), [(0.0, 0.0), (1.5 * 0.8, 0.5), (1e20, 1.0)])
    def test_counts_where_an_inpainting_is_expected_to_err_more(self, expected: float, share: float) -> None:
        memory = Memory([4, 3])
        memory.usual.fill_(1.6)
        assert memory.share(torch.tensor(expected)).item() == pytest.approx(share, abs=1e-6)

    @pytest.mark.parametrize("augmented", [False, True])
    def test_of_a_single_image_it_is_taken_to_be_no_better_than_inpainting(
        self, augmented: bool, textures: Textures
    ) -> None:
        """Though its cells are all remembered; one of two is compared with the other alone, whatever was done to it."""
        darker, usual = count(), {}
        augmentation = Lambda(lambda image: image * (1 - 0.001 * next(darker))) if augmented else None
        textures.train_augmentations = augmentation
        textures.setup("fit")
        textures.setup = lambda **_: None
        every = textures.train_data.samples
        for images in (1, 2):
            textures.train_data.samples = every.iloc[:images].reset_index(drop=True)
            model = FeatureI3AD(**TINY, max_train_steps=1)
            make_engine().fit(model, datamodule=textures)
            usual[images] = model.model.memory.usual.item()
        assert usual[1] == 2 < usual[2]

    def test_images_without_paths_are_told_apart_too(self, textures: Textures) -> None:
        usual = []
        for with_paths in (True, False):

            def collate(items: list[ImageItem], keep: bool = with_paths) -> ImageBatch:
                batch = ImageBatch.collate(items)
                return batch if keep else batch.update(image_path=None, in_place=False)

            textures.external_collate_fn = collate
            model = FeatureI3AD(**TINY, max_train_steps=1)
            make_engine().fit(model, datamodule=textures)
            usual.append(model.model.memory.usual.item())
        assert usual[1] == pytest.approx(usual[0], rel=1e-4)
        assert usual[0] > 2  # else it is the least

    def test_what_is_remembered_and_cannot_be_inpainted_is_normal(self, model: FeatureI3ADModel) -> None:
        scene, inpainting = torch.randn(2, 1, 154, 16, 16)
        scene[0, :152, 3, 5] = torch.linalg.solve(model.memory.weights.T, model.memory.cells[0, 7])
        inpainting[:, 152:] = 1e6
        residual = model.compare(model.prepare(scene), inpainting)[0][0, 0]
        assert residual[3, 5] < 1e-4
        assert residual.flatten().kthvalue(2).values > 0.1


class TestUsualError:
    """Against a Gaussian field whose covariance differs from block to block."""

    @pytest.mark.parametrize("channels", [5, 120])
    def test_is_the_error_divided_by_its_covariance(self, channels: int, monkeypatch) -> None:
        torch.manual_seed(0)
        mixing = torch.randn(2, 3, channels, channels).repeat_interleave(2, 0).repeat_interleave(2, 1)
        error = torch.einsum("nchw,hwcd->ndhw", torch.randn(40, channels, 4, 6), mixing)
        rounded = measured(error)(error)
        assert rounded.mean().item() == pytest.approx(1, rel=1e-4)
        monkeypatch.setattr("anomalib_i3ad.models.feature_i3ad.usual.round_to_eight_bits", lambda whitening: whitening)
        usual = measured(error)
        expected = sizes_by_hand(error.double().numpy())
        sizes = usual(error)
        assert 0 < (rounded / sizes - 1).std() < 0.01
        np.testing.assert_allclose(sizes[:, 0], expected, rtol=1e-3)
        assert sizes.mean().item() == pytest.approx(1, rel=1e-4)
        torch.testing.assert_close(usual(error[3:4]), sizes[3:4])

    def test_an_error_against_the_correlation_counts_more(self) -> None:
        error = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 2, 1, 1)
        usual = measured(error)
        along, against = (usual(torch.tensor([1.0, sign]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)) for sign in (1, -1))
        # variances 2 and 0 of the components, and 0.4 of their mean on both
        torch.testing.assert_close(against / along, torch.full((1, 1, 2, 2), (2.4 / 0.4) ** 2), rtol=0.01, atol=0)


class TestGuardMargin:
    def test_what_is_scored_does_not_depend_on_what_is_hidden_around_it(self, model: FeatureI3ADModel) -> None:
        """Change the cells of one part of the grid and the ring around it: their inpainting stays."""
        scene = torch.randn(1, 154, 16, 16)
        before = model.initial_inpainting(scene)
        for hole in model.grid_holes(16, 16):
            ring = model.hidden_with(hole[None])
            assert hole.sum() < ring.sum() < ring.numel()
            after = model.initial_inpainting(scene + ring * torch.randn_like(scene))
            assert torch.equal(before * hole, after * hole)
            visible = model.initial_inpainting(scene + (1 - ring) * torch.randn_like(scene))
            assert not torch.equal(before * hole, visible * hole)

    def test_is_two_rings(self, model: FeatureI3ADModel) -> None:
        hole = torch.zeros(1, 1, 9, 9)
        hole[..., 4, 4] = 1
        expected = torch.zeros(9, 9)
        expected[2:7, 2:7] = 1
        assert torch.equal(model.hidden_with(hole)[0, 0], expected)


class TestTrainingStep:
    """What the inpainter is given, on features that are 0 everywhere."""

    @pytest.fixture
    def model(self, monkeypatch: pytest.MonkeyPatch) -> FeatureI3AD:
        model = FeatureI3AD(**TINY, noise=0.7)
        monkeypatch.setattr(FeatureI3AD, "batches_seen", 8)
        monkeypatch.setattr(FeatureI3AD, "global_rank", 0)
        model.model.mean.zero_()
        model.model.std.fill_(1)
        model.cells_of = lambda batch: torch.zeros(len(batch.image), *model.model.grid_shape(96, 96))
        model.check_losses = lambda **_: None
        return model

    @pytest.fixture
    def given(self, model: FeatureI3AD) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy features, and what is hidden."""
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        model.model.inpainter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
        model.training_step(ImageBatch(image=make_images(4, 96, 96)), 0)
        return seen[0]

    def test_noise_deviates_by_as_much_as_it_says(self, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        assert given[0].std().item() == pytest.approx(0.7, rel=0.02)

    def test_the_margin_is_hidden_too(self, model: FeatureI3AD, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        own = model.model
        holes = training_holes(4, 12, 12, model.step_rng(), own.grid_holes(12, 12), GRID_PROBABILITY)
        assert torch.equal(given[1], own.hidden_with(holes))
        assert not torch.equal(given[1], holes)

    def test_losses_by_hand(self, model: FeatureI3AD) -> None:
        """Hidden cells count, against the features without noise, and the images they come from."""
        own, image = model.model, make_images(6, 96, 96)
        features = torch.randn(6, *own.grid_shape(96, 96))
        model.cells_of = lambda _: features
        terms: dict[str, torch.Tensor] = {}
        model.check_losses = terms.update
        seen: dict[str, tuple] = {}
        own.inpainter.register_forward_hook(lambda _, given, got: seen.update(hole=given[1], drawn=got))
        own.decoder.register_forward_hook(lambda _, given, got: seen.update(decoded=(given[0], got)))
        model.training_step(ImageBatch(image=image), 0)
        hole = seen["hole"].numpy()
        assert 0 < hole.mean() < 1
        drawn, expected = (value.detach().double().numpy() for value in seen["drawn"])
        true, first = features.double().numpy(), own.features.channels[0]
        cosine = np.stack(
            [
                1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                for a, b in zip(np.split(true, [first], 1), np.split(drawn, [first], 1), strict=True)
            ],
            axis=1,
        )
        weight = hole + 0.1
        square = np.square(drawn - true).mean(axis=1, keepdims=True)
        likelihood = ((cosine + 1e-4) / expected + np.log(expected)).mean(axis=1, keepdims=True)
        given, pictures = (value.detach().numpy() for value in seen["decoded"])
        assert np.array_equal(given, features[:4].numpy())
        small = image[:4].numpy().reshape(4, 3, 48, 2, 48, 2).mean(axis=(3, 5))
        by_hand = {
            "cosine_loss": (cosine * weight).mean() / weight.mean(),
            "square_loss": (square * weight).mean() / weight.mean(),
            "likelihood_loss": 0.1 * likelihood[hole > 0].mean(),
            "decoder_loss": np.abs(pictures - small).mean(),
        }
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(by_hand, rel=1e-4)

    def test_every_loss_trains_what_it_is_for(self, model: FeatureI3AD) -> None:
        model.cells_of = lambda batch: torch.randn(len(batch.image), *model.model.grid_shape(96, 96))
        terms: dict[str, torch.Tensor] = {}
        model.check_losses = terms.update
        loss = model.training_step(ImageBatch(image=make_images(4, 96, 96)), 0)
        assert len(terms) == 4
        assert loss.item() == pytest.approx(sum(term.item() for term in terms.values()))
        inpainter, decoder = model.model.inpainter, model.model.decoder
        features, expected = inpainter.head.weight[: inpainter.channels], inpainter.head.weight[inpainter.channels :]
        assert len(expected) == 2
        trained = {
            "cosine_loss": inpainter.head,
            "square_loss": inpainter.head,
            "likelihood_loss": inpainter.head,
            "decoder_loss": decoder,
        }
        for name, network in trained.items():
            model.zero_grad()
            terms[name].backward(retain_graph=True)
            assert all(weight.grad.abs().max() > 0 for weight in network.parameters()), name
            if network is inpainter.head:  # what is expected is learned from the likelihood, features from the others
                of_features, of_expected = network.weight.grad.split([len(features), len(expected)])
                assert (of_features.abs().max() > 0) == (name != "likelihood_loss")
                assert (of_expected.abs().max() > 0) == (name == "likelihood_loss")


class TestNetworks:
    @pytest.mark.parametrize("size", [(8, 8), (6, 14)])
    def test_keep_the_grid(self, size: tuple[int, int]) -> None:
        drawn, expected = Inpainter(10, 2, 4)(torch.randn(3, 10, *size), torch.zeros(3, 1, *size))
        assert drawn.shape == (3, 10, *size)
        assert expected.shape == (3, 2, *size)
        assert (expected > 0).all()
        assert Decoder(10, 8)(torch.randn(3, 10, *size)).shape == (3, 3, 4 * size[0], 4 * size[1])

    def test_coarse_layers_add_to_what_comes_before_them(self) -> None:
        inpainter, encoded = Inpainter(10, 2, 4), torch.randn(1, 4, 8, 8)
        for weight in inpainter.coarse.parameters():
            torch.nn.init.zeros_(weight)
        fine = inpainter.fine(encoded)
        coarse = inpainter.down(fine).repeat_interleave(2, -1).repeat_interleave(2, -2)
        filled = inpainter.fill(encoded, torch.zeros(1, 1, 8, 8))
        torch.testing.assert_close(filled, inpainter.up(torch.cat([coarse, fine], dim=1)))


class TestLoss:
    def test_likelihood_is_least_at_the_size_of_the_residual(self) -> None:
        """A synthetic field whose residuals have a known scale, different on its two sides."""
        generator = torch.Generator().manual_seed(0)
        scale = torch.ones(1, 2, 32, 32)
        scale[..., 16:] = 0.2
        scale[:, 1] *= 3
        residual = -scale * torch.rand(256, 2, 32, 32, generator=generator).log()  # exponential
        log_expected = torch.zeros(1, 2, 1, 2, requires_grad=True)
        optimizer = torch.optim.Adam([log_expected], 0.05)
        for _ in range(200):
            expected = log_expected.exp().repeat_interleave(16, dim=-1).expand(256, -1, 32, -1)
            loss = likelihood_loss(residual, expected, torch.ones(256, 1, 32, 32))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = log_expected.exp().detach()[0, :, 0]
        np.testing.assert_allclose(found, [[1.0, 0.2], [3.0, 0.6]], rtol=0.02)

    def test_likelihood_counts_hidden_cells_and_leaves_the_residual_alone(self) -> None:
        residual = torch.tensor([[2.0, 9.0]]).reshape(1, 1, 1, 2).requires_grad_()
        expected = torch.tensor([[4.0, 1.0]]).reshape(1, 1, 1, 2).requires_grad_()
        hole = torch.tensor([[1.0, 0.0]]).reshape(1, 1, 1, 2)
        loss = likelihood_loss(residual, expected, hole)
        assert loss.item() == pytest.approx(2 / 4 + np.log(4), abs=1e-4)
        loss.backward()
        assert residual.grad is None
        assert expected.grad.flatten().tolist() == pytest.approx([1 / 4 - 2 / 16, 0], abs=1e-4)

    def test_inpainting_weighs_hidden_cells(self) -> None:
        residual = torch.tensor([[1.0, 3.0]]).reshape(1, 1, 1, 2)
        hole = torch.tensor([[1.0, 0.0]]).reshape(1, 1, 1, 2)
        assert inpainting_loss(residual, hole).item() == pytest.approx((1.1 * 1 + 0.1 * 3) / 1.2)


class TestSchedule:
    @pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 6}, {"max_epochs": -1}])
    def test_cosine_ends_with_the_fit_where_gradients_are_accumulated(self, limits: dict, textures: Textures) -> None:
        """Two steps in each epoch of three batches."""
        model, rates = FeatureI3AD(**TINY, max_train_steps=6 if limits == {"max_epochs": -1} else None), []
        model.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
        make_engine(**limits, accumulate_grad_batches=2).fit(model, datamodule=textures)
        assert (model.train_step, model.batches_seen) == (6, 9)
        # by hand, of 1e-3 and 6 steps: (1 + cos(k * 30 degrees)) / 2
        assert rates == pytest.approx([1e-3, 0.93301e-3, 0.75e-3, 0.5e-3, 0.25e-3, 0.06699e-3], rel=1e-4)
        assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0)


class TestFeatureCache:
    @pytest.mark.parametrize("share", [1.0, 0.0])
    def test_computes_every_image_once(self, share: float, tmp_path: Path, monkeypatch, caplog) -> None:
        monkeypatch.setattr("anomalib_i3ad.data.memory.SHARE", share)
        caplog.set_level("INFO")
        values = {name: torch.randn(2, 3).half().float() for name in "abcd"}
        store, computed = FeatureCache(4, (2, 3), tmp_path), []
        assert ("in memory" in caplog.text) == (share == 1.0)
        for names in ("ab", "bc", "ad", "dcba"):

            def compute(new: list[int], names: str = names) -> torch.Tensor:
                computed.extend(names[position] for position in new)
                return torch.stack([values[names[position]] for position in new])

            assert torch.equal(store.take(names, compute), torch.stack([values[name] for name in names]))
        assert computed == list("abcd")

    @pytest.mark.parametrize(("limit", "fits"), [("1100", True), ("900", False), ("max", True), (None, True)])
    def test_a_container_may_have_less_memory_than_its_machine(
        self, limit: str | None, fits: bool, tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.setattr(memory, "LIMITS", (tmp_path / "absent", tmp_path / "memory.max"))
        used = psutil.Process().memory_info().rss
        if limit is not None:
            (tmp_path / "memory.max").write_text(f"{used + int(limit) * 10**6 if limit.isdecimal() else limit}\n")
        assert memory.fits_in_memory(480_000_000) is fits

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot tell before")
    def test_a_disk_that_is_too_small_is_an_error_at_once(self, tmp_path: Path, monkeypatch) -> None:
        """Later it would end the process, without a word."""
        monkeypatch.setattr("anomalib_i3ad.data.memory.SHARE", 0.0)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limits[1]))
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            FeatureCache(1000, (2, 1000), tmp_path)
            with pytest.raises(OSError, match=f"features of 10000 images need 40 MB: '{tmp_path}'"):
                FeatureCache(10_000, (2, 1000), tmp_path)
        finally:
            signal.signal(signal.SIGXFSZ, handler)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def test_every_process_of_a_machine_takes_memory(self, tmp_path: Path, monkeypatch, caplog) -> None:
        monkeypatch.setattr("anomalib_i3ad.models.feature_i3ad.feature_cache.fits_in_memory", lambda size: size <= 48)
        caplog.set_level("INFO")
        for processes in (1, 2):
            FeatureCache(4, (2, 3), tmp_path, processes)
        assert [f"in {tmp_path}" in record.message for record in caplog.records] == [False, True]

    def fit(self, model: FeatureI3AD, datamodule) -> int:
        """Fit; returns how many training images the backbone saw."""
        seen = 0
        original = model.model.cells_of

        def counted(image: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += len(image)
            return original(image)

        model.model.cells_of = counted
        make_engine(max_epochs=3).fit(model, datamodule=datamodule)
        return seen - 2 * len(datamodule.val_data)  # for u and for the thresholds

    def test_the_backbone_sees_a_training_image_once(self, texture_root: Path) -> None:
        assert self.fit(FeatureI3AD(**TINY), TestFeatureI3AD.datamodule(texture_root)) == 10

    def test_augmented_images_are_computed_anew(self, texture_root: Path) -> None:
        datamodule = TestFeatureI3AD.datamodule(texture_root)
        datamodule.train_augmentations = RandomHorizontalFlip()
        # for standardisation, in three epochs, and twice for what is usual
        assert self.fit(FeatureI3AD(**TINY), datamodule) == 6 * 10

    def test_images_that_are_collated_otherwise_are_computed_anew(self, texture_root: Path) -> None:
        datamodule = TestFeatureI3AD.datamodule(texture_root)
        datamodule.external_collate_fn = ImageBatch.collate  # might augment
        assert self.fit(FeatureI3AD(**TINY), datamodule) == 6 * 10

    def test_a_fit_after_one_that_was_interrupted_reads_anew(self, texture_root: Path) -> None:
        def stop(*_: object) -> None:
            msg = "as Ctrl-C"
            raise RuntimeError(msg)

        model, datamodule = FeatureI3AD(**TINY, visualizer=False), TestFeatureI3AD.datamodule(texture_root)
        with pytest.raises(RuntimeError, match="as Ctrl-C"):
            make_engine(callbacks=[LambdaCallback(on_train_batch_end=stop)]).fit(model, datamodule=datamodule)
        before = model.model.std.clone()
        datamodule = TestFeatureI3AD.datamodule(texture_root)
        datamodule.train_augmentations = Compose([RandomHorizontalFlip(), RandomInvert(1)])
        assert self.fit(model, datamodule) == 6 * 10
        assert (model.model.std / before - 1).abs().median() > 0.01  # other images are standardised otherwise

    def test_items_cut_from_one_file_are_told_apart(self, texture_root: Path) -> None:
        datamodule = TestFeatureI3AD.datamodule(texture_root)
        datamodule.setup("fit")
        datamodule.setup = lambda **_: None
        samples = datamodule.train_data.samples
        samples.loc[1, "image_path"] = samples.loc[0, "image_path"]
        assert self.fit(FeatureI3AD(**TINY), datamodule) == 6 * 10

    def test_any_datamodule(self, texture_root: Path) -> None:
        good = next(texture_root.rglob("train")) / "good"
        settings = {"test_split_mode": "none", "val_split_mode": "from_train", "val_split_ratio": 0.1, "seed": 0}
        datamodule = Folder(name="own", normal_dir=good, train_batch_size=4, num_workers=0, **settings)
        assert self.fit(FeatureI3AD(**TINY), datamodule) == 11


def test_arguments_reach_the_model() -> None:
    model = FeatureI3AD(**TINY, backbone_weights="some/file.pth", max_iterations=1, image_score="max").model
    assert model.features.weights == "some/file.pth"
    assert model.max_iterations == 1
    assert model.image_score.reduction == "max"


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": (96, 104)}, "image of 96x104 pixels: with initial_grid 2 sides are multiples of 16, 80"),
            (
                {"image_size": 112, "layers": ["blocks.6"]},
                "image of 112x112 pixels: .* are multiples of 32, 96 or more",
            ),
            ({"image_size": 72}, "image of 72x72 pixels: with initial_grid 2 sides are multiples of 16, 80 or more"),
            ({"initial_grid": 8}, "image of 96x96 pixels: with initial_grid 8 sides are multiples of 64, 320 or more"),
            ({"initial_grid": 4}, "image of 96x96 pixels: with initial_grid 4 sides are multiples of 32, 160 or more"),
            ({"backbone": "resnet1"}, "backbone 'resnet1' is not a model of timm"),
            (
                {"layers": ["blocks.1", "x"]},
                "those of tf_efficientnet_lite0, each once: blocks.0, blocks.1",
            ),
            ({"layers": []}, r"layers \[\] must be a list of one or more of those of tf_efficientnet_lite0"),
            (
                {"layers": ["blocks.2"] * 2},
                r"layers \['blocks.2', 'blocks.2'\] must be a list of one or more of .*, each once",
            ),
            (
                {"backbone": "mobilenetv3_small_100", "layers": ["bn1", "blocks.1"]},
                r"layers \['bn1', 'blocks.1'\] must be .*_small_100, each once: blocks.0, blocks.1, blocks.3",
            ),
            ({"layers": "blocks.2"}, "layers 'blocks.2' must be a list of one or more of those of tf_efficientnet"),
            (
                {"backbone": "levit_128", "layers": ["stages.0"]},
                "backbone levit_128, images of 96x96 pixels: the network does not take them .* a convolutional one",
            ),
            (
                {"backbone": "inception_v3", "layers": ["Mixed_5d"]},
                r"of 96x96 pixels: features of shape \(1, 288, 9, 9\) must have \(1, 288, 12, 12\)",
            ),
            (
                {"backbone": "convmixer_768_32", "layers": ["blocks.0"], "image_size": 224},
                "layers with features every 7 pixels do not fit cells of 8",
            ),
            ({"max_iterations": -1}, "max_iterations -1 must be a whole number >= 0$"),
            ({"mask_quantile": 99.5}, "mask_quantile 99.5 must be a finite number > 0 and < 1$"),
            ({"width": 0}, "width 0 must be a whole number >= 1$"),
            ({"image_score": "sum"}, "image_score 'sum'"),
            ({"noise": -1.0}, "noise -1.0 must be a finite number >= 0$"),
            ({"noise": float("nan")}, "noise nan must be"),
            ({"noise": "1"}, "noise '1' must be a finite number >= 0$"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FeatureI3AD(**{**TINY, **arguments})


def test_large_and_oblong_images_have_larger_grids() -> None:
    for size, grid in (((384, 384), (48, 48)), ((512, 256), (64, 32))):
        model = FeatureI3AD(image_size=size)
        assert model.model.grid_shape(*model.image_size)[1:] == grid
