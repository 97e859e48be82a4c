"""Film strips and plots."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from anomalib.visualization import Visualizer
from PIL import Image

from anomalib_i3ad import I3AD, SsimAe, Textures
from anomalib_i3ad.components.iteration import Snapshot
from anomalib_i3ad.visualization import FilmStripVisualizer, draw_film_strip, plots
from anomalib_i3ad.visualization.film_strip import GAP, HIDDEN, LINE, OUTLINE, TILE, film_strip_of
from model_tester import make_engine, make_images


def tile_of(strip: Image.Image, column: int, row: int) -> np.ndarray:
    left, top = GAP + column * (TILE + GAP), LINE + GAP + row * (TILE + LINE) + LINE
    return np.asarray(strip)[top : top + TILE, left : left + TILE] / 255


class TestFilm:
    def test_frames_are_the_iteration(self, untrained: I3AD) -> None:
        image = make_images(1, 64, 64)
        model = untrained.model
        with torch.no_grad():
            frames, result = model.record(image), model.iterate(image)
            first = model.initial_inpainting(image)
        assert len(frames) == 1 + int(result.iterations)
        assert len(frames) > 2  # or this test says nothing
        torch.testing.assert_close(frames[0].inpainting, first, rtol=0, atol=0)
        torch.testing.assert_close(frames[-1].inpainting, result.inpainting, rtol=0, atol=0)
        torch.testing.assert_close(frames[-1].residual, result.anomaly_map, rtol=0, atol=0)
        for frame in frames[1:]:  # what a frame did not hide is the image's own
            visible = (frame.hole == 0).expand_as(image)
            torch.testing.assert_close(frame.inpainting[visible], image[visible], rtol=0, atol=0)

    def test_filming_changes_nothing(self, untrained: I3AD) -> None:
        image = make_images(1, 64, 64)
        with torch.no_grad():
            before = untrained.model.iterate(image)
            untrained.model.record(image)
            after = untrained.model.iterate(image)
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


class TestStrip:
    def test_tiles_show_what_they_say(self) -> None:
        image = torch.full((1, 3, 40, 40), 0.2)
        hole = torch.zeros(1, 1, 40, 40)
        hole[..., :20, :] = 1
        frames = [Snapshot(hole, torch.full_like(image, 0.8), torch.full((1, 1, 40, 40), 0.25))] * 2
        strip = draw_film_strip(image, frames, pixel_threshold=0.1, caption="x")
        assert strip.size == (GAP + 3 * (TILE + GAP), LINE + GAP + 3 * (TILE + LINE))
        np.testing.assert_allclose(tile_of(strip, 0, 0), 0.2, atol=0.003)
        hidden = tile_of(strip, 1, 0)
        np.testing.assert_allclose(hidden[:70], np.broadcast_to(HIDDEN, (70, TILE, 3)), atol=0.003)
        np.testing.assert_allclose(hidden[90:], 0.2, atol=0.003)
        np.testing.assert_allclose(tile_of(strip, 2, 1), 0.8, atol=0.003)
        expected = mpl.colormaps["inferno"](0.25 / (0.25 + 0.1))[:3]
        np.testing.assert_allclose(tile_of(strip, 1, 2)[80, 80], expected, atol=0.003)

    def test_one_residual_has_one_colour_in_every_strip(self) -> None:
        def strip(top: float) -> np.ndarray:
            residual = torch.full((1, 1, 20, 20), 0.2)
            residual[..., :5, :] = top
            frame = Snapshot(torch.zeros(1, 1, 20, 20), torch.zeros(1, 3, 20, 20), residual)
            return tile_of(draw_film_strip(torch.zeros(1, 3, 20, 20), [frame], 0.2, ""), 1, 2)[150, 80]

        np.testing.assert_array_equal(strip(0.3), strip(0.9))

    def test_the_true_defect_is_outlined_and_not_covered(self) -> None:
        mask = torch.zeros(80, 80)
        mask[20:40, 20:40] = 1
        tile = tile_of(draw_film_strip(torch.zeros(1, 3, 80, 80), [], 0.1, "", gt_mask=mask), 0, 0)
        np.testing.assert_allclose(tile[38, 60], OUTLINE, atol=0.01)  # just outside
        np.testing.assert_allclose(tile[60, 60], 0, atol=0.01)  # inside
        np.testing.assert_allclose(tile[10, 10], 0, atol=0.01)

    def test_visualizer_writes_one_for_every_test_image(
        self, untrained: I3AD, textures: Textures, tmp_path: Path
    ) -> None:
        visualizer = FilmStripVisualizer()
        assert isinstance(visualizer, Visualizer)
        model = I3AD(**{**untrained.hparams, "visualizer": visualizer}).eval()
        model.model.min_shrink = untrained.model.min_shrink
        model.load_state_dict(untrained.state_dict())
        make_engine(default_root_dir=tmp_path).test(model, datamodule=textures)
        written = sorted(tmp_path.rglob("*.png"))
        assert len(written) == 14
        assert len({path.name + path.parent.name for path in written}) == 14
        with Image.open(written[0]) as strip:
            assert strip.size[1] == LINE + GAP + 3 * (TILE + LINE)
            assert strip.size[0] >= GAP + 2 * (TILE + GAP)

    def test_refuses_models_that_do_not_iterate(self) -> None:
        item = ImageItem(image=torch.zeros(3, 32, 32))
        with pytest.raises(TypeError, match="SsimAe does not iterate"):
            film_strip_of(SsimAe(latent_dim=4), item)


class TestPlots:
    SCORE = np.array([0.1, 0.2, 0.6, 0.4, 0.8, 0.9])
    LABEL = np.array([0, 0, 0, 1, 1, 1])

    def test_roc_tells_its_area_and_the_threshold(self) -> None:
        axes = plots.roc(self.SCORE, self.LABEL, 0.5).axes[0]
        assert "0.889" in axes.get_title()  # 8 of 9 pairs in order
        (x,), (y,) = axes.lines[1].get_data()
        assert (x, y) == (pytest.approx(1 / 3), pytest.approx(2 / 3))

    def test_histogram_counts_every_image(self) -> None:
        axes = plots.score_histogram(self.SCORE, self.LABEL, 0.5).axes[0]
        assert sum(patch.get_height() for patch in axes.patches) == 6
        assert axes.lines[0].get_xdata()[0] == 0.5

    def test_precision_recall_by_hand(self) -> None:
        recall, precision = plots.precision_recall(self.SCORE, self.LABEL).axes[0].lines[0].get_data()
        assert (1.0, 0.75) in set(zip(np.round(recall, 3), np.round(precision, 3), strict=True))

    def test_iterations_are_shares(self) -> None:
        axes = plots.iterations_used(np.array([0, 2, 2, 1, 1, 1]), self.LABEL).axes[0]
        good, defective = ([bar.get_height() for bar in container] for container in axes.containers)
        assert good == pytest.approx([1 / 3, 0, 2 / 3])
        assert defective == [0, 1, 0]

    def test_curves_and_points(self) -> None:
        assert plots.by_iterations({"image": [0.5, 0.9], "pixel": [0.6, 0.7]}).axes[0].lines[0].get_ydata()[1] == 0.9
        axes = plots.accuracy_against_latency(["A", "B"], [1, 100], [0.9, 0.8]).axes[0]
        assert [text.get_text() for text in axes.texts] == ["A", "B"]
        assert axes.get_xscale() == "log"
