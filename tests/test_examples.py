"""The scripts of the examples folder, as people run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomalib_i3ad import I3AD, Textures
from model_tester import make_engine

EXAMPLES = Path(__file__).parents[1] / "examples"
#: An image's line in what own_images.py and line.py print.
VERDICT = r"^(.+\.png): (\w+), score ([\d.]+)"


def run(script: str, *arguments: object) -> str:
    """Run a script; returns what it prints."""
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def named(texture_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Arguments that name a model trained for an epoch and its images."""
    torch.manual_seed(0)
    datamodule = Textures(texture_root, image_size=64, train_count=12, test_count=7, num_workers=0)
    engine = make_engine(default_root_dir=tmp_path_factory.mktemp("trained"), max_epochs=1)
    engine.fit(I3AD(image_size=64, width=4, learning_rate=1e-3), datamodule=datamodule)
    return ["I3AD", engine.best_model_path, "--root", datamodule.root, "--category", "fabric"]


def rows(printed: str) -> list[list[str]]:
    """Cells of the Markdown tables in what was printed, without their heads."""
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return lines[1:]


def test_documentation_holds_what_was_measured() -> None:
    assert run("tables.py", "--check") == ""


def test_table_of_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import tables

    head = "model,category,image_auroc,pixel_auroc,au_pro,image_f1,false_alarms,normal,milliseconds,megabytes,commit"
    lines = [
        head + ",model_args",
        "I3AD,nut,0.9,0.8,0.7,0.6,1,20,50,1.96,abc,{}",
        "I3AD,nut,0.8,0.8,0.5,0.6,2,20,70,1.96,abc,{}",
        "I3AD,bolt,0.7,0.6,0.5,0.4,1,20,50,1.96,abc,{}",
        'I3AD,nut,0.7,0.6,0.4,0.4,3,20,40,2.0,def,"{""anomaly_map"": ""last""}"',
    ]
    (tmp_path / "benchmark.csv").write_text("\n".join(lines))
    # standard deviation by hand, of two values a and b: |a - b| / sqrt(2)
    expected = """\
| I3AD | 0.700 / 0.600 / 0.500 | 0.850 ± 0.071 / 0.800 / 0.600 | 5 / 8 | 2.0 |
| I3AD, last map |  | 0.700 / 0.600 / 0.400 | - / 15 | 2.0 |"""
    assert tables.accuracy(tmp_path).splitlines()[2:] == expected.splitlines()


def test_table_tells_versions_of_one_model_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import tables

    lines = [
        "model,category,image_auroc,pixel_auroc,au_pro,false_alarms,normal,megabytes,commit,model_args,version",
        "I3AD,nut,0.9,0.8,0.7,1,20,2.0,abc,{},",  # from before versions were recorded
        "I3AD,nut,0.8,0.8,0.7,1,20,2.0,abc,{},0.2",
        "Ganomaly,nut,0.6,,,1,20,2.0,abc,{},0.2",
    ]
    (tmp_path / "benchmark.csv").write_text("\n".join(lines))
    expected = """\
| I3AD, version not recorded | 0.900 / 0.800 / 0.700 | 5 | 2.0 |
| I3AD, 0.2 | 0.800 / 0.800 / 0.700 | 5 | 2.0 |
| Ganomaly | 0.600 / - / - | 5 | 2.0 |"""
    assert tables.accuracy(tmp_path).splitlines()[2:] == expected.splitlines()


def test_accuracy_counts_every_normal_image(named: list[object]) -> None:
    ((name, category, *figures, alarms),) = rows(run("accuracy.py", *named))
    assert (name, category) == ("I3AD", "fabric")
    assert all(0 <= float(figure) <= 1 for figure in figures)
    assert alarms.endswith("/7")


def test_iterations_tell_each_pass(named: list[object]) -> None:
    printed = run("iterations.py", *named, "--set", "max_iterations=3")
    table = rows(printed)
    assert [row[0] for row in table] == ["0", "1", "2", "3"]
    found = [int(row[3]) for row in table]
    for before, after, row in zip(found, found[1:], table[1:], strict=False):
        assert after - before == int(row[4]) - int(row[5])  # won and lost
    assert "iterations used on anomalous images" in printed


def test_choices_are_compared_with_the_base(tmp_path: Path) -> None:
    tried = ["width=4", "max_iterations=0", "max_iterations=4"]
    named = ["--textures", "fabric", "--seeds", 0, "--root", tmp_path]
    printed = run("choices.py", "I3AD", *named, "--steps", 2, "--only", *tried)
    table = rows(printed)
    assert [row[0] for row in table] == ["base", *tried]
    base, width, none, four = ([float(cell.split(" ")[0]) for cell in row[1:]] for row in table)
    assert four == base  # which takes 4 iterations, calibrated anew on the same generator
    assert base[1] == base[3] == 0
    for other in (width, none):
        assert other != base
        assert other[1] == pytest.approx(other[0] - base[0], abs=0.0011)


def test_own_images_and_the_line_agree(named: list[object], tmp_path: Path) -> None:
    fabric = Path(str(named[3])) / "fabric"
    trained = run(
        "own_images.py", fabric / "train" / "good", "--others", fabric / "test", "--out", tmp_path, "--steps", 2
    )
    judged = {path: (word, float(score)) for path, word, score in re.findall(VERDICT + " ", trained, re.MULTILINE)}
    assert len(judged) == 14 == len(list((tmp_path / "strips").rglob("*.png")))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    xml = re.findall(r"--model (\S+)", trained)[0]
    told = run("line.py", xml, broken, *judged, "--out", tmp_path / "defective")
    found = re.findall(VERDICT + r", \d iterations, \d+ ms$", told, re.MULTILINE)
    at_the_line = {path: (word.lower(), float(score)) for path, word, score in found}
    assert at_the_line.keys() == judged.keys()
    for path, (word, score) in judged.items():
        assert at_the_line[path] == (word, pytest.approx(score, abs=0.0011))  # printed with three digits
    anomalous = [path for path, (word, _) in judged.items() if word == "anomalous"]
    assert len(list((tmp_path / "defective").glob("*.jpg"))) == len(anomalous)
