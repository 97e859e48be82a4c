"""Film strips and plots."""

from io import BytesIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from anomalib.visualization import Visualizer
from PIL import Image, ImageDraw

from anomalib_i3ad import I3AD, SsimAe, Textures
from anomalib_i3ad.components.iteration import Snapshot
from anomalib_i3ad.visualization import FilmStripVisualizer, draw_film_strip, plots
from anomalib_i3ad.visualization.captions import caption_of
from anomalib_i3ad.visualization.film_strip import film_strip_of
from anomalib_i3ad.visualization.sheet import BAR, CAPTION, COLOURS, FOUND, GAP, HIDDEN, LINE, TILE, TRUE, top_of
from model_tester import make_engine, make_images


def tile_of(strip: Image.Image, column: int, row: int, caption: str = "x") -> np.ndarray:
    left, top = GAP + column * (TILE + GAP), top_of(row, caption) + LINE
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


class TestStrip:
    def test_tiles_show_what_they_say(self) -> None:
        image = torch.full((1, 3, 40, 40), 0.2)
        hole = torch.zeros(1, 1, 40, 40)
        hole[..., :20, :] = 1
        frames = [Snapshot(hole, torch.full_like(image, 0.8), torch.full((1, 1, 40, 40), 0.25))] * 2
        strip = draw_film_strip(image, frames, pixel_threshold=0.1, caption="x")
        assert strip.size == (GAP + 3 * (TILE + GAP), top_of(3, "x") + GAP + BAR + LINE + GAP)
        np.testing.assert_allclose(tile_of(strip, 0, 0), 0.2, atol=0.003)
        hidden = tile_of(strip, 1, 0)
        np.testing.assert_allclose(hidden[:110], np.broadcast_to(HIDDEN, (110, TILE, 3)), atol=0.003)
        np.testing.assert_allclose(hidden[146:], 0.2, atol=0.003)
        np.testing.assert_allclose(tile_of(strip, 2, 1), 0.8, atol=0.003)
        expected = mpl.colormaps["inferno"](0.25 / (0.25 + 0.1))[:3]
        np.testing.assert_allclose(tile_of(strip, 1, 2)[80, 80], expected, atol=0.003)

    def test_oblong_images_keep_their_proportions(self) -> None:
        strip = draw_film_strip(
            torch.full((1, 3, 32, 64), 0.2), [], 0.1, "x", torch.full((32, 64), 0.5), torch.zeros(32, 64)
        )
        for row, colour in enumerate([(0.2,) * 3, (0.2,) * 3, COLOURS(0.5)[:3]]):
            tile = tile_of(strip, 0, row)
            np.testing.assert_allclose(tile[: TILE // 2], np.broadcast_to(colour, (TILE // 2, TILE, 3)), atol=0.005)
            np.testing.assert_array_equal(tile[TILE // 2 :], 1)

    def test_a_thin_image_has_a_pixel_of_height(self) -> None:
        strip = draw_film_strip(torch.full((1, 3, 2, 2000), 0.2), [], 0.1, "x")
        np.testing.assert_allclose(tile_of(strip, 0, 0)[0], 0.2, atol=0.005)

    def test_one_residual_has_one_colour_in_every_strip(self) -> None:
        def strip(top: float) -> np.ndarray:
            residual = torch.full((1, 1, 20, 20), 0.2)
            residual[..., :5, :] = top
            frame = Snapshot(torch.zeros(1, 1, 20, 20), torch.zeros(1, 3, 20, 20), residual)
            return tile_of(draw_film_strip(torch.zeros(1, 3, 20, 20), [frame], 0.2, "x"), 1, 2)[240, 128]

        np.testing.assert_array_equal(strip(0.3), strip(0.9))

    def test_defects_are_outlined_and_not_covered(self) -> None:
        true, found = torch.zeros(64, 64), torch.zeros(64, 64)
        true[16:32, 16:32] = 1
        found[40:56, 16:32] = 1
        strip = draw_film_strip(torch.zeros(1, 3, 64, 64), [], 0.1, "x", pred_mask=found, gt_mask=true)
        tile = tile_of(strip, 0, 1)
        np.testing.assert_allclose(tile[62, 96], TRUE, atol=0.01)  # just outside
        np.testing.assert_allclose(tile[158, 96], FOUND, atol=0.01)
        for row in (96, 192, 16):  # inside the one, the other, and neither
            np.testing.assert_allclose(tile[row, 96], 0, atol=0.01)
        np.testing.assert_allclose(tile_of(strip, 0, 0), 0, atol=0.01)  # once without any line
        legend = np.asarray(strip)[top_of(2, "x") + GAP :] / 255
        for number, colour in enumerate((FOUND, TRUE, HIDDEN)):
            at = legend[number * LINE + LINE // 2, 2 * GAP + TILE + BAR // 2]
            np.testing.assert_allclose(at, colour, atol=0.01)

    def test_the_scale_runs_from_0_to_1_with_the_threshold_between(self) -> None:
        strip = draw_film_strip(torch.zeros(1, 3, 8, 8), [], 0.1, "x", anomaly_map=torch.zeros(8, 8))
        scale = np.asarray(strip)[top_of(2, "x") + GAP + BAR // 2, GAP : GAP + TILE] / 255
        np.testing.assert_allclose(scale[[0, -1]], COLOURS([0.0, 1.0])[:, :3], atol=0.003)
        np.testing.assert_allclose(scale[TILE // 2], 1, atol=0.01)  # the mark
        np.testing.assert_allclose(scale[TILE // 4], COLOURS(0.25)[:3], atol=0.01)

    def test_the_threshold_is_that_of_the_sensitivity(self, untrained: I3AD, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(untrained.post_processor, "pixel_sensitivity", 0.25)
        item = ImageItem(image=make_images(1, 64, 64)[0], anomaly_map=torch.zeros(64, 64), pred_mask=torch.ones(64, 64))
        written = []
        monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _place, line, *_how: written.append(line))
        strip = film_strip_of(untrained, item, "x")
        assert {"0.75: threshold", "found: map above 0.75, at peaks"} <= set(written)
        scale = np.asarray(strip)[top_of(3, "x") + GAP + BAR // 2, GAP : GAP + TILE] / 255
        np.testing.assert_allclose(scale[3 * TILE // 4], 1, atol=0.01)
        np.testing.assert_allclose(scale[TILE // 2], COLOURS(0.5)[:3], atol=0.01)

    def test_the_map_is_the_one_that_was_scored(self, untrained: I3AD, monkeypatch: pytest.MonkeyPatch) -> None:
        anomaly_map = torch.full((64, 64), 0.3)
        anomaly_map[:16] = 0.8
        item = ImageItem(image=make_images(1, 64, 64)[0], anomaly_map=anomaly_map, pred_mask=anomaly_map > 0.5)
        written, text = [], ImageDraw.ImageDraw.text

        def write(self: ImageDraw.ImageDraw, place: tuple[int, int], line: str, *how: object) -> None:
            written.append(line)
            text(self, place, line, *how)

        monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
        tile = tile_of(film_strip_of(untrained, item, "x"), 0, 2)
        np.testing.assert_allclose(tile[[20, 200], 128], COLOURS([0.8, 0.3])[:, :3], atol=0.003)
        assert {
            "anomaly map",
            "0.5: threshold",
            "found: map above 0.5, at peaks",
            "hidden, one of four times",
        } <= set(written)
        assert written[-2:] == ["anomaly map: the last difference", "score: from the mean of the map"]
        assert "true defect" not in written
        averaged = I3AD(image_size=64, width=4, max_iterations=3, image_score="top_k").eval()
        averaged.model.mask_threshold.fill_(0.37)
        film_strip_of(averaged, item, "x")
        assert "the mean of 4 differences" in written[-2]
        assert "the highest 1 %" in written[-1]

    @pytest.mark.parametrize(
        ("found", "true", "said"),
        [
            (1, 1, "anomalous, score 0.750, threshold 0.4; correct"),
            (1, 0, "anomalous, score 0.750, threshold 0.4; false alarm: the image is normal"),
            (0, 1, "normal, score 0.750, threshold 0.4; missed: the image is anomalous"),
            (0, 0, "normal, score 0.750, threshold 0.4; correct"),
            (1, None, "anomalous, score 0.750, threshold 0.4"),
        ],
    )
    def test_captions_say_kind_verdict_and_truth(self, found: int, true: int | None, said: str) -> None:
        item = ImageItem(
            image=torch.zeros(3, 8, 8), image_path="/data/nut/test/scratch/003.png", pred_score=torch.tensor(0.75),
            pred_label=torch.tensor(bool(found)), gt_label=None if true is None else torch.tensor(true),
        )  # fmt: skip
        assert caption_of(item, 0.4) == f"scratch/003.png: {said}"

    def test_captions_without_labels_tell_the_score(self) -> None:
        item = ImageItem(image=torch.zeros(3, 8, 8), image_path="/data/nut/1.png", pred_score=torch.tensor(7.5))
        assert caption_of(item, 0.4) == "nut/1.png: score 7.500"

    def test_long_captions_are_not_cut(self) -> None:
        def strip(caption: str) -> Image.Image:
            return draw_film_strip(torch.zeros(1, 3, 8, 8), [], 0.1, caption)

        long = np.asarray(strip("folder/" * 20 + "M"))
        assert (long[:CAPTION, -GAP:] == 255).all()
        assert (long[:CAPTION, -3 * GAP :] < 128).any()

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
            assert strip.size[1] >= top_of(3, "x") + GAP + BAR + LINE + GAP
            assert strip.size[0] >= GAP + 2 * (TILE + GAP)

    def test_images_of_one_name_are_told_apart(self, untrained: I3AD, tmp_path: Path) -> None:
        found = {
            "pred_score": torch.tensor(0.7),
            "pred_label": torch.ones((), dtype=bool),
            "anomaly_map": torch.rand(64, 64),
        }
        paths = [f"fabric/{name}" for name in ("part.jpg", "part.bmp", "part.png")] + ["monday/fabric/part.jpg"]
        paths.append("fabric/part.jpg_1.png")  # what the one before it got
        batch = [ImageItem(image=make_images(1, 64, 64)[0], image_path=path, **found) for path in paths]
        visualizer = FilmStripVisualizer(tmp_path)
        for _ in range(2):
            visualizer.on_test_batch_end(SimpleNamespace(), untrained, None, batch)
            names = {path.name for path in tmp_path.rglob("*.*")}
            assert names == {"part.jpg.png", "part.bmp.png", "part.png", "part.jpg_1.png", "part.jpg_1_1.png"}

    def test_refuses_models_that_do_not_iterate(self) -> None:
        item = ImageItem(image=torch.zeros(3, 32, 32))
        with pytest.raises(TypeError, match="SsimAe does not iterate"):
            film_strip_of(SsimAe(latent_dim=4), item, "x")


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
        normal, anomalous = ([bar.get_height() for bar in container] for container in axes.containers)
        assert normal == pytest.approx([1 / 3, 0, 2 / 3])
        assert anomalous == [0, 1, 0]

    def test_curves_and_points(self) -> None:
        assert plots.by_iterations({"image": [0.5, 0.9], "pixel": [0.6, 0.7]}).axes[0].lines[0].get_ydata()[1] == 0.9
        axes = plots.accuracy_against_latency(["A", "B"], [1, 100], [0.9, 0.8]).axes[0]
        assert [text.get_text() for text in axes.texts] == ["A", "B"]
        assert axes.get_xscale() == "log"

    def test_legends_may_take_long_to_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        every = (
            plots.score_histogram(self.SCORE, self.LABEL, 0.5),
            plots.by_iterations({"image": [0.5, 0.9]}),
            plots.iterations_used(np.array([0, 2, 2, 1, 1, 1]), self.LABEL),
        )
        monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=count(step=2).__next__))
        for figure in every:
            figure.savefig(BytesIO())  # matplotlib's warnings are errors here
