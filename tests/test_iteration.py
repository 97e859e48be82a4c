"""The iteration, over pixels and over features."""

from itertools import count

import numpy as np
import pytest
import torch

from anomalib_i3ad import I3AD, FeatureI3AD
from anomalib_i3ad.components.holes import grid_holes
from anomalib_i3ad.components.iteration import IterativeModel
from anomalib_i3ad.components.stitching import composite
from anomalib_i3ad.models.feature_i3ad.torch_model import FeatureI3ADModel
from anomalib_i3ad.models.i3ad.torch_model import I3ADModel
from model_tester import make_images, set_usual

SIDE = 128


def make_model(kind: str) -> IterativeModel:
    """Untrained model whose u lies among the first residuals of :func:`make_images`."""
    torch.manual_seed(0)
    image = make_images(4, SIDE, SIDE)
    model: IterativeModel
    if kind == "pixels":
        model = I3AD(image_size=SIDE, width=4).model
    else:
        model = FeatureI3AD(image_size=SIDE, width=8, initial_grid=2).model
        model.to(memory_format=torch.contiguous_format)  # as exported
        cells = model.cells_of(image)
        model.mean.copy_(cells.mean(dim=(0, 2, 3), keepdim=True))
        model.std.copy_(cells.std(dim=(0, 2, 3), keepdim=True))
        set_usual(model)
    model.eval()
    with torch.no_grad():
        model.mask_threshold.fill_(model.initial_residual(model.scene_of(image)).quantile(0.8))
    return model


@pytest.fixture(params=["pixels", "features"])
def model(request: pytest.FixtureRequest) -> IterativeModel:
    return make_model(request.param)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def residual_of(model: IterativeModel, scene: torch.Tensor, inpainting: torch.Tensor) -> torch.Tensor:
    return model.compare(model.prepare(scene), inpainting)[0]


def draw(model: IterativeModel, scene: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    return model.decode(model.fill(model.encode(scene), hole))


def draw_the_scene(model: IterativeModel, scene: torch.Tensor) -> None:
    """Let the network draw what is there."""
    model.decode = lambda filled: scene.repeat(len(filled) // len(scene), 1, 1, 1)


def test_no_iterations_leave_the_initial_inpainting(model: IterativeModel) -> None:
    model.max_iterations = 0
    image = make_images(2, SIDE, SIDE)
    result = model.iterate(image)
    assert torch.equal(result.inpainting, model.initial_inpainting(model.scene_of(image)))
    assert result.iterations.tolist() == [0, 0]


def test_initial_inpainting_takes_each_part_where_it_was_hidden(model: IterativeModel) -> None:
    scene = model.scene_of(make_images(1, SIDE, SIDE))
    stitched = model.initial_inpainting(scene)
    for hole in model.grid_holes(*scene.shape[-2:]):
        drawn = draw(model, scene, model.hidden_with(hole[None]))
        torch.testing.assert_close(stitched * hole, drawn * hole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("score_residual", ["ssim", "l2"])
@pytest.mark.parametrize("min_shrink", [0.0, 0.6])
@pytest.mark.parametrize("kind", ["last", "mean", "mean_hidden"])
def test_follows_the_definition(model: IterativeModel, kind: str, min_shrink: float, score_residual: str) -> None:
    """Against the loop of the paper written out, one image at a time."""
    model.min_shrink, model.max_iterations, model.mask_edge, model.anomaly_map = min_shrink, 3, 0.0, kind

    def compared(scene: torch.Tensor, inpainting: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What decides what is hidden, and what is scored."""
        masking = residual_of(model, scene, inpainting)
        if score_residual == "l2":
            return masking, (scene - inpainting).square().mean(dim=1, keepdim=True)
        return masking, masking

    if score_residual == "l2":
        if not isinstance(model, I3ADModel):
            pytest.skip("features have one residual")
        model.score_residual = "l2"
    u, counts, left = model.mask_threshold, set(), 0
    for image in make_images(4, SIDE, SIDE).split(1):
        scene = model.scene_of(image)
        inpainting, iterations = model.initial_inpainting(scene), 0
        masking, scoring = compared(scene, inpainting)
        torch.testing.assert_close(model.initial_residual(scene), masking, rtol=0, atol=1e-5)
        residuals, times = [scoring], 1
        hole = (masking >= u).float()
        while hole.any() and iterations < 3:
            inpainting = scene * (1 - hole) + draw(model, scene, hole) * hole
            iterations, times = iterations + 1, times + hole
            masking, scoring = compared(scene, inpainting)
            residuals.append(scoring)
            previous, hole = hole, (masking >= u).float()
            if previous.sum() - hole.sum() < min_shrink * previous.sum():
                break
        left += hole.sum().item() * (3 - iterations)
        # what a stopped image would go on to hide keeps its residual, the rest would be the image's own
        of_all = residuals + [residuals[-1] * hole] * (3 - iterations)
        mean, mean_hidden = torch.stack(of_all).mean(dim=0), torch.stack(residuals).sum(dim=0) / times
        expected = {"last": residuals[-1], "mean": mean, "mean_hidden": mean_hidden}[kind]
        result = model.iterate(image)
        assert result.iterations.item() == iterations
        counts.add(iterations)
        torch.testing.assert_close(result.inpainting, inpainting, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.anomaly_map, model.map_of(expected, image), rtol=0, atol=1e-5)
    assert counts - {0}
    assert (left > 0) == (min_shrink > 0)  # images stopped early, and something was still hidden


def test_hides_partly_just_below_the_threshold(model: IterativeModel) -> None:
    model.mask_threshold.fill_(0.5)
    residual = torch.tensor([0.0, 0.44, 0.45, 0.475, 0.4999, 0.5, 0.9]).reshape(1, 1, 1, 7)
    expected = torch.tensor([0, 0, 0, 0.5, 0.998, 1, 1])
    torch.testing.assert_close(model.hole_of(residual).flatten(), expected, rtol=0, atol=1e-5)
    model.mask_edge = 0.0
    assert model.hole_of(residual).flatten().tolist() == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_what_is_hidden_partly_counts_as_much_as_it_differs(model: IterativeModel, share: float) -> None:
    """If each inpainting differs alike, so does their mean, whatever share of a place was hidden."""
    model.anomaly_map, model.min_shrink, model.max_iterations = "mean_hidden", -1.0, 1
    image = make_images(1, SIDE, SIDE)
    scene = model.scene_of(image)
    away = 0.003 * torch.rand_like(scene)
    if isinstance(model, FeatureI3ADModel):
        away[:, model.inpainter.channels :] = 5  # expected to err much: the memory counts
    model.decode = lambda filled: scene.repeat(len(filled) // len(scene), 1, 1, 1) + away
    model.hole_of = lambda residual: torch.full_like(residual, share)
    expected = model.map_of(residual_of(model, scene, scene + away), image)
    torch.testing.assert_close(model.iterate(image).anomaly_map, expected, rtol=0.03, atol=0)


def test_rounding_at_the_threshold_moves_little(model: IterativeModel) -> None:
    """A residual that is u in one runtime and a rounding error below it in another."""
    image = make_images(1, SIDE, SIDE)
    first = residual_of(model, model.scene_of(image), model.initial_inpainting(model.scene_of(image)))
    model.mask_threshold.copy_(first.flatten().sort().values[-len(first.flatten()) // 20])
    model.max_iterations, maps = 1, {}
    for model.mask_edge in (0.0, 0.1):
        for nudge in (1 - 1e-6, 1 + 1e-6):
            threshold = model.mask_threshold.clone()
            model.mask_threshold.mul_(nudge)
            maps[model.mask_edge, nudge > 1] = model.iterate(image).anomaly_map
            model.mask_threshold.copy_(threshold)
    moved = {edge: (maps[edge, True] - maps[edge, False]).abs().max().item() for edge in (0.0, 0.1)}
    assert moved[0.1] < 1e-3 < moved[0.0]


def test_what_is_inpainted_perfectly_scores_nothing(model: IterativeModel) -> None:
    image = make_images(2, SIDE, SIDE)
    draw_the_scene(model, model.scene_of(image))
    result = model.iterate(image)
    assert result.anomaly_map.abs().max() == 0
    assert result.iterations.tolist() == [0, 0]


def test_what_is_visible_stays_and_differs_nowhere(model: IterativeModel) -> None:
    scene = model.scene_of(make_images(1, SIDE, SIDE))
    hole = torch.zeros(1, 1, *scene.shape[-2:])
    hole[..., : hole.shape[-1] // 4] = 1
    inpainting = composite(scene, draw(model, scene, hole), hole)
    visible = (hole == 0).expand_as(scene)
    assert torch.equal(inpainting[visible], scene[visible])
    assert residual_of(model, scene, inpainting)[..., -hole.shape[-1] // 4 :].abs().max() == 0


def test_image_that_never_converges_ends(model: IterativeModel) -> None:
    model.mask_threshold.fill_(-1.0)  # everything stays hidden
    model.min_shrink, model.max_iterations = 0.0, 7
    result = model.iterate(make_images(1, SIDE, SIDE))
    assert result.iterations.item() == 7
    assert result.hole.mean() == 1


def test_stops_when_the_hole_no_longer_shrinks(model: IterativeModel) -> None:
    model.mask_threshold.fill_(-1.0)
    model.max_iterations = 7
    assert model.iterate(make_images(1, SIDE, SIDE)).iterations.item() == 1


@pytest.mark.parametrize(("left", "iterations"), [(0.9, 5), (0.97, 1)])
def test_goes_on_while_a_twentieth_of_the_hole_goes(model: IterativeModel, left: float, iterations: int) -> None:
    shares = (left**k for k in count())
    model.hole_of = lambda residual: torch.full_like(residual, next(shares))
    model.max_iterations = 5
    assert model.iterate(make_images(1, SIDE, SIDE)).iterations.item() == iterations


def test_stops_at_once_when_nothing_differs(model: IterativeModel) -> None:
    model.mask_threshold.fill_(1e3)
    assert model.iterate(make_images(2, SIDE, SIDE)).iterations.tolist() == [0, 0]


def test_images_of_a_batch_stop_by_themselves(model: IterativeModel) -> None:
    model.min_shrink, model.max_iterations = 0.0, 6
    image = make_images(6, SIDE, SIDE)
    scene = model.scene_of(image)
    first = residual_of(model, scene, model.initial_inpainting(scene)).flatten(1).amax(dim=1)
    # between two: at one of them rounding would decide
    model.mask_threshold.fill_(first.sort().values[2:4].mean())
    together = model.iterate(image)
    alone = [model.iterate(single) for single in image.split(1)]
    assert len(set(together.iterations.tolist())) > 1
    assert together.iterations.tolist() == [one.iterations.item() for one in alone]
    maps = torch.cat([one.anomaly_map for one in alone])
    torch.testing.assert_close(together.anomaly_map, maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_get_finite_scores(model: IterativeModel, value: float) -> None:
    batch = model(torch.full((1, 3, SIDE, SIDE), value))
    assert torch.isfinite(batch.anomaly_map).all()
    assert batch.pred_score.item() >= 0


def test_a_film_is_the_iteration(model: IterativeModel) -> None:
    model.min_shrink = -1.0
    image = make_images(1, SIDE, SIDE)
    frames, result = model.record(image), model.iterate(image)
    assert len(frames) == 1 + int(result.iterations) > 1
    assert torch.equal(frames[-1].inpainting, model.picture_of(result.inpainting, image))
    scene = model.scene_of(image)
    first = residual_of(model, scene, model.initial_inpainting(scene))
    assert torch.equal(frames[0].residual, model.map_of(first, image))
    assert torch.equal(frames[0].inpainting, model.picture_of(model.initial_inpainting(scene), image))
    assert torch.equal(frames[0].hole, model.hidden_with(grid_holes(model.initial_grid, *scene.shape[-2:])[:1]))
    for frame in frames:
        assert frame.inpainting.shape == image.shape
        assert frame.residual.shape == image[:, :1].shape
    np.testing.assert_array_equal(frames[1].hole, model.hole_of(first))
