"""The wheel: what is in it, what it asks for, and what works where only that is installed."""

import ast
import csv
import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import anomalib_i3ad
from anomalib_i3ad.deploy import Inspector
from anomalib_i3ad.deploy.engine import LOOPS_SINCE
from anomalib_i3ad.registration import FOLLOWERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "anomalib_i3ad"
#: Names at PyPI by the names that are imported; before Python 3.11 packages_distributions() knows few of them.
OWNERS = {
    path.parts[0].removesuffix(".py"): distribution.name
    for distribution in distributions()
    for path in distribution.files or ()
    if path.suffix == ".py"
}
HINT = 'torch is not installed: pip install "anomalib-i3ad[train]"'

#: What is imported only where it is installed.
OPTIONAL = {"onnxruntime"}

#: Program that finds neither torch nor anomalib.
WITHOUT = """
import sys
class Absent:
    def find_spec(name, *_):
        if name in {"anomalib", "torch"}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(file.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = {Path(name) for name in file.namelist()}
    shipped = {name for name in names if name.parts[0] == "anomalib_i3ad"}
    source = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file()}
    assert shipped == {path for path in source if "__pycache__" not in path.parts}
    assert {Path("anomalib_i3ad/py.typed"), Path("anomalib_i3ad/models/i3ad/README.md")} <= shipped
    told = {name.relative_to(name.parts[0]).as_posix() for name in names - shipped}
    assert told == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_version_is_the_packages(metadata: Message) -> None:
    assert metadata["Version"] == anomalib_i3ad.__version__
    assert metadata["Requires-Python"] == ">=3.10"


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Distributions that nodes of a file import, by their names at PyPI."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    found -= {*sys.stdlib_module_names, PACKAGE.name}
    return {canonicalize_name(OWNERS[name]) for name in found}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def declared(metadata: Message, extra: str) -> set[str]:
    requirements = map(Requirement, metadata.get_all("Requires-Dist", []))
    return {
        canonicalize_name(one.name) for one in requirements if not one.marker or one.marker.evaluate({"extra": extra})
    }


def test_what_the_edge_imports_is_the_base_install(metadata: Message) -> None:
    followers = {f"{name}.py" for name in FOLLOWERS.values()}  # imported after anomalib, if that is
    top = [path for path in PACKAGE.glob("*.py") if path.name not in followers]
    found = set()
    for path in (*top, *(PACKAGE / "deploy").rglob("*.py")):
        found |= imports(parsed(path).body)
    assert found == declared(metadata, "")


def test_no_openvino_is_installed_that_the_runtime_refuses(metadata: Message) -> None:
    (asked,) = {
        one.specifier for one in map(Requirement, metadata.get_all("Requires-Dist", [])) if one.name == "openvino"
    }
    year, release = LOOPS_SINCE
    assert not asked.contains(f"{year}.{release - 1}.9")
    assert asked.contains(f"{year}.{release}.0")


def test_everything_imported_is_declared_by_base_and_train(metadata: Message) -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        found |= imports(ast.walk(parsed(path)))
    assert found - OPTIONAL == declared(metadata, "train")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model", "FeatureI3AD"],
        ["benchmark", "--config", "all.yaml"],
        ["report", "--model", "I3AD", "--ckpt_path", "model.ckpt", "--data.root", ".", "--data.category", "bottle"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_the_extra_a_line_says_how_to_get_it(arguments: list[str]) -> None:
    code = WITHOUT + "from anomalib_i3ad.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"anomalib-i3ad {arguments[0]}: {HINT}\n"


def test_without_the_extra_a_command_that_is_none_is_told() -> None:
    code = WITHOUT + "from anomalib_i3ad.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "inspekt"], capture_output=True, text=True, check=False)
    known = "inspect, convert, benchmark, evaluate, report, train, fit, validate, test, predict, export"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"anomalib-i3ad inspekt: there is no such command; there are {known}\n"


def test_without_the_extra_importing_a_model_says_how_to_get_it() -> None:
    code = WITHOUT + "from anomalib_i3ad import I3AD"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {HINT}"


@pytest.mark.slow
def test_base_install_inspects(wheel: Path, exported: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [scripts / name, *arguments], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
        )

    installed = run("python", "-m", "pip", "install", "--quiet", str(wheel))
    assert installed.returncode == 0, installed.stderr
    assert run("python", "-m", "pip", "check").returncode == 0
    assert run("anomalib-i3ad", "--version").stdout == f"anomalib-i3ad {anomalib_i3ad.__version__}\n"
    for command in ("inspect", "convert"):
        assert run("anomalib-i3ad", command, "--help").stdout.startswith(f"usage: anomalib-i3ad {command}")
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    named = ["--model", str(exported), "--source", "image.png", "--out", "out"]
    inspected = run("anomalib-i3ad", "inspect", *named)
    assert inspected.returncode == 0, inspected.stderr
    (row,) = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    assert float(row["score"]) == pytest.approx(Inspector(exported).inspect(tmp_path / "image.png").score, abs=1e-4)
    converted = run("anomalib-i3ad", "convert", "--model", str(exported), "--image-input", "--out", "bytes.xml")
    assert converted.returncode == 0, converted.stderr
    refused = run("anomalib-i3ad", "train", "--model", "I3AD")
    assert (refused.returncode, refused.stderr) == (2, f"anomalib-i3ad train: {HINT}\n")
    assert HINT in run("python", "-c", "from anomalib_i3ad import I3AD").stderr
