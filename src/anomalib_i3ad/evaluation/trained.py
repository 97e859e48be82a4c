"""A trained model and its images, as the command line names them."""

from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import yaml
from anomalib.models import AnomalibModule, list_models
from lightning import Trainer

from anomalib_i3ad.data import MVTec
from anomalib_i3ad.post_processing import QuantilePostProcessor


def class_at(path: str) -> Any:
    """The class at a class path, or of anomalib's models if only its name is given."""
    module, name = path.rpartition(".")[::2]
    return getattr(import_module(module or "anomalib.models"), name)


def model_class(path: str) -> type[AnomalibModule]:
    """The class of ``--model``.

    Raises:
        ValueError: If there is no such model.
    """
    try:
        found = class_at(path)
    except (ModuleNotFoundError, AttributeError, TypeError):  # the last of a relative one
        found = None
    is_model = isinstance(found, type) and issubclass(found, AnomalibModule)
    if not is_model:
        msg = f"--model {path}: no such model; there are {', '.join(sorted(list_models('pascal')))}"
        raise ValueError(msg)
    return found


def assignments(items: Sequence[str]) -> list[tuple[str, Any]]:
    """Names and values of arguments written NAME=VALUE, the values in YAML.

    Raises:
        ValueError: If one is written otherwise.
    """
    pairs = []
    for item in items:
        name, equals, value = item.partition("=")
        try:
            pairs.append((name, yaml.safe_load(value)))
        except yaml.YAMLError:
            equals = ""
        if not equals:
            msg = f"{item}: arguments are written NAME=VALUE, the value in YAML"
            raise ValueError(msg)
    return pairs


def make_trainer(**kwargs: Any) -> Trainer:
    """Trainer that writes nothing; anomalib's engine would say of a model that was loaded that it was not."""
    return Trainer(logger=False, enable_checkpointing=False, devices=1, **kwargs)


def images_of(parsed: Namespace) -> MVTec:
    """Datamodule of the images that a command names, which no worker processes read.

    One by one: of several in a batch anomalib would stretch all to the size of the largest.
    """
    split = {name: vars(parsed)[name] for name in ("val_split_ratio", "seed") if name in parsed}
    return MVTec(parsed.root, parsed.category, eval_batch_size=1, num_workers=0, **split)


def load(cls: Any, checkpoint: Path, **kwargs: Any) -> AnomalibModule:
    """Load a trained model, with the thresholds of its checkpoint.

    Args:
        cls: Its class.
        checkpoint: The file.
        **kwargs: Arguments other than the trained ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the class has no such argument, or it is no checkpoint of such a model.
    """
    if not checkpoint.is_file():
        msg = f"--ckpt_path {checkpoint}: there is no such file"
        raise FileNotFoundError(msg)
    arguments = [one.name for one in signature(cls).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    if unknown := kwargs.keys() - set(arguments):  # which Lightning would leave out without a word
        msg = f"{cls.__name__} has no argument {', '.join(sorted(unknown))}; it has {', '.join(arguments)}"
        raise ValueError(msg)
    kwargs |= {"map_location": "cpu", "visualizer": False}
    try:
        model = cls.load_from_checkpoint(checkpoint, **kwargs)
        processor = model.post_processor
        anomalibs = processor and not isinstance(processor, QuantilePostProcessor)
        # a model of anomalib's that the benchmark trained: anomalib's own post-processor would leave scores as they are
        if anomalibs and processor.image_max.isnan() and not processor.image_threshold.isnan():
            model = cls.load_from_checkpoint(checkpoint, post_processor=QuantilePostProcessor(), **kwargs)
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, UnpicklingError, ValueError) as error:
        if isinstance(error, EOFError | UnpicklingError):
            reason = "it is no checkpoint"  # torch's advice on what it cannot unpickle is to trust it
        elif isinstance(error, TypeError):
            reason = f"its arguments are another model's ({str(error).rpartition(' got ')[2]})"
        else:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"--ckpt_path {checkpoint}: cannot be loaded as {cls.__name__}: {reason}"
        raise ValueError(msg) from error
    return model.eval()


def calibrate(model: AnomalibModule, datamodule: MVTec) -> None:
    """Find thresholds anew on validation images; the datamodule resizes its images from then on."""
    make_trainer().validate(model, datamodule=datamodule, verbose=False)
    model.eval()
