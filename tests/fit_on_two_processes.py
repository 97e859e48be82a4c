"""Run by test_distributed.py: fit on two processes and print what each of them ends with."""

import sys
from functools import partial
from pathlib import Path

import torch

from anomalib_i3ad import I3AD, FeatureI3AD, Textures
from anomalib_i3ad.models.feature_i3ad.memory import Memory
from model_tester import make_engine

if __name__ == "__main__":
    root, out, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    models = {
        "I3AD": partial(I3AD, image_size=64, width=4, adversarial_weight=1.0, learning_rate=1e-2),
        "FeatureI3AD": partial(FeatureI3AD, image_size=96, width=4, initial_grid=2, learning_rate=1e-2),
    }
    model = models[name]()
    candidates: list[int] = []
    set_cells = Memory.set_cells
    Memory.set_cells = lambda own, cells: candidates.append(len(cells)) or set_cells(own, cells)
    datamodule = Textures(root, image_size=64, train_count=12, test_count=7, train_batch_size=3, num_workers=0)
    make_engine(devices=2, strategy="ddp", precision="bf16-mixed", default_root_dir=out).fit(
        model, datamodule=datamodule
    )
    weights = sum(parameter.double().sum().item() for parameter in model.parameters())
    calibrated = (
        model.model.mask_threshold,
        model.post_processor.image_threshold,
        model.post_processor.pixel_threshold,
    )
    remembered_of = getattr(model.model, "memory", None) and candidates[-1]
    mean = getattr(model.model, "mean", torch.zeros(1)).abs().mean().item()
    numbers = [model.train_step, weights, mean, remembered_of, *(value.item() for value in calibrated)]
    # in one piece: print writes its arguments one by one, and those of the two processes mix
    sys.stdout.write(f"RESULT {' '.join(map(repr, numbers))}\n")
