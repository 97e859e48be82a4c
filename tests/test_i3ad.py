"""I3AD: networks, losses and the iteration."""

import copy

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_i3ad import I3AD, Textures
from anomalib_i3ad.components.features import packaged_weights
from anomalib_i3ad.components.masks import lattice_holes
from anomalib_i3ad.models.i3ad.discriminator import Discriminator
from anomalib_i3ad.models.i3ad.generator import Generator, composite
from anomalib_i3ad.models.i3ad.loss import adversarial_loss, discriminator_loss, reconstruction_loss
from anomalib_i3ad.models.i3ad.torch_model import I3ADModel
from model_tester import ModelTester, make_engine, make_images

TINY = {
    "image_size": 64,
    "width": 4,
    "discriminator_width": 8,
    "adversarial_weight": 1.0,
    "learning_rate": 1e-3,
    "lr_schedule": "constant",
}


class TestI3AD(ModelTester):
    """The shared tests, with the defaults."""

    model_class = I3AD
    name = "i3ad"
    tiny = TINY
    unfit = {"width": 6}

    def test_mask_threshold_lives_in_the_checkpoint(self, fitted) -> None:
        threshold = fitted[0].model.mask_threshold
        assert 0 < threshold < 1
        assert I3AD.load_from_checkpoint(fitted[1]).model.mask_threshold == threshold

    def test_validation_calibrates_the_mask_anew(self, fitted, textures: Textures) -> None:
        """A checkpoint under another ``mask_quantile`` must not keep the old u."""
        model = I3AD.load_from_checkpoint(fitted[1], mask_quantile=0.5, visualizer=False)
        make_engine().validate(model, datamodule=textures, verbose=False)
        images = torch.cat([batch.image.as_subclass(torch.Tensor) for batch in textures.val_dataloader()])
        expected = np.quantile(model.model.eval().first_residuals(images).detach().numpy(), 0.5)
        assert model.model.mask_threshold.item() == pytest.approx(expected, rel=1e-5)
        assert model.model.mask_threshold < fitted[0].model.mask_threshold


class TestTwoStages(ModelTester):
    """The shared tests, with contextual attention and every option that is not the default."""

    is_variant = True
    model_class = I3AD
    name = "i3ad"
    tiny = {
        **TINY,
        "stages": 2,
        "initial_grid": [2, 4],
        "score_residual": "l2",
        "reinpaint": "previous",
        "anomaly_map": "mean",
        "image_score": "top_k",
        "max_iterations": 3,
        "adversarial_weight": 0.0,
    }
    unfit = {"stages": 1}


class TestFeatures(ModelTester):
    """The shared tests, with a mask that looks at features, too, and a score of features alone."""

    is_variant = True
    model_class = I3AD
    name = "i3ad"
    tiny = {
        **TINY,
        "mask_residual": ["ssim", "features"],
        "score_residual": "features",
        "layers": ["blocks.1", "blocks.2"],
        "anomaly_map": "mean",
        "image_score": "l4",
        "max_iterations": 2,
        "adversarial_weight": 0.0,
        "feature_weight": 1.0,
    }
    unfit = {"feature_weight": 0.0, "score_residual": "ssim", "mask_residual": "ssim"}

    def test_the_network_keeps_its_weights_and_needs_them_only_once(
        self, fitted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def network_of(model: I3AD) -> dict[str, torch.Tensor]:
            return model.model.residuals[1].features.state_dict()

        expected = packaged_weights("tf_efficientnet_lite0")
        for name, value in network_of(fitted[0]).items():
            if name.startswith("network."):
                torch.testing.assert_close(value, expected[name.removeprefix("network.")])
        monkeypatch.setattr("timm.create_model", None)  # no weights are fetched for a checkpoint
        features = fitted[0].model.residuals[1].features
        features.load_pretrained()

    def test_the_loss_is_what_the_inpainting_looks_like_to_the_network(self) -> None:
        torch.manual_seed(0)
        model = I3AD(**self.tiny, l1_weight=0.0)
        losses: dict[str, torch.Tensor] = {}
        image, hole = torch.rand(2, 3, 64, 64), lattice_holes(4, 64, 64)[:2]
        model.draw_holes = hole.to
        model.check_losses = lambda **shown: losses.update(shown)
        model.step_optimizers = lambda loss: losses.update(loss=loss)
        model.training_step(ImageBatch(image=image), 0)
        inpainted = composite(image, model.model.generator(image, hole)[-1], hole)
        network = model.model.residuals[1].features.network
        similar = []
        for one, other in zip(*(network(2 * x - 1) for x in (image, inpainted)), strict=True):
            similarity = torch.nn.functional.cosine_similarity(one, other)[:, None]
            similar.append(torch.nn.functional.interpolate(similarity, (64, 64), mode="bilinear").mean())
        torch.testing.assert_close(losses["loss"], 1 - torch.stack(similar).mean())

    def test_each_residual_has_its_own_threshold(self, fitted) -> None:
        ssim, features = fitted[0].model.mask_threshold.tolist()
        assert 0 < ssim < 1
        assert 0 < features < 2
        assert ssim != features


@pytest.fixture
def model() -> I3ADModel:
    torch.manual_seed(0)
    return I3ADModel(width=4, mask_threshold=0.3, anomaly_map="last").eval()


class TestGenerator:
    @pytest.mark.parametrize("stages", [1, 2])
    @pytest.mark.parametrize("size", [(64, 64), (40, 72)])
    def test_keeps_visible_pixels_bit_for_bit(self, stages: int, size: tuple[int, int]) -> None:
        image, hole = torch.rand(2, 3, *size), (torch.rand(2, 1, *size) > 0.6).float()
        inpainting = Generator(4, stages).inpaint(image, hole)
        visible = (hole == 0).expand_as(image)
        assert torch.equal(inpainting[visible], image[visible])
        assert not torch.isclose(inpainting[~visible], image[~visible]).all()

    @pytest.mark.parametrize("stages", [1, 2])
    def test_never_sees_what_is_hidden(self, stages: int) -> None:
        generator, hole = Generator(4, stages), lattice_holes(4, 64, 64)[:1]
        image = torch.rand(1, 3, 64, 64)
        other = composite(image, torch.rand_like(image), hole)
        for mine, theirs in zip(generator(image, hole), generator(other, hole), strict=True):
            assert torch.equal(mine, theirs)

    def test_has_the_layers_of_the_authors(self) -> None:
        """Effective widths of the coarse stage at cnum 48 (width 24), from the authors' network."""
        stage = Generator(24).stages[0]
        widths = [layer.conv.out_channels // 2 for layer in list(stage)[:-1]] + [stage[-1].out_channels]
        assert widths == [24, 48, 48, 96, 96, 96, *[96] * 4, 96, 96, 48, 48, 24, 12, 3]

    @pytest.mark.parametrize(("width", "stages", "message"), [(5, 1, "even"), (0, 1, "even"), (4, 3, "stages 3")])
    def test_refuses_what_it_cannot_be(self, width: int, stages: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Generator(width, stages)

    def test_attention_copies_what_is_visible(self) -> None:
        """On a periodic image the hidden features are rebuilt from identical visible patches."""
        from anomalib_i3ad.models.i3ad.contextual_attention import ContextualAttention

        tile = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        features = tile.repeat(1, 1, 4, 4)
        hole = torch.zeros(1, 1, 128, 128)
        hole[..., 32:48, 32:48] = 1
        attended = ContextualAttention(8)(features, hole)
        hidden = torch.nn.functional.max_pool2d(hole, 4)[0, 0] > 0
        assert torch.equal(attended[..., ~hidden], features[..., ~hidden])
        rebuilt, original = attended[..., hidden].flatten(), features[..., hidden].flatten()
        assert torch.corrcoef(torch.stack([rebuilt, original]))[0, 1] > 0.9


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

    def test_adversarial_term_moves_the_generator_only(self, textures: Textures) -> None:
        """One backward pass serves both networks; each must get its own gradient and no other."""
        torch.manual_seed(0)
        both = I3AD(**TINY, l1_weight=0.0)
        image, hole = torch.rand(2, 3, 64, 64), lattice_holes(4, 64, 64)[:2]
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


class TestIteration:
    def test_no_iterations_leave_the_lattice_pass(self, model: I3ADModel) -> None:
        model.max_iterations = 0
        image = make_images(2, 64, 64)
        result = model.iterate(image)
        assert torch.equal(result.inpainting, model.first_inpainting(image))
        assert result.passes.tolist() == [0, 0]

    def test_lattice_pass_takes_each_pixel_where_it_was_hidden(self, model: I3ADModel) -> None:
        image = make_images(1, 64, 64)
        stitched = model.first_inpainting(image)
        for hole in lattice_holes(4, 64, 64):
            drawn = model.generator(image, hole[None])[-1]
            torch.testing.assert_close(stitched * hole, drawn * hole, rtol=0, atol=1e-5)

    def test_follows_the_definition(self, model: I3ADModel) -> None:
        """Against the loop of the paper written out, one image at a time."""
        model.min_shrink, model.max_iterations, model.mask_edge = 0.0, 3, 0.0
        for image in make_images(3, 64, 64).split(1):
            inpainting, passes = model.first_inpainting(image), 0
            hole = (model.residuals[0](image, inpainting) >= 0.3).float()
            while hole.any() and passes < 3:
                inpainting = image * (1 - hole) + model.generator(image, hole)[-1] * hole
                passes += 1
                previous, hole = hole, (model.residuals[0](image, inpainting) >= 0.3).float()
                if hole.sum() > previous.sum():
                    break
            result = model.iterate(image)
            assert result.passes.item() == passes
            torch.testing.assert_close(result.inpainting, inpainting, rtol=0, atol=1e-6)
            expected = model.residuals[-1](image, inpainting)
            torch.testing.assert_close(result.anomaly_map, expected, rtol=0, atol=1e-5)

    def test_hides_partly_just_below_the_threshold(self, model: I3ADModel) -> None:
        model.mask_threshold.fill_(0.5)
        model.mask_edge = 0.1
        residual = torch.tensor([0.0, 0.44, 0.45, 0.475, 0.4999, 0.5, 0.9]).reshape(1, 1, 1, 7)
        expected = torch.tensor([0, 0, 0, 0.5, 0.998, 1, 1])
        torch.testing.assert_close(model.hole_of(residual).flatten(), expected, rtol=0, atol=1e-5)
        model.mask_edge = 0.0
        assert model.hole_of(residual).flatten().tolist() == [0, 0, 0, 0, 0, 1, 1]

    def test_any_of_several_residuals_hides_and_their_mean_scores(self) -> None:
        both = ["ssim", "l2"]
        model = I3ADModel(width=4, mask_residual=both, score_residual=both, mask_threshold=[0.5, 0.02], mask_edge=0)
        residuals = torch.tensor([[0.6, 0.01], [0.4, 0.03], [0.4, 0.01], [0.6, 0.03]]).T.reshape(1, 2, 1, 4)
        assert model.hole_of(residuals).flatten().tolist() == [1, 1, 0, 1]
        expected = torch.tensor([(1.2 + 0.5) / 2, (0.8 + 1.5) / 2, (0.8 + 0.5) / 2, (1.2 + 1.5) / 2])
        torch.testing.assert_close(model.map_of(residuals).flatten(), expected)

    def test_rounding_at_the_threshold_moves_little(self, model: I3ADModel) -> None:
        """A pixel whose residual is u in one runtime and a rounding error below it in another."""
        image = make_images(1, 64, 64)
        residual = model.residuals[0](image, model.first_inpainting(image))
        model.mask_threshold.fill_(residual.flatten().sort().values[-400])
        model.max_iterations, maps = 1, {}
        for model.mask_edge in (0.0, 0.1):
            for nudge in (1 - 1e-6, 1 + 1e-6):
                threshold = model.mask_threshold.clone()
                model.mask_threshold.mul_(nudge)
                maps[model.mask_edge, nudge > 1] = model.iterate(image).anomaly_map
                model.mask_threshold.copy_(threshold)
        moved = {edge: (maps[edge, True] - maps[edge, False]).abs().max().item() for edge in (0.0, 0.1)}
        assert moved[0.1] < 1e-3 < moved[0.0]

    def test_mean_map_is_the_mean_over_passes(self, model: I3ADModel) -> None:
        model.anomaly_map, model.min_shrink = "mean", -10.0
        image = make_images(1, 64, 64)
        maps = []
        for model.max_iterations in range(3):
            inpainting = model.iterate(image).inpainting
            maps.append(model.residuals[-1](image, inpainting))
        result = model.iterate(image)
        assert result.passes.item() == 2
        torch.testing.assert_close(result.anomaly_map, torch.stack(maps).mean(dim=0), rtol=0, atol=1e-6)
        # one that stops after a pass keeps its residual, and weighs as much as one that goes on
        model.min_shrink = 1.1
        stopped = model.iterate(image)
        assert stopped.passes.item() == 1
        expected = (maps[0] + 2 * maps[1]) / 3
        torch.testing.assert_close(stopped.anomaly_map, expected, rtol=0, atol=1e-6)

    def test_image_that_never_converges_ends(self, model: I3ADModel) -> None:
        model.mask_threshold.fill_(0.0)  # everything stays hidden
        model.min_shrink, model.max_iterations = 0.0, 7
        result = model.iterate(make_images(1, 64, 64))
        assert result.passes.item() == 7
        assert result.hole.mean() == 1

    def test_stops_when_the_hole_no_longer_shrinks(self, model: I3ADModel) -> None:
        model.mask_threshold.fill_(0.0)
        model.max_iterations = 7
        assert model.iterate(make_images(1, 64, 64)).passes.item() == 1

    def test_stops_at_once_when_nothing_differs(self, model: I3ADModel) -> None:
        model.mask_threshold.fill_(2.0)
        assert model.iterate(make_images(2, 64, 64)).passes.tolist() == [0, 0]

    def test_images_of_a_batch_stop_by_themselves(self, model: I3ADModel) -> None:
        model.min_shrink, model.max_iterations = 0.0, 6
        image = make_images(6, 64, 64)
        image[0] = model.first_inpainting(image[:1])[0].clamp(0, 1)
        residual = model.residuals[0](image, model.first_inpainting(image))
        model.mask_threshold.fill_(residual.flatten(1).amax(dim=1).sort().values[2])
        together = model.iterate(image)
        alone = [model.iterate(single) for single in image.split(1)]
        assert len(set(together.passes.tolist())) > 1
        assert together.passes.tolist() == [one.passes.item() for one in alone]
        maps = torch.cat([one.anomaly_map for one in alone])
        torch.testing.assert_close(together.anomaly_map, maps, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_black_and_white_images_get_finite_scores(self, model: I3ADModel, value: float) -> None:
        batch = model(torch.full((1, 3, 64, 64), value))
        assert torch.isfinite(batch.anomaly_map).all()
        assert 0 <= batch.pred_score.item() <= 1


class TestSchedule:
    @pytest.mark.parametrize("adversarial_weight", [0.0, 1.0])
    def test_cosine_rises_falls_and_ends_with_the_fit(self, textures: Textures, adversarial_weight: float) -> None:
        rates = []
        changed = {"adversarial_weight": adversarial_weight, "lr_schedule": "cosine"}
        model = I3AD(**{**TINY, **changed}, max_train_steps=40)
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

    def test_cosine_wants_an_end(self, textures: Textures) -> None:
        model = I3AD(**{**TINY, "lr_schedule": "cosine"}, max_train_steps=None)
        with pytest.raises(ValueError, match="lr_schedule cosine wants an end"):
            make_engine(max_epochs=-1).fit(model, datamodule=textures)


class TestHoles:
    def test_a_function_of_seed_and_step_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = I3AD(**TINY), torch.rand(3, 3, 64, 64)
        monkeypatch.setattr(I3AD, "train_step", 8)
        monkeypatch.setattr(I3AD, "global_rank", 0)
        first = model.draw_holes(image)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        assert torch.equal(first, model.draw_holes(image))
        monkeypatch.setattr(I3AD, "train_step", 10)
        assert not torch.equal(first, model.draw_holes(image))


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"initial_grid": [6]}, "initial_grid 6 does not divide the image of 64x64"),
            ({"initial_grid": [3]}, "must be an even number"),
            ({"image_size": 66, "initial_grid": [2]}, "multiples of 4"),
            ({"image_size": 68, "stages": 2, "initial_grid": [2]}, "multiples of 8"),
            ({"mask_residual": "psnr"}, "residual 'psnr' must be one of 'ssim', 'l2'"),
            ({"score_residual": "x"}, "residual 'x'"),
            ({"image_score": "sum"}, "image_score 'sum' must be one of 'mean', 'l4', 'max', 'top_k'"),
            ({"lr_schedule": "step"}, "lr_schedule 'step' must be one of 'constant', 'cosine'"),
            ({"max_iterations": -1}, "max_iterations -1"),
            ({"feature_weight": 1.0}, "feature_weight 1.0 needs 'features' in mask_residual or score_residual"),
            ({"mask_residual": ["ssim", "l2"], "mask_threshold": 0.1}, "2 are wanted, for ssim, l2"),
            ({"mask_residual": "features", "backbone": "resnet1"}, "backbone 'resnet1' is not a model of timm"),
            ({"mask_residual": "features", "layers": ["blocks.1", "x"]}, "has the layers blocks.0, blocks.1"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            I3AD(**{**TINY, **arguments})

    def test_uncalibrated_model_says_so(self) -> None:
        with pytest.raises(ValueError, match="not calibrated"):
            I3AD(**TINY).eval()(torch.rand(1, 3, 64, 64))
