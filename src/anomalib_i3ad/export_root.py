"""Where anomalib's engine exports our models if no folder is named: beside the checkpoint they come from."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from anomalib.engine import Engine

from .models.base import ReconstructionMixin

#: Where a run's folder holds its checkpoints.
CHECKPOINTS = ("weights", "lightning")


def run_folder(checkpoint: Path) -> Path:
    """Folder of the run that wrote a checkpoint; the checkpoint's own if it lies elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parents[1] if folder.parts[-2:] == CHECKPOINTS else folder


def beside_checkpoints(export: Callable[..., Path | None]) -> Callable[..., Path | None]:
    """``Engine.export`` with another default of ``export_root`` for our models: the folder of the checkpoint's run.

    anomalib's is the engine's root folder, one for all models and categories when a checkpoint is exported. A model
    is not told whether a folder was named, so that it cannot choose one itself.
    """
    parameters = signature(export)

    @wraps(export)
    def export_beside(*args: Any, **kwargs: Any) -> Path | None:
        bound = parameters.bind(*args, **kwargs)
        given = bound.arguments
        if not given.get("export_root") and given.get("ckpt_path") and isinstance(given["model"], ReconstructionMixin):
            given["export_root"] = run_folder(Path(given["ckpt_path"]))
        return export(*bound.args, **bound.kwargs)

    return export_beside


Engine.export = beside_checkpoints(Engine.export)  # type: ignore[method-assign]
