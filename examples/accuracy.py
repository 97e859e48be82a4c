"""How good is a trained model on the test images?

    python examples/accuracy.py Riad CHECKPOINT --root DATA --category bottle
    python examples/accuracy.py AnoGan CHECKPOINT --root DATA --category bottle --set inference=search search_steps=100

Prints a row of a Markdown table: image AUROC, pixel AUROC, AU-PRO (false positive rate up to 0.3), image F1, and false
alarms on good images, the last two at the threshold found from normal validation images. Maps and masks are compared
at the model's input size.
"""

from tempfile import TemporaryDirectory

from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Score
from common import images, load, make_engine, make_parser

HEAD = (
    "| model | category | image AUROC | pixel AUROC | AU-PRO | image F1 | false alarms |\n|---|---|---|---|---|---|---|"
)

arguments = make_parser().parse_args()
pixels = ["anomaly_map", "gt_mask"]
evaluator = Evaluator(
    test_metrics=[
        AUROC(["pred_score", "gt_label"], prefix="image_"),
        AUROC(pixels, prefix="pixel_"),
        AUPRO(pixels, prefix="pixel_"),
        F1Score(["pred_label", "gt_label"], prefix="image_"),
    ]
)
with TemporaryDirectory() as folder:
    model = load(arguments, folder)
    model.evaluator = evaluator
    datamodule = images(arguments)
    (values,) = make_engine(folder).test(model, datamodule=datamodule, verbose=False)
    predictions = make_engine(folder).predict(model, dataloaders=datamodule.test_dataloader())
good = [label for batch in predictions for label in batch.pred_label[batch.gt_label == 0].tolist()]
name = " ".join([arguments.model, *arguments.set])
columns = [values[key] for key in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO", "image_F1Score")]
row = " | ".join([name, arguments.category, *(f"{value:.3f}" for value in columns), f"{sum(good)}/{len(good)}"])
print(f"{HEAD}\n| {row} |")
