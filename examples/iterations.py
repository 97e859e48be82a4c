"""What each pass of the iteration buys: accuracy of a trained I3AD after 0, 1, 2, ... passes.

    python examples/iterations.py CHECKPOINT --root DATA --category bottle

Prints a Markdown table: image AUROC by mean and by max of the map, pixel AUROC and AU-PRO (false
positive rate up to 0.3), for the SSIM and the L2 residual as score, of the last map and of the mean over passes;
then how many passes normal and defective images used. Metrics are computed at the model's input size.
"""

from argparse import ArgumentParser
from collections import Counter

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC
from rich.progress import track

from anomalib_i3ad import I3AD, MVTec
from anomalib_i3ad.components.residuals import RESIDUALS, build_residual

parser = ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("--root", default="./datasets/MVTecAD")
parser.add_argument("--category", default="bottle")
parser.add_argument("--passes", type=int, nargs="+", default=[0, 1, 2, 4, 8])
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
arguments = parser.parse_args()

model = I3AD.load_from_checkpoint(
    arguments.checkpoint, map_location=arguments.device, max_iterations=max(arguments.passes)
).eval()
# one at a time: in a batch, images that are done drop out of what is drawn
datamodule = MVTec(root=arguments.root, category=arguments.category, eval_batch_size=1, num_workers=0)
datamodule.prepare_data()
datamodule.setup()
drawn: list[torch.Tensor] = []
inpaint = model.model.generator.inpaint


def recorded(image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Inpaint, and keep what was drawn."""
    drawn.append(inpaint(image, hole))
    return drawn[-1]


model.model.generator.inpaint = recorded
residuals = {name: build_residual(name).to(arguments.device) for name in RESIDUALS}

maps: dict[tuple[int, str, str], list[torch.Tensor]] = {}
labels, masks, used = [], [], []
for batch in track(datamodule.test_dataloader(), "scoring"):
    image, mask = model.pre_processor.transform(batch.image, batch.gt_mask)
    image = image.as_subclass(torch.Tensor).to(arguments.device)
    labels.append(batch.gt_label)
    masks.append(mask)
    drawn.clear()
    with torch.no_grad():
        result = model.model.iterate(image)
        inpainting = model.model.first_inpainting(image)
        totals = dict.fromkeys(residuals, 0)
        for n in range(max(arguments.passes) + 1):
            moved = (result.passes >= n)[:, None, None, None]
            if 0 < n <= len(drawn):
                inpainting = torch.where(moved, drawn[n - 1], inpainting)
            for name, residual in residuals.items():
                last = residual(image, inpainting)
                totals[name] = totals[name] + moved * last
                if n in arguments.passes:
                    mean = totals[name] / (1 + result.passes.clamp(max=n))[:, None, None, None]
                    maps.setdefault((n, name, "last"), []).append(last.cpu())
                    maps.setdefault((n, name, "mean"), []).append(mean.cpu())
    used.append(result.passes.cpu())

label, mask, passes = torch.cat(labels), torch.cat(masks), torch.cat(used).int()
print(f"\n{arguments.checkpoint} on {arguments.category}: u = {model.model.mask_threshold.item():.4f}\n")
print("| passes | score | map | image AUROC, mean | image AUROC, max | pixel AUROC | AU-PRO |")
print("|---|---|---|---|---|---|---|")
for (n, name, kind), parts in maps.items():
    anomaly_map = torch.cat(parts)

    flat = anomaly_map.flatten(1)
    row = []
    for metric, score in (
        (AUROC(fields=["pred_score", "gt_label"]), flat.mean(dim=1)),
        (AUROC(fields=["pred_score", "gt_label"]), flat.amax(dim=1)),
        (AUROC(fields=["anomaly_map", "gt_mask"]), None),
        (AUPRO(fields=["anomaly_map", "gt_mask"]), None),
    ):
        metric.update(
            ImageBatch(
                image=anomaly_map.expand(-1, 3, -1, -1),
                pred_score=score,
                gt_label=label,
                anomaly_map=anomaly_map,
                gt_mask=mask,
            )
        )
        row.append(metric.compute().item())
    print(f"| {n} | {name} | {kind} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
for kind, chosen in (("normal", label == 0), ("defective", label == 1)):
    print(f"\npasses used on {kind} images: {dict(sorted(Counter(passes[chosen].tolist()).items()))}")
