"""The one place that touches anomalib's private registries."""

import anomalib.data
import anomalib.models
import pandas as pd
from anomalib.pipelines.benchmark.job import BenchmarkJob
from anomalib.pre_processing.utils._transform_registry import TRANSFORM_REGISTRY

from . import data, models, pre_processing


def register() -> None:
    """Make the plugin known to anomalib; done on import, harmless when repeated.

    ``get_model``, ``get_datamodule`` and ``anomalib benchmark`` then take this package's classes by
    name or class path, and checkpoints can hold its transforms.
    """
    anomalib.models.ALLOWED_MODULES |= {__package__, models.__name__}
    for module, names in ((anomalib.models, models), (anomalib.data, data)):
        for name in names.__all__:
            setattr(module, name, getattr(names, name))
    TRANSFORM_REGISTRY.register(pre_processing.AntialiasedResize)
    # anomalib 2.7 fails, and loses every result, where the models compared have different init_args
    setattr(BenchmarkJob, "collect", staticmethod(pd.DataFrame))  # noqa: B010
