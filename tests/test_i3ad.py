"""I3AD: networks, losses and the iteration."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize, Transform

from anomalib_i3ad import I3AD, Textures
from anomalib_i3ad.components.holes import grid_holes
from anomalib_i3ad.components.stitching import composite
from anomalib_i3ad.models.end import UNSET_EPOCHS
from anomalib_i3ad.models.i3ad.contextual_attention import ContextualAttention
from anomalib_i3ad.models.i3ad.discriminator import Discriminator
from anomalib_i3ad.models.i3ad.generator import Generator
from anomalib_i3ad.models.i3ad.loss import adversarial_loss, discriminator_loss, reconstruction_loss
from anomalib_i3ad.post_processing import QuantilePostProcessor
from anomalib_i3ad.pre_processing import AntialiasedResize
from model_tester import ONNX_RUNTIME, OPENVINO, ConfigurationTester, ModelTester, make_engine, make_images, weights_of

TINY = {
    "image_size": 64,
    "width": 4,
    "adversarial_weight": 1.0,
    "learning_rate": 1e-3,
}


def median_residual(model: I3AD, images: torch.Tensor) -> float:
    """Of the initial inpainting: u, at a ``mask_quantile`` of 0.5."""
    with torch.no_grad():
        return np.quantile(model.model.eval().initial_residual(images).numpy(), 0.5)


class TestI3AD(ModelTester):
    """The shared tests, with the defaults."""

    model_class = I3AD
    name = "i3ad"
    tiny = TINY
    unfit = {"width": 6}
    runtimes = (ONNX_RUNTIME,)
    adam = {"betas": (0.5, 0.999), "weight_decay": 0}

    def test_mask_threshold_lives_in_the_checkpoint(self, fitted) -> None:
        threshold = fitted[0].model.mask_threshold
        assert 0 < threshold < 1
        assert I3AD.load_from_checkpoint(fitted[1]).model.mask_threshold == threshold

    def test_a_discriminator_is_left_out_where_none_is_trained_and_missed_where_one_is(
        self, fitted, textures: Textures
    ) -> None:
        plain = I3AD.load_from_checkpoint(fitted[1], adversarial_weight=0.0, visualizer=False)
        assert plain.discriminator is None
        assert torch.equal(weights_of(plain.model), weights_of(fitted[0].model))
        engine = make_engine()
        engine.fit(I3AD(**TINY | {"adversarial_weight": 0.0}), datamodule=textures)
        with pytest.raises(ValueError, match=r"^adversarial_weight=0.5: the checkpoint has no discriminator"):
            make_engine().fit(I3AD(adversarial_weight=0.5), datamodule=textures, ckpt_path=engine.best_model_path)

    def test_u_comes_from_the_batches_that_validation_takes(self, fitted, textures: Textures) -> None:
        """Also where worker processes stay, so that the loader has a single iterator."""
        textures.setup()
        data, settings = textures.train_data, {"num_workers": 1, "persistent_workers": True}
        loader = DataLoader(data, 2, collate_fn=ImageBatch.collate, **settings)
        model = I3AD.load_from_checkpoint(fitted[1], mask_quantile=0.5, visualizer=False)
        make_engine(limit_val_batches=2).validate(model, dataloaders=[loader], verbose=False)
        images = torch.stack([data[index].image.as_subclass(torch.Tensor) for index in range(4)])
        assert model.model.mask_threshold.item() == pytest.approx(median_residual(model, images), rel=1e-5)
        assert model.post_processor.normal_images == 4

    def test_u_comes_from_normal_images_alone(self, fitted, textures: Textures) -> None:
        textures.setup()
        model = I3AD.load_from_checkpoint(fitted[1], mask_quantile=0.5, visualizer=False)
        make_engine().validate(model, dataloaders=textures.test_dataloader(), verbose=False)
        normal = [item.image.as_subclass(torch.Tensor) for item in textures.test_data if not item.gt_label]
        assert 0 < len(normal) < len(textures.test_data)
        assert model.model.mask_threshold.item() == pytest.approx(median_residual(model, torch.stack(normal)), rel=1e-5)

    def test_scores_in_full_precision_whatever_the_trainers(self, fitted, textures: Textures) -> None:
        model, scores = I3AD.load_from_checkpoint(fitted[1], visualizer=False), []
        for precision in (32, "bf16-mixed"):
            engine = make_engine(precision=precision, limit_predict_batches=1)
            (batch,) = engine.predict(model, datamodule=textures)
            scores.append(batch.pred_score)
        assert torch.equal(*scores)

    def test_weights_that_are_not_finite_are_not_saved(self) -> None:
        model = I3AD(**TINY)
        model.on_save_checkpoint({})
        next(model.model.parameters()).data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=r"model\.\S+ is not finite; the checkpoint is not saved"):
            model.on_save_checkpoint({})

    def test_a_subclass_takes_its_own_arguments_from_a_checkpoint(self, texture_root: Path) -> None:
        class Own(I3AD):
            def __init__(self, width: int = 4) -> None:
                super().__init__(**{**TINY, "width": width}, visualizer=False)

        engine, data = make_engine(max_epochs=1), self.datamodule(texture_root)
        engine.fit(trained := Own(width=6), datamodule=data)
        make_engine().test(model := Own(), datamodule=data, ckpt_path=engine.best_model_path)
        assert torch.equal(weights_of(model), weights_of(trained))

    def test_validation_calibrates_the_mask_anew(self, fitted, textures: Textures) -> None:
        """A checkpoint under another ``mask_quantile`` must not keep the old u."""
        model = I3AD.load_from_checkpoint(fitted[1], mask_quantile=0.5, visualizer=False)
        make_engine().validate(model, datamodule=textures, verbose=False)
        images = torch.cat([batch.image.as_subclass(torch.Tensor) for batch in textures.val_dataloader()])
        assert model.model.mask_threshold.item() == pytest.approx(median_residual(model, images), rel=1e-5)
        assert model.model.mask_threshold < fitted[0].model.mask_threshold

    def test_names_what_it_takes_from_a_checkpoint(self, fitted, textures: Textures, caplog) -> None:
        model = I3AD(learning_rate=5e-4, seed=3)
        make_engine().predict(model, datamodule=textures, ckpt_path=fitted[1])
        assert "Taken from the checkpoint: image_size=64 (this model: 128), width=4 (this model: 12)" in caplog.messages
        assert model.learning_rate == TINY["learning_rate"]

    def test_a_checkpoint_may_be_asked_for_another_size(self, fitted) -> None:
        model = I3AD.load_from_checkpoint(fitted[1], image_size=96).eval()
        with torch.no_grad():
            assert model(make_images(1, 128, 130)).anomaly_map.shape == (1, 1, 96, 96)
            assert fitted[0](make_images(1, 128, 130)).anomaly_map.shape == (1, 1, 64, 64)

    def test_the_size_of_a_pre_processor_is_in_the_checkpoint(self, textures: Textures) -> None:
        engine, own = make_engine(max_epochs=1), PreProcessor(AntialiasedResize([96, 64]))
        engine.fit(I3AD(**{**TINY, "initial_grid": 2}, pre_processor=own, visualizer=False), datamodule=textures)
        model = I3AD.load_from_checkpoint(engine.best_model_path).eval()
        assert model.image_size == (96, 64)
        with torch.no_grad():
            assert model(make_images(1, 128, 130)).anomaly_map.shape == (1, 1, 96, 64)

    @pytest.mark.parametrize(
        "resize", [Resize([64, 64]), Resize([64, 64], 2), Compose([Resize((64, 64)), Compose([CenterCrop(64)])])]
    )
    def test_an_ordinary_resize_is_exported_as_it_is(self, resize: Transform) -> None:
        """anomalib exports it without antialiasing."""
        image, own = make_images(1, 200, 180), PreProcessor(resize)
        expected, anomalibs = resize(image), own(image)
        model = I3AD(**TINY, pre_processor=own)
        assert (anomalibs - expected).abs().max() > 1e-3
        assert (model.pre_processor(image) - expected).abs().max() < 1e-6
        assert (model.pre_processor.transform(image) - expected).abs().max() < 1e-6

    def test_another_resize_is_refused(self) -> None:
        for other in (Resize(64), Resize([64, 64], InterpolationMode.BICUBIC), Resize([64, 64], 3)):
            with pytest.raises(ValueError, match=r"pre_processor: exports cannot do Resize\("):
                I3AD(**TINY, pre_processor=PreProcessor(Compose([other])))
        I3AD(**TINY, pre_processor=PreProcessor(Resize([64, 64], antialias=False)))

    @pytest.mark.parametrize("kind", ["16", "bf16"])
    def test_refuses_weights_in_half_precision(self, kind: str, textures: Textures) -> None:
        with pytest.raises(ValueError, match=f"precision {kind}-true: .* choose {kind}-mixed or 32"):
            make_engine(precision=f"{kind}-true").fit(I3AD(**TINY), datamodule=textures)

    def test_refuses_other_quantiles_than_those_calibrated(self, fitted, textures: Textures) -> None:
        model = I3AD(**TINY, post_processor=QuantilePostProcessor(image_quantile=0.9))
        with pytest.raises(ValueError, match=r"image_quantile=0.99 \(this model: 0.9\)"):
            make_engine().test(model, datamodule=textures, ckpt_path=fitted[1])

    def test_a_sensitivity_that_is_typed_stands(self, fitted, textures: Textures) -> None:
        model = I3AD(**TINY, visualizer=False, post_processor=QuantilePostProcessor(image_sensitivity=0.25))
        make_engine().predict(model, datamodule=textures, ckpt_path=fitted[1])
        assert model.post_processor.image_sensitivity == 0.25
        assert model.post_processor.image_threshold == fitted[0].post_processor.image_threshold

    def test_validation_calibrates_typed_arguments_anew(self, fitted, textures: Textures) -> None:
        changed = {"max_iterations": 0, "image_score": "max", "image_size": 96}
        processor = QuantilePostProcessor(image_quantile=0.0)
        model = I3AD(**{**TINY, **changed}, post_processor=processor, visualizer=False)
        make_engine().validate(model, datamodule=textures, ckpt_path=fitted[1], verbose=False)
        batches = make_engine().predict(model, dataloaders=textures.val_dataloader())
        lowest = min(float(score) for batch in batches for score in batch.pred_score)
        assert lowest == pytest.approx(0.5, abs=1e-5)
        assert batches[0].anomaly_map.shape[-2:] == (96, 96)
        assert torch.equal(weights_of(model), weights_of(fitted[0]))

    def test_a_fit_that_goes_on_has_its_limit_from_the_command_and_the_rest_from_the_checkpoint(
        self, fitted, textures: Textures
    ) -> None:
        model = I3AD(max_train_steps=7)
        make_engine(max_epochs=None).fit(model, datamodule=textures, ckpt_path=fitted[1])
        assert (model.train_step, model.max_train_steps) == (7, 7)
        assert model.hparams == {**fitted[0].hparams, "max_train_steps": 7}
        with pytest.raises(ValueError, match=r"max_iterations=4 \(this model: 1\)"):
            make_engine().fit(I3AD(max_iterations=1), datamodule=textures, ckpt_path=fitted[1])
        with pytest.raises(ValueError, match=r"optimisers, of learning_rate=.* \(this model: 0.07\): do not set"):
            make_engine().fit(I3AD(learning_rate=0.07), datamodule=textures, ckpt_path=fitted[1])

    def test_warns_of_the_trainers_own_limit(self, textures: Textures, caplog, monkeypatch) -> None:
        engine = make_engine(max_epochs=None)
        engine.fit(I3AD(**TINY, max_train_steps=1, visualizer=False), datamodule=textures)
        assert engine.trainer.max_epochs == UNSET_EPOCHS
        assert "max_epochs" not in caplog.text
        monkeypatch.setattr("anomalib_i3ad.models.end.UNSET_EPOCHS", 1)
        make_engine(max_epochs=1).fit(I3AD(**TINY, max_train_steps=50, visualizer=False), datamodule=textures)
        (told,) = (record.getMessage() for record in caplog.records if "max_train_steps" in record.getMessage())
        assert told.startswith("That is 1 epochs, the trainer's limit where none is set, before max_train_steps=50")


class TestTwoStages(ConfigurationTester):
    """Shared tests, with contextual attention and every option that is not the default."""

    runtimes = (OPENVINO,)
    adam = TestI3AD.adam
    model_class = I3AD
    tiny = {
        **TINY,
        "stages": 2,
        "initial_grid": 2,
        "score_residual": "l2",
        "image_score": "top_k",
        "max_iterations": 3,
        "adversarial_weight": 0.0,
    }


class TestGenerator:
    @pytest.mark.parametrize("stages", [1, 2])
    @pytest.mark.parametrize("size", [(64, 64), (40, 72)])
    def test_never_sees_what_is_hidden(self, stages: int, size: tuple[int, int]) -> None:
        generator, hole = Generator(4, stages), grid_holes(4, *size)[:1]
        image = torch.rand(1, 3, *size)
        other = composite(image, torch.rand_like(image), hole)
        for mine, theirs in zip(generator(image, hole), generator(other, hole), strict=True):
            assert mine.shape == image.shape
            assert torch.equal(mine, theirs)

    def test_the_second_stage_refines_what_the_first_drew_in_the_hole(self) -> None:
        generator, hole, given = Generator(4, 2), grid_holes(4, 64, 64)[:1], []
        generator.stages[1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        image = make_images(1, 64, 64)
        first, _ = generator(image, hole)
        torch.testing.assert_close(given[0][:, :3], 2 * composite(image, first, hole) - 1)

    def test_has_the_layers_of_the_authors(self) -> None:
        """Effective widths of the coarse stage at cnum 48 (width 24), from the authors' network."""
        stage = Generator(24, 1).stages[0]
        widths = [layer.conv.out_channels // 2 for layer in list(stage)[:-1]] + [stage[-1].out_channels]
        assert widths == [24, 48, 48, 96, 96, 96, *[96] * 4, 96, 96, 48, 48, 24, 12, 3]

    @pytest.mark.parametrize(
        ("width", "stages", "message"),
        [
            (5, 1, "width 5 must be an even number"),
            (0, 1, "width 0 must be a whole number >= 2$"),
            (4.0, 1, "width 4.0 must be a whole number >= 2$"),
            ("4", 1, "width '4' must be a whole number >= 2$"),
            (4, 3, "stages 3 must be a whole number >= 1 and <= 2$"),
            (4, 1.0, "stages 1.0 must be a whole number"),
        ],
    )
    def test_refuses_what_it_cannot_be(self, width: Any, stages: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Generator(width, stages)

    def test_attention_copies_what_is_visible(self) -> None:
        """On a periodic image the hidden features are rebuilt from identical visible patches."""
        tile = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        features = tile.repeat(1, 1, 4, 4)
        hole = torch.zeros(1, 1, 128, 128)
        hole[..., 32:48, 32:48] = 1
        attended = ContextualAttention()(features, hole)
        hidden = torch.nn.functional.max_pool2d(hole, 4)[0, 0] > 0
        assert torch.equal(attended[..., ~hidden], features[..., ~hidden])
        rebuilt, original = attended[..., hidden].flatten(), features[..., hidden].flatten()
        assert torch.corrcoef(torch.stack([rebuilt, original]))[0, 1] > 0.9
        assert (rebuilt @ original / (original @ original)).item() == pytest.approx(1, abs=0.2)

    @pytest.mark.parametrize("share", [1e-5, 1e-3, 0.1])
    def test_attention_hides_partly_what_is_hidden_partly(self, share: float) -> None:
        """What is hidden by rounding alone, at the foot of the iteration's ramp, moves no more than rounding."""
        features = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
        hole = torch.zeros(1, 1, 64, 64)
        hole[..., 16:32, 16:32] = 1
        partly = hole.clone()
        partly[..., 40, 40] = share
        moved = (ContextualAttention()(features, partly) - ContextualAttention()(features, hole)).abs()
        assert 0 < moved[..., 10, 10].max() < 10 * share  # its own place
        assert 0 < moved[..., 4:8, 4:8].max() < 10 * share  # rebuilt from it, among others


class TestDiscriminator:
    def test_every_weight_has_spectral_norm_one(self) -> None:
        torch.manual_seed(0)
        discriminator = Discriminator(8)
        optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
        image, hole = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
        for _ in range(20):
            optimizer.zero_grad()
            discriminator(image, hole).square().mean().backward()
            optimizer.step()
        for _ in range(30):  # the estimate follows the weights by one power iteration a forward pass
            discriminator(image, hole)
        convolutions = [layer for layer in discriminator if isinstance(layer, torch.nn.Conv2d)]
        assert len(convolutions) == 6
        for convolution in convolutions:
            matrix = convolution.weight.detach().flatten(1).double()
            vector = torch.ones(matrix.shape[1], dtype=torch.float64)
            for _ in range(500):  # power iteration of our own
                vector = torch.nn.functional.normalize(matrix.T @ (matrix @ vector), dim=0)
            assert 0.98 < (matrix @ vector).norm() <= 1.001

    @pytest.mark.parametrize(("size", "expected"), [((256, 256), (4, 4)), ((64, 100), (1, 2))])
    def test_gives_a_map_of_logits(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        logits = Discriminator(4)(torch.rand(2, 3, *size), torch.zeros(2, 1, *size))
        assert logits.shape == (2, 16, *expected)


class TestLosses:
    def test_by_hand(self) -> None:
        real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.5, 0.0])
        # relu(1 - real) = 0, .5, 2; relu(1 + fake) = 0, 1.5, 1
        assert discriminator_loss(real, fake).item() == pytest.approx(2.5 / 3 + 2.5 / 3)
        assert adversarial_loss(fake).item() == pytest.approx(0.5)
        image = torch.zeros(1, 3, 2, 2)
        assert reconstruction_loss(image, [image + 0.25, image - 0.5]).item() == pytest.approx(0.75)

    def test_of_a_step_by_its_terms(self) -> None:
        model = I3AD(**{**TINY, "adversarial_weight": 0.25}).eval()
        generator, image, hole = model.model.generator, make_images(2, 64, 64), grid_holes(4, 64, 64)[:2]
        loss, terms = model.losses(image, hole)
        weights = {"l1_loss": 1, "generator_loss": 0.25, "discriminator_loss": 1}
        assert loss.item() == pytest.approx(sum(weights[name] * term.item() for name, term in terms.items()))
        drawn = generator(image, hole)
        logits = model.discriminator(composite(image, drawn[-1], hole), hole)
        own = reconstruction_loss(image, drawn) + 0.25 * adversarial_loss(logits)
        of_all, of_own = (torch.autograd.grad(value, list(generator.parameters())) for value in (loss, own))
        torch.testing.assert_close(of_all, of_own, rtol=1e-4, atol=1e-7)

    def test_adversarial_term_moves_the_generator_only(self, textures: Textures) -> None:
        """One backward pass serves both networks; each must get its own gradient and no other."""
        torch.manual_seed(0)
        both = I3AD(**TINY)
        image, hole = torch.rand(2, 3, 64, 64), grid_holes(4, 64, 64)[:2]
        copies = copy.deepcopy(both)
        inpainted = composite(image, copies.model.generator(image, hole)[-1], hole)
        logits = copies.discriminator(torch.cat([image, inpainted.detach()]), torch.cat([hole, hole]))
        expected = torch.autograd.grad(discriminator_loss(*logits.chunk(2)), list(copies.discriminator.parameters()))

        both.draw_holes = hole.to
        seen = {}
        both.manual_backward = lambda loss: seen.update(loss=loss.backward())
        engine = make_engine(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
        original = both.training_step

        def step(batch, batch_idx):
            batch.image = image
            original(batch, batch_idx)
            seen["grads"] = [p.grad.clone() for p in both.discriminator.parameters()]

        both.training_step = step
        engine.fit(both, datamodule=textures)
        # the generator's pass through the discriminator adds one power iteration, no gradient
        for mine, theirs in zip(seen["grads"], expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0.2, atol=1e-3)


class TestSchedule:
    @pytest.mark.parametrize("adversarial_weight", [0.0, 1.0])
    def test_cosine_rises_falls_and_ends_with_the_fit(self, textures: Textures, adversarial_weight: float) -> None:
        rates = []
        model = I3AD(**{**TINY, "adversarial_weight": adversarial_weight}, max_train_steps=40)
        step = model.step_optimizers

        def recorded(loss: torch.Tensor) -> None:
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in model.trainer.optimizers])
            step(loss)

        model.step_optimizers = recorded
        make_engine(max_epochs=-1).fit(model, datamodule=textures)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in model.trainer.optimizers])
        # by hand, of 1e-3 and 40 steps: half way up, at the top, a quarter, half way, and at the end
        for k, expected in ((0, 0.5e-3), (2, 0.99384e-3), (10, 0.85355e-3), (20, 0.5e-3), (40, 0.0)):
            assert rates[k] == pytest.approx([expected] * (2 if adversarial_weight else 1), rel=1e-4)

    def test_a_step_has_no_gradients_of_the_one_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, weight = I3AD(**TINY), torch.nn.Parameter(torch.zeros(3))
        monkeypatch.setattr(I3AD, "trainer", SimpleNamespace(lr_scheduler_configs=[]))
        model.optimizers = lambda: torch.optim.SGD([weight], 0.1)
        model.manual_backward = torch.Tensor.backward
        for _ in range(2):
            model.step_optimizers(weight.sum())
        assert weight.tolist() == pytest.approx([-0.2] * 3)

    def test_cosine_wants_an_end(self, textures: Textures) -> None:
        model = I3AD(**TINY, max_train_steps=None)
        with pytest.raises(ValueError, match="set max_train_steps"):
            make_engine(max_epochs=-1).fit(model, datamodule=textures)


class TestHoles:
    def test_a_function_of_seed_and_batch_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = I3AD(**TINY), torch.rand(3, 3, 64, 64)
        monkeypatch.setattr(I3AD, "batches_seen", 8)
        monkeypatch.setattr(I3AD, "global_rank", 0)
        first = model.draw_holes(image)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        assert torch.equal(first, model.draw_holes(image))
        for name, value in (("batches_seen", 10), ("global_rank", 1)):
            with monkeypatch.context() as patch:
                patch.setattr(I3AD, name, value)
                assert not torch.equal(first, model.draw_holes(image))
        assert not torch.equal(first, I3AD(**TINY, seed=5).draw_holes(image))
        assert torch.equal(first, I3AD(**TINY).draw_holes(image))

    @pytest.mark.parametrize("probability", [0.0, 1.0])
    def test_as_many_grid_holes_as_asked_for(self, probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(I3AD, "batches_seen", 8)
        monkeypatch.setattr(I3AD, "global_rank", 0)
        model = I3AD(**TINY, grid_probability=probability)
        grid = model.model.grid_holes(64, 64)
        holes = model.draw_holes(torch.rand(20, 3, 64, 64))
        of_grid = [any(torch.equal(hole, one) for one in grid) for hole in holes]
        assert np.mean(of_grid) == probability


class TestBadArguments:
    def test_a_transform_that_normalises_is_refused(self) -> None:
        normalise = Normalize([0.5] * 3, [0.5] * 3)
        for transform in (normalise, Compose([AntialiasedResize([64, 64]), normalise])):
            with pytest.raises(ValueError, match=r"pre_processor: the model takes images in \[0, 1\]; leave Normalize"):
                I3AD(**TINY, pre_processor=PreProcessor(transform))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"initial_grid": 6}, "image of 64x64 pixels: the initial_grid of 6 takes sides that are multiples of 6"),
            ({"initial_grid": 3}, "initial_grid 3 must be an even number"),
            ({"initial_grid": 4.0}, "initial_grid 4.0 must be a whole number >= 2"),
            ({"max_iterations": 2.5}, "max_iterations 2.5 must be a whole number >= 0$"),
            ({"image_size": 66, "initial_grid": 2}, "multiples of 4"),
            ({"image_size": 68, "stages": 2, "initial_grid": 2}, "multiples of 8"),
            ({"mask_residual": "psnr"}, "mask_residual 'psnr' must be one of 'ssim', 'l2'"),
            ({"score_residual": "x"}, "score_residual 'x'"),
            ({"image_score": "sum"}, "image_score 'sum' must be one of 'mean', 'l4', 'max', 'top_k'"),
            ({"max_iterations": -1}, "max_iterations -1 must be a whole number >= 0$"),
            ({"mask_quantile": 1.0}, "mask_quantile 1.0 must be a finite number > 0 and < 1$"),
            ({"mask_quantile": 0.0}, "mask_quantile 0.0 must be"),
            ({"mask_quantile": float("nan")}, "mask_quantile nan must be"),
            ({"grid_probability": 5}, "grid_probability 5 must be a finite number >= 0 and <= 1$"),
            ({"adversarial_weight": -1.0}, "adversarial_weight -1.0 must be a finite number >= 0$"),
            ({"adversarial_weight": float("nan")}, "adversarial_weight nan must be"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            I3AD(**{**TINY, **arguments})
