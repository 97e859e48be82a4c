"""How good is a trained model on the test images?

    python examples/accuracy.py Riad CHECKPOINT --root DATA --category bottle
    python examples/accuracy.py AnoGan CHECKPOINT --root DATA --category bottle --set inference=search search_steps=100

Prints a row of a Markdown table: image AUROC, pixel AUROC, AU-PRO (false positive rate up to 0.3), image F1, and false
alarms on good images, the last two at the threshold found from normal validation images. Maps and masks are compared
at the model's input size.
"""

from tempfile import TemporaryDirectory

from anomalib.metrics import AUPRO, AUROC, F1Score
from common import images, load, make_engine, make_parser

HEAD = (
    "| model | category | image AUROC | pixel AUROC | AU-PRO | image F1 | false alarms |\n|---|---|---|---|---|---|---|"
)

arguments = make_parser().parse_args()
pixels = ["anomaly_map", "gt_mask"]
metrics = [
    AUROC(["pred_score", "gt_label"]),
    AUROC(pixels),
    AUPRO(pixels),
    F1Score(["pred_label", "gt_label"]),
]
with TemporaryDirectory() as folder:
    datamodule = images(arguments)
    datamodule.setup()
    predictions = make_engine(folder).predict(load(arguments, folder), dataloaders=datamodule.test_dataloader())
for metric in metrics:
    for batch in predictions:
        metric.update(batch)
good = [label for batch in predictions for label in batch.pred_label[batch.gt_label == 0].tolist()]
name = " ".join([arguments.model, *arguments.set])
columns = [f"{metric.compute().item():.3f}" for metric in metrics]
row = " | ".join([name, arguments.category, *columns, f"{sum(good)}/{len(good)}"])
print(f"{HEAD}\n| {row} |")
