"""The commands people type."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anomalib.models
import numpy as np
import pandas as pd
import pytest
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.models import AnomalibModule

from anomalib_i3ad import I3AD, AnoGan, FeatureI3AD, MVTec, Riad, SsimAe, cli
from anomalib_i3ad.components.arguments import check_sides
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.evaluation import jobs
from anomalib_i3ad.evaluation.cost import Cost
from test_examples import EXAMPLES

TINY_MODEL = ["--model.image_size", "64", "--model.width", "4", "--model.adversarial_weight", "1"]
TINY = {
    "I3AD": TINY_MODEL,
    "FeatureI3AD": ["--model.image_size", "96", "--model.width", "4", "--model.initial_grid", "2"],
}
QUIET = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]


@pytest.fixture
def data(texture_root: Path) -> list[str]:
    """Options that name the tiny fabric."""
    root = next(texture_root.glob("*px*"))
    return ["--data.root", str(root), "--data.category", "fabric", "--data.num_workers", "0"]


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run ``anomalib-i3ad`` in this process."""
    monkeypatch.setattr(sys, "argv", ["anomalib-i3ad", *arguments])
    cli.main()


@pytest.mark.parametrize("name", TINY)
def test_anomalib_train_exactly_as_typed(name: str, data: list[str], tmp_path: Path) -> None:
    anomalib = Path(sys.executable).with_name("anomalib")
    command = [anomalib, "train", "--model", f"anomalib_i3ad.{name}", "--data", "MVTec", *data, *TINY[name], *QUIET]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "image_AUROC" in done.stdout
    results = tmp_path / "results" / name / "MVTec" / "fabric" / "v0"
    assert (results / "weights" / "lightning" / "model.ckpt").stat().st_size > 10_000
    assert len(list((results / "images").rglob("*.png"))) == 14


@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are GNU's on Linux, which tell how long they spin")
@pytest.mark.parametrize(
    ("program", "asked", "spins"),
    [
        ("-m anomalib_i3ad train", {}, "0"),
        ("-m anomalib_i3ad train", {"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
        ("demo.py", {}, "0"),
        ("own_images.py", {}, "0"),
    ],
)
def test_threads_that_wait_leave_the_cores_to_others(program: str, asked: dict[str, str], spins: str) -> None:
    others = {name: value for name, value in os.environ.items() if name not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}}
    env = others | {"OMP_DISPLAY_ENV": "VERBOSE"} | asked
    command = [sys.executable, *program.split(), "--help"]
    done = subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True, check=True)
    assert set(re.findall("GOMP_SPINCOUNT = '(.*)'", done.stderr)) == {spins}


def test_short_names_in_any_order_then_predict_and_export(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_cli(monkeypatch, "train", "--data", "MVTec", *data, *QUIET, "--model", "I3AD", *TINY_MODEL)
    results = tmp_path / "results" / "I3AD" / "MVTec" / "fabric" / "v0"
    checkpoint = ["--ckpt_path", str(results / "weights" / "lightning" / "model.ckpt")]
    run_cli(monkeypatch, "test", "--data", "MVTec", *data, "--model", "I3AD", *TINY_MODEL, *checkpoint)
    defects = Path(data[1]) / "fabric" / "test" / "hole"
    run_cli(monkeypatch, "predict", "--model", "I3AD", *TINY_MODEL, "--data", str(defects), *checkpoint)
    run_cli(
        monkeypatch, "export", "--model", "I3AD", *TINY_MODEL, "--export_type", "openvino",
        "--export_root", str(tmp_path / "exported"), *checkpoint,
    )  # fmt: skip
    run_cli(monkeypatch, "export", "--model", "I3AD", *TINY_MODEL, "--export_type", "torch", *checkpoint)
    assert (results / "weights" / "torch" / "model.pt").is_file()
    assert not (tmp_path / "results" / "weights").exists()
    told = [record.getMessage() for record in caplog.records]
    assert f"Exported model to {results.resolve() / 'weights' / 'torch' / 'model.pt'}" in told
    assert not [record.name for record in caplog.records if record.name.startswith("onnx")]  # of every step of it
    xml = next((tmp_path / "exported").rglob("*.xml"))
    result = new_core().compile_model(xml, "CPU")(np.zeros((1, 3, 100, 80), np.float32))
    assert result["anomaly_map"].shape == (1, 1, 64, 64)


def test_a_wrong_argument_ends_in_a_line(tmp_path: Path) -> None:
    anomalib = Path(sys.executable).with_name("anomalib")
    command = [anomalib, "train", "--model", "anomalib_i3ad.I3AD", "--model.image_size", "66", "--data", "MVTec"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "error: image of 66x66 pixels: the generator takes sides that are multiples of 4 (image_size)"
    assert "Traceback" not in done.stderr


def test_no_such_folder_ends_in_a_line_and_what_nobody_foresaw_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        run_cli(
            monkeypatch, "train", "--model", "I3AD", *TINY_MODEL, *QUIET, "--data", "MVTec", "--data.root", "nowhere"
        )
    capsys.readouterr()
    sys.excepthook(raised.type, raised.value, raised.tb)
    said = capsys.readouterr().err
    assert said.startswith("error: --data.root nowhere: there is no folder nowhere/bottle; expected train/good/")
    assert said.count("\n") == 1
    assert not Path("nowhere").exists()
    for named in (["--ckpt_path", "none.ckpt"], ["--ckpt_path=none.ckpt"]):
        here = ["--export_root", "."]  # which is there, and begins the missing file's path
        with pytest.raises(FileNotFoundError) as missing:
            run_cli(monkeypatch, "export", "--model", "I3AD", *TINY_MODEL, "--export_type", "onnx", *here, *named)
        sys.excepthook(missing.type, missing.value, missing.tb)
        assert capsys.readouterr().err.endswith("error: --ckpt_path none.ckpt: there is no such file or folder\n")
    with pytest.raises(FileNotFoundError) as not_named:
        Path("other.ckpt").read_text()
    with pytest.raises(TypeError) as unforeseen:
        check_sides("64", 64, 8, "")  # fails in this package, but no line of it raises that on purpose
    for error in (not_named, unforeseen):
        sys.excepthook(error.type, error.value, error.tb)
        assert "Traceback" in capsys.readouterr().err


def test_benchmark_writes_a_row_for_each_model(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, timed = jobs.measure_cost, []

    def cost(model: AnomalibModule, images: list[Path]) -> Cost:
        """Exports are slow, and each model's is tested with it: one of ours and one of anomalib's are timed here."""
        timed.append(type(model).__name__)
        return measure(model, images) if isinstance(model, SsimAe | anomalib.models.Padim) else Cost(1.0, 1.0)

    monkeypatch.setattr(jobs, "measure_cost", cost)
    steps = {"max_train_steps": 3}
    small = {
        "anomalib_i3ad.I3AD": {
            "image_size": 64, "width": 4, "score_residual": "l2", **steps
        },
        "anomalib_i3ad.FeatureI3AD": {"image_size": 96, "width": 4, "initial_grid": 2, "layers": ["blocks.2"], **steps},
        "anomalib_i3ad.SsimAe": {"latent_dim": 8, **steps},
        "anomalib_i3ad.Riad": {"image_size": 64, "width": 4, **steps},
        "anomalib_i3ad.AnoGan": {"image_size": 64, "patch_size": 32, "width": 4, "latent_dim": 8, **steps},
        "Padim": {"pre_trained": False, "layers": ["layer1", "layer2"]},
    }  # fmt: skip
    config = {
        "accelerator": "cpu",
        "benchmark": {
            "seed": 0,
            "model": {
                "grid": [{"class_path": path, "init_args": arguments} for path, arguments in small.items()],
            },
            "data": {
                "class_path": "MVTec",
                "init_args": {"root": data[1], "category": {"grid": ["fabric"]}, "num_workers": 0},
            },
        },
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stopped:
        run_cli(monkeypatch, "benchmark", "--config", str(tmp_path / "benchmark.yaml"))
    assert stopped.value.code == 0
    table = pd.read_csv(tmp_path / "runs" / "benchmark" / "benchmark" / "results.csv")
    assert table["model"].tolist() == timed == [path.rsplit(".", 1)[-1] for path in small]
    for column in ("image_auroc", "image_f1", "pixel_auroc", "au_pro", "pixel_f1"):
        assert table[column].between(0, 1).all()
    assert (table["milliseconds"] > 0).all()
    assert set(table["normal"]) == set(table["anomalous"]) == {7}
    for key in table["key"]:  # each model can be loaded again
        (checkpoint,) = (tmp_path / "runs" / "benchmark" / "benchmark" / key).rglob("model.ckpt")
        getattr(anomalib.models, key.split("-")[0]).load_from_checkpoint(checkpoint, weights_only=True)


@pytest.mark.parametrize("command", ["--version", "--help", *cli.COMMANDS])
def test_help_and_version_import_nothing_that_takes_long(command: str) -> None:
    code = """
import sys
from anomalib_i3ad.cli import main
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
print(*sys.modules, file=sys.stderr)
"""
    arguments = [command] if command.startswith("-") else [command, "--help"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("anomalib-i3ad 0." if command == "--version" else "usage: anomalib-i3ad ")
    assert not {"torch", "anomalib", "lightning", "pandas", "matplotlib"} & set(done.stderr.split())


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run_cli(monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert set(cli.COMMANDS) <= {line.split()[0] for line in lines if line.startswith("  ")}
    anomalibs = AnomalibCLI.subcommands() | AnomalibCLI.anomalib_subcommands()
    assert {*anomalibs} in [set(line.strip().split(", ")) for line in lines]


def test_report_on_an_unknown_model_names_the_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    named = ["--model", "I3D", "--ckpt_path", "model.ckpt", "--data.root", ".", "--data.category", "bottle"]
    with pytest.raises(SystemExit) as stopped:
        run_cli(monkeypatch, "report", *named)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("anomalib-i3ad report: --model I3D: no such model; there are ")
    assert {"FeatureI3AD", "Padim"} <= set(last.replace(",", "").split())


def test_warnings_that_are_not_the_users_do_not_show(data: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anomalib_i3ad", "train", "--model", "FeatureI3AD", *TINY["FeatureI3AD"]]
    arguments = ["--model.max_train_steps", "2", "--trainer.accelerator", "cpu", "--data", "MVTec", *data]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Training ends after at most 2 steps" in done.stderr
    for warning in ("is deprecated", "`max_epochs` was not set", "in eval mode", "Unexpected keys"):
        assert warning not in done.stderr


MODEL_OF = {
    "demo": FeatureI3AD, "feature_i3ad": FeatureI3AD, "i3ad": I3AD, "ssim_ae": SsimAe, "riad": Riad, "ano_gan": AnoGan
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_build(path: Path) -> None:
    from anomalib.engine import Engine

    _, model, datamodule = Engine.from_config(path)
    assert type(model) is MODEL_OF[path.stem.removesuffix("_cpu")]
    assert isinstance(datamodule, MVTec)
