"""The one place that touches anomalib's private registries; rooms register their classes when they are imported."""

from collections.abc import Sequence
from types import ModuleType

import anomalib.data
import anomalib.models
from anomalib.pre_processing.utils._transform_registry import TRANSFORM_REGISTRY


def _add(registry: ModuleType, classes: Sequence[type]) -> None:
    for cls in classes:
        setattr(registry, cls.__name__, cls)


def register_models(*classes: type) -> None:
    """Let ``get_model`` take models by name or class path."""
    # anomalib has no entry point for plugins: get_model imports from these modules alone, and finds short names below
    anomalib.models.ALLOWED_MODULES |= {__package__, f"{__package__}.models"}
    _add(anomalib.models, classes)


def register_data(*classes: type) -> None:
    """Let ``get_datamodule`` and the command line take datamodules by name."""
    _add(anomalib.data, classes)  # get_datamodule looks nowhere else


def register_transform(cls: type) -> None:
    """Let checkpoints hold a transform."""
    TRANSFORM_REGISTRY.register(cls)  # checkpoints hold transforms of this list alone, and it has no public name
