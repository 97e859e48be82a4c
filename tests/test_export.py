"""The exported graph: what it says of itself, and its other forms."""

import json
import re
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.models import Padim
from torch import nn
from torchvision.transforms.v2 import RandomInvert, Resize

from anomalib_i3ad import I3AD, FeatureI3AD, Textures, cli
from anomalib_i3ad.components.loops import repeat_active
from anomalib_i3ad.deploy import Inspector, graph
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.drawn_images import drawn_images
from anomalib_i3ad.deploy.graph import FP32, OUTPUTS
from anomalib_i3ad.export import to_openvino
from anomalib_i3ad.export.check import compare
from anomalib_i3ad.export.images import training_images
from anomalib_i3ad.export.quantization import _entering, quantize
from anomalib_i3ad.export.storage import LARGE, store_small
from anomalib_i3ad.export.to_openvino import convert, describe_for_runtimes
from conftest import TINY, take_traced
from model_tester import OPENVINO, check_export, make_images, set_usual, weights_of
from test_deploy import brightness


def run(path: Path | ov.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    result = new_core().compile_model(path, "CPU", FP32)(image)
    return {name: result[name] for name in OUTPUTS}


def calibrate(model: FeatureI3AD, image: torch.Tensor) -> None:
    """Set what training and validation would, from some images."""
    torch_model = model.model
    with torch.no_grad():
        cells = torch_model.cells_of(image)
        torch_model.mean.copy_(cells.mean(dim=(0, 2, 3), keepdim=True))
        torch_model.std.copy_(cells.std(dim=(0, 2, 3), keepdim=True))
        set_usual(torch_model)
        torch_model.mask_threshold.fill_(torch_model.initial_residual(torch_model.scene_of(image)).quantile(0.9))
        result = torch_model(image)
    model.post_processor._image_threshold.fill_(result.pred_score.median())
    model.post_processor._pixel_threshold.fill_(result.anomaly_map.quantile(0.9))


def images() -> list[torch.Tensor]:
    """Images that stop after different numbers of iterations."""
    return [make_images(1, height, 70 + height % 7, seed) for seed, height in enumerate((64, 90, 131, 64))]


def test_report_says_what_was_written_and_how_it_agrees(exported: Path) -> None:
    report = json.loads(exported.with_suffix(".json").read_text())
    assert report["calibration"]["normal_images"] == 20
    assert report["model"] == "I3AD"
    assert report["versions"]["openvino"].split(".")[0] == ov.__version__.split(".")[0]
    assert report["thresholds"].pop("mask_threshold") == pytest.approx(0.37)
    assert report["thresholds"] == pytest.approx({"image": 0.41, "pixel": 0.45})
    assert report["bytes"] == {name: (exported.parent / name).stat().st_size for name in ("model.xml", "model.bin")}
    agreement = report["agreement_with_torch"]
    assert agreement["score"] < 1e-4
    assert agreement["anomaly_map"] < 1e-3
    assert agreement["pred_mask"] < 1e-3
    assert agreement["equal_labels"] == agreement["images"] == len(report["iterations"]) == 6


def test_sensitivities_go_with_the_file(untrained: I3AD, exported: Path, tmp_path: Path) -> None:
    module = deepcopy(untrained)
    module.post_processor.image_sensitivity, module.post_processor.pixel_sensitivity = 0.3, 0.55
    pixels = (255 * make_images(1, 90, 70)[0].permute(1, 2, 0)).byte().numpy()
    for form in (lambda model: model, graph.with_image_input):
        model = graph.read_model(exported)
        describe_for_runtimes(model, module)
        inspector = Inspector(graph.save_model(form(model), tmp_path / "model.xml"))
        assert inspector.image_threshold == module.post_processor.normalized_image_threshold == pytest.approx(0.7)
        assert inspector.pixel_threshold == module.post_processor.normalized_pixel_threshold == pytest.approx(0.45)
        usual, found = Inspector(exported).inspect(pixels), inspector.inspect(pixels)
        assert found.label == (found.score > 0.7) != usual.label
        assert (found.mask & ~usual.mask).any()
    own = Inspector(tmp_path / "model.xml", image_threshold=0.2, pixel_threshold=0.1)
    assert (own.image_threshold, own.pixel_threshold) == (0.2, 0.1)


@pytest.mark.parametrize("part", ["enable_normalization", "enable_thresholding"])
def test_refuses_to_export_raw_scores(untrained: I3AD, tmp_path: Path, part: str) -> None:
    module = deepcopy(untrained)
    setattr(module.post_processor, part, False)
    with pytest.raises(ValueError, match="leave its normalization and thresholding on"):
        module.to_openvino(tmp_path)
    assert not list(tmp_path.iterdir())


def test_openvino_agrees(untrained: I3AD, exported: Path) -> None:
    check_export(untrained, new_core().compile_model(exported, "CPU", FP32), OPENVINO)


def test_iterations_and_reconstruction_are_in_the_graph_but_no_outputs(untrained: I3AD, exported: Path) -> None:
    model = graph.read_model(exported)
    assert [output.any_name for output in model.outputs] == list(OUTPUTS)
    compiled = new_core().compile_model(graph.with_details(model), "CPU", FP32)
    used = set()
    for image in (*images(), make_images(6, 64, 64, seed=3)):
        result = compiled(image.numpy())
        with torch.no_grad():
            expected = untrained.model.iterate(untrained.pre_processor(image))
        assert result["iterations"].tolist() == expected.iterations.tolist()
        assert np.abs(result["reconstruction"] - expected.inpainting.numpy()).max() < 1e-3
        used.add(tuple(expected.iterations.tolist()))
    assert len(set(max(used, key=len))) > 1  # images of a batch, too


def test_uncalibrated_model_is_not_written(tmp_path: Path) -> None:
    model = I3AD(image_size=64, width=4)
    model.model.mask_threshold.fill_(0.3)
    with pytest.raises(ValueError, match="thresholds are not calibrated: fit the model"):
        model.to_openvino(tmp_path)
    for export in (model.to_onnx, I3AD(image_size=64, width=4).to_openvino):
        with pytest.raises(ValueError, match="not calibrated"):
            export(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("threshold", ["_image_threshold", "_pixel_threshold"])
def test_a_model_that_lacks_one_threshold_is_not_written(untrained: I3AD, threshold: str) -> None:
    module = deepcopy(untrained)
    module.post_processor.enable_threshold_matching = False  # which takes the other one
    getattr(module.post_processor, threshold).fill_(float("nan"))
    with pytest.raises(ValueError, match="thresholds are not calibrated"):
        to_openvino.check_exportable(module, None, None)


@pytest.mark.parametrize("output", ["pred_score", "anomaly_map"])
def test_graph_that_is_not_finite_is_refused(untrained: I3AD, output: str) -> None:
    image = ov.opset15.parameter([1, 3, 64, 64], ov.Type.f32)
    root = ov.opset15.sqrt(ov.opset15.subtract(image, ov.opset15.constant(np.float32(0.5))))  # NaN below 0.5
    whole = ov.opset15.relu(image)
    for name in OUTPUTS:
        (root if name == output else whole).output(0).get_tensor().add_names({name})
    with pytest.raises(ValueError, match=f"the graph's {output} is not finite"):
        compare(untrained, ov.Model([root, whole], [image], "broken"), [torch.full((1, 3, 64, 64), 0.25)])


def test_compares_with_what_the_engine_gives(untrained: I3AD, exported: Path) -> None:
    """A module called by itself takes another transform, which the graph has, too."""
    other, image = Resize([64, 64], antialias=False), make_images(1, 90, 70)
    engine = SimpleNamespace(
        pre_processor=SimpleNamespace(transform=other), model=untrained.model, post_processor=untrained.post_processor
    )
    shown, off = (
        compare(module, graph.read_model(exported), [image])["agreement_with_torch"]["score"]
        for module in (untrained, engine)
    )
    with torch.no_grad():
        expected = untrained.post_processor(untrained.model(other(image))).pred_score
    assert shown < 1e-5 < np.abs(run(exported, image.numpy())["pred_score"] - expected.numpy()).max() <= off + 1e-6


@pytest.mark.parametrize(
    ("shift", "compressed", "warns"), [(0.0, False, False), (0.01, False, True), (0.01, True, False), (0.3, True, True)]
)
def test_warns_of_a_graph_that_differs(
    shift: float, compressed: bool, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """And of a compressed one if labels do."""

    def module(image: torch.Tensor) -> InferenceBatch:
        score = image.mean(dim=(1, 2, 3))
        return InferenceBatch(score, score > 0.5, anomaly_map=image, pred_mask=image)

    model = SimpleNamespace(pre_processor=None, model=module, post_processor=None)
    report = compare(model, brightness(shift), [torch.full((1, 3, 8, 8), 0.25)], compressed=compressed)
    assert report["agreement_with_torch"]["score"] == pytest.approx(shift, abs=1e-6)
    assert (f"The exported graph differs from the model: scores by {shift:.1e}" in caplog.text) == warns


@pytest.mark.parametrize("output", OUTPUTS)
def test_warns_whatever_differs(output: str, caplog: pytest.LogCaptureFixture) -> None:
    def module(image: torch.Tensor) -> InferenceBatch:
        score = image.mean(dim=(1, 2, 3))
        found = {"pred_score": score, "pred_label": score > 0.5, "anomaly_map": image, "pred_mask": image}
        found[output] = ~found[output] if output == "pred_label" else found[output] + 0.01
        return InferenceBatch(**found)

    model = SimpleNamespace(pre_processor=None, model=module, post_processor=None)
    compare(model, brightness(0), [torch.full((1, 3, 8, 8), 0.25)])
    assert "The exported graph differs from the model" in caplog.text


def test_model_api_is_told_what_the_graph_does(untrained: I3AD) -> None:
    model = brightness(0)
    describe_for_runtimes(model, SimpleNamespace(image_size=(48, 64), post_processor=untrained.post_processor))
    assert model.rt_info[graph.MODEL_INFO] == {
        "model_type": "AnomalyDetection", "task": "segmentation", "labels": "Normal Anomaly",
        "image_threshold": "0.5", "pixel_threshold": "0.5", "normalization_scale": "1.0", "resize_type": "standard",
        "reverse_input_channels": "False", "orig_height": "48", "orig_width": "64",
    }  # fmt: skip


def test_training_images_are_as_they_are_taken(texture_root: Path) -> None:
    """Augmentations are for training."""
    plain, other = (
        training_images(Textures(texture_root, **TINY, train_augmentations=augmentations), 2, None)
        for augmentations in (None, RandomInvert(1.0))
    )
    assert all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))


def test_training_images_are_spread_over_the_set(textures: Textures) -> None:
    found = training_images(textures, 3, None)
    every = textures.train_data
    assert len(every) == 10
    for image, index in zip(found, (0, 3, 6), strict=True):
        assert torch.equal(image[0], every[index].image.as_subclass(torch.Tensor))


def test_training_images_are_normal_and_resized_with_antialiasing() -> None:
    class Parts(list):
        augmentations = None

    image = make_images(2, 90, 70)
    parts = Parts(SimpleNamespace(image=one, gt_label=torch.tensor(label)) for label, one in enumerate(image))
    nothing = {"prepare_data": lambda: None, "setup": lambda _: None}
    (found,) = training_images(SimpleNamespace(train_data=parts, **nothing), 2, (24, 16))
    torch.testing.assert_close(found, Resize([24, 16], antialias=True)(image[:1]), rtol=0, atol=1e-5)


def test_int8_is_calibrated_at_the_networks_size(
    untrained: I3AD, traced: Path, tmp_path: Path, textures: Textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[int, int] | None]] = []
    take_traced(monkeypatch, traced)
    monkeypatch.setattr(to_openvino, "training_images", lambda _, most, size: asked.append((most, size)) or [])
    monkeypatch.setattr(to_openvino, "quantize", None)  # the rest takes its time
    with pytest.raises(TypeError):
        untrained.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=textures)
    assert asked == [(16, None), (64, (64, 64))]


def tensors_of(model: I3AD) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


@pytest.fixture
def elsewhere(untrained: I3AD, monkeypatch: pytest.MonkeyPatch) -> I3AD:
    """The same model on a device that stands for a GPU: the one without data, which ``cpu`` puts back."""

    def cpu(self: I3AD) -> I3AD:
        self.to_empty(device="cpu")
        for empty, full in zip(tensors_of(self), tensors_of(untrained), strict=True):
            empty.data.copy_(full)
        return self.to("cpu")

    model = deepcopy(untrained).to("meta")
    monkeypatch.setattr(I3AD, "cpu", cpu)
    return model


def test_exports_on_the_cpu_and_puts_the_model_back(
    elsewhere: I3AD, untrained: I3AD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr("anomalib_i3ad.export.export", lambda model, *_, **__: seen.extend(tensors_of(model)))
        elsewhere.to_openvino(tmp_path)
    loaded = torch.load(elsewhere.to_torch(tmp_path), weights_only=False)["model"]
    with torch.no_grad():
        assert torch.equal(loaded(images()[0]).pred_score, untrained(images()[0]).pred_score)
    monkeypatch.setattr(torch.onnx, "export", lambda model, args, **_: seen.extend([*args, *tensors_of(model)]))
    elsewhere.to_onnx(tmp_path)
    assert {tensor.device.type for tensor in seen} == {"cpu"}
    assert {tensor.device.type for tensor in [elsewhere, *tensors_of(elsewhere)]} == {"meta"}


def test_puts_the_model_back_when_an_export_fails(elsewhere: I3AD, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a datamodule"):
        elsewhere.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ)
    assert {tensor.device.type for tensor in [elsewhere, *tensors_of(elsewhere)]} == {"meta"}


@pytest.mark.parametrize("form", ["image_input", "unroll"])
def test_other_forms_give_the_same_numbers(exported: Path, form: str) -> None:
    change = {"image_input": graph.with_image_input, "unroll": graph.unroll}[form]
    changed = change(new_core().read_model(exported))
    assert (form == "unroll") == (not graph.loops_of(changed))
    for image in images():
        stored = (255 * image).round().byte()
        given = stored.permute(0, 2, 3, 1).numpy() if form == "image_input" else stored.numpy() / np.float32(255)
        expected, result = run(exported, stored.numpy() / np.float32(255)), run(changed, given)
        assert np.abs(result["pred_score"] - expected["pred_score"]).max() < 1e-4
        assert np.abs(result["anomaly_map"] - expected["anomaly_map"]).max() < 1e-3
        assert result["pred_label"] == expected["pred_label"]


class _NeverEnters(nn.Module):
    """Convolutions outside and inside of a loop of no iterations."""

    def __init__(self) -> None:
        super().__init__()
        self.outside = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.inside = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.outside(image)
        active = x.mean(dim=(1, 2, 3)) > -1
        (x,), iterations = repeat_active(lambda _, state: ((self.inside(state[0]),), active), (), (x,), active, 0)
        return x + iterations[:, None, None, None]


class TestNoIterations:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> ov.Model:
        path = tmp_path_factory.mktemp("loop") / "model.onnx"
        module = _NeverEnters().eval()
        torch.onnx.export(
            module, (make_images(2, 64, 64),), path, dynamo=True, opset_version=18, verbose=False, input_names=["input"]
        )
        return ov.convert_model(path)

    def test_are_unrolled_to_nothing(self, model: ov.Model) -> None:
        unrolled = graph.unroll(model.clone())
        assert len(graph.loops_of(model)) == 1
        assert not graph.loops_of(unrolled)
        image = make_images(2, 64, 64).numpy()
        (expected,), (result,) = (
            new_core().compile_model(form, "CPU", FP32)(image).values() for form in (model, unrolled)
        )
        assert result == pytest.approx(expected, abs=1e-5)

    def test_leave_a_loop_that_no_image_enters_in_float(self, model: ov.Model) -> None:
        _, found = quantize(model.clone(), [make_images(2, 64, 64).numpy()])
        assert [(part.convolutions, len(part.quantized)) for part in found] == [(3, 2), (1, 0)]


def test_one_image_at_a_time_is_the_same_graph(exported: Path) -> None:
    changed = graph.one_at_a_time(new_core().read_model(exported))
    assert changed.input(0).get_partial_shape() == ov.PartialShape([1, 3, -1, -1])
    for image in images():
        expected, result = run(exported, image.numpy()), run(changed, image.numpy())
        assert np.abs(result["pred_score"] - expected["pred_score"]).max() < 1e-4
        assert np.abs(result["anomaly_map"] - expected["anomaly_map"]).max() < 1e-3
    pair = ov.opset15.parameter([2, 3, 64, 64], ov.Type.f32)
    fixed = graph.one_at_a_time(ov.Model([ov.opset15.relu(pair)], [pair], "fixed"))
    assert fixed.input(0).get_partial_shape() == ov.PartialShape([2, 3, 64, 64])


def test_half_the_space_for_images_of_one_size(
    untrained: I3AD, exported: Path, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_traced(monkeypatch, traced)
    path = untrained.to_openvino(tmp_path, "bottle", (90, 70), "fp16")
    assert path == tmp_path / "weights" / "openvino" / "bottle.xml"
    model = graph.read_model(path)
    assert model.input(0).get_partial_shape() == ov.PartialShape([1, 3, 90, 70])
    assert model.get_rt_info([graph.MODEL_INFO, "scale_values"]).astype(str) == "255 255 255"  # Model API's division
    # the other's masks take two bytes a number already
    assert path.with_suffix(".bin").stat().st_size < 0.7 * exported.with_suffix(".bin").stat().st_size
    image = make_images(1, 90, 70).numpy()
    assert 0 < np.abs(run(path, image)["pred_score"] - run(exported, image)["pred_score"]).max() < 0.01
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["compression"] == "fp16"
    differences = []
    for pixels in [*drawn_images((90, 70)), np.zeros((90, 70, 3), np.uint8), np.full((90, 70, 3), 255, np.uint8)]:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected = untrained(image)
        differences.append(abs(run(path, image.numpy())["pred_score"].item() - expected.pred_score.item()))
    assert report["agreement_with_torch"]["score"] == pytest.approx(max(differences), abs=1e-6)  # of what was written


def test_int8_of_weights_alone_stores_them_in_bytes(
    untrained: I3AD, exported: Path, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_traced(monkeypatch, traced)
    monkeypatch.setattr(to_openvino, "compare", lambda *_, **__: {})  # takes its time
    path = untrained.to_openvino(tmp_path, compression_type="int8")
    assert json.loads(path.with_suffix(".json").read_text())["int8"] == []
    for written, in_bytes in ((exported, False), (path, True)):
        model = graph.read_model(written)
        for part in (model, *(loop.get_function() for loop in graph.loops_of(model))):
            kinds = {node.get_output_element_type(0) for node in part.get_ordered_ops()}
            assert (ov.Type.u8 in kinds) == in_bytes


@pytest.fixture
def checkpoint(untrained: I3AD, tmp_path: Path) -> Path:
    """Checkpoint of the untrained model, outside of any run."""
    engine = Engine(accelerator="cpu", logger=False, max_epochs=1)
    engine._cache.args.update(callbacks=[])
    engine._setup_trainer(untrained)
    engine.trainer.strategy.connect(untrained)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    return tmp_path / "model.ckpt"


def test_checkpoint_from_a_gpu_is_exported_beside_itself(
    untrained: I3AD, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(checkpoint, weights_only=False)
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(content, checkpoint)
    with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
        torch.load(checkpoint, weights_only=False)
    path = Engine(logger=False).export(untrained, "torch", ckpt_path=checkpoint)
    assert path == checkpoint.parent / "weights" / "torch" / "model.pt"
    loaded = torch.load(path, weights_only=False)["model"]
    assert torch.equal(weights_of(loaded), weights_of(untrained))
    assert loaded.post_processor.image_threshold == untrained.post_processor.image_threshold


def test_models_of_anomalib_are_exported_where_it_wants(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Padim(pre_trained=False)
    monkeypatch.setattr(Padim, "load_from_checkpoint", lambda _: model)
    path = Engine(logger=False).export(model, "torch", ckpt_path=checkpoint)
    assert path == Path("results", "weights", "torch", "model.pt")


def test_int8_is_calibrated_on_every_iteration(untrained: I3AD, exported: Path) -> None:
    model, (image, *_) = graph.read_model(exported), images()
    with torch.no_grad():
        used = int(untrained.model.iterate(untrained.pre_processor(image)).iterations)
    (loop,) = graph.loops_of(model)
    counters = [int(values[0]) for values in _entering(model, loop, [image.numpy()] * (used + 1))]
    assert counters == [*range(used), 0]


def test_int8_by_command_quantises_inside_the_loop(
    exported: Path,
    traced: Path,
    checkpoint: Path,
    texture_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "nncf")
    take_traced(monkeypatch, traced)
    root = next(texture_root.glob("*px*"))
    arguments = [
        "anomalib-i3ad", "export", "--model", "I3AD", "--model.image_size", "64", "--model.width", "4",
        "--export_type", "openvino", "--compression_type", "INT8_PTQ", "--ckpt_path", str(checkpoint),
        "--export_root", str(tmp_path), "--data", "MVTec", "--data.root", str(root), "--data.category", "fabric",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    assert not [record for record in caplog.records if "Not adding activation" in record.getMessage()]
    path = next(tmp_path.rglob("model.xml"))
    report = json.loads(path.with_suffix(".json").read_text())
    counts = {found["where"]: (found["convolutions"], len(found["quantized"])) for found in report["int8"]}
    # all but those that read the image: one of values, one of gates
    assert list(counts.values()) == [(33, 31), (33, 33)]
    (loop,) = graph.loops_of(graph.read_model(path))
    rounded = [node for node in loop.get_function().get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    takers = [taker.get_node().get_type_name() for node in rounded for taker in node.output(0).get_target_inputs()]
    assert takers.count("Convolution") == 33
    assert set(takers) <= {"Convolution", "Interpolate"}  # what lies within a gate is not rounded
    assert path.with_suffix(".bin").stat().st_size < 0.55 * exported.with_suffix(".bin").stat().st_size
    for image in images():
        difference = run(path, image.numpy())["pred_score"] - run(exported, image.numpy())["pred_score"]
        assert 0 < np.abs(difference).max() < 0.02


class TestFeatures:
    """FeatureI3AD's graph, of an untrained inpainter."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> FeatureI3AD:
        torch.manual_seed(0)
        model = FeatureI3AD(image_size=96, width=8, initial_grid=2, max_iterations=3).eval()
        model.model.features.load_pretrained(64, 64)
        calibrate(model, make_images(8, 96, 96, seed=7))
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, model: FeatureI3AD, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return model.to_openvino(tmp_path_factory.mktemp("features"))

    @pytest.fixture(scope="class")
    @classmethod
    def own(cls, model: FeatureI3AD) -> ov.Model:
        """Graph of images of the network's own size."""
        return convert(model, (96, 96), {}, {})

    def test_openvino_agrees(self, model: FeatureI3AD, path: Path) -> None:
        check_export(model, new_core().compile_model(path, "CPU", FP32), OPENVINO)

    def test_the_picture_waits_until_it_is_asked_for(self, model: FeatureI3AD, path: Path) -> None:
        read = graph.read_model(path)
        assert [output.any_name for output in read.outputs] == list(OUTPUTS)
        decoder = {node.get_type_name() for node in read.get_ordered_ops()} & {"DepthToSpace"}
        assert not decoder
        (branch,) = [node for node in read.get_ordered_ops() if node.get_type_name() == "If"]
        assert not branch.input_value(0).get_node().data.any()
        drawing = {node.get_type_name() for node in branch.get_function(0).get_ordered_ops()}
        assert {"Convolution", "DepthToSpace"} <= drawing
        compiled = new_core().compile_model(graph.with_details(graph.read_model(path)), "CPU", FP32)
        used = set()
        for image in images():
            result, plain = compiled(image.numpy()), run(path, image.numpy())
            with torch.no_grad():
                scaled = model.pre_processor(image)
                expected = model.model.iterate(scaled)
                picture = model.model.picture_of(expected.inpainting, scaled)
            assert result["iterations"].tolist() == expected.iterations.tolist()
            assert np.abs(result["reconstruction"] - picture.numpy()).max() < 1e-3
            assert np.abs(result["anomaly_map"] - plain["anomaly_map"]).max() < 1e-6
            used.add(int(expected.iterations))
        assert used - {0}

    @pytest.mark.parametrize("form", ["image_input", "unroll"])
    def test_other_forms_give_the_same_numbers(self, path: Path, form: str) -> None:
        test_other_forms_give_the_same_numbers(path, form)

    def test_int8_leaves_delicate_parts_in_float(self, model: FeatureI3AD, own: ov.Model) -> None:
        quantized, found = quantize(own.clone(), [image.numpy() for image in make_images(4, 96, 96).split(1)])
        (loop,) = graph.loops_of(quantized)
        # outside: backbone, inpainter and decoder; in the loop: the inpainter without its stem, which is asked once
        (all_outside, int8_outside), (all_inside, int8_inside) = (
            (part.convolutions, len(part.quantized)) for part in found
        )
        assert all_inside == 9
        assert int8_inside >= 8
        network = [part for part in model.model.features.modules() if isinstance(part, torch.nn.Conv2d)]
        depthwise = sum(part.groups > 1 for part in network)
        assert 0 < depthwise < len(network) - 1
        # the one that reads the image, half of the others, too, and at most two that nothing but comparisons read
        in_float = depthwise + 1 + (len(network) - depthwise - 1) // 2
        assert 0 <= all_outside - in_float - int8_outside <= 2
        # of the network, which comes first, the latter half
        convolutions = [
            node for node in quantized.get_ordered_ops() if node.get_type_name() in {"Convolution", "GroupConvolution"}
        ][: len(network)]
        in_int8 = [node.get_friendly_name() in found[0].quantized for node in convolutions]
        assert not any(in_int8[: len(network) // 2])
        assert any(in_int8)
        for part in (quantized, loop.get_function()):
            rounded = [node for node in part.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
            takers = {
                taker.get_node().get_type_name() for node in rounded for taker in node.output(0).get_target_inputs()
            }
            # the last two stitch the parts of the initial inpainting between two convolutions
            assert takers <= {"Convolution", "Add", "Concat", "Interpolate", "ReduceSum", "Gather"}

    def test_images_of_the_networks_own_size_are_not_resized(self, own: ov.Model, path: Path) -> None:
        any_size = graph.read_model(path)
        products = [
            sum(node.get_type_name() == "MatMul" for node in part.get_ordered_ops()) for part in (own, any_size)
        ]
        assert products[1] - products[0] == 2
        image = make_images(1, 96, 96).numpy()
        for name, value in run(own, image).items():
            assert np.abs(value.astype(float) - run(any_size, image)[name]).max() < 1e-5

    def test_large_weights_take_one_byte_or_two(self, model: FeatureI3AD, path: Path) -> None:
        stored = [node for node in graph.read_model(path).get_ordered_ops() if node.get_type_name() == "Constant"]
        halves = [node.data.ravel() for node in stored if node.get_output_element_type(0) == ov.Type.f16]
        of_backbone = [part for part in model.model.features.parameters() if part.numel() >= LARGE]
        for weight in of_backbone:
            assert any(np.array_equal(half, weight.ravel()) for half in halves)
        assert len(of_backbone) == 21
        whitening = model.model.usual_errors[1].whitening.numpy()  # at this size the other layer's is small
        half = whitening.shape[-1] // 2
        in_bytes = [node.data for node in stored if node.get_output_element_type(0) == ov.Type.i8]
        assert len(in_bytes) == 3
        for part in (whitening[:, :half, :half], whitening[..., half:], model.model.memory.cells.numpy()):
            step = 2 ** np.ceil(np.log2(np.abs(part).max(axis=1, keepdims=True) / 127))
            assert any(np.array_equal(units, part / step) for units in in_bytes)
        assert not whitening[:, half:, :half].any()

    def test_what_takes_a_byte_does_not_grow_to_two(
        self, model: FeatureI3AD, own: ov.Model, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(to_openvino, "convert", lambda *_: own.clone())
        halved = model.to_openvino(tmp_path, input_size=(96, 96), compression_type="fp16")
        assert halved.with_suffix(".bin").stat().st_size < path.with_suffix(".bin").stat().st_size


def test_weights_in_branches_are_stored_small_too() -> None:
    exact = np.random.default_rng(0).normal(size=(100, 200)).astype(np.float16).astype(np.float32)
    image, given = ops.parameter([1, 100], np.float32), [ops.parameter([1, 100], np.float32) for _ in range(2)]
    bodies = [
        ov.Model([ops.result(ops.matmul(one, weight, transpose_a=False, transpose_b=False))], [one], "branch")
        for one, weight in zip(given, (exact, 2 * exact), strict=True)
    ]
    chosen = ops.if_op(ops.constant(np.bool_(1)))
    chosen.set_then_body(bodies[0])
    chosen.set_else_body(bodies[1])
    chosen.set_input(image.output(0), *given)
    chosen.set_output(*(body.get_results()[0] for body in bodies))
    stored = store_small(ov.Model([ops.result(chosen.output(0))], [image]))
    (branching,) = [node for node in stored.get_ordered_ops() if node.get_type_name() == "If"]
    for branch in range(2):
        nodes = branching.get_function(branch).get_ordered_ops()
        large = [node for node in nodes if node.get_type_name() == "Constant" and node.data.size == exact.size]
        assert [node.get_output_element_type(0) for node in large] == [ov.Type.f16]


def test_small_storage_changes_no_number() -> None:
    rng = np.random.default_rng(0)
    inexact = rng.normal(size=(100, 200)).astype(np.float32)
    exact = inexact.astype(np.float16).astype(np.float32)
    image = ops.parameter([1, 100], np.float32)
    large = np.where(inexact > 3, np.float32(1e5), exact)  # beyond half precision
    in_bytes = (rng.integers(-127, 128, (3, 100, 200)) * 2.0 ** rng.integers(-9, 3, 200)).astype(np.float32)
    in_bytes[..., 5] = 0
    alone = (rng.integers(-127, 128, (100, 600)) * 2.0 ** rng.integers(-9, 3, 600)).astype(np.float32)
    model = ov.Model(
        [
            ops.result(ops.matmul(image, value, transpose_a=False, transpose_b=False))
            for value in (exact, inexact, large, in_bytes, alone)
        ],
        [image],
    )
    x = rng.normal(size=(1, 100)).astype(np.float32)
    before = list(new_core().compile_model(model, "CPU", FP32)(x).values())
    stored = store_small(model)
    types = [node.get_output_element_type(0) for node in stored.get_ordered_ops() if node.get_type_name() == "Constant"]
    assert sorted(kind.get_type_name() for kind in types) == ["f16", "f16", "f32", "f32", "f32", "i8"]  # and the steps
    after = list(new_core().compile_model(stored, "CPU", FP32)(x).values())
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_int8_asks_for_images_and_refuses_what_it_cannot(untrained: I3AD, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a datamodule"):
        untrained.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ)
    for other in (CompressionType.INT8_ACQ, "int4"):
        with pytest.raises(ValueError, match=f"compression_type {re.escape(str(other))}: choose FP16, INT8"):
            untrained.to_openvino(tmp_path, compression_type=other)
    with pytest.raises(ValueError, match="input_size '128' must be a number of pixels, or height and width"):
        untrained.to_openvino(tmp_path, input_size="128")
    assert not list(tmp_path.rglob("*.xml"))


def test_without_a_resize_the_graph_takes_the_networks_size(
    untrained: I3AD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, asked = deepcopy(untrained), {}

    def traced_with(_model: nn.Module, images: tuple[torch.Tensor], _path: Path, **settings: Any) -> None:
        asked.update(settings, size=images[0].shape[2:])
        raise KeyboardInterrupt

    module.pre_processor = None
    monkeypatch.setattr(torch.onnx, "export", traced_with)
    with pytest.raises(KeyboardInterrupt):
        module.to_openvino(tmp_path, onnx_kwargs={"dynamo": True, "input_names": ["x"], "opset_version": 20})
    assert asked["size"] == (64, 64)
    assert set(asked["dynamic_shapes"][0]) == {0}
    assert (asked["opset_version"], asked["input_names"]) == (20, ["input"])


def test_anomalib_reads_the_file(untrained: I3AD, exported: Path, textures: Textures) -> None:
    from anomalib.deploy import OpenVINOInferencer

    textures.setup()
    inferencer = OpenVINOInferencer(exported, "CPU", FP32)
    for item in list(textures.test_data)[:3]:
        prediction = inferencer.predict(item.image_path)
        with torch.no_grad():
            expected = untrained(item.image.as_subclass(torch.Tensor)[None])
        assert prediction.pred_score.item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert prediction.pred_label.item() == expected.pred_label.item()


def test_model_api_reads_the_file(exported: Path) -> None:
    models = pytest.importorskip("model_api.models", reason="needs openvino-model-api")
    from model_api.adapters import OpenvinoAdapter, create_core

    from anomalib_i3ad.deploy import Inspector

    adapter = OpenvinoAdapter(create_core(), str(exported), device="CPU", plugin_config=FP32)
    model, inspector = models.Model.create_model(adapter), Inspector(exported)
    for image in images():
        pixels = (255 * image[0]).round().byte().permute(1, 2, 0).numpy()
        result, expected = model(pixels), inspector.inspect(pixels)
        assert result.pred_score == pytest.approx(expected.score, abs=1e-4)
        assert result.pred_label == str(expected.label)
        assert result.anomaly_map.shape == pixels.shape[:2]


def test_reads_only_models(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(graph.ModelError, match=r"none.xml: there is no such file"):
        graph.read_model(tmp_path / "none.xml")
    text = tmp_path / "text.xml"
    text.write_text("hello")
    text.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(graph.ModelError, match=r"text.xml: OpenVINO cannot read it"):
        graph.read_model(text)
    number = ov.opset15.parameter([1], ov.Type.f32)
    ov.save_model(ov.Model([number], [number], "other"), tmp_path / "other.xml")
    with pytest.raises(graph.ModelError, match=r"other.xml: not a model of anomalib.*pred_score"):
        graph.read_model(tmp_path / "other.xml")
    two = brightness(0)
    two.add_parameters([ov.opset15.parameter([1], ov.Type.f32)])
    with pytest.raises(graph.ModelError, match=r"two.xml: not a model of anomalib: it has 2 inputs"):
        graph.read_model(graph.save_model(two, tmp_path / "two.xml"))
    for suffix in (".xml", ".bin"):
        (tmp_path / f"model{suffix}").write_bytes(exported.with_suffix(suffix).read_bytes())
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "model.bin").write_bytes(weights)
    with pytest.raises(graph.ModelError, match=r"model.bin: not the weights"):
        graph.read_model(tmp_path / "model.xml")
