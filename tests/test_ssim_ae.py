"""SSIM-AE: the autoencoder, its losses, its windows."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from skimage.metrics import structural_similarity

from anomalib_i3ad import SsimAe
from anomalib_i3ad.components.residuals import ssim_residual
from anomalib_i3ad.components.ssim import prepare
from anomalib_i3ad.evaluation.trained import load
from anomalib_i3ad.models.ssim_ae.loss import reconstruction_loss
from anomalib_i3ad.models.ssim_ae.torch_model import Autoencoder
from model_tester import OPENVINO, ConfigurationTester, ModelTester, make_engine, make_images

TINY = {"image_size": 128, "latent_dim": 8, "learning_rate": 1e-3}


class TestSsimAe(ModelTester):
    """The shared tests, on whole images."""

    model_class = SsimAe
    name = "ssim_ae"
    tiny = TINY
    unfit = {"latent_dim": 9}
    adam = {"betas": (0.9, 0.999), "weight_decay": 1e-5}

    def test_thresholds_of_another_post_processor_are_refused(self, fitted, texture_root: Path) -> None:
        with pytest.raises(ValueError, match="thresholds are of QuantilePostProcessor, this model's is another"):
            SsimAe.load_from_checkpoint(fitted[1], post_processor=PostProcessor())
        engine, data = make_engine(max_epochs=1), self.datamodule(texture_root)
        engine.fit(model := SsimAe(**TINY, post_processor=PostProcessor()), datamodule=data)
        with pytest.raises(ValueError, match="are of another than QuantilePostProcessor, this model's is Quantile"):
            make_engine().test(SsimAe(), datamodule=data, ckpt_path=engine.best_model_path)
        calibrated = SsimAe(**TINY)  # a validation needs no thresholds: it sets them
        make_engine().validate(calibrated, datamodule=data, ckpt_path=engine.best_model_path, verbose=False)
        assert calibrated.post_processor.normal_images == 2
        loaded, image = load(SsimAe, Path(engine.best_model_path)), make_images(3, 128, 128)
        assert type(loaded.post_processor) is PostProcessor
        with torch.no_grad():
            assert torch.equal(loaded(image).pred_score, model.eval()(image).pred_score)

    def test_the_seed_decides_the_order_of_images(self, texture_root: Path) -> None:
        orders = []
        for seed in (3, 3, 4):
            model, order = SsimAe(**TINY, seed=seed, max_train_steps=1), []
            model.training_step = lambda batch, _, order=order, step=model.training_step: (
                order.extend(batch.image_path) or step(batch, 0)
            )
            data = self.datamodule(texture_root)
            data.train_batch_size = 10
            make_engine().fit(model, datamodule=data)
            orders.append(order)
        assert sorted(orders[0]) == sorted(orders[2])
        assert orders[0] == orders[1] != orders[2]

    def test_a_better_checkpoint_is_kept_where_a_callback_averages_weights(self, texture_root: Path) -> None:
        model, data = SsimAe(**TINY), self.datamodule(texture_root)
        best = ModelCheckpoint(monitor="epoch", mode="min", save_on_train_epoch_end=True)
        averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
        trainer = Trainer(
            accelerator="cpu", max_epochs=3, callbacks=[best, averaging], logger=False, enable_progress_bar=False
        )
        trainer.fit(model, datamodule=data)
        assert trainer.checkpoint_callback is best
        assert torch.load(best.best_model_path, weights_only=False)["global_step"] == 3

    @pytest.mark.parametrize(
        "averaging", [WeightAveraging, partial(StochasticWeightAveraging, swa_lrs=1e-2, swa_epoch_start=1)]
    )
    def test_averaged_weights_are_calibrated_and_saved(self, texture_root: Path, averaging: Callable) -> None:
        """Lightning averages thresholds, too, with those from before the first validation, which are none."""
        model, data = SsimAe(**TINY), self.datamodule(texture_root)
        engine = make_engine(max_epochs=3, callbacks=[averaging()])
        engine.fit(model, datamodule=data)
        found = {name: value.clone() for name, value in model.state_dict().items()}
        assert torch.isfinite(found["post_processor._image_threshold"])
        assert torch.isfinite(found["post_processor._pixel_threshold"])
        saved = SsimAe.load_from_checkpoint(engine.best_model_path)
        make_engine().validate(model, datamodule=data, verbose=False)
        for other in (saved, model):
            torch.testing.assert_close(dict(other.state_dict()), found, rtol=0, atol=0, equal_nan=True)


class TestTextures(ConfigurationTester):
    """Shared tests, on windows, with every option that is not the default."""

    runtimes = (OPENVINO,)
    model_class = SsimAe
    adam = TestSsimAe.adam
    tiny = {
        **TINY,
        "image_size": (140, 150),
        "mode": "textures",
        "stride": 16,
        "grayscale": True,
        "loss": "l2",
        "score_residual": "l2",
        "image_score": "mean",
    }


class TestAutoencoder:
    def test_has_the_parameters_of_the_table(self) -> None:
        assert sum(p.numel() for p in Autoencoder(1, 128, 100).parameters()) == 1_048_549

    def test_has_the_layer_sizes_of_the_table(self) -> None:
        """Table 1 of the paper, height and width before channels; the decoder mirrors it."""
        table = [(64, 32), (32, 32), (32, 32), (16, 64), (16, 64), (8, 128), (8, 64), (8, 32), (1, 100)]
        autoencoder, image = Autoencoder(1, 128, 100), torch.rand(1, 1, 128, 128)

        def sizes(network: torch.nn.Module, x: torch.Tensor) -> list[tuple[int, int]]:
            found = []
            for layer in network:
                x = layer(x)
                if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                    assert x.shape[-1] == x.shape[-2]
                    found.append((x.shape[-1], x.shape[1]))
            return found

        assert sizes(autoencoder.encoder, image) == table
        mirrored = [*table[-2::-1], (128, 1)]
        assert sizes(autoencoder.decoder, autoencoder.encoder(image)) == mirrored

    @pytest.mark.parametrize(("channels", "latent_dim"), [(3, 100), (1, 500)])
    def test_at_256_pixels(self, channels: int, latent_dim: int) -> None:
        autoencoder = Autoencoder(channels, 256, latent_dim)
        image = torch.rand(2, channels, 256, 256)
        assert autoencoder.encoder(image).shape == (2, latent_dim, 1, 1)
        assert autoencoder(image).shape == image.shape

    def test_latent_vector_is_linear(self) -> None:
        assert isinstance(Autoencoder(1, 128, 4).encoder[-1], torch.nn.Conv2d)


class TestLoss:
    @pytest.mark.parametrize("kind", ["ssim", "l2"])
    def test_trains_by_it(self, kind: str) -> None:
        model, shown = SsimAe(**TINY, loss=kind), {}
        model.check_losses = shown.update
        batch = ImageBatch(image=make_images(2, *model.image_size))
        reconstruction = model.model.autoencoder(model.model.to_channels(batch.image))
        expected = reconstruction_loss(model.model.to_channels(batch.image), reconstruction, kind).item()
        assert model.training_step(batch, 0).item() == pytest.approx(expected)
        assert {name: loss.item() for name, loss in shown.items()} == {"train_loss": pytest.approx(expected)}

    def test_equals_scikit_image(self) -> None:
        image, other = make_images(2, 64, 50), make_images(2, 64, 50, seed=1)
        expected = [
            1
            - structural_similarity(
                x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy(), channel_axis=2, gaussian_weights=True,
                sigma=1.5, use_sample_covariance=False, data_range=1, full=True,
            )[1].mean()
            for x, y in zip(image.double(), other.double(), strict=True)
        ]  # fmt: skip
        assert reconstruction_loss(image, other, "ssim").item() == pytest.approx(sum(expected) / 2, abs=1e-5)

    def test_l2_by_hand(self) -> None:
        image = torch.zeros(2, 1, 20, 20)
        assert reconstruction_loss(image, image + 0.5, "l2").item() == pytest.approx(0.25)

    @pytest.mark.parametrize("kind", ["ssim", "l2"])
    def test_keeps_full_precision_under_autocast(self, kind: str) -> None:
        image, other = make_images(1, 64, 64), make_images(1, 64, 64, seed=1)
        expected = reconstruction_loss(image, other, kind)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert reconstruction_loss(image, other, kind) == expected


class TestWindows:
    def test_one_window_is_the_whole_image(self) -> None:
        torch.manual_seed(0)
        model, image = SsimAe(latent_dim=8).model.eval(), make_images(1, 128, 128)
        whole = model(image).anomaly_map
        model.mode = "textures"
        torch.testing.assert_close(model(image).anomaly_map, whole, rtol=0, atol=1e-6)

    def test_map_is_the_mean_over_windows(self) -> None:
        torch.manual_seed(0)
        model, image = SsimAe(latent_dim=8, mode="textures", stride=30).model.eval(), make_images(2, 140, 170)
        total, count = torch.zeros(2, 1, 140, 170), torch.zeros(140, 170)
        with torch.no_grad():
            for top in (0, 12):  # the last window is flush with the edge
                for left in (0, 30, 42):
                    here = (..., slice(top, top + 128), slice(left, left + 128))
                    total[here] += ssim_residual(prepare(image[here]), model.autoencoder(image[here]))
                    count[here] += 1
            torch.testing.assert_close(model(image).anomaly_map, total / count, rtol=0, atol=1e-5)

    def test_grayscale_is_luminance(self) -> None:
        model = SsimAe(latent_dim=8, grayscale=True).model
        red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 2, 2)
        assert model.to_channels(red)[0, 0, 0, 0].item() == pytest.approx(0.299, abs=1e-3)  # ITU-R BT.601


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": 64}, "128x128 or 256x256 pixels, not 64x64"),
            ({"image_size": (128, 256)}, "image of 128x256 pixels: mode 'objects' takes 128x128"),
            ({"mode": "texture"}, "mode 'texture' must be one of 'objects', 'textures'"),
            ({"mode": "textures", "image_size": 100}, "100x100 pixels is smaller than patch_size 128"),
            ({"mode": "textures", "stride": 129}, "stride 129 must be from 1 to patch_size 128"),
            ({"mode": "textures", "stride": 30.5}, "stride 30.5 must be a whole number >= 1$"),
            ({"mode": "textures", "patch_size": 128.0}, "patch_size 128.0 must be a whole number >= 1$"),
            ({"loss": "l1"}, "loss 'l1' must be one of 'ssim', 'l2'"),
            ({"image_score": "sum"}, "image_score 'sum'"),
            ({"latent_dim": 0}, "latent_dim 0 must be a whole number >= 1$"),
            ({"weight_decay": -1e-5}, "weight_decay -1e-05 must be a finite number >= 0$"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SsimAe(**{**TINY, **arguments})
