"""A benchmark's configuration, and the jobs that it asks for.

It is anomalib's, or a list of such sections, with ``grid:`` lists anywhere and optional trainer arguments. A section
may name a configuration of ``train``, relative to its own file, and say what differs from it::

    accelerator: cpu
    benchmark:
      - config: ../feature_i3ad.yaml
        model: { init_args: { width: 16 } }
        data: { init_args: { category: { grid: [bottle, screw] } } }
        seed: { grid: [0, 1] }
      - model: { class_path: Padim }
        data: { class_path: MVTec }
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .jobs import as_json, class_name

PARTS = ("model", "data", "trainer")
OWN_TRAINER_ARGUMENTS = ("default_root_dir", "logger")


def read_jobs(path: Path) -> list[dict[str, Any]]:
    """Jobs of a benchmark's configuration file; see :func:`jobs_of`.

    Raises:
        OSError: If the file cannot be read.
        yaml.YAMLError: If it is no YAML; it says where.
        ValueError: If it asks for no job.
    """
    jobs = jobs_of(_read(path), path.parent)
    if not jobs:
        msg = "benchmark: asks for no job; a list is empty"
        raise ValueError(msg)
    return jobs


def jobs_of(config: Any, folder: Path = Path()) -> list[dict[str, Any]]:
    """Jobs of a benchmark's configuration.

    The jobs of one data set follow each other within a section. Where ``accelerator`` is a list, as anomalib has it,
    every job runs on each of them.

    Args:
        config: What the configuration's file holds.
        folder: Folder that ``config:`` entries are relative to.

    Raises:
        ValueError: If something is missing or unknown; it says what.
        FileNotFoundError: If there is no such file as a ``config:`` names.
    """
    config = config if isinstance(config, dict) else {}
    given = config.get("benchmark")
    if unknown := set(config) - {"accelerator", "benchmark"}:
        msg = f"{', '.join(map(str, unknown))}: unknown; beside benchmark there may be accelerator"
        raise ValueError(msg)
    if isinstance(given, list):
        return [job for section in given for job in jobs_of({**config, "benchmark": section}, folder)]
    named = set(given) if isinstance(given, dict) else set()
    if not ("config" in named or {"model", "data"} <= named) or named - {"config", "seed", *PARTS}:
        msg = f"benchmark: wants model and data, or config, and may have seed and trainer; it has {given}"
        raise ValueError(msg)
    accelerator = config.get("accelerator", "auto")
    usual = {"accelerator": {"grid": accelerator} if isinstance(accelerator, list) else accelerator}
    jobs = [
        job
        for section in (with_reference(section, folder) for section in expand(given))
        for job in expand({"seed": 0, **section, "trainer": usual | _trainer_of(section)})
    ]
    for job in jobs:
        if type(job["seed"]) is not int:
            msg = f"seed: wants a whole number, or grid: with a list of them, not {job['seed']}"
            raise ValueError(msg)
        for part in ("model", "data"):
            job[part] = _class_and_arguments(part, job.get(part))
    return sorted(jobs, key=lambda job: as_json(job["data"]))


def expand(config: Any) -> Iterator[Any]:
    """Every choice of the ``grid:`` lists in a configuration.

    Raises:
        ValueError: If one is no list.
    """
    if isinstance(config, dict) and set(config) == {"grid"}:
        if not isinstance(config["grid"], list):
            msg = f"grid: wants a list, not {config['grid']}"
            raise ValueError(msg)
        for choice in config["grid"]:
            yield from expand(choice)
    elif isinstance(config, dict):
        for values in itertools.product(*map(list, map(expand, config.values()))):
            yield dict(zip(config, values, strict=True))
    else:
        yield config


def with_reference(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A section, over model, data and trainer of the configuration that it names, if it names one.

    Raises:
        FileNotFoundError: If it names a file that is not there.
        ValueError: If that file has no model.
    """
    settings = dict(section)
    name = settings.pop("config", None)
    if name is None:
        return settings
    path = folder / str(name)
    if not path.is_file():
        msg = f"config: {name}: there is no file {path}"
        raise FileNotFoundError(msg)
    reference = _read(path)
    if not isinstance(reference, dict) or not _has_class(reference.get("model")):
        msg = f"config: {name}: {path} has no model with a class_path"
        raise ValueError(msg)
    return merged({part: reference[part] for part in PARTS if part in reference}, settings)


def merged(settings: Any, changes: Any) -> Any:
    """Settings with changes to single entries; where these name another class, they stand alone."""
    if not (isinstance(settings, dict) and isinstance(changes, dict)):
        return changes
    if _has_class(changes) and _has_class(settings) and class_name(changes) != class_name(settings):
        return changes
    return settings | {name: merged(settings.get(name), value) for name, value in changes.items()}


def _read(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:  # of which an error then tells the name
        return yaml.safe_load(file)


def _has_class(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("class_path"), str)


def _class_and_arguments(part: str, given: Any) -> dict[str, Any]:
    if not _has_class(given):
        msg = f"{part}: {given} has no class_path"
        raise ValueError(msg)
    arguments = given.get("init_args") or {}
    named = isinstance(arguments, dict) and all(isinstance(name, str) for name in arguments)
    if not named or set(given) - {"class_path", "init_args"}:
        msg = f"{part}: wants class_path and init_args, names with their values; it has {given}"
        raise ValueError(msg)
    return {"class_path": given["class_path"], "init_args": arguments}


def _trainer_of(section: dict[str, Any]) -> dict[str, Any]:
    given = section.get("trainer") or {}
    if not isinstance(given, dict) or given.keys() & OWN_TRAINER_ARGUMENTS:
        own = " and ".join(OWN_TRAINER_ARGUMENTS)
        msg = f"trainer: wants names with their values, {own} are the benchmark's; it has {given}"
        raise ValueError(msg)
    return given
