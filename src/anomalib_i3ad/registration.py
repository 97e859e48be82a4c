"""The one place that touches anomalib's private registries; rooms register their classes when they are imported.

Nothing here imports anomalib by itself: the package is also imported where there is none.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: What is imported right after a module of anomalib's: rooms, whose classes become known to it, a folder for its
#: exports, and a hook for errors, which must come after that of anomalib's command.
FOLLOWERS = {
    "anomalib.models": "models",
    "anomalib.data": "data",
    "anomalib.engine": "export_root",
    "anomalib.cli.cli": "errors",
}


def import_room(name: str) -> None:
    """Import a module of this package that needs anomalib.

    Raises:
        ModuleNotFoundError: If something is missing that the extra ``train`` installs.
    """
    try:
        import_module(f"{__package__}.{name}")
    except ModuleNotFoundError as error:
        msg = f'{error.name} is not installed: pip install "anomalib-i3ad[train]"'
        raise ModuleNotFoundError(msg, name=error.name) from None


def _add(registry: ModuleType, classes: Sequence[type]) -> None:
    for cls in classes:
        setattr(registry, cls.__name__, cls)


def register_models(*classes: type) -> None:
    """Let ``get_model`` take models by name or class path."""
    models: Any = import_module("anomalib.models")
    # anomalib has no entry point for plugins: get_model imports from these modules alone, and finds short names below
    models.ALLOWED_MODULES |= {__package__, f"{__package__}.models"}
    _add(models, classes)


def register_data(*classes: type) -> None:
    """Let ``get_datamodule`` and the command line take datamodules by name."""
    _add(import_module("anomalib.data"), classes)  # get_datamodule looks nowhere else


def register_transform(cls: type) -> None:
    """Let checkpoints hold a transform."""
    from anomalib.pre_processing.utils._transform_registry import TRANSFORM_REGISTRY  # noqa: PLC0415

    TRANSFORM_REGISTRY.register(cls)  # checkpoints hold transforms of this list alone, and it has no public name


class _Follower:
    """Finder on ``sys.meta_path`` that has what follows a module imported right after it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in FOLLOWERS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_follow(module: ModuleType) -> None:
                execute(module)
                import_room(FOLLOWERS[name])

            loader.exec_module = execute_and_follow
        return spec


def follow_anomalib() -> None:
    """Import what follows modules of anomalib's as soon as they are imported, or at once where they are already."""
    sys.meta_path.insert(0, _Follower)
    for name, follower in FOLLOWERS.items():
        if name in sys.modules:
            import_room(follower)
