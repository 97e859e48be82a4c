"""The configurations in configs/."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Trainer

from anomalib_i3ad.evaluation.configuration import expand, read_jobs
from anomalib_i3ad.evaluation.jobs import arguments_of, data_class, datamodule_of, defaults_of, model_class

CONFIGS = Path(__file__).parents[1] / "configs"
BENCHMARKS = pytest.mark.parametrize("path", sorted((CONFIGS / "benchmark").glob("*.yaml")), ids=lambda path: path.stem)
#: Defaults that may be named, since a user puts something else in their place.
EDITED = {"root", "category"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def repeated_or_unknown(given: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    return [name for name in given if name not in defaults or (defaults[name] == given[name] and name not in EDITED)]


def test_a_repeated_default_and_an_unknown_argument_are_found() -> None:
    defaults = {"width": 4, "root": "x"}
    assert repeated_or_unknown({"width": 4, "root": "x", "widht": 5}, defaults) == ["width", "widht"]
    assert repeated_or_unknown({"width": 5, "root": "y"}, defaults) == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_says_only_what_differs_from_the_defaults(path: Path) -> None:
    config = read(path)
    for part, cls in (("model", model_class(config)), ("data", data_class(config))):
        assert repeated_or_unknown(config[part].get("init_args", {}), defaults_of(cls)) == []
    assert repeated_or_unknown(config.get("trainer", {}), defaults_of(Trainer)) == []


@BENCHMARKS
def test_a_benchmark_refers_to_configurations_and_repeats_none(path: Path) -> None:
    for section in read(path)["benchmark"]:
        model = section.get("model", {})
        assert "anomalib_i3ad" not in str(model)  # this plugin's methods have files of their own
        for reference in expand(section.get("config", {"grid": []})):
            named = read(path.parent / reference)
            settings = defaults_of(model_class(named)) | named["model"].get("init_args", {})
            assert repeated_or_unknown(model.get("init_args", {}), settings) == []


@BENCHMARKS
def test_jobs_of_a_benchmark_can_be_built(path: Path) -> None:
    built = set()
    for job in read_jobs(path):
        datamodule_of(job)
        signature(Trainer).bind(**job["trainer"])
        cls, arguments = model_class(job), arguments_of(job)
        signature(cls).bind(**arguments)
        if cls.__module__.startswith("anomalib_i3ad") and (described := f"{cls} {arguments}") not in built:
            cls(**arguments)  # anomalib's own models would download ImageNet weights
            built.add(described)
    assert built


def test_methods_on_mvtec_run_as_their_files_have_them() -> None:
    jobs = read_jobs(CONFIGS / "benchmark" / "mvtec.yaml")
    for name in ("feature_i3ad", "i3ad", "ssim_ae", "riad", "ano_gan"):
        config = read(CONFIGS / f"{name}.yaml")
        own = [job for job in jobs if job["model"] == {"init_args": {}, **config["model"]}]
        assert {job["data"]["init_args"]["category"] for job in own} == {
            "bottle",
            "grid",
            "hazelnut",
            "leather",
            "screw",
        }
        for job in own:
            assert job["trainer"] == {"accelerator": "cuda", **config.get("trainer", {})}
            images = {**config["data"]["init_args"], "category": job["data"]["init_args"]["category"]}
            assert job["data"] == {**config["data"], "init_args": images}
    assert [job["model"] for job in jobs if job["model"]["init_args"].get("loss") == "l2"]
