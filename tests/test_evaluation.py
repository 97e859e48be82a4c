"""Benchmark, figures and report."""

import html
import json
import re
import shutil
import subprocess
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pandas as pd
import pytest
import torch
import yaml
from anomalib.data import ImageBatch, ImageItem, MVTecAD
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from scipy.ndimage import label
from sklearn.metrics import f1_score, roc_auc_score
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform

from anomalib_i3ad import I3AD, MVTec, Textures
from anomalib_i3ad.evaluation import benchmark, explanations, jobs, report, table
from anomalib_i3ad.evaluation.accuracy import Accuracy, _files_of, _mask_of, measure_accuracy, predict
from anomalib_i3ad.evaluation.configuration import expand, jobs_of, read_jobs
from anomalib_i3ad.evaluation.cost import Cost, measure_cost, shortest
from anomalib_i3ad.evaluation.iterations import Iterations, measure_iterations
from anomalib_i3ad.evaluation.jobs import (
    arguments_of,
    category_of,
    commit,
    datamodule_of,
    key_of,
    model_arguments,
    notes_on,
    run_job,
)
from anomalib_i3ad.evaluation.page import Page
from anomalib_i3ad.evaluation.trained import images_of, make_trainer
from anomalib_i3ad.post_processing import QuantilePostProcessor
from model_tester import make_engine, make_images


class TestJobs:
    CONFIG = {
        "accelerator": "cpu",
        "benchmark": {
            "seed": {"grid": [0, 1]},
            "model": {
                "grid": [
                    {"class_path": "anomalib_i3ad.I3AD", "init_args": {"initial_grid": {"grid": [2, 4]}}},
                    {"class_path": "Padim"},
                ]
            },
            "data": {"class_path": "MVTec", "init_args": {"category": {"grid": ["x", "y"]}}},
        },
    }

    def test_every_combination_once_and_categories_together(self) -> None:
        found = jobs_of(self.CONFIG)
        assert len(found) == 2 * 3 * 2 == len({key_of(job) for job in found})
        assert [job["data"]["init_args"]["category"] for job in found] == ["x"] * 6 + ["y"] * 6
        assert all(job["trainer"] == {"accelerator": "cpu"} for job in found)

    def test_sections_follow_each_other(self) -> None:
        single = {
            "model": {"class_path": "C", "init_args": {}},
            "data": {"class_path": "a", "init_args": {}},
            "seed": 7,
        }
        found = jobs_of({"accelerator": "cpu", "benchmark": [self.CONFIG["benchmark"], single]})
        assert found[:-1] == jobs_of(self.CONFIG)
        assert found[-1] == {**single, "trainer": {"accelerator": "cpu"}}

    def test_every_job_runs_on_every_accelerator(self) -> None:
        """A list, as in anomalib's documentation."""
        single = {"model": {"class_path": "C"}, "data": {"class_path": "a"}}
        section = {**single, "trainer": {"grid": [{"max_epochs": 2}, {"accelerator": "gpu"}]}}
        found = jobs_of({"accelerator": ["cuda", "cpu"], "benchmark": [single, section]})
        expected = [{"accelerator": "cuda"}, {"accelerator": "cpu"}]
        expected += [{"accelerator": name, "max_epochs": 2} for name in ("cuda", "cpu")] + [{"accelerator": "gpu"}]
        assert [job["trainer"] for job in found] == expected

    def test_an_argument_named_grid_is_an_argument(self) -> None:
        assert list(expand({"initial_grid": [2, 4]})) == [{"initial_grid": [2, 4]}]

    @pytest.mark.parametrize("value", ["bottle", 3, {"a": 1}])
    def test_a_grid_is_a_list(self, value: object) -> None:
        with pytest.raises(ValueError, match="grid: wants a list, not"):
            list(expand({"category": {"grid": value}}))

    def test_a_key_depends_on_every_setting_and_not_on_their_order(self) -> None:
        job = jobs_of(self.CONFIG)[0]
        assert key_of(job) == key_of(dict(reversed(job.items())))
        assert key_of(job) != key_of({**job, "trainer": {"accelerator": "cpu", "precision": 32}})

    def test_a_category_is_that_of_the_images_or_their_name(self) -> None:
        for arguments, name in (({"category": "a", "name": "b"}, "a"), ({"name": "b"}, "b"), ({}, "Folder")):
            assert category_of({"data": {"class_path": "anomalib.data.Folder", "init_args": arguments}}) == name

    def test_arguments_may_be_left_empty(self) -> None:
        empty, without = (
            jobs_of(
                {"benchmark": {"model": {"class_path": "Padim", **of}, "data": {"class_path": "MVTec", **of}}}, Path()
            )
            for of in ({"init_args": None}, {})
        )
        assert key_of(empty[0]) == key_of(without[0])

    def test_says_that_thresholds_come_from_test_images(self) -> None:
        accuracy, calibrated = Accuracy(*[0.5] * 5, 1, 1, 1, 1), SimpleNamespace(image_min=0, pixel_min=0)
        assert list(notes_on(accuracy, calibrated, 0)) == []
        assert list(notes_on(accuracy, calibrated, 7)) == ["thresholds come from 7 test images"]

    def test_without_test_images_nothing_is_trained(self, texture_root: Path, tmp_path: Path) -> None:
        good = next(texture_root.rglob("train/good"))
        data = {"name": "parts", "normal_dir": str(good), "test_split_mode": "none", "val_split_mode": "from_train"}
        job = {
            "model": {"class_path": "SsimAe", "init_args": {}},
            "data": {"class_path": "Folder", "init_args": data},
            "seed": 0,
        }
        with pytest.raises(ValueError, match="Folder has no test images: see its test_split_mode"):
            run_job({**job, "trainer": {}}, tmp_path)

    @pytest.mark.parametrize("cls", [I3AD, MVTecAD])  # MVTec passes what it does not name on to MVTecAD
    def test_a_key_depends_on_defaults(self, cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
        job = jobs_of(self.CONFIG)[0]
        before = key_of(job)
        monkeypatch.setattr(cls.__init__, "__defaults__", ("changed", *cls.__init__.__defaults__[1:]))
        assert key_of(job) != before

    def test_a_default_spelled_out_changes_nothing(self) -> None:
        job = jobs_of(self.CONFIG)[0]
        whole = model_arguments(job)
        assert (whole["seed"], whole["initial_grid"], whole["visualizer"]) == (0, 2, True)
        assert key_of({**job, "model": {**job["model"], "init_args": whole}}) == key_of(job)

    @pytest.mark.parametrize(("own_or_others", "changed"), [("__version__", "99"), ("version", lambda _: "99")])
    def test_a_key_depends_on_the_versions(
        self, own_or_others: str, changed: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = jobs_of(self.CONFIG)[0]
        before = key_of(job)
        monkeypatch.setattr(jobs, own_or_others, changed)
        assert key_of(job) != before

    @pytest.mark.parametrize(
        "config",
        [
            None,
            {},
            {"benchmark": {"model": {}}},
            {"benchmark": [{"model": {}}]},
            {"benchmark": {"models": 1, "data": 2}},
        ],
    )
    def test_names_what_is_missing(self, config: object) -> None:
        with pytest.raises(ValueError, match="model and data"):
            jobs_of(config)

    def test_names_a_model_without_class_path(self) -> None:
        with pytest.raises(ValueError, match=r"model: .* class_path"):
            jobs_of({"benchmark": {"model": {"name": "I3AD"}, "data": {"class_path": "MVTec"}}})

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"acclerator": "cpu"}, "^acclerator: unknown; beside benchmark there may be accelerator$"),
            (
                {"model": {"class_path": "Padim", "init_arg": {"n_features": 9}}},
                "^model: wants class_path and init_args",
            ),
            ({"model": {"class_path": "Padim", "init_args": [1]}}, "^model: wants class_path and init_args"),
            ({"data": {"class_path": "MVTec", "init_args": {3: 4}}}, "^data: wants class_path and init_args"),
            ({"model": {"class_path": None}}, "^model: .* has no class_path"),
            ({"trainer": "cpu"}, "^trainer: wants names with their values"),
            ({"trainer": {"logger": True}}, "default_root_dir and logger are the benchmark's"),
            ({"seed": [0, 1]}, "^seed: wants a whole number, or grid:"),
            ({"seed": "x"}, "^seed: wants a whole number, or grid:"),
        ],
    )
    def test_names_what_is_wrong(self, changed: dict, told: str) -> None:
        section = {"model": {"class_path": "Padim"}, "data": {"class_path": "MVTec"}}
        outside = {name: changed[name] for name in changed if name == "acclerator"}
        with pytest.raises(ValueError, match=told):
            jobs_of(outside | {"benchmark": section | {name: changed[name] for name in changed.keys() - outside}})

    @pytest.mark.parametrize(
        "text", ["benchmark: []", "accelerator: []\nbenchmark: {model: {class_path: Padim}, data: {class_path: MVTec}}"]
    )
    def test_no_job_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture, text: str) -> None:
        (tmp_path / "none.yaml").write_text(text)
        with pytest.raises(SystemExit) as stopped:
            benchmark.main(["--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path)])
        assert stopped.value.code == 2
        assert "benchmark: asks for no job" in capsys.readouterr().err

    def test_a_model_takes_the_seed_of_its_job(self) -> None:
        own = {"model": {"class_path": "anomalib_i3ad.I3AD", "init_args": {"width": 4}}, "seed": 7}
        assert arguments_of(own) == {"seed": 7, "width": 4}
        assert arguments_of({**own, "model": {**own["model"], "init_args": {"seed": 1}}}) == {"seed": 1}
        assert arguments_of({"model": {"class_path": "Padim", "init_args": {}}, "seed": 7}) == {}

    def test_a_datamodule_gets_its_arguments_as_they_are(self) -> None:
        arguments = {"image_size": 96, "train_count": 20}
        made = datamodule_of({"data": {"class_path": "anomalib_i3ad.Textures", "init_args": arguments}})
        assert isinstance(made, Textures)
        assert (made.image_size, made.train_count) == (96, 20)  # anomalib's get_datamodule would make (96, 96) of it

    def test_a_job_draws_by_its_seed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(jobs, "get_model", stop)
        with pytest.raises(KeyboardInterrupt):
            jobs.run_job({"model": {"class_path": "Padim", "init_args": {}}, "seed": 7}, tmp_path)
        assert torch.initial_seed() == 7

    def test_thresholds_come_from_a_validation_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        did, made = [], SimpleNamespace
        engine = made(trainer=None, fit=lambda *_, **__: did.append("fit"), validate=lambda *_, **__: did.append("val"))
        steps = {"get_model": made(), "listed": made(test_data=[0]), "Engine": engine}
        for name, result in steps.items():
            monkeypatch.setattr(jobs, name, lambda *_, _result=result, **__: _result)
        monkeypatch.setattr(jobs, "predict", None)  # what follows takes its time
        with pytest.raises(TypeError):
            run_job({"model": {"class_path": "Padim", "init_args": {}}, "seed": 0, "trainer": {}}, tmp_path)
        assert did == ["fit", "val"]

    def test_timed_images_are_spread_over_the_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "measure_cost", lambda _, paths: [int(path.name) for path in paths])
        samples = pd.DataFrame({"image_path": [str(number) for number in range(37)]})
        datamodule = SimpleNamespace(test_data=SimpleNamespace(samples=samples))
        assert jobs._cost(torch.nn.Identity(), datamodule) == list(range(0, 37, 3))

    @pytest.mark.parametrize(("image", "pixel", "notes"), [(0, 0, 0), (-1, 0, 1), (0, -1, 1)])
    def test_scores_or_maps_below_0_are_noted(self, image: float, pixel: float, notes: int) -> None:
        accuracy = Accuracy(*[0.5] * 5, 1, 1, 1, 1)
        assert len(list(notes_on(accuracy, SimpleNamespace(image_min=image, pixel_min=pixel), 0))) == notes


class TestReferences:
    """Sections that name a configuration of ``train``."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A benchmark's file, in a folder beside the configuration that it may name."""
        settings = {
            "model": {"class_path": "anomalib_i3ad.I3AD", "init_args": {"width": 8, "max_iterations": 3}},
            "data": {"class_path": "anomalib_i3ad.MVTec", "init_args": {"root": "r", "train_batch_size": 4}},
            "trainer": {"precision": 32},
            "seed_everything": 5,
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
        (tmp_path / "benchmark").mkdir()
        return tmp_path / "benchmark" / "file.yaml"

    @staticmethod
    def jobs(file: Path, section: dict) -> list[dict]:
        file.write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": section}))
        return read_jobs(file)

    def test_are_the_arguments_written_out(self, file: Path) -> None:
        changes = {
            "model": {"init_args": {"width": {"grid": [4, 16]}}},
            "data": {"init_args": {"category": {"grid": ["x", "y"]}}},
            "trainer": {"max_epochs": 2},
        }
        section = {
            "model": {
                "class_path": "anomalib_i3ad.I3AD", "init_args": {"max_iterations": 3, "width": {"grid": [4, 16]}}
            },
            "data": {
                "class_path": "anomalib_i3ad.MVTec",
                "init_args": {"root": "r", "train_batch_size": 4, "category": {"grid": ["x", "y"]}},
            },
            "trainer": {"precision": 32, "max_epochs": 2},
        }  # fmt: skip
        referred = self.jobs(file, {"config": "../small.yaml", **changes})
        written_out = self.jobs(file, section)
        assert len(referred) == 4
        assert referred == written_out
        assert [*map(key_of, referred)] == [*map(key_of, written_out)]
        (same, other) = self.jobs(file, {"config": "../small.yaml", "seed": {"grid": [0, 1]}})
        assert key_of(same) != key_of(other)
        assert same["trainer"] == {"accelerator": "cpu", "precision": 32}

    def test_may_be_several(self, file: Path) -> None:
        other = {"class_path": "anomalib_i3ad.Riad", "init_args": {"width": 24}}
        (file.parent.parent / "other.yaml").write_text(yaml.safe_dump({"model": other}))
        section = {"config": {"grid": ["../small.yaml", "../other.yaml"]}, "model": {"init_args": {"seed": 3}}}
        first, second = self.jobs(file, {**section, "data": {"class_path": "MVTec", "init_args": {"root": "s"}}})
        assert first["model"]["init_args"] == {"width": 8, "max_iterations": 3, "seed": 3}
        assert second["model"] == {**other, "init_args": {"width": 24, "seed": 3}}
        assert first["data"]["init_args"] == {"root": "s", "train_batch_size": 4}
        assert second["data"]["init_args"] == {"root": "s"}

    def test_another_class_takes_none_of_the_arguments(self, file: Path) -> None:
        images = {"class_path": "Textures", "init_args": {"category": "brick"}}
        (job,) = self.jobs(file, {"config": "../small.yaml", "data": images})
        assert job["data"] == images

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("absent.yaml", None, "config: absent.yaml: there is no file "),
            ("wrong.yaml", "- model", "config: wrong.yaml: "),
            ("wrong.yaml", "model: I3AD", "/wrong.yaml has no model with a class_path"),
            ("wrong.yaml", "model: {class_path: anomalib_i3ad.I3AD}", "data: None has no class_path"),
            ("wrong.yaml", "model: [", '/wrong.yaml", line 1'),
        ],
    )
    def test_errors_name_the_file_and_the_key(
        self, name: str, content: str | None, told: str, file: Path, capsys: pytest.CaptureFixture
    ) -> None:
        if content is not None:
            (file.parent / name).write_text(content)
        file.write_text(yaml.safe_dump({"benchmark": {"config": name}}))
        with pytest.raises(SystemExit) as stopped:
            benchmark.main(["--config", str(file)])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"anomalib-i3ad benchmark: {file}: ")
        assert told in said


class FixedBatch:
    """A model whose graph takes two images at a time, as anomalib exports PatchCore."""

    def to_openvino(self, folder: str) -> Path:
        image = ops.parameter([2, 3, -1, -1], np.float32)
        path = Path(folder) / "model.xml"
        ov.save_model(ov.Model([ops.reduce_mean(image, [1, 2, 3])], [image]), path)
        path.with_suffix(".bin").write_bytes(bytes(10**6))
        self.megabytes = 1 + path.stat().st_size / 1e6
        return path


def test_cost_is_the_median_over_images_of_the_shortest_run(
    texture_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter([0.5, 0.0, 0.5])
    assert shortest(lambda: time.sleep(next(pauses)), 3) < 0.5
    seconds, images = iter([9.0, 1.0, 2.0]), sorted(texture_root.rglob("*.png"))[:3]
    monkeypatch.setattr("anomalib_i3ad.evaluation.cost.shortest", lambda *_: next(seconds))
    assert measure_cost(FixedBatch(), images).milliseconds == pytest.approx(1000)  # of two images at a time


def test_cost_of_a_graph_of_fixed_batch(texture_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = FixedBatch(), sorted(texture_root.rglob("*.png"))[:2]
    cost = measure_cost(model, images)
    assert cost.milliseconds > 0
    assert cost.megabytes == pytest.approx(model.megabytes)
    monkeypatch.setattr("anomalib_i3ad.evaluation.cost.shortest", lambda work, _repeats: work() and 0.5)
    assert measure_cost(model, images).milliseconds == pytest.approx(250)


class TestBenchmark:
    """The loop over jobs, with jobs that take no time."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        path = tmp_path / "three.yaml"
        path.write_text(yaml.safe_dump({"benchmark": {**TestJobs.CONFIG["benchmark"], "seed": 0}}))  # I3AD twice, PaDiM
        return path

    @staticmethod
    def row(job: dict) -> dict:
        return {
            "key": key_of(job), "model": job["model"]["class_path"], "fit_seconds": 1, "commit": "0123456",
            "version": "0.1", "note": "", "category": "01",
            **dict.fromkeys(["seed", "image_auroc", "pixel_auroc", "au_pro", "image_f1"], 0.5),
            **dict.fromkeys(["false_alarms", "milliseconds"], 1),
        }  # fmt: skip

    def test_a_second_start_repeats_only_what_failed(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        ran: list[str] = []

        def fails_on_padim(job: dict, _folder: Path) -> dict:
            ran.append(job["model"]["class_path"])
            if ran[-1] == "Padim":
                msg = "no such [thing]"
                raise RuntimeError(msg)
            return self.row(job)

        monkeypatch.setattr(benchmark, "run_job", fails_on_padim)
        assert benchmark.run(config, tmp_path / "out", Console()) == 1
        assert ran == ["anomalib_i3ad.I3AD", "anomalib_i3ad.I3AD", "Padim"] * 2
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
        assert told == [
            f"failed: {number}/6 Padim {category} 0: RuntimeError: no such [thing]"
            for number, category in ((3, "x"), (6, "y"))
        ]
        ran.clear()
        monkeypatch.setattr(benchmark, "run_job", lambda job, _folder: ran.append("again") or self.row(job))
        assert benchmark.run(config, tmp_path / "out", Console()) == 0
        assert ran == ["again"] * 2
        rows = pd.read_csv(tmp_path / "out" / "results.csv", dtype={"commit": str})
        assert rows["model"].tolist() == ["anomalib_i3ad.I3AD"] * 4 + ["Padim"] * 2
        assert rows["key"].is_unique
        assert set(rows["commit"]) == {"0123456"}  # not the number 123456
        assert rows["false_alarms"].dtype == int

    def test_a_job_named_twice_runs_once(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        section = yaml.safe_load(config.read_text())["benchmark"]
        config.write_text(yaml.safe_dump({"benchmark": [section, section]}))
        ran: list[str] = []
        monkeypatch.setattr(benchmark, "run_job", lambda job, _folder: ran.append(key_of(job)) or self.row(job))
        assert benchmark.run(config, tmp_path / "out", Console()) == 0
        assert len(ran) == len(set(ran)) == 6

    def test_an_interruption_loses_no_row(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        count = iter(range(9))

        def interrupted(job: dict, _folder: Path) -> dict:
            if next(count) == 3:
                raise KeyboardInterrupt
            return self.row(job)

        monkeypatch.setattr(benchmark, "run_job", interrupted)
        with pytest.raises(KeyboardInterrupt):
            benchmark.run(config, tmp_path / "out", Console())
        assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 3

    def test_rows_wait_until_they_can_be_written(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        write, attempts = table.write_whole, iter(range(99))

        def fails(path: Path, lines: list[bytes]) -> None:
            if next(attempts) in failing:
                raise OSError(28, "No space left on device", str(path))
            write(path, lines)

        monkeypatch.setattr(benchmark, "run_job", lambda job, _folder: self.row(job))
        monkeypatch.setattr(table, "write_whole", fails)
        failing = {1, 2, 5}
        assert benchmark.run(config, tmp_path / "out", Console()) == 0
        rows = table.read_rows(tmp_path / "out" / "results.csv")
        assert rows["key"].tolist() == [key_of(job) for job in jobs_of(yaml.safe_load(config.read_text()))]
        assert "not written: " not in capsys.readouterr().out
        attempts, failing = iter(range(99)), {0, *range(3, 99)}
        assert benchmark.run(config, tmp_path / "other", Console(width=10_000)) == 1
        written, lost = rows[:3], rows[3:]
        assert table.read_rows(tmp_path / "other" / "results.csv").equals(written)
        told = re.findall(r"results.csv: not written: (.*)", capsys.readouterr().out)
        assert [json.loads(row)["key"] for row in told] == lost["key"].tolist()

    def test_where_the_table_is_replaced_meanwhile_rows_are_told(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        results, rows = tmp_path / "out" / "results.csv", []

        def replaced(job: dict, _folder: Path) -> dict:
            results.write_text("image,score\n1.png,0.5\n")
            rows.append(self.row(job))
            return rows[-1]

        monkeypatch.setattr(benchmark, "run_job", replaced)
        with pytest.raises(ValueError, match="not the results of a benchmark"):
            benchmark.run(config, results.parent, Console(width=10_000))
        told = re.findall(r"results.csv: not written: (.*)", capsys.readouterr().out)
        assert [json.loads(row)["key"] for row in told] == [row["key"] for row in rows]

    def test_latencies_can_be_measured_again(
        self,
        trained: tuple[I3AD, Path, Textures],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        timed = []
        monkeypatch.setattr(jobs, "measure_cost", lambda *given: timed.append(given) or Cost(2.5, 1.5))
        _, checkpoint, datamodule = trained
        data = {"root": str(datamodule.root), "category": "fabric", "num_workers": 0}
        config = {
            "model": {"class_path": "anomalib_i3ad.I3AD"},
            "data": {"class_path": "anomalib_i3ad.MVTec", "init_args": data},
            "seed": {"grid": [0, 1, 2]},
        }
        (tmp_path / "one.yaml").write_text(yaml.safe_dump({"benchmark": config}))
        done, lost, _never_run = jobs_of({"benchmark": config})
        for job in (done, lost):
            named = {"checkpoint": f"{key_of(job)}/v1/{checkpoint.name}", "milliseconds": 1e9, "megabytes": 0}
            table.add_rows(tmp_path / "results.csv", [{**self.row(job), **named}])
        shutil.copytree(checkpoint.parent, tmp_path / key_of(done) / "v1")
        for job in (done, lost):  # an earlier start that was interrupted left one, which is not the row's
            (tmp_path / key_of(job) / "v0").mkdir(parents=True)
            (tmp_path / key_of(job) / "v0" / checkpoint.name).write_bytes(b"")
        assert benchmark.main(["--config", str(tmp_path / "one.yaml"), "--out", str(tmp_path), "--time-again"]) == 1
        rows = table.read_rows(tmp_path / "results.csv")
        assert rows["key"].tolist() == [key_of(done), key_of(lost)]
        assert rows["milliseconds"].tolist() == [2.5, 1e9]
        assert rows["megabytes"].tolist() == [1.5, 0]
        ((model, images),) = timed
        assert model.post_processor.image_threshold == trained[0].post_processor.image_threshold
        assert set(images) <= set((datamodule.root / "fabric" / "test").rglob("*.png"))
        assert rows["image_auroc"].tolist() == [0.5, 0.5]
        printed = capsys.readouterr().out.replace("\n", "")
        assert f"{key_of(lost)}/v1/{checkpoint.name} is no checkpoint" in printed
        assert "I3AD fabric 2: no row of these arguments and versions" in printed

    def test_rows_of_other_versions_and_old_files_are_kept_and_told_apart(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        results = tmp_path / "out" / "results.csv"
        results.parent.mkdir()
        (job, *_) = jobs_of(yaml.safe_load(config.read_text()))
        old = {name: value for name, value in self.row(job).items() if name not in {"version", "note"}}
        pd.DataFrame([{**old, "key": "I3AD-x-0-00000000", "commit": "0000001"}]).to_csv(results, index=False)
        monkeypatch.setattr(benchmark, "run_job", lambda job, _folder: self.row(job))
        monkeypatch.setattr(jobs, "__version__", "0.1")
        assert benchmark.run(config, results.parent, Console(width=200)) == 0
        assert "7 rows, 1 of other arguments or versions" in capsys.readouterr().out
        monkeypatch.setattr(jobs, "__version__", "0.2")  # of the same arguments
        assert benchmark.run(config, results.parent, Console(width=200)) == 0
        printed = capsys.readouterr().out
        assert "13 rows, 7 of other arguments or versions" in printed
        assert "done before" not in printed
        rows = table.read_rows(results)
        assert rows["version"].tolist() == ["", *["0.1"] * 12]
        assert set(rows["category"]) == {"01"}  # not the number 1
        assert rows["commit"][0] == "0000001"
        assert rows["key"].is_unique

    def test_leaves_the_results_of_something_else(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for content in ("image,score\n1.png,0.5\n", ""):
            (tmp_path / "results.csv").write_text(content)
            with pytest.raises(SystemExit) as stopped:
                benchmark.main(["--config", str(config), "--out", str(tmp_path)])
            assert stopped.value.code == 2
            assert f"{tmp_path / 'results.csv'}: not the results of a benchmark" in capsys.readouterr().err
            assert (tmp_path / "results.csv").read_text() == content

    def test_says_which_file_is_absent(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit) as stopped:
            benchmark.main(["--config", str(tmp_path / "absent.yaml")])
        assert stopped.value.code == 2
        assert "absent.yaml" in capsys.readouterr().err

    def test_an_unknown_model_does_not_stop_the_others(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        config.write_text(config.read_text().replace("Padim", "Padin"))
        monkeypatch.setattr(benchmark, "run_job", lambda job, _folder: self.row(job))
        assert benchmark.run(config, tmp_path / "out", Console(width=200)) == 1
        printed = capsys.readouterr().out
        assert printed.count("failed: ") == printed.count("has no attribute 'Padin'") == 2
        assert len(table.read_rows(tmp_path / "out" / "results.csv")) == 4

    def test_a_model_without_maps_and_one_of_negative_maps_say_so(
        self,
        texture_root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        costs = iter([Cost(1.0, 1.0), OSError("disk full"), Cost(2.0, 1.0), Cost(3.0, 1.0)])  # exports take their time

        def cost(*_: object) -> Cost:
            if isinstance(found := next(costs), OSError):
                raise found
            return found

        monkeypatch.setattr(jobs, "measure_cost", cost)
        monkeypatch.setenv("PATH", "")  # no git, either: no row is lost for it
        root = next(texture_root.rglob("fabric")).parent
        ganomaly = {"class_path": "Ganomaly", "init_args": {"n_features": 4, "latent_vec_size": 8}}
        fastflow = {"class_path": "Fastflow", "init_args": {"pre_trained": False, "flow_steps": 1}}
        section = {
            "model": {"grid": [ganomaly, fastflow]},
            "data": {"class_path": "MVTec", "init_args": {"root": str(root), "category": "fabric", "num_workers": 0}},
            "trainer": {"max_epochs": 1, "enable_progress_bar": False},
        }
        (tmp_path / "two.yaml").write_text(yaml.safe_dump({"accelerator": ["cpu"], "benchmark": section}))
        assert benchmark.run(tmp_path / "two.yaml", tmp_path / "out", Console(width=300)) == 0
        rows = table.read_rows(tmp_path / "out" / "results.csv").set_index("model")
        assert "ckpt_path" not in caplog.text  # anomalib's warning that weights are not loaded
        assert rows.loc[["Ganomaly", "Fastflow"], "pixel_auroc"].isna().tolist() == [True, False]
        assert rows["image_auroc"].between(0, 1).all()
        assert rows.loc["Ganomaly", "note"] == "no figures of pixels: no maps, or no true masks"
        below = "scores below 0: normalised by their distance from the lowest of normal images"
        assert rows.loc["Fastflow", "note"] == f"{below}; could not be timed"
        assert rows["milliseconds"].isna().tolist() == [False, True]
        printed = capsys.readouterr().out
        assert all(note in printed for note in rows["note"])
        assert json.loads(rows.loc["Fastflow", "model_args"])["backbone"] == "resnet18"  # a default
        assert rows["commit"].tolist() == ["", ""]
        assert all((tmp_path / "out" / path).is_file() for path in rows["checkpoint"])
        time_job = benchmark.time_job

        def beside_another(*arguments: Any) -> Any:
            table.add_rows(tmp_path / "out" / "results.csv", [{"key": f"another {len(seen)}", "model": f"{len(seen)}"}])
            seen.append(0)
            return time_job(*arguments)

        seen: list[int] = []
        monkeypatch.setattr(benchmark, "time_job", beside_another)
        assert benchmark.time_again(tmp_path / "two.yaml", tmp_path / "out", Console(width=300)) == 0
        rows = table.read_rows(tmp_path / "out" / "results.csv").set_index("model")
        assert rows.index.tolist() == ["Ganomaly", "Fastflow", "0", "1"]
        assert rows.loc[["Ganomaly", "Fastflow"], "milliseconds"].tolist() == [2.0, 3.0]
        assert rows.loc["Fastflow", "note"] == below


class TestCommit:
    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A repository that holds the package as its own file, and as one that it does not know."""
        if shutil.which("git") is None:
            pytest.skip("needs git")
        for name in ("src", "venv"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "jobs.py").write_text("")
        git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
        for command in (["init", "-q"], ["add", "src"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], check=True)
        return tmp_path

    def test_is_that_of_the_checkout(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "__file__", str(repository / "src" / "jobs.py"))
        clean = commit()
        assert len(clean) >= 7
        (repository / "src" / "jobs.py").write_text("changed")
        assert commit() == f"{clean}+"

    def test_is_not_that_of_a_repository_around_a_virtual_environment(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "__file__", str(repository / "venv" / "jobs.py"))
        assert commit() == ""

    def test_is_empty_without_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert commit() == ""


CROP = Compose([Resize([64, 64], antialias=True), Compose([CenterCrop(32)])])


class TestAccuracy:
    @staticmethod
    def batch(score: torch.Tensor, label: torch.Tensor, rejected: torch.Tensor) -> ImageBatch:
        maps = torch.rand(len(score), 1, 8, 8, generator=torch.Generator().manual_seed(1))
        mask = (maps[:, 0] > 0.7) & label.bool()[:, None, None]
        return ImageBatch(
            image=torch.zeros(len(score), 3, 8, 8), pred_score=score, gt_label=label, pred_label=rejected,
            anomaly_map=maps, gt_mask=mask, pred_mask=maps > 0.6,
        )  # fmt: skip

    def test_masks_are_those_of_the_files_whatever_the_size_of_the_maps(self, tmp_path: Path) -> None:
        """A thin defect, which a mask of the model's own size would lose."""
        mask = np.zeros((512, 512), np.uint8)
        mask[100:400, 200:203] = 255
        Image.fromarray(mask).save(tmp_path / "thin_mask.png")
        maps = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        batch = ImageBatch(
            image=torch.zeros(2, 3, 32, 32), pred_score=torch.tensor([0.2, 0.9]), gt_label=torch.tensor([0, 1]),
            pred_label=torch.tensor([False, True]), anomaly_map=maps, gt_mask=torch.zeros(2, 32, 32),
            pred_mask=maps[:, 0] > 0.5, mask_path=["None", str(tmp_path / "thin_mask.png")],
        )  # fmt: skip
        expected = np.stack([np.zeros((256, 256), bool), mask[::2, ::2] > 0])
        large = np.asarray(torch.nn.functional.interpolate(maps, (256, 256), mode="bilinear"))[:, 0]
        accuracy = measure_accuracy([batch])
        assert accuracy.pixel_auroc == pytest.approx(roc_auc_score(expected.flatten(), large.flatten()), abs=1e-4)
        found = np.kron(np.asarray(maps[:, 0] > 0.5), np.ones((8, 8), bool))
        assert accuracy.pixel_f1 == pytest.approx(f1_score(expected.flatten(), found.flatten()))

    @pytest.mark.parametrize(("side", "rows"), [(1024, slice(513, 514)), (2048, slice(1001, 1005))])
    def test_thin_defects_of_large_masks_stay_whole(self, tmp_path: Path, side: int, rows: slice) -> None:
        """The nearest pixels would lose the first, and the slanted second they would cut into pieces."""
        mask = np.zeros((side, side), np.uint8)
        for column in range(side // 4, side // 2):
            shift = (column - side // 4) // 8 if side > 1024 else 0
            mask[rows.start + shift : rows.stop + shift, column] = 255
        Image.fromarray(mask).save(tmp_path / "thin_mask.png")
        drawn = _mask_of(tmp_path / "thin_mask.png")[0].numpy()
        factor = side // 256
        expected = mask.reshape(256, factor, 256, factor).max(axis=(1, 3)) > 0
        np.testing.assert_array_equal(drawn, expected)
        assert label(drawn, np.ones((3, 3)))[1] == 1

    @pytest.mark.parametrize("crop", [Resize([8, 8]), CROP])
    def test_masks_are_cropped_as_the_images_are(self, crop: Transform) -> None:
        """The files' masks are whole."""
        batch = self.batch(torch.rand(2), torch.tensor([0, 1]), torch.tensor([False, True]))
        batch.mask_path = ["None", "a_mask.png"]
        runner = SimpleNamespace(predict=lambda *_, **__: [batch])
        model = SimpleNamespace(pre_processor=SimpleNamespace(transform=crop))
        batch.image_path = ["a.png", "b.png"]
        samples = pd.DataFrame({"image_path": ["b.png", "a.png"], "mask_path": ["b_mask.png", ""]})
        test_data = SimpleNamespace(samples=samples)
        datamodule = SimpleNamespace(prepare_data=list, setup=str, test_dataloader=list, test_data=test_data)
        (found,) = predict(runner, model, datamodule)
        assert found.mask_path == (None if isinstance(crop, Compose) else ["", "b_mask.png"])

    def test_scores_are_those_of_each_image_alone_whatever_the_sizes_of_others(
        self, trained: tuple[I3AD, Path, Textures], tmp_path: Path
    ) -> None:
        model, _, textures = trained
        shutil.copytree(textures.root / "fabric", tmp_path / "fabric")
        wide = sorted((tmp_path / "fabric" / "test" / "good").iterdir())[1]
        Image.open(wide).resize((300, 100)).save(wide)
        datamodule = images_of(Namespace(root=tmp_path, category="fabric"))
        for batch in predict(make_trainer(), model, datamodule):
            for path, score in zip(batch.image_path, batch.pred_score, strict=True):
                image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
                with torch.no_grad():
                    alone = model(image).pred_score
                assert score.item() == pytest.approx(alone.item(), abs=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 7])
    def test_images_in_one_batch_with_normal_ones_have_their_masks(
        self, trained: tuple[I3AD, Path, Textures], batch_size: int
    ) -> None:
        """Collated, a batch whose first image is normal has no paths of masks."""
        model, _, textures = trained
        datamodule = MVTec(textures.root, "fabric", eval_batch_size=batch_size, num_workers=0)
        found: dict[str, str] = {}
        for batch in predict(make_trainer(), model, datamodule):
            found |= zip(batch.image_path, batch.mask_path, strict=True)
        for path, mask in found.items():
            image = Path(path)
            name = f"{image.stem}_mask.png"
            normal = image.parent.name == "good"
            assert mask == ("" if normal else str(textures.root / "fabric" / "ground_truth" / image.parent.name / name))
        kinds = [Path(path).parent.name for path in found]
        assert kinds[-1] > "good"  # a kind that comes after it

    def test_a_mask_may_be_a_folder_of_files(self, tmp_path: Path) -> None:
        """As MVTec LOCO has them; anomalib names the first file alone."""
        folder = tmp_path / "ground_truth" / "logical" / "005"
        folder.mkdir(parents=True)
        whole = np.zeros((256, 256), np.uint8)
        for number, columns in enumerate((slice(10), slice(100, 130))):
            mask = np.zeros((256, 256), np.uint8)
            mask[:, columns] = whole[:, columns] = 255
            Image.fromarray(mask).save(folder / f"{number:03d}.png")
        maps = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
        batch = ImageBatch(
            image=torch.zeros(1, 3, 256, 256), pred_score=torch.tensor([0.9]), gt_label=torch.tensor([1]),
            pred_label=torch.tensor([True]), anomaly_map=maps, gt_mask=torch.zeros(1, 256, 256),
            pred_mask=maps[:, 0] > 0.5, mask_path=[str(folder / "000.png")], image_path=["test/logical/005.png"],
        )  # fmt: skip
        expected = roc_auc_score(whole.flatten() > 0, maps.flatten())
        assert measure_accuracy([batch]).pixel_auroc == pytest.approx(expected, abs=1e-4)

    def test_au_pro_is_that_of_its_definition(self) -> None:
        """The mean share of each defect that is found, over false positive rates up to 0.3."""
        maps = (40 * make_images(2, 256, 256)[:, :1]).round() / 40
        mask = torch.zeros(2, 256, 256, dtype=torch.bool)
        defects = [(1, slice(30, 60), slice(10, 70)), (1, slice(100, 220), slice(90, 130)), (1, slice(25), slice(25))]
        for place in defects:
            mask[place] = True
        score, label = torch.tensor([0.2, 0.9]), torch.tensor([0, 1])
        batch = ImageBatch(
            image=torch.zeros(2, 3, 256, 256), pred_score=score, gt_label=label, pred_label=score > 0.5,
            anomaly_map=maps, gt_mask=mask, pred_mask=maps > 0.5,
        )  # fmt: skip
        found = [maps[:, 0] >= level for level in maps.unique().flip(0)]
        false = np.array([0, *(one[~mask].float().mean() for one in found)])
        share = np.array([0, *(np.mean([one[place].float().mean() for place in defects]) for one in found)])
        expected = np.interp(np.linspace(0, 0.3, 3001), false, share).mean()
        assert measure_accuracy([batch]).au_pro == pytest.approx(expected, abs=5e-3)

    def test_an_image_named_as_its_kind_has_its_own_mask(self, tmp_path: Path) -> None:
        folder = tmp_path / "ground_truth" / "hole"
        assert _files_of(folder / "hole_mask.png", tmp_path / "test" / "hole" / "hole.png") == [
            folder / "hole_mask.png"
        ]

    def test_without_true_masks_there_are_no_figures_of_pixels(self) -> None:
        score, label = torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0, 1, 1])
        batch = self.batch(score, label, score > 0.5)
        whole, batch.gt_mask = measure_accuracy([batch]), None
        accuracy = measure_accuracy([batch])
        assert np.isnan([accuracy.pixel_auroc, accuracy.au_pro, accuracy.pixel_f1]).all()
        assert accuracy[0] == whole[0] == 1
        assert accuracy[-4:] == whole[-4:] == (1, 2, 0, 1)

    def test_of_one_class_there_is_no_auroc(self) -> None:
        score = torch.tensor([0.2, 0.9, 0.4])
        normal = measure_accuracy([self.batch(score, torch.zeros(3).int(), score > 0.5)])
        assert np.isnan(normal[:5]).all()
        assert normal.cells() == ["-"] * 5 + ["0/0", "1/3"]
        anomalous = measure_accuracy([self.batch(score, torch.ones(3).int(), score > 0.5)])
        assert np.isnan(anomalous).tolist() == [True] + [False] * 8
        assert anomalous.cells()[0] == "-"
        assert anomalous.cells()[-2:] == ["1/3", "0/0"]

    def test_agrees_with_scikit_learn_over_uneven_batches(self) -> None:
        generator = torch.Generator().manual_seed(0)
        score, label = torch.rand(23, generator=generator), torch.randint(0, 2, (23,), generator=generator)
        rejected = score > 0.6
        parts = [self.batch(score[:7], label[:7], rejected[:7]), self.batch(score[7:], label[7:], rejected[7:])]
        accuracy = measure_accuracy(parts)
        assert accuracy.image_auroc == pytest.approx(roc_auc_score(label, score))
        assert accuracy.image_f1 == pytest.approx(f1_score(label, rejected))
        maps = torch.cat([part.anomaly_map for part in parts]).reshape(-1, 1, 8, 8)
        mask = torch.cat([part.gt_mask for part in parts])
        large = torch.nn.functional.interpolate(maps, (256, 256), mode="bilinear").flatten()
        mask = mask.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2).flatten()
        assert accuracy.pixel_auroc == pytest.approx(roc_auc_score(mask, large), abs=1e-4)
        found = np.kron(np.asarray(maps[:, 0] > 0.6), np.ones((32, 32), bool)).flatten()
        assert accuracy.pixel_f1 == pytest.approx(f1_score(mask, found))
        assert accuracy.found == int((rejected & (label == 1)).sum())
        assert accuracy.false_alarms == int((rejected & (label == 0)).sum())
        assert accuracy.normal + accuracy.anomalous == 23


class TestIterations:
    def test_the_last_iteration_is_the_models_own_result(
        self, trained: tuple[I3AD, Path, Textures], tmp_path: Path
    ) -> None:
        model, _, datamodule = trained
        predictions = predict(make_engine(default_root_dir=tmp_path), model, datamodule)
        iterations = measure_iterations(model, predictions)
        accuracy = measure_accuracy(predictions)
        assert iterations.image_auroc[-1] == pytest.approx(accuracy.image_auroc)
        assert iterations.pixel_auroc[-1] == pytest.approx(accuracy.pixel_auroc, abs=1e-3)  # before normalisation
        assert len(iterations.image_auroc) == 1 + model.model.max_iterations
        paths = [Path(path) for batch in predictions for path in batch.image_path]
        assert iterations.names == [f"{path.parent.name}/{path.name}" for path in paths]
        assert [name.startswith("good/") for name in iterations.names] == (iterations.label == 0).tolist()
        threshold = model.post_processor.image_threshold.item()
        normalised = torch.cat([batch.pred_score for batch in predictions]).numpy()
        np.testing.assert_allclose(
            iterations.score[:, -1] / (iterations.score[:, -1] + threshold), normalised, rtol=0, atol=1e-4
        )

    def test_an_interruption_leaves_the_model_as_it_was(self) -> None:
        def interrupted(_: torch.Tensor) -> None:
            raise KeyboardInterrupt

        network = SimpleNamespace(max_iterations=3, iterate=interrupted)
        image, nothing = torch.zeros(1, 3, 8, 8), torch.zeros(1)
        batch = SimpleNamespace(image=image, gt_label=nothing, gt_mask=image[:, 0], mask_path=None)
        with pytest.raises(KeyboardInterrupt):
            measure_iterations(SimpleNamespace(model=network, device="cpu"), [batch])
        assert network.max_iterations == 3

    def test_rescued_and_lost_by_hand(self) -> None:
        good = np.tile(np.linspace(0, 1, 21)[:, None], (1, 2))  # the threshold: 0.95
        defective = np.array([[0.5, 2.0], [2.0, 0.5], [2.0, 2.0], [0.5, 0.5]])
        label = np.array([0] * 21 + [1] * 4)
        names = [f"good/{i}" for i in range(21)] + ["won", "lost", "both", "neither"]
        iterations = Iterations(np.zeros(25), label, names, np.concatenate([good, defective]), [0, 0], [0, 0])
        assert iterations.rescued(0, 1) == ["won"]
        assert iterations.rescued(1, 0) == ["lost"]


class TestReport:
    def test_images_that_tell_most_come_first(self) -> None:
        kinds = {"Missed": (1, 0, 6), "False alarms": (0, 1, 5), "Found": (1, 1, 9), "Normal": (0, 0, 7)}
        rows = [(true, told, number / 10 + told) for true, told, count in kinds.values() for number in range(count)]
        true, told, score = (torch.tensor(column) for column in zip(*rows, strict=True))
        batch = ImageBatch(
            image=torch.zeros(len(rows), 3, 8, 8), gt_label=true, pred_label=told.bool(), pred_score=score
        )
        shown = {
            heading: ([round(10 * item.pred_score.item()) for item in items], what)
            for heading, what, items in report.telling_images([batch])
        }
        expected = {
            "Missed": [0, 1, 2, 3],
            "False alarms": [14, 13, 12, 11],
            "Found": [10, 13, 15, 18],
            "Normal": [6, 5, 4, 3],
        }
        assert {heading: scores for heading, (scores, _) in shown.items()} == expected
        for heading, (_, _, count) in kinds.items():
            assert shown[heading][1] == f"4 of {count} {explanations.GROUPS[heading]}."

    def test_tells_what_the_iterations_found_and_lost(self) -> None:
        good = np.tile(np.linspace(0, 1, 21)[:, None], (1, 3))
        defective = np.array([[0.5, 0.5, 2.0], [2.0, 2.0, 0.5]])
        names = [*map(str, range(21)), "won.png", "lost.png"]
        figures = Iterations(
            np.zeros(23), np.array([0] * 21 + [1] * 2), names, np.concatenate([good, defective]), [0.5] * 3, [0.5] * 3
        )
        page = Page("", "")
        report.add_iterations(page, figures)
        found, lost = re.findall(r"<li>1 anomalous images are (.*?)</li>", page.render())
        assert found == "found after the iterations, but not after the initial inpainting alone: won.png"
        assert lost == "found after the initial inpainting alone, but not after the iterations: lost.png"

    def test_page_holds_everything_and_escapes(self) -> None:
        page = Page("A <b> & c", "about")
        figure = Figure()
        figure.subplots().plot([1, 2])
        page.plots([figure])
        page.table([{"x": 1, "y": "<i>"}])
        page.picture(Image.new("RGBA", (300, 4)), "folder/<1>.png")
        page.items(["one", "<two>"])
        text = page.render()
        assert "<figcaption>folder/&lt;1&gt;.png</figcaption>" in text
        assert 'width="240"' in text  # on a screen of usual resolution, so that all pictures have one scale
        assert "<li>one</li><li>&lt;two&gt;</li>" in text
        assert '<meta name="viewport" content="width=device-width' in text  # or a phone would shrink the page
        assert "A &lt;b&gt; &amp; c" in text
        assert "<td>&lt;i&gt;</td>" in text
        assert text.count("data:image/") == 2
        assert "http" not in text

    def test_opens_in_a_browser(
        self,
        trained: tuple[I3AD, Path, Textures],
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        _, checkpoint, datamodule = trained
        out = tmp_path / "report.html"
        named = ["--data.root", str(datamodule.root), "--data.category", "fabric", "--out", str(out)]
        assert report.main(["--model", "I3AD", "--ckpt_path", str(checkpoint), *named]) == 0
        assert "ckpt_path" not in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
        text = out.read_text()
        assert text.count("<img") >= 5 + 8  # plots, and four images of two kinds at least
        assert "The iteration" in text
        accuracy = measure_accuracy(predict(make_engine(default_root_dir=tmp_path / "again"), trained[0], datamodule))
        for figure, count, of in (
            ("found", accuracy.found, accuracy.anomalous), ("false alarms", accuracy.false_alarms, accuracy.normal),
        ):  # fmt: skip
            assert f"<td>{figure}</td><td>{count} of {of}</td>" in text
        assert accuracy.found != accuracy.false_alarms
        assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|@import|https?:""", text)  # one file is all it needs
        for figure, meaning in explanations.FIGURES.items():
            row = re.search(f"<td>{figure}</td><td>[\\d.]+</td><td>{re.escape(html.escape(meaning))}</td>", text)
            assert row is not None
            assert row.start() < text.index(figure) < row.end()  # it is explained where it first appears
        said = "threshold of 0.5. Score 0.5 was set so that 99 % of normal images should score lower, by 2 of them"
        assert text.index("threshold") == text.index(said)
        assert f"<h2>The iteration</h2><p>{html.escape(explanations.ITERATION)}</p>" in text
        for heading, what in explanations.GROUPS.items():
            counted = re.search(f"<h2>{heading}</h2><p>(\\d) of (\\d+) {what}.</p>", text)
            assert (counted is None) == (f"<h2>{heading}</h2>" not in text)
            assert counted is None or int(counted[1]) == min(4, int(counted[2]))
        captions = re.findall("<figcaption>(.*?)</figcaption>", text)
        assert captions
        for caption in captions:
            assert re.fullmatch(r"\w+/\d+\.png: (normal|anomalous), score 0\.\d{3}, threshold 0\.5; .+", caption)
        if chromium is None:
            pytest.skip("the page was written, but there is no Chromium to open it in")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        # the page tells in its title how many of its pictures a browser could draw
        probe = (
            "<script>addEventListener('load', () => { document.title = [...document.images]"
            ".filter(i => i.naturalWidth > 100).length + ' of ' + document.images.length })</script>"
        )
        (tmp_path / "probe.html").write_text(text.replace("</head>", probe + "</head>"))
        command = [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        dom = subprocess.run(
            [*command, (tmp_path / "probe.html").as_uri()], capture_output=True, text=True, check=True, timeout=300
        ).stdout
        count = text.count("<img")
        assert f"<title>{count} of {count}</title>" in dom

    def test_models_that_do_not_iterate(
        self, textures: Textures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Padim(pre_trained=False, visualizer=False)
        model.post_processor = QuantilePostProcessor()
        engine = make_engine(default_root_dir=tmp_path)
        engine.fit(model, datamodule=textures)
        predictions = predict(engine, model, textures)
        rows = {"version": ["0.9.0", "0.10.0", "0.10.0"], "milliseconds": [9, 1, 3], "image_auroc": [0.1, 0.5, 0.75]}
        pd.DataFrame({"model": "A", "category": "01", **rows}).to_csv(tmp_path / "results.csv")
        shown, plot = [], report.plots.accuracy_against_latency
        monkeypatch.setattr(
            report.plots, "accuracy_against_latency", lambda *given: shown.append(given) or plot(*given)
        )
        benchmark = table.read_benchmark(tmp_path / "results.csv")
        report.write_report(model, predictions, "PaDiM", benchmark, tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert "The iteration" not in text
        assert "Beside other models" in text
        assert shown == [(["A 01"], [2.0], [0.625])]  # of the newest version alone
        assert "<figcaption>good/" in text
        assert "The first column" not in text
        assert text.count("<img") >= 3 + 1 + 4

    def test_shows_what_a_model_that_crops_sees(
        self, textures: Textures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = np.zeros((128, 128, 3), np.uint8)
        image[32:96, 32:96] = 200  # what is left of it
        Image.fromarray(image).save(tmp_path / "x.png")
        shown = []
        monkeypatch.setattr(report, "draw_sheet", lambda *_: None)
        monkeypatch.setattr(report, "result_tiles", lambda image, *_: shown.append(image) or ([], None))
        model = Padim(pre_trained=False, visualizer=False, pre_processor=PreProcessor(CROP))
        maps = torch.zeros(32, 32)
        item = ImageItem(
            image=torch.zeros(3, 32, 32), image_path=str(tmp_path / "x.png"), anomaly_map=maps, pred_mask=maps > 0,
            gt_mask=maps > 0,
        )  # fmt: skip
        report.picture_of(model, item)
        assert shown[0].shape == (1, 3, 32, 32)
        assert shown[0].min() > 0.5

    def test_says_before_the_work_that_it_cannot_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setattr(report, "load", lambda *_: pytest.fail("began to work"))
        (tmp_path / "taken").write_text("a file")
        named = ["--model", "I3AD", "--data.root", ".", "--data.category", "x", "--ckpt_path", "model.ckpt"]
        for out, why in ((tmp_path, "is a folder; name a file"), (tmp_path / "taken" / "report.html", "exists")):
            with pytest.raises(SystemExit) as stopped:
                report.main([*named, "--out", str(out)])
            assert stopped.value.code == 2
            told = capsys.readouterr().err
            assert str(tmp_path) in told
            assert why in told

    def test_names_what_is_no_benchmark(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
            table.read_benchmark(tmp_path / "absent.csv")
        for content in ("", "model,milliseconds\nI3AD,3\n", "\x00\xff"):
            (tmp_path / "other.csv").write_text(content)
            with pytest.raises(ValueError, match=r"other\.csv: not the results.csv of a benchmark: .*image_auroc"):
                table.read_benchmark(tmp_path / "other.csv")

    def test_names_what_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        named = ["--data.root", str(tmp_path), "--data.category", "x", "--ckpt_path", str(tmp_path / "no.ckpt")]
        with pytest.raises(SystemExit) as stopped:
            report.main(["--model", "I3AD", *named])
        assert stopped.value.code == 2
        assert "no.ckpt" in capsys.readouterr().err
