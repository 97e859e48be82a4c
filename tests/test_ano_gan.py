"""AnoGAN: networks, gradient, search and the two phases of training."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import ImageBatch
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad import AnoGan, Textures
from anomalib_i3ad.models.ano_gan.linearisable import ConvLayer
from anomalib_i3ad.models.ano_gan.loss import cross_entropy, discriminator_loss, encoder_loss, generator_loss
from anomalib_i3ad.models.ano_gan.networks import Critic, Generator
from anomalib_i3ad.models.ano_gan.torch_model import EPSILON, AnoGanModel
from model_tester import OPENVINO, ConfigurationTester, ModelTester, make_engine, make_images

TINY = {"image_size": 64, "patch_size": 32, "stride": 24, "width": 4, "latent_dim": 8}


class AnoGanTester(ConfigurationTester):
    """Shared tests, where generator and encoder have had their own shares of the steps."""

    model_class = AnoGan
    score_bound = float("inf")  # sums over a patch
    adam = {"betas": (0.5, 0.999), "weight_decay": 0}

    def test_resumes_with_its_optimisers(self, fitted, texture_root: Path) -> None:
        model = AnoGan(**self.tiny)
        engine = make_engine(max_epochs=3)
        batches = len(self.loader_of(texture_root))
        engine.fit(model, datamodule=self.datamodule(texture_root), ckpt_path=fitted[1])
        assert model.train_step == 3 * batches
        steps = [{int(state["step"]) for state in opt.state.values()} for opt in engine.trainer.optimizers]
        before = int(2 / 3 * 2 * batches)
        if model.model.encoder is None:
            assert steps == [{3 * batches}, {3 * batches}]
        else:  # two epochs, of which two thirds went to the GAN; then one more, again with two thirds of all three
            gan = before + max(0, int(2 / 3 * 3 * batches) - 2 * batches)
            assert steps == [{gan}, {gan}, {3 * batches - gan}]


class TestEncoder(AnoGanTester, ModelTester):
    """With the defaults: f-AnoGAN."""

    name = "ano_gan"
    unfit = {"width": 6}
    tiny = TINY


class TestSearch(AnoGanTester):
    """AnoGAN, with every other option that is not the default."""

    runtimes = (OPENVINO,)
    tiny = {**TINY, "inference": "search", "search_steps": 6, "discrimination": "logit", "image_score": "max"}

    def test_takes_a_checkpoint_that_has_an_encoder(self, texture_root: Path) -> None:
        trained = AnoGan(**TINY)
        engine = make_engine(max_epochs=1)
        engine.fit(trained, datamodule=self.datamodule(texture_root))
        loaded = AnoGan.load_from_checkpoint(engine.best_model_path, inference="search", search_steps=2)
        for mine, theirs in zip(loaded.model.generator.parameters(), trained.model.generator.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.isfinite(loaded.eval()(make_images(1, 64, 64)).pred_score).all()

    def test_validates_once(self, texture_root: Path) -> None:
        """A search for every image after every epoch would outlast the training."""
        model, calls = AnoGan(**self.tiny), []
        original = model.validation_step
        model.validation_step = lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs))[1]
        datamodule = self.datamodule(texture_root)
        make_engine(max_epochs=4).fit(model, datamodule=datamodule)
        assert len(calls) == len(datamodule.val_dataloader())


def trained_like(model: nn.Module) -> nn.Module:
    """Give normalisation layers and weights the values of a trained network."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
    return model.eval()


@pytest.fixture
def model() -> AnoGanModel:
    made = AnoGan(16, patch_size=16, stride=8, width=8, latent_dim=6, inference="search", search_steps=150)
    return trained_like(made.model).requires_grad_(requires_grad=False)


class TestVectorJacobianProduct:
    @pytest.mark.parametrize("norm", [True, False])
    @pytest.mark.parametrize("activation", [nn.LeakyReLU(0.0), nn.LeakyReLU(0.2), nn.Tanh()], ids=str)
    @pytest.mark.parametrize(
        ("convolution", "size"),
        [
            (nn.Conv2d(3, 4, 5, 2, padding=2), (12, 17)),
            (nn.Conv2d(3, 4, 3, 1, padding=1), (7, 9)),
            (nn.Conv2d(3, 4, 4, 3, padding=0), (12, 15)),
            (nn.ConvTranspose2d(3, 4, 5, 2, padding=2, output_padding=1), (6, 7)),
            (nn.ConvTranspose2d(3, 4, 4), (1, 1)),
        ],
        ids=["k5s2", "k3s1", "k4s3", "up k5s2", "up k4"],
    )
    def test_of_a_layer_equals_autograd(self, convolution, size, activation, norm) -> None:
        layer = trained_like(ConvLayer(copy.deepcopy(convolution), activation, norm=norm)).double()
        x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        y, pullback = layer.linearise(x)
        d = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(pullback(d), torch.autograd.grad(y, x, d)[0], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
    def test_of_the_search_equals_autograd(self, model: AnoGanModel, weight: float) -> None:
        model = model.double()
        model.discrimination_weight = weight
        patch = 2 * make_images(3, 16, 16).double() - 1
        z = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        features = model.discriminator.features(patch)
        expected = torch.autograd.grad(search_loss(model, z, patch).sum(), z)[0]
        torch.testing.assert_close(model.gradient(z, patch, features), expected, rtol=1e-9, atol=1e-9)


def search_loss(model: AnoGanModel, z: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    """The paper's L(z), an entry a patch."""
    drawn = model.generator(z)
    residual = (patch - drawn).abs().sum(dim=(1, 2, 3))
    inner = (model.discriminator.features(patch) - model.discriminator.features(drawn)).abs().sum(dim=(1, 2, 3))
    return (1 - model.discrimination_weight) * residual + model.discrimination_weight * inner


class TestLatentSearch:
    def test_equals_torchs_adam(self, model: AnoGanModel) -> None:
        model = model.double()
        patch = 2 * make_images(2, 16, 16).double() - 1
        z = model.start.repeat(2, 1).requires_grad_()
        optimizer = torch.optim.Adam([z], model.search_learning_rate, eps=EPSILON)
        for _ in range(20):
            optimizer.zero_grad()
            search_loss(model, z, patch).sum().backward()
            optimizer.step()
        model.search_steps = 20
        found = model.locate(patch, model.discriminator.features(patch))
        torch.testing.assert_close(found, z.detach(), rtol=1e-9, atol=1e-9)

    def test_lowers_its_loss_for_every_patch(self, model: AnoGanModel) -> None:
        patch = 2 * make_images(4, 16, 16) - 1
        found = model.locate(patch, model.discriminator.features(patch))
        before = search_loss(model, model.start.repeat(4, 1), patch)
        assert (search_loss(model, found, patch) < before).all()

    def test_finds_a_vector_it_was_given(self, model: AnoGanModel) -> None:
        given = 2 * torch.rand(3, 6, generator=torch.Generator().manual_seed(5)) - 1
        patch = model.generator(given)
        model.search_steps = 600
        model.search_learning_rate = 0.02
        found = model.locate(patch, model.discriminator.features(patch))
        assert (found - given).abs().max() < 0.05
        assert (model.start - given).abs().max() > 0.5

    def test_exports_where_there_is_nothing_to_descend(self, tmp_path: Path) -> None:
        """A gradient of exactly 0 must not become 0 / 0."""
        still = AnoGan(**TINY, inference="search", search_steps=3, post_processor=False).eval()
        nn.init.zeros_(still.model.generator[-1].convolution.weight)
        image = make_images(1, 64, 64)
        session = onnxruntime.InferenceSession(still.to_onnx(tmp_path, input_size=(64, 64)))
        (score,) = session.run(["pred_score"], {"input": image.numpy()})
        assert score.item() == pytest.approx(still(image).pred_score.item(), rel=1e-6)

    def test_starts_where_the_encoder_points(self) -> None:
        both = AnoGan(16, patch_size=16, stride=8, width=4, latent_dim=6, inference="encoder+search", search_steps=1)
        both = trained_like(both.model)
        patch = 2 * make_images(2, 16, 16) - 1
        found = both.locate(patch, both.discriminator.features(patch))
        # Adam's first step has the length of the learning rate, whatever the gradient
        torch.testing.assert_close((found - both.encode(patch)).abs(), torch.full_like(found, 0.05), rtol=1e-3, atol=0)


class TestScore:
    def test_by_the_papers_formula(self, model: AnoGanModel) -> None:
        model.search_steps = 3
        image = make_images(2, 16, 24)
        result = model(image)
        for n in range(2):
            scores, total, count = [], torch.zeros(16, 24), torch.zeros(16, 24)
            for left in (0, 8):
                patch = 2 * image[n : n + 1, :, :, left : left + 16] - 1
                z = model.locate(patch, model.discriminator.features(patch))
                scores.append(search_loss(model, z, patch).item())
                difference = (patch - model.generator(z)).abs().mean(dim=1)[0] / 2
                total[:, left : left + 16] += difference
                count[:, left : left + 16] += 1
            assert result.pred_score[n].item() == pytest.approx(sum(scores) / 2, rel=1e-5)
            torch.testing.assert_close(result.anomaly_map[n, 0], total / count, rtol=0, atol=1e-5)

    def test_reference_score_judges_the_drawing(self, model: AnoGanModel) -> None:
        model.search_steps, model.discrimination, model.discrimination_weight = 1, "logit", 1.0
        image = make_images(1, 16, 16)
        patch = 2 * image - 1
        z = model.locate(patch, model.discriminator.features(patch))
        logit = model.discriminator(model.generator(z))
        expected = F.binary_cross_entropy_with_logits(logit, torch.ones(1, 1))
        assert model(image).pred_score.item() == pytest.approx(expected.item(), rel=1e-5)


class TestNetworks:
    def test_have_the_layers_of_the_dcgan(self) -> None:
        x, shapes = torch.rand(1, 100, 1, 1), []
        for layer in Generator(64, 64, 100):
            x = layer(x)
            shapes.append((x.shape[1], x.shape[-1]))
        assert shapes == [(512, 4), (256, 8), (128, 16), (64, 32), (3, 64)]
        x, shapes = torch.rand(1, 3, 64, 64), []
        for layer in Critic(64, 64, 1).features:
            x = layer(x)
            shapes.append((x.shape[1], x.shape[-1]))
        assert shapes == [(64, 32), (128, 16), (256, 8), (512, 4)]

    def test_normalise_by_position_whatever_the_width(self) -> None:
        """A hidden layer of three channels is not the image."""
        assert [layer.norm is not None for layer in Generator(64, 3, 5)] == [True] * 4 + [False]
        assert [layer.norm is not None for layer in Critic(64, 3, 1).features] == [False] + [True] * 3

    @pytest.mark.parametrize("size", [8, 32, 128])
    def test_other_sizes(self, size: int) -> None:
        drawn = Generator(size, 2, 5)(torch.rand(2, 5))
        assert drawn.shape == (2, 3, size, size)
        assert Critic(size, 2, 7)(drawn).shape == (2, 7)


class TestLosses:
    def test_equal_torchs(self) -> None:
        real, fake = torch.tensor([[2.0], [-30.0]]), torch.tensor([[0.5], [40.0]])
        bce, one, zero = F.binary_cross_entropy_with_logits, torch.ones(2, 1), torch.zeros(2, 1)
        assert discriminator_loss(real, fake).item() == pytest.approx((bce(real, one) + bce(fake, zero)).item())
        assert generator_loss(fake).item() == pytest.approx(bce(fake, one).item())
        assert cross_entropy(real, real=True).tolist() == pytest.approx([0.126928, 30.0], rel=1e-5)

    def test_encoder_by_hand(self) -> None:
        patch, features = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)
        loss = encoder_loss(patch, patch + 0.5, features, features - 2, 0.1)
        assert loss.item() == pytest.approx(0.25 + 0.1 * 4)


class TestPhases:
    def test_encoder_trains_last_and_alone(self, textures: Textures) -> None:
        torch.manual_seed(0)
        model, seen = AnoGan(**TINY, max_train_steps=6), []
        networks = (model.model.generator, model.model.discriminator, model.model.encoder)

        def weights() -> list[torch.Tensor]:
            return [nn.utils.parameters_to_vector(net.parameters()).detach().clone() for net in networks]

        def buffers() -> torch.Tensor:
            return torch.cat([b.flatten().float() for net in networks[:2] for b in net.buffers()])

        original = model.training_step

        def step(batch, batch_idx):
            before, stats = weights(), buffers()
            original(batch, batch_idx)
            moved = [not torch.equal(b, a) for b, a in zip(before, weights(), strict=True)]
            seen.append([*moved, not torch.equal(stats, buffers())])

        model.training_step = step
        make_engine(max_epochs=20).fit(model, datamodule=textures)
        assert seen == [[True, True, False, True]] * 4 + [[False, False, True, False]] * 2

    def test_patches_and_latent_vectors_span_the_same_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, given = AnoGan(**TINY), []
        monkeypatch.setattr(AnoGan, "batches_seen", 0)
        monkeypatch.setattr(AnoGan, "global_rank", 0)
        model.train_gan = lambda *inputs: given.extend(inputs)
        halves = torch.cat([torch.zeros(4, 3, 64, 32), torch.ones(4, 3, 64, 32)], dim=-1)
        model.training_step(ImageBatch(image=halves), 0)
        for values in given:
            assert (values.min().item(), values.max().item()) == pytest.approx((-1, 1), abs=0.1)

    def test_the_discriminator_tells_patches_from_drawings(self) -> None:
        model, shown, said, stepped = AnoGan(**TINY), {}, [], []
        model.check_losses = shown.update
        model.step_optimizers = lambda loss, *which: stepped.append((loss.item(), which))
        model.model.discriminator.register_forward_hook(lambda _, given, got: said.append((given[0], got.detach())))
        patch = 2 * make_images(2, 32, 32) - 1
        model.train_gan(patch, torch.rand(2, len(model.model.start)))
        (of_patch,) = [got for given, got in said if torch.equal(given, patch)]
        (of_drawing, *_) = [got for given, got in said if not torch.equal(given, patch)]
        real, drawn = (torch.sigmoid(got).double().numpy() for got in (of_patch, of_drawing))
        generating, judging = -np.log(drawn).mean(), -np.log(real).mean() - np.log(1 - drawn).mean()
        found = {name: loss.item() for name, loss in shown.items()}
        by_hand = {"generator_loss": generating, "discriminator_loss": judging}
        assert found == pytest.approx(by_hand, rel=1e-4)
        assert stepped == [(pytest.approx(generating + judging, rel=1e-4), (0, 1))]

    def test_the_encoders_loss_weighs_features_as_it_is_told(self) -> None:
        model, losses = AnoGan(**TINY, feature_weight=0.0).eval(), []
        model.check_losses = lambda **_: None
        model.step_optimizers = lambda loss, *_: losses.append(loss.item())
        patch = 2 * make_images(2, 32, 32) - 1
        model.train_encoder(patch)
        drawn = model.model.generator(model.model.encode(patch))
        assert losses == [pytest.approx(F.mse_loss(drawn, patch).item())]

    @pytest.mark.parametrize(
        ("limits", "gan_steps"), [({"max_epochs": 3}, 6), ({"max_epochs": -1, "max_steps": 10}, 4)]
    )
    def test_follow_the_trainers_limits(self, limits: dict, gan_steps: int, textures: Textures) -> None:
        model = AnoGan(**TINY)
        make_engine(**limits).fit(model, datamodule=textures)
        assert model.gan_steps == gan_steps
        assert model.train_step == (9 if "max_steps" not in limits else 6)

    def test_a_fit_cut_short_says_so(self, textures: Textures, caplog: pytest.LogCaptureFixture) -> None:
        model = AnoGan(**TINY, max_train_steps=30)
        model.on_train_batch_start = lambda *_: setattr(model.trainer, "should_stop", True)
        make_engine(max_epochs=None).fit(model, datamodule=textures)
        assert "before the encoder's share, which begins at 20" in caplog.text

    def test_need_a_limit(self, textures: Textures) -> None:
        with pytest.raises(ValueError, match="set max_train_steps"):
            make_engine(max_epochs=-1).fit(AnoGan(**TINY, max_train_steps=None), datamodule=textures)


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"patch_size": 48}, "patch_size 48 must be"),
            ({"patch_size": 4, "stride": 4}, "patch_size 4 must be 8, 16"),
            ({"patch_size": 128}, "image of 64x64 pixels is smaller than patch_size 128"),
            ({"stride": 33}, "stride 33 must be from 1 to patch_size 32"),
            ({"inference": "both"}, "inference 'both' must be one of 'search', 'encoder', 'encoder\\+search'"),
            ({"discrimination": "x"}, "discrimination 'x'"),
            ({"width": 0}, "width 0 must be a whole number >= 1$"),
            ({"latent_dim": 0}, "latent_dim 0 must be a whole number >= 1$"),
            ({"search_steps": 0}, "search_steps 0 must be a whole number >= 1$"),
            ({"search_learning_rate": 0.0}, "search_learning_rate 0.0 must be a finite number > 0$"),
            ({"discrimination_weight": 2.0}, "discrimination_weight 2.0 must be a finite number >= 0 and <= 1$"),
            ({"discrimination_weight": float("nan")}, "discrimination_weight nan must be"),
            ({"encoder_share": 1.0}, "encoder_share 1.0 must be a finite number > 0 and < 1$"),
            ({"feature_weight": -1.0}, "feature_weight -1.0 must be a finite number >= 0$"),
            ({"stride": 30.5}, "stride 30.5 must be a whole number >= 1$"),
            ({"patch_size": 32.0}, "patch_size 32.0 must be a whole number >= 1$"),
            ({"betas": 0.5}, "betas 0.5 must be two numbers"),
            ({"betas": (0.5,)}, r"betas \(0.5,\) must be two numbers"),
            ({"betas": (0.5, 1.0)}, "betas 1.0 must be a finite number >= 0 and < 1$"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AnoGan(**{**TINY, **arguments})
