"""Is the exported model the trained one? Its engines beside ``Engine.predict``."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.models import AnomalibModule
from rich.progress import track
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.difference import Difference, difference, largest
from anomalib_i3ad.deploy.graph import FP32, OUTPUTS

from .trained import make_trainer

#: Height and width at which some images are compared beside their own.
WIDE = (768, 1024)
#: Of how many images one is compared so.
WIDE_EVERY = 10

#: Takes images ``(1, 3, H, W)`` in [0, 1].
EngineRun = Callable[[np.ndarray], Mapping[Any, np.ndarray]]


def engines_of(model: AnomalibModule, xml: Path, folder: Path) -> dict[str, EngineRun]:
    """Engines that run an exported model; ONNX Runtime among them where it is installed.

    Args:
        model: The trained model.
        xml: Its OpenVINO file.
        folder: Where its ONNX file is written.
    """
    engines: dict[str, EngineRun] = {"OpenVINO": new_core().compile_model(xml, "CPU", FP32)}
    if find_spec("onnxruntime"):
        import onnxruntime  # noqa: PLC0415  # only the extra dev has it

        session = onnxruntime.InferenceSession(model.to_onnx(folder, verbose=False))

        def run(image: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": image}), strict=True))

        engines["ONNX Runtime"] = run
    return engines


def wide_images(dataset: AnomalibDataset) -> list[ImageItem]:
    """Some images of a data set, resized to :data:`WIDE`."""
    items: Any = (dataset[index] for index in range(0, len(dataset), WIDE_EVERY))
    return [ImageItem(image=F.interpolate(item.image[None], WIDE, mode="bilinear")[0]) for item in items]


def differences(model: AnomalibModule, images: Any, engines: Mapping[str, EngineRun]) -> dict[str, Difference]:
    """Run ``Engine.predict`` and engines over images one at a time.

    Args:
        model: The trained model.
        images: Data set or list of items.
        engines: Engines by name.
    """
    # what Engine.predict calls, on the CPU as the engines
    trainer = make_trainer(accelerator="cpu")
    predictions: Any = trainer.predict(model, DataLoader(images, collate_fn=ImageBatch.collate))
    found: dict[str, list[Difference]] = {name: [] for name in engines}
    for index, batch in enumerate(track(predictions, "comparing engines")):
        expected = {name: getattr(batch, name) for name in OUTPUTS}
        image = np.asarray(images[index].image)[None]
        for name, run in engines.items():
            found[name].append(difference(run(image), expected))
    return {name: largest(of_images) for name, of_images in found.items()}
