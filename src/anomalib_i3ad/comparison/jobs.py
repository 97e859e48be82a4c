"""One job of a benchmark: a model, a category and a seed."""

import hashlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model
from lightning import seed_everything

from anomalib_i3ad.post_processing import QuantilePostProcessor

from .accuracy import measure_accuracy, predict
from .cost import Cost, measure_cost

TIMED_IMAGES = 12
KEYS = {"seed", "model", "data", "trainer"}


def expand(config: Any) -> Iterator[Any]:
    """Every choice of the ``grid:`` lists in a configuration."""
    if isinstance(config, dict) and set(config) == {"grid"}:
        for choice in config["grid"]:
            yield from expand(choice)
    elif isinstance(config, dict):
        for values in itertools.product(*map(list, map(expand, config.values()))):
            yield dict(zip(config, values, strict=True))
    else:
        yield config


def jobs_of(config: Any) -> list[dict[str, Any]]:
    """Jobs of a benchmark's configuration, in anomalib's form or a list of such sections.

    The jobs of one data set follow each other within a section. Where ``accelerator`` is a list, as anomalib has it,
    every job runs on each of them.

    Raises:
        ValueError: If something is missing or unknown; it says what.
    """
    given = config.get("benchmark") if isinstance(config, dict) else None
    if isinstance(given, list):
        return [job for section in given for job in jobs_of({**config, "benchmark": section})]
    if not isinstance(given, dict) or not {"model", "data"} <= set(given) <= KEYS:
        msg = f"benchmark: wants model and data, and may have seed and trainer; it has {given}"
        raise ValueError(msg)
    accelerator = config.get("accelerator", "auto")
    usual = {"accelerator": {"grid": accelerator} if isinstance(accelerator, list) else accelerator}
    jobs = [
        job
        for section in expand(given)
        for job in expand({"seed": 0, **section, "trainer": usual | (section.get("trainer") or {})})
    ]
    for job in jobs:
        for part in ("model", "data"):
            if not isinstance(job[part], dict) or "class_path" not in job[part]:
                msg = f"{part}: {job[part]} has no class_path"
                raise ValueError(msg)
    return sorted(jobs, key=lambda job: json.dumps(job["data"], sort_keys=True))


def key_of(job: dict[str, Any]) -> str:
    """Name of a job's folder: the same configuration, the same key."""
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
    return f"{title_of(job).replace(' ', '-')}-{digest}"


def class_name(part: dict[str, Any]) -> str:
    """Name of a model's or datamodule's class, without its module."""
    return part["class_path"].rsplit(".", 1)[-1]


def title_of(job: dict[str, Any]) -> str:
    """Model, category and seed."""
    return f"{class_name(job['model'])} {category_of(job)} {job['seed']}"


def category_of(job: dict[str, Any]) -> str:
    """Category of a job's images, or the name of their data set."""
    return str(job["data"].get("init_args", {}).get("category", class_name(job["data"])))


def model_class(job: dict[str, Any]) -> Any:
    """The class of a job's model."""
    module, name = job["model"]["class_path"].rpartition(".")[::2]
    return getattr(import_module(module or "anomalib.models"), name)


def arguments_of(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a job's model; one that draws by a seed of its own takes the job's, unless it is given another."""
    seeded = {"seed": job["seed"]} if "seed" in signature(model_class(job)).parameters else {}
    return seeded | job["model"].get("init_args", {})


def commit() -> str:
    """Commit of the checkout this package runs from, with ``+`` if it was changed; empty if it is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()


def time_job(job: dict[str, Any], folder: Path) -> Cost:
    """Time a model that :func:`run_job` trained into ``folder``.

    Raises:
        FileNotFoundError: If its checkpoint is not there.
    """
    checkpoint = next(folder.rglob("*.ckpt"), None)
    if checkpoint is None:
        msg = f"{folder} holds no checkpoint: remove the job's row and run it again"
        raise FileNotFoundError(msg)
    datamodule = get_datamodule(job["data"])
    datamodule.prepare_data()
    datamodule.setup("test")
    return _cost(model_class(job).load_from_checkpoint(checkpoint, map_location="cpu"), datamodule)


def _cost(model: AnomalibModule, datamodule: AnomalibDataModule) -> Cost:
    paths = [Path(path) for path in datamodule.test_data.samples.image_path]
    return measure_cost(model.cpu().eval(), paths[:: max(1, len(paths) // TIMED_IMAGES)])


def run_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, test, export and time one model; its checkpoint stays in ``folder``.

    Thresholds of every model come from normal validation images alone, since anomalib's own need defects.

    Returns:
        A row: what was run, its figures, and with which versions.
    """
    seed_everything(job["seed"], workers=True)
    # as arguments: get_model would make omegaconf's lists of those in a dictionary, and no checkpoint of them is loaded
    model = get_model({"class_path": job["model"]["class_path"]}, **arguments_of(job))
    model.post_processor, model.visualizer, model.evaluator = QuantilePostProcessor(), None, None
    datamodule = get_datamodule(job["data"])
    engine = Engine(default_root_dir=folder, logger=False, **job["trainer"])
    start = time.perf_counter()
    engine.fit(model, datamodule=datamodule)
    engine.validate(model, datamodule=datamodule, verbose=False)  # calibrates, whatever the schedule of validation was
    fitted = time.perf_counter()
    predictions: Any = predict(engine, model, datamodule)
    accuracy = measure_accuracy(predictions)
    return {
        "key": key_of(job),
        "model": class_name(job["model"]),
        "category": category_of(job),
        "seed": job["seed"],
        **accuracy._asdict(),
        **_cost(model, datamodule)._asdict(),
        "fit_seconds": round(fitted - start, 1),
        "model_args": json.dumps(arguments_of(job), sort_keys=True),
        "trainer": json.dumps(job["trainer"], sort_keys=True),
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
        "commit": commit(),
        **{name: version(name) for name in ("torch", "anomalib", "openvino")},
    }
