"""One job of a benchmark: a model, a category and a seed."""

import hashlib
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import anomalib.data
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model
from lightning import seed_everything

from anomalib_i3ad import __version__
from anomalib_i3ad.post_processing import QuantilePostProcessor, tested_images

from .accuracy import Accuracy, measure_accuracy, predict
from .cost import Cost, measure_cost
from .trained import class_at, load

logger = logging.getLogger(__name__)
TIMED_IMAGES = 12
#: Note on a row without milliseconds and megabytes.
NOT_TIMED = "could not be timed"


def key_of(job: dict[str, Any]) -> str:
    """Name of a job's folder: the same versions and the same arguments, defaults included, the same key.

    Raises:
        AttributeError: If there is no such model or datamodule in its module.
        ModuleNotFoundError: If there is no such module.
    """
    whole = {
        **job,
        "model": [job["model"]["class_path"], model_arguments(job)],
        "data": [job["data"]["class_path"], defaults_of(data_class(job)) | job["data"]["init_args"]],
        "versions": [__version__, version("anomalib")],
    }
    digest = hashlib.sha256(as_json(whole).encode()).hexdigest()[:8]
    return f"{title_of(job).replace(' ', '-')}-{digest}"


def as_json(value: Any) -> str:
    """JSON with keys in order; what is none of its types, such as a path, as text."""
    return json.dumps(value, sort_keys=True, default=str)


def class_name(part: dict[str, Any]) -> str:
    """Name of a model's or datamodule's class, without its module."""
    return part["class_path"].rsplit(".", 1)[-1]


def title_of(job: dict[str, Any]) -> str:
    """Model, category and seed."""
    return f"{class_name(job['model'])} {category_of(job)} {job['seed']}"


def category_of(job: dict[str, Any]) -> str:
    """Category of a job's images, or the name of their data set."""
    arguments = job["data"]["init_args"]
    return str(arguments.get("category") or arguments.get("name") or class_name(job["data"]))


def model_class(job: dict[str, Any]) -> Any:
    """The class of a job's model."""
    return class_at(job["model"]["class_path"])


def data_class(job: dict[str, Any]) -> Any:
    """The class of a job's datamodule."""
    return getattr(anomalib.data, class_name(job["data"]))  # where anomalib's get_datamodule looks, too


def datamodule_of(job: dict[str, Any]) -> AnomalibDataModule:
    """The datamodule of a job."""
    # get_datamodule would make two numbers of an image_size, whatever the class takes
    return data_class(job)(**job["data"]["init_args"])


def listed(job: dict[str, Any]) -> AnomalibDataModule:
    """The datamodule of a job, downloaded if need be, with its images listed."""
    datamodule = datamodule_of(job)
    datamodule.prepare_data()
    datamodule.setup("test")
    return datamodule


def defaults_of(cls: type) -> dict[str, Any]:
    """Defaults of a class's arguments, and of the arguments that it passes on to its base classes."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = signature(vars(base)["__init__"]).parameters.values()
            found = {one.name: one.default for one in parameters if one.default is not Parameter.empty} | found
            if Parameter.VAR_KEYWORD not in {one.kind for one in parameters}:
                break
    return found


def model_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a job's model, defaults included."""
    return defaults_of(model_class(job)) | arguments_of(job)


def arguments_of(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a job's model; one that draws by a seed of its own takes the job's, unless it is given another."""
    seeded = {"seed": job["seed"]} if "seed" in signature(model_class(job)).parameters else {}
    return seeded | job["model"]["init_args"]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""


def commit() -> str:
    """Commit of the checkout this package runs from, with ``+`` if it was changed; empty if it is none."""
    # an installed package may lie inside the repository of something else, which does not track it
    tracked = _git("ls-files", Path(__file__).name)
    return _git("describe", "--always", "--dirty=+", "--exclude=*") if tracked else ""


def time_job(job: dict[str, Any], checkpoint: Path) -> Cost:
    """Time a model that :func:`run_job` trained.

    Args:
        job: The job.
        checkpoint: The checkpoint that its row names.

    Raises:
        FileNotFoundError: If it is not there.
    """
    if not checkpoint.is_file():
        msg = f"{checkpoint} is no checkpoint: remove the job's row and run it again"
        raise FileNotFoundError(msg)
    return _cost(load(model_class(job), checkpoint), listed(job))


def _cost(model: AnomalibModule, datamodule: AnomalibDataModule) -> Cost:
    paths = [Path(path) for path in datamodule.test_data.samples.image_path]
    return measure_cost(model.cpu().eval(), paths[:: max(1, len(paths) // TIMED_IMAGES)])


def notes_on(accuracy: Accuracy, post_processor: QuantilePostProcessor, tested: int) -> Iterator[str]:
    """What a reader must know to compare a model's figures with others'."""
    if math.isnan(accuracy.pixel_auroc):
        yield "no figures of pixels: no maps, or no true masks"
    if post_processor.image_min < 0 or post_processor.pixel_min < 0:
        yield "scores below 0: normalised by their distance from the lowest of normal images"
    if tested:
        yield f"thresholds come from {tested} test images"


def run_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, test, export and time one model; its checkpoint stays in ``folder``.

    Thresholds of every model come from normal validation images alone, since anomalib's own need defects.

    Returns:
        A row: what was run, its figures, what to know about them (``note``), and with which versions.

    Raises:
        ValueError: If there are no test images.
    """
    seed_everything(job["seed"], workers=True)
    # as arguments: get_model would make omegaconf's lists of those in a dictionary, and no checkpoint of them is loaded
    model = get_model({"class_path": job["model"]["class_path"]}, **arguments_of(job))
    model.post_processor = post_processor = QuantilePostProcessor()
    model.visualizer = model.evaluator = None
    datamodule = listed(job)
    if not len(datamodule.test_data):
        msg = f"{class_name(job['data'])} has no test images: see its test_split_mode"
        raise ValueError(msg)
    engine = Engine(default_root_dir=folder, logger=False, **job["trainer"])
    start = time.perf_counter()
    engine.fit(model, datamodule=datamodule)
    engine.validate(model, datamodule=datamodule, verbose=False)  # calibrates, whatever the schedule of validation was
    fitted = time.perf_counter()
    # not the engine's predict, which says of a model that was trained that its weights are not loaded
    predictions: Any = predict(engine.trainer, model, datamodule)
    accuracy = measure_accuracy(predictions)
    notes = list(notes_on(accuracy, post_processor, tested_images(datamodule)))
    try:
        cost = _cost(model, datamodule)
    except Exception:  # training is not lost by it
        logger.exception("%s cannot be timed; --time-again tries once more", title_of(job))
        cost = Cost(math.nan, math.nan)
        notes.append(NOT_TIMED)
    return {
        "key": key_of(job),
        "model": class_name(job["model"]),
        "category": category_of(job),
        "seed": job["seed"],
        **accuracy._asdict(),
        **cost._asdict(),
        "fit_seconds": round(fitted - start, 1),
        "model_args": as_json(model_arguments(job)),
        "trainer": as_json(job["trainer"]),
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
        "commit": commit(),
        **{name: version(name) for name in ("torch", "anomalib", "openvino")},
        "version": __version__,
        "checkpoint": os.path.relpath(engine.best_model_path, folder.parent) if engine.best_model_path else "",
        "note": "; ".join(notes),
    }
