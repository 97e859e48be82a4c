"""The scripts of the examples folder, as people run them."""

import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_i3ad import SsimAe
from model_tester import tables_in

EXAMPLES = Path(__file__).parents[1] / "examples"
#: An image's line in what own_images.py and line.py print.
VERDICT = r"^(.+\.png): (\w+), score ([\d.]+)"


def run(script: str, *arguments: object, code: int = 0) -> str:
    """Run a script that ends with this exit code; returns what it prints."""
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=strict)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """As :func:`run`, but in this process, which need not import torch and anomalib once more."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)  # put back afterwards

    def run_script(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run_script


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_help_needs_nothing_of_the_extra_dev(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")


def test_documentation_holds_what_was_measured() -> None:
    assert run("measure/tables.py", "--check") == ""


def test_table_of_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "measure")
    import tables

    lines = [
        "model,category,image_auroc,pixel_auroc,au_pro,found,anomalous,false_alarms,normal,megabytes,commit,model_args",
        "I3AD,nut,0.9,0.8,0.7,7,10,1,20,1.96,abc,{}",
        "I3AD,nut,0.8,0.8,0.5,8,10,2,20,1.96,abc,{}",
        "I3AD,bolt,0.7,0.6,0.5,1,4,1,20,1.96,abc,{}",
        'I3AD,nut,0.7,0.6,0.4,9,10,3,20,2.0,def,"{""anomaly_map"": ""last""}"',
    ]
    (tmp_path / "benchmark.csv").write_text("\n".join(lines))
    # standard deviation by hand, of two values a and b: |a - b| / sqrt(2)
    expected = """\
| I3AD | 0.700 / 0.600 / 0.500 | 0.850 ± 0.071 / 0.800 / 0.600 | 25 / 75 | 5 / 8 | 2.0 |
| I3AD, last map |  | 0.700 / 0.600 / 0.400 | - / 90 | - / 15 | 2.0 |"""
    assert tables.accuracy(tmp_path).splitlines()[2:] == expected.splitlines()


def test_table_tells_versions_of_one_model_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "measure")
    import tables

    lines = [
        "model,category,image_auroc,pixel_auroc,au_pro,found,anomalous,false_alarms,normal,megabytes,commit,model_args,version",
        "I3AD,nut,0.9,0.8,0.7,9,10,1,20,2.0,abc,{},",  # from before versions were recorded
        "I3AD,nut,0.8,0.8,0.7,8,10,1,20,2.0,abc,{},0.2",
        "Ganomaly,nut,0.6,,,6,10,1,20,2.0,abc,{},0.2",
    ]
    (tmp_path / "benchmark.csv").write_text("\n".join(lines))
    expected = """\
| I3AD, version not recorded | 0.900 / 0.800 / 0.700 | 90 | 5 | 2.0 |
| I3AD, 0.2 | 0.800 / 0.800 / 0.700 | 80 | 5 | 2.0 |
| Ganomaly | 0.600 / - / - | 60 | 5 | 2.0 |"""
    assert tables.accuracy(tmp_path).splitlines()[2:] == expected.splitlines()


def test_choices_are_compared_with_the_base(run_here: Callable[..., str], tmp_path: Path) -> None:
    tried = ["width=4", "max_iterations=0", "max_iterations=4", "SHARE=0.0"]
    named = ["--textures", "fabric", "--seeds", 0, "--root", tmp_path]
    printed = run_here("measure/choices.py", "I3AD", *named, "--steps", 2, "--only", *tried)
    (table,) = tables_in(printed)
    assert [row[0] for row in table] == ["base", *tried]
    base, width, none, four, above = ([float(cell.split(" ")[0]) for cell in row[1:]] for row in table)
    assert four == base  # which takes 4 iterations, calibrated anew on the same generator
    assert base[1] == base[3] == base[5] == base[7] == 0
    assert above[:6] == base[:6]  # what is outlined changes no map
    assert above[6] != base[6]
    for other in (width, none):
        assert other != base
        assert other[1] == pytest.approx(other[0] - base[0], abs=0.0011)


def test_choices_refuse_what_they_do_not_know(run_here: Callable[..., str], capsys: pytest.CaptureFixture) -> None:
    """Of which a network trained without it would show no effect."""
    with pytest.raises(SystemExit):
        run_here("measure/choices.py", "FeatureI3AD", "--only", "learning_rate=0.01", "MARGIN=0")
    assert "--only learning_rate: not among MARGIN, " in capsys.readouterr().err


def test_own_images_and_the_line_agree(run_here: Callable[..., str], texture_root: Path, tmp_path: Path) -> None:
    fabric = next(texture_root.glob("*px*")) / "fabric"
    trained = run_here(
        "own_images.py", fabric / "train" / "good", "--others", fabric / "test", "--out", tmp_path, "--steps", 2
    )
    judged = {path: (word, float(score)) for path, word, score in re.findall(VERDICT + " ", trained, re.MULTILINE)}
    assert len(judged) == 14 == len(list((tmp_path / "strips").rglob("*.png")))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    xml = re.findall(r"--model (\S+)", trained)[0]
    told = run("line.py", xml, broken, *judged, "--out", tmp_path / "anomalous", code=1)
    found = re.findall(VERDICT + r", \d iterations, \d+ ms$", told, re.MULTILINE)
    at_the_line = {path: (word.lower(), float(score)) for path, word, score in found}
    assert at_the_line.keys() == judged.keys()
    for path, (word, score) in judged.items():
        assert at_the_line[path] == (word, pytest.approx(score, abs=0.0011))  # printed with three digits
    anomalous = [path for path, (word, _) in judged.items() if word == "anomalous"]
    assert len(list((tmp_path / "anomalous").glob("*.jpg"))) == len(anomalous)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["--others", "few"], "--others: name a folder NORMAL"),
        (["many", "--others", "absent"], "--others: there is no folder absent"),
        (["many", "--others", "few"], "few/0.png: cannot identify image file"),
        (["many", "--others", "none"], "--others: none: Found 0 images in"),
        (["few"], "NORMAL: few holds 9 images; it takes 10"),
        (["absent"], "NORMAL: absent holds 0 images; it takes 10"),
    ],
)
def test_own_images_refuses_before_it_trains(
    folders: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for folder, count in (("none", 0), ("few", 9), ("many", 10)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own_images.py", *folders, "--out", "own"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "own_images.py"))
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert not Path("own").exists()


def test_the_line_tells_no_iterations_of_a_model_that_has_none(tmp_path: Path) -> None:
    picture = tmp_path / "noise.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(256, size=(128, 128, 3), dtype=np.uint8))
    model = SsimAe(image_size=128, latent_dim=8).eval()
    for threshold in (model.post_processor._image_threshold, model.post_processor._pixel_threshold):
        threshold.fill_(0.5)
    told = run("line.py", model.to_openvino(tmp_path), picture, "--out", tmp_path)
    assert re.fullmatch(VERDICT + r", \d+ ms\n", told)


def test_the_line_writes_a_picture_for_each_image(exported: Path, tmp_path: Path) -> None:
    names = ("1/a/x.png", "2/a/x.png", "2/a_x.png", "2%2Fa/x.png", "2/a/x.png.jpg", "2/a/\udcfc.png")  # one of Latin 1
    images = [tmp_path / name for name in names]
    for seed, path in enumerate(images):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(256, size=(64, 64, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    told = run("line.py", exported, *images, "--threshold", 0, "--out", tmp_path / "out")
    assert told.count(": anomalous, score ") == len(list((tmp_path / "out").iterdir())) == len(images)
    (tmp_path / "taken").write_text("a file")
    run("line.py", exported, images[0], "--threshold", 0, "--out", tmp_path / "taken", code=1)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["nowhere.xml", "a.png"], "nowhere.xml: there is no such file; a model is an .xml file"),
        (["model.xml", "a.png", "--threshold", "7"], "image_threshold 7.0 must lie in [0, 1]"),
    ],
)
def test_the_line_says_in_one_line_why_it_cannot_start(
    more: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["line.py", *more])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "line.py"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"line.py: error: {told}")
