"""Which residuals should mask and score? Decided without a test set.

    python examples/ablation.py I3AD CHECKPOINT --root DATA --category bottle

Draws defects into the held-out normal training images, thin cracks among them, runs a trained generator with every
choice of mask and score over both, and prints a Markdown table: image AUROC by the model's own image score, and pixel
AUROC, of the last map and of the mean over passes, for 0 to 4 passes. Needs the extra ``features``. Drawn defects are
not real ones, and the good images are those that u is found on: the table ranks, and promises nothing.
"""

import itertools
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import images, load, make_parser
from rich.progress import track
from sklearn.metrics import roc_auc_score

from anomalib_i3ad.components.film import maps_by_pass
from anomalib_i3ad.data.defects import DEFECTS, crack
from anomalib_i3ad.models.i3ad.torch_model import I3ADModel

DEFECTIVE, WEAKEST, QUANTILE = 60, 0.35, 0.97
LAYERS = ("blocks.2", "blocks.4")
CHOICES = ("ssim", "features", ["ssim", "features"])
LIMITS = (0, 1, 2, 4)

arguments = make_parser().parse_args()
with TemporaryDirectory() as folder:
    trained: Any = load(arguments, folder)
datamodule = images(arguments)
datamodule.prepare_data()
datamodule.setup("fit")
batches = list(datamodule.val_dataloader())
normal = torch.cat([trained.pre_processor(batch.image.as_subclass(torch.Tensor)) for batch in batches])

rng, kinds = np.random.default_rng(0), itertools.cycle([*DEFECTS.values(), crack])
drawn, masks = [], []
for picture, defect in zip(itertools.cycle(normal), itertools.islice(kinds, DEFECTIVE), strict=False):
    good = picture.permute(1, 2, 0).double().numpy()
    bad, mask = defect(good, rng)
    strength = rng.uniform(WEAKEST, 1)
    drawn.append(torch.from_numpy((1 - strength) * good + strength * bad).float().permute(2, 0, 1))
    masks.append(torch.from_numpy(mask > 0))
every = torch.cat([normal, torch.stack(drawn)])
mask = torch.cat([torch.zeros(len(normal), *normal.shape[-2:], dtype=torch.bool), torch.stack(masks)]).flatten().numpy()
label = [0] * len(normal) + [1] * DEFECTIVE

print("| mask | score | passes | last: image AUROC | pixel AUROC | mean: image AUROC | pixel AUROC |")
print("|---|---|---|---|---|---|---|")
for of_mask, of_score in itertools.product(CHOICES, CHOICES[:2]):
    model = I3ADModel(mask_residual=of_mask, score_residual=of_score, layers=LAYERS, max_iterations=max(LIMITS)).eval()
    model.generator = trained.model.generator
    model.initial_grid = trained.model.initial_grid
    model.load_pretrained()
    with torch.no_grad():
        first = torch.cat([model.first_residuals(image) for image in normal.split(8)])
        for k in range(first.shape[1]):
            model.mask_threshold[k] = float(np.quantile(first[:, k].numpy(), QUANTILE))
        films = [model.film(image) for image in track(every.split(1), transient=True)]
    by_pass = [torch.stack([maps_by_pass(film, max(LIMITS), kind) for film in films]) for kind in ("last", "mean")]
    for limit in LIMITS:
        cells = []
        for maps in by_pass:
            cells.append(roc_auc_score(label, trained.model.image_score(maps[:, limit]).numpy()))
            cells.append(roc_auc_score(mask, maps[:, limit].flatten().numpy()))
        mask_name = of_mask if isinstance(of_mask, str) else " or ".join(of_mask)
        print(
            f"| {mask_name} | {of_score} | {limit} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True
        )
