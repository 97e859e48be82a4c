"""RIAD: cell sets, U-Net, loss and map."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from lightning import Callback, Trainer
from scipy.ndimage import uniform_filter

from anomalib_i3ad import Riad, Textures
from anomalib_i3ad.components.ssim import ssim
from anomalib_i3ad.models.riad.cell_sets import random_cell_sets
from anomalib_i3ad.models.riad.gms import msgms_loss, msgms_map
from anomalib_i3ad.models.riad.loss import riad_loss
from anomalib_i3ad.models.riad.torch_model import RiadModel
from anomalib_i3ad.models.riad.unet import UNet
from model_tester import ModelTester, make_engine, make_images

TINY = {"image_size": 64, "width": 4, "learning_rate": 1e-3}


class TestRiad(ModelTester):
    """The shared tests."""

    model_class = Riad
    name = "riad"
    tiny = TINY
    unfit = {"width": 6}
    score_bound = 2  # the threshold of two images lies beyond their scores

    def test_cell_sets_live_in_the_checkpoint(self, fitted) -> None:
        assert torch.equal(Riad.load_from_checkpoint(fitted[1]).model.cell_sets, fitted[0].model.cell_sets)

    def test_a_longer_fit_that_goes_on_slows_down_later(self, fitted, texture_root: Path) -> None:
        class Watch(Callback):
            def __init__(self) -> None:
                self.rates: list[float] = []

            def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
                self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        watch, data = Watch(), self.datamodule(texture_root)
        make_engine(max_epochs=3, callbacks=[watch]).fit(Riad(**TINY), datamodule=data, ckpt_path=fitted[1])
        # of 9 steps, round(7.5) are fast, but for the first after a pause, whose rate is in the checkpoint
        assert watch.rates == pytest.approx([1e-4, 1e-3, 1e-4])


class Recorder(torch.nn.Module):
    """A network that draws a fixed image and keeps what it was shown."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.image = image
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.image.repeat(len(x) // len(self.image), 1, 1, 1)


@pytest.fixture
def model() -> RiadModel:
    torch.manual_seed(0)
    return Riad(image_size=(64, 96), width=4).model.eval()


class TestReconstruction:
    def test_is_the_image_when_the_network_draws_the_image(self, model: RiadModel) -> None:
        image = make_images(2, 64, 96)
        model.unet = Recorder(image)
        stitched = model.reconstruct(image, model.cell_sets)
        assert stitched.shape == (2, 4, 3, 64, 96)
        assert torch.equal(stitched, image[:, None].expand_as(stitched))
        assert model(image).pred_score.tolist() == [0, 0]

    def test_all_inpaintings_are_one_batch_and_hide_what_they_draw(self, model: RiadModel) -> None:
        image = make_images(2, 64, 96) + 1
        model.unet = recorder = Recorder(image)
        model(image)
        (seen,) = recorder.seen
        assert seen.shape == (2 * 4 * 3, 3, 64, 96)
        hidden = (seen.reshape(4, 3, 2, 3, 64, 96) == 0).float()
        assert torch.equal(hidden.sum(dim=1), torch.ones(4, 2, 3, 64, 96))

    def test_takes_each_pixel_where_it_was_hidden(self, model: RiadModel) -> None:
        image = make_images(1, 64, 96)
        sets = model.cell_sets[2]
        stitched = model.reconstruct(image, sets[None])[:, 0]
        for part in range(3):
            hole = (sets == part).float()
            torch.testing.assert_close(stitched * hole, model.unet(image * (1 - hole)) * hole, rtol=0, atol=1e-5)

    def test_map_is_the_mean_over_cell_sizes_smoothed(self, model: RiadModel) -> None:
        image = make_images(1, 64, 96)
        drawn = model.reconstruct(image, model.cell_sets)
        mean = torch.stack([msgms_map(image, drawn[:, k]) for k in range(4)]).mean(dim=0)[0, 0].detach().numpy()
        # a mean filter that leaves out what lies outside the image
        inside = uniform_filter(np.ones_like(mean), 21, mode="constant")
        expected = uniform_filter(mean, 21, mode="constant") / inside
        result = model(image)
        assert np.abs(result.anomaly_map[0, 0].detach().numpy() - expected).max() < 1e-5
        assert result.pred_score.item() == pytest.approx(expected.max(), abs=1e-5)

    def test_seed_decides_the_sets(self) -> None:
        first, again, other = (Riad(image_size=64, width=4, seed=seed).model.cell_sets for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestCellSets:
    @pytest.mark.parametrize("cell", [2, 4, 8, 16])
    @pytest.mark.parametrize("parts", [2, 3, 5])
    def test_are_disjoint_cover_and_are_equally_large(self, cell: int, parts: int) -> None:
        sets = random_cell_sets(cell, parts, 64, 96, np.random.default_rng(0))
        masks = torch.stack([sets == part for part in range(parts)])
        assert (masks.sum(dim=0) == 1).all()
        sizes = masks.sum(dim=(1, 2))
        assert sizes.max() - sizes.min() <= cell**2
        blocks = sets.unfold(0, cell, cell).unfold(1, cell, cell).flatten(2)
        assert (blocks == blocks[..., :1]).all()

    def test_are_random(self) -> None:
        rng = np.random.default_rng(0)
        first, second = (random_cell_sets(4, 3, 64, 64, rng) for _ in range(2))
        assert 0.2 < (first == second).float().mean() < 0.5  # a third by chance


class TestTrainingStep:
    def test_draws_among_all_cell_sizes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, drawn, rng = Riad(**TINY), set(), np.random.default_rng(0)

        def sets(cell: int, *more: object) -> torch.Tensor:
            drawn.add(cell)
            return random_cell_sets(cell, *more)

        monkeypatch.setattr("anomalib_i3ad.models.riad.lightning_model.random_cell_sets", sets)
        model.step_rng, model.check_losses = lambda: rng, lambda **_: None
        model.model.reconstruct = lambda image, _: image[:, None]
        for _ in range(30):
            model.training_step(ImageBatch(image=make_images(1, 64, 64)), 0)
        assert drawn == {2, 4, 8, 16}

    def test_is_of_the_sum_of_its_terms(self) -> None:
        model, terms = Riad(**TINY), {}
        model.step_rng, model.check_losses = lambda: np.random.default_rng(0), terms.update
        loss = model.training_step(ImageBatch(image=make_images(2, 64, 64)), 0)
        assert loss.item() == pytest.approx(sum(term.item() for term in terms.values()))
        assert len(terms) == 3
        assert min(term.item() for term in terms.values()) > 0


class TestUNet:
    def test_has_the_levels_of_the_authors(self) -> None:
        unet, x = UNet(64), torch.rand(1, 3, 64, 64)
        sizes = []
        for down in unet.down:
            x = down(x)
            sizes.append((x.shape[1], x.shape[-1]))
        assert sizes == [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]

    @pytest.mark.parametrize("size", [(64, 64), (32, 96)])
    def test_keeps_the_size(self, size: tuple[int, int]) -> None:
        assert UNet(4)(torch.rand(2, 3, *size)).shape == (2, 3, *size)


class TestLoss:
    def test_terms_are_what_they_say(self) -> None:
        image, other = make_images(2, 64, 64), make_images(2, 64, 64, seed=1)
        terms = riad_loss(image, other)
        assert terms["msgms_loss"] == msgms_loss(image, other)
        assert terms["ssim_loss"].item() == pytest.approx(1 - ssim(image, other).mean().item(), abs=1e-6)
        assert terms["l2_loss"].item() == pytest.approx((image - other).square().mean().item())

    def test_flat_images_give_finite_gradients(self) -> None:
        other = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
        sum(riad_loss(torch.full((1, 3, 64, 64), 0.5), other).values()).backward()
        assert torch.isfinite(other.grad).all()

    @pytest.mark.parametrize(
        ("limits", "batches"),
        [
            ({"max_epochs": 2}, 6),
            ({"max_epochs": -1, "max_steps": 6}, 6),
            # two steps in each epoch of three batches
            ({"max_epochs": 3, "accumulate_grad_batches": 2}, 9),
        ],
    )
    def test_learning_rate_falls_to_a_tenth(self, limits: dict, batches: int, textures: Textures) -> None:
        model, rates, draws = Riad(**TINY), [], []
        original = model.step_rng

        def rng() -> np.random.Generator:
            draws.append(original().random())
            return original()

        model.step_rng = rng
        model.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
        make_engine(**limits).fit(model, datamodule=textures)
        assert rates == pytest.approx([1e-3] * 5 + [1e-4])
        assert len(set(draws)) == len(draws) == batches  # not the same cells in all batches of a step


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": 100}, "image of 100x100 pixels: the U-Net takes sides that are multiples of 32"),
            (
                {"cell_sizes": (3,)},
                "cell_sizes 3 does not divide .* 64x64 pixels: choose an image_size that is a multiple of 3",
            ),
            ({"parts": 1}, "parts 1 must be a whole number >= 2 and <= 256$"),
            ({"parts": 257}, "parts 257 must be"),
            ({"cell_sizes": 4}, "cell_sizes 4 must be a list"),
            ({"cell_sizes": ()}, "number of cell_sizes 0 must be a whole number >= 1$"),
            ({"cell_sizes": (2, 0)}, "cell_sizes 0 must be a whole number >= 1$"),
            ({"width": 0}, "width 0 must be a whole number >= 1$"),
        ],
    )
    def test_are_refused_by_name(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Riad(**{**TINY, **arguments})

    def test_image_of_another_size(self, model: RiadModel) -> None:
        with pytest.raises(ValueError, match=r"image of 64x64 pixels: this model takes 64x96 \(image_size\)"):
            model(torch.rand(1, 3, 64, 64))
