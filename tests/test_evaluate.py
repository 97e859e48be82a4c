"""``anomalib-i3ad evaluate``."""

import re
import runpy
import sys
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import ImageItem
from anomalib.data.utils import read_image
from anomalib.models import Padim
from sklearn.metrics import f1_score, roc_auc_score

from anomalib_i3ad import I3AD, MVTec, SsimAe, Textures
from anomalib_i3ad.deploy import Inspector
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.difference import Difference
from anomalib_i3ad.deploy.engine import Inspection
from anomalib_i3ad.deploy.graph import FP32, OUTPUTS
from anomalib_i3ad.evaluation import evaluate, int8
from anomalib_i3ad.evaluation.accuracy import Accuracy, measure_accuracy
from anomalib_i3ad.evaluation.engines import differences, wide_images
from anomalib_i3ad.evaluation.iterations import Iterations
from anomalib_i3ad.evaluation.page import Page
from anomalib_i3ad.evaluation.report import add_iterations
from anomalib_i3ad.evaluation.trained import load
from anomalib_i3ad.post_processing import QuantilePostProcessor
from model_tester import make_engine, tables_in

Trained = tuple[Any, Path, Textures]


def arguments_for(trained: Trained, model: str, *more: str) -> list[str]:
    """Arguments of the command."""
    _, checkpoint, datamodule = trained
    images = ["--data.root", str(datamodule.root), "--data.category", "fabric"]
    return ["--model", model, "--ckpt_path", str(checkpoint), *images, *more]


def predicted(model: Any, datamodule: Textures) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Labels, scores, what is called anomalous, and figures of pixels, as ``Engine.predict`` gives them."""
    batches = make_engine().predict(model, datamodule=datamodule)
    columns = ("gt_label", "pred_score", "pred_label")
    label, score, flagged = (torch.cat([getattr(batch, name) for batch in batches]).numpy() for name in columns)
    _, pixel_auroc, au_pro, _, pixel_f1, *_ = measure_accuracy(batches).cells()
    return label, score, flagged, [pixel_auroc, au_pro, pixel_f1]


def verdicts_of(results: list[Inspection]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the runtime, and what it calls anomalous."""
    return np.array([result.score for result in results]), np.array([result.label for result in results])


def check_row(
    cells: list[str], label: np.ndarray, score: np.ndarray, flagged: np.ndarray, of_pixels: list[str] | None = None
) -> None:
    """Compare cells of a row of figures with scikit-learn's, and of pixels with others."""
    image_auroc, pixel_auroc, au_pro, image_f1, pixel_f1, found, alarms = cells
    assert float(image_auroc) == pytest.approx(roc_auc_score(label, score), abs=5.1e-4)
    assert float(image_f1) == pytest.approx(f1_score(label, flagged), abs=5.1e-4)
    assert found == f"{(flagged & (label == 1)).sum()}/{(label == 1).sum()}"
    assert alarms == f"{(flagged & (label == 0)).sum()}/{(label == 0).sum()}"
    assert all(0 <= float(figure) <= 1 for figure in (pixel_auroc, au_pro, pixel_f1))
    assert of_pixels is None or of_pixels == [pixel_auroc, au_pro, pixel_f1]


class TestAccuracy:
    @pytest.mark.parametrize("name", ["I3AD", "anomalib_i3ad.I3AD"])
    def test_is_that_of_engine_predict(
        self, trained: Trained, name: str, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        expected = predicted(trained[0], trained[2])
        left = set(tmp_path.iterdir())
        assert evaluate.main(arguments_for(trained, name)) == 0
        (((model, category, *cells),),) = tables_in(capsys.readouterr().out)
        assert (model, category) == ("I3AD", "fabric")
        check_row(cells, *expected)
        assert cells[-1].endswith("/7")
        assert set(tmp_path.iterdir()) == left

    def test_other_arguments_are_calibrated_anew(self, trained: Trained, capsys: pytest.CaptureFixture) -> None:
        _, checkpoint, datamodule = trained
        other = I3AD.load_from_checkpoint(checkpoint, max_iterations=0, image_score="mean", visualizer=False)
        before = predicted(other, datamodule)[2]
        make_engine().validate(other, datamodule=datamodule, verbose=False)
        expected = predicted(other, datamodule)
        flagged = expected[2]
        assert (flagged != before).any()
        evaluate.main(arguments_for(trained, "I3AD", "--set", "max_iterations=0", "image_score=mean"))
        (((model, _, *cells),),) = tables_in(capsys.readouterr().out)
        assert model == "I3AD max_iterations=0 image_score=mean"
        check_row(cells, *expected)

    def test_calibrated_anew_on_the_split_of_the_command(self, trained: Trained, capsys: pytest.CaptureFixture) -> None:
        _, checkpoint, datamodule = trained
        found = []
        for ratio, seed in ((0.1, 0), (0.6, 5)):
            other = I3AD.load_from_checkpoint(checkpoint, max_iterations=0, visualizer=False)
            split = MVTec(datamodule.root, "fabric", val_split_ratio=ratio, seed=seed, eval_batch_size=8, num_workers=0)
            make_engine().validate(other, datamodule=split, verbose=False)
            found.append(predicted(other, datamodule))
        assert (found[0][2] != found[1][2]).any()
        split_by = ("--data.val_split_ratio", "0.6", "--data.seed", "5")
        evaluate.main(arguments_for(trained, "I3AD", "--set", "max_iterations=0", *split_by))
        (((_, _, *cells),),) = tables_in(capsys.readouterr().out)
        check_row(cells, *found[1])

    def test_a_model_of_anomalibs_as_the_benchmark_trains_it(
        self, textures: Textures, capsys: pytest.CaptureFixture
    ) -> None:
        """Padim builds its own post-processor when it is loaded, which would normalise nothing."""
        model = Padim(pre_trained=False, visualizer=False)
        model.post_processor = QuantilePostProcessor(image_quantile=0.5)
        engine = make_engine()
        engine.fit(model, datamodule=textures)
        expected = predicted(model, textures)
        flagged = expected[2]
        assert 0 < flagged.sum() < len(flagged)
        trained = (model, Path(engine.best_model_path), textures)
        assert load(Padim, trained[1]).post_processor.image_quantile == 0.5
        assert evaluate.main(arguments_for(trained, "Padim")) == 0
        (((name, _, *cells),),) = tables_in(capsys.readouterr().out)
        assert name == "Padim"
        check_row(cells, *expected)
        for option, why in (("--iterations", "Padim does not iterate"), ("--exported", "Padim is anomalib's")):
            with pytest.raises(SystemExit) as stopped:
                evaluate.main(arguments_for(trained, "Padim", option))
            assert stopped.value.code == 2
            assert capsys.readouterr().err.splitlines()[-1].startswith(f"anomalib-i3ad evaluate: {option}: {why}")


def test_iterations_tell_each_one(trained: Trained, capsys: pytest.CaptureFixture) -> None:
    evaluate.main(arguments_for(trained, "I3AD", "--set", "max_iterations=3", "--iterations"))
    printed = capsys.readouterr().out
    ((accuracy,), table) = tables_in(printed)
    assert [row[0] for row in table] == ["0", "1", "2", "3"]
    assert table[-1][1] == accuracy[2]  # image AUROC
    assert float(table[-1][2]) == pytest.approx(float(accuracy[3]), abs=2e-3)  # pixel AUROC, of maps not normalised
    found = [int(row[3]) for row in table]
    for before, after, row in zip(found, found[1:], table[1:], strict=False):
        assert after - before == int(row[4]) - int(row[5])  # won and lost
    for kind in ("normal", "anomalous"):
        (counts,) = re.findall(rf"^iterations used on {kind} images: {{(.+)}}$", printed, re.MULTILINE)
        assert sum(int(count.split(": ")[1]) for count in counts.split(", ")) == 7


def test_iterations_are_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    label, used = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 2, 2])
    found = Iterations(used, label, list("abcde"), np.zeros((5, 1)), [0.5], [0.5])
    monkeypatch.setattr(evaluate, "measure_iterations", lambda *_: found)
    assert list(evaluate.iterations_of(None, []))[1:] == [
        "iterations used on normal images: {0: 2, 1: 1}",
        "iterations used on anomalous images: {2: 2}",
    ]


def test_without_normal_images_nothing_counts_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    found = Iterations(np.array([0, 1]), np.array([1, 1]), list("ab"), np.ones((2, 2)), [nan, nan], [0.5, 0.75])
    monkeypatch.setattr(evaluate, "measure_iterations", lambda *_: found)
    (table,) = tables_in("\n\n".join(evaluate.iterations_of(None, [])))
    assert table == [["0", "-", "0.500", "-", "-", "-"], ["1", "-", "0.750", "-", "-", "-"]]
    page = Page("title", "about")
    add_iterations(page, found)
    assert "false alarms" not in page.render()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"--model": "I3D"}, "--model I3D: no such model; there are "),
        ({"--model": "anomalib_i3ad.models"}, "--model anomalib_i3ad.models: no such model; there are "),
        (
            {"--model": "SsimAe"},
            "{checkpoint}: cannot be loaded as SsimAe: its arguments are another model's (mask_quantile, ",
        ),
        ({"--ckpt_path": "no.ckpt"}, "--ckpt_path no.ckpt: there is no such file"),
        ({"--ckpt_path": __file__}, f"--ckpt_path {__file__}: cannot be loaded as I3AD: it is no checkpoint"),
        ({"--data.root": "nowhere"}, "--data.root nowhere: there is no folder nowhere/fabric; expected"),
        ({"--data.category": "nut"}, "{root} has no category 'nut', only fabric; expected"),
        ({"--set": "iterations=3"}, "I3AD has no argument iterations; it has image_size, width"),
        ({"--set": "max_iterations"}, "max_iterations: arguments are written NAME=VALUE"),
        ({"--set": "max_iterations=[3"}, "max_iterations=[3: arguments are written NAME=VALUE"),
        (
            {"--set": "max_iterations=-1"},
            "{checkpoint}: cannot be loaded as I3AD: max_iterations -1 must be a whole number >= 0",
        ),
    ],
)
def test_a_mistake_ends_in_a_line(
    trained: Trained, changed: dict[str, str], why: str, capsys: pytest.CaptureFixture
) -> None:
    given = arguments_for(trained, "I3AD")
    options = dict(zip(given[::2], given[1::2], strict=True)) | changed
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([word for option in options.items() for word in option])
    assert stopped.value.code == 2
    why = why.replace("{checkpoint}", f"--ckpt_path {trained[1]}").replace("{root}", str(trained[2].root))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("anomalib-i3ad")]
    assert len(told) == 1
    assert told[0].startswith(f"anomalib-i3ad evaluate: {why}")


class TestExported:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, texture_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
        """SsimAe, which exports in the shortest time, after an epoch."""
        torch.manual_seed(0)
        model = SsimAe(image_size=128, latent_dim=8, visualizer=False)
        model.post_processor.image_quantile = 0.5
        datamodule = Textures(texture_root, image_size=64, train_count=12, test_count=7, num_workers=0)
        engine = make_engine(default_root_dir=tmp_path_factory.mktemp("fitted"), max_epochs=1)
        engine.fit(model, datamodule=datamodule)
        return model.eval(), Path(engine.best_model_path), datamodule

    @pytest.fixture(scope="class")
    @classmethod
    def told(cls, model: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
        """What the command prints, and the folder that it exported to."""
        folder = tmp_path_factory.mktemp("exported")
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
            patch.setattr(evaluate, "TemporaryDirectory", lambda: nullcontext(folder))  # or it would be gone
            assert evaluate.main(arguments_for(model, "anomalib_i3ad.SsimAe", "--exported")) == 0
        return printed.getvalue(), folder / "weights"

    def test_engines_give_what_engine_predict_does(self, told: tuple[str, Path]) -> None:
        _, engines, _ = tables_in(told[0])
        assert [row[:2] for row in engines] == [
            [engine, size] for size in ("their own", "1024x768") for engine in ("OpenVINO", "ONNX Runtime")
        ]
        for _, size, score, anomaly_map, labels in engines:
            assert float(score) < 1e-4
            assert float(anomaly_map) < 1e-3
            assert labels == ("14/14" if size == "their own" else "2/2")

    def test_differences_of_one_image_by_hand(self, model: Trained, told: tuple[str, Path], tmp_path: Path) -> None:
        compiled = new_core().compile_model(told[1] / "openvino" / "int8.xml", "CPU", FP32)  # whose differences show

        def off_by(path: Path) -> float:
            image = read_image(path, as_tensor=True)[None]
            with torch.no_grad():
                return np.abs(compiled(image.numpy())["anomaly_map"] - model[0](image).anomaly_map.numpy()).max()

        # on which image most depends on the processor
        path = max(sorted((model[2].root / "fabric" / "test").rglob("*.png")), key=off_by)
        (expected,) = make_engine().predict(model[0], data_path=path)
        image = read_image(path, as_tensor=True)
        session = onnxruntime.InferenceSession(next((told[1] / "onnx").glob("*.onnx")))

        def onnx(pixels: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": pixels}), strict=True))

        engines = {"OpenVINO": compiled, "ONNX Runtime": onnx}
        found = differences(model[0], [ImageItem(image=image)], engines)
        for name, run in engines.items():
            result = run(image.numpy()[None])
            score = abs(float(result["pred_score"][0]) - float(expected.pred_score[0]))
            anomaly_map = np.abs(result["anomaly_map"][0, 0] - expected.anomaly_map.numpy().squeeze()).max()
            assert found[name].score == pytest.approx(score, abs=1e-7)
            assert found[name].anomaly_map == pytest.approx(anomaly_map, abs=1e-7)
        assert found["OpenVINO"].anomaly_map > 1e-4

    def test_the_largest_difference_counts(self, model: Trained) -> None:
        items = [ImageItem(image=torch.full((3, 64, 64), value)) for value in (0.2, 0.5, 0.8)]
        results = []
        for item, shift in zip(items, (0.01, 0.25, 0.02), strict=True):
            with torch.no_grad():
                batch = model[0](item.image[None])
            result = {name: getattr(batch, name).numpy().copy() for name in OUTPUTS}
            result["pred_score"] -= shift
            result["anomaly_map"][0, 0, 3, 5] += 2 * shift
            result["pred_label"] ^= shift == 0.25
            results.append(result)
        turn = iter(results)
        found = differences(model[0], items, {"shifted": lambda _: next(turn)})
        assert found["shifted"] == Difference(pytest.approx(0.25, abs=1e-5), pytest.approx(0.5, abs=1e-5), 2, 3)

    def test_every_tenth_image_is_resized(self, model: Trained) -> None:
        model[2].setup("test")
        wide = wide_images(model[2].test_data)
        assert [item.image.shape for item in wide] == [(3, 768, 1024)] * 2

    def test_int8_is_measured_by_the_runtime(self, model: Trained, told: tuple[str, Path]) -> None:
        printed, folder = told
        ((row,), _, forms) = tables_in(printed)
        assert [form[0] for form in forms] == ["FP32", "INT8"]
        paths = sorted((model[2].root / "fabric" / "test").rglob("*.png"))
        label = np.array([path.parent.name != "good" for path in paths])
        flagged = []
        for name, *cells, milliseconds, kilobytes in forms:
            inspector = Inspector(folder / "openvino" / f"{name.lower()}.xml")
            score, labels = verdicts_of([inspector.inspect(path) for path in paths])
            flagged.append(labels)
            check_row(cells, label, score, labels)
            assert float(milliseconds) > 0
            weights = (folder / "openvino" / f"{name.lower()}.bin").stat().st_size
            assert kilobytes == f"{weights / 1000:.0f}"
        assert forms[0][1:8] == row[2:]  # FP32 as Engine.predict
        (changed,) = re.findall(r"median over images\); (\d+)/14 labels changed", printed)
        assert int(changed) == (flagged[0] != flagged[1]).sum()
        (counts,) = re.findall(r"^outside loops: (\d+) of (\d+) convolutions in INT8$", printed, re.MULTILINE)
        converted, every = map(int, counts)
        assert converted == every - 1 > 10  # one reads the image

    def test_every_form_has_its_own_figures(
        self, model: Trained, told: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Drawn:
            """Results that depend on the file alone."""

            def __init__(self, xml: Path) -> None:
                self.rng = np.random.default_rng(len(xml.stem))

            def inspect(self, _path: str) -> Inspection:
                score, anomaly_map = self.rng.random(), self.rng.random((32, 32), np.float32)
                return Inspection(score, score > 0.5, anomaly_map, anomaly_map > 0.5, None, None, 1 + score)

        monkeypatch.setattr(int8, "Inspector", Drawn)
        model[2].setup("test")
        dataset = model[2].test_data
        paths = {name: told[1] / "openvino" / f"{name}.xml" for name in ("int8", "model")}
        paths["model"].with_suffix(".bin").write_bytes(bytes(2500))
        label, found = dataset.samples.label_index.to_numpy(), int8.measure_forms(paths, dataset)
        for name, form in found.items():
            score = np.random.default_rng(len(name))
            check_row(form.accuracy.cells(), label, *verdicts_of(form.results))
            assert form.results[0].score == score.random()
            np.testing.assert_array_equal(form.milliseconds, 1 + verdicts_of(form.results)[0])
        assert found["model"].kilobytes == 2.5
        assert found["int8"].accuracy != found["model"].accuracy

    def test_without_onnx_runtime_a_line_says_so(
        self, model: Trained, told: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        paths = {name: told[1] / "openvino" / f"{name.lower()}.xml" for name in ("FP32", "INT8")}
        monkeypatch.setattr(evaluate, "export_forms", lambda *_: paths)
        parts = list(evaluate.exported_of(*model[::2], tmp_path))
        assert [row[0] for row in tables_in(parts[0])[0]] == ["OpenVINO"] * 2
        assert parts[1].startswith("ONNX Runtime is not installed")
        assert "\n" not in parts[1]

    def test_the_runtime_beside_inference_alone(
        self, model: Trained, told: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        images = model[2].root / "fabric" / "test"
        script = Path(__file__).parents[1] / "examples" / "measure" / "runtime.py"
        monkeypatch.setattr(sys, "argv", [script.name, str(told[1] / "openvino" / "fp32.xml"), str(images)])
        runpy.run_path(str(script), run_name="__main__")
        runtime, batch = capsys.readouterr().out.splitlines()[-2:]
        found = re.fullmatch(r"runtime, from files to rows: ([\d.]+) images/s, \d+% of inference alone", runtime)
        assert found
        assert float(found[1]) > 0
        found = re.fullmatch(r"batch of 8: [\d.]+ of the time of single images, maps differ by at most (\S+)", batch)
        assert found
        assert float(found[1]) < 1e-3

    @staticmethod
    def timed(iterations: int, milliseconds: float) -> Inspection:
        nothing = np.zeros((1, 1))
        return Inspection(0.1, False, nothing, nothing > 0, iterations, None, milliseconds)  # noqa: FBT003

    def test_int8_that_is_faster_is_called_faster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        accuracy, times = Accuracy(*[0.5] * 5, 1, 1, 1, 1), {"FP32": (6, 8, 40), "INT8": (3, 2, 20)}
        forms = {name: int8.Form(accuracy, [self.timed(0, time) for time in taken], 1) for name, taken in times.items()}
        for name, value in {
            "export_forms": dict.fromkeys(times), "engines_of": {}, "wide_images": [], "differences": {},
            "measure_forms": forms, "what_is_int8": [],
        }.items():  # fmt: skip
            monkeypatch.setattr(evaluate, name, lambda *_, value=value, **__: value)
        datamodule = SimpleNamespace(setup=lambda _: None, test_data=[None] * 3)
        *_, told = evaluate.exported_of(SimpleNamespace(model=None, pre_processor=None), datamodule, tmp_path)
        assert told == "INT8 is 2.00 times as fast (median over images); 0/3 labels changed"

    def test_latency_by_iterations_by_hand(self) -> None:
        results = [self.timed(*one) for one in ((4, 20), (0, 4), (4, 22), (4, 100), (0, 7))]
        (table,) = tables_in(evaluate.latency_by_iterations(results))
        assert table == [["0", "2", "5.5", "0.25"], ["4", "3", "22.0", "1.00"]]
