"""Accuracy of a trained model on its test images.

    python examples/accuracy.py Riad CHECKPOINT --root DATA --category bottle
    python examples/accuracy.py AnoGan CHECKPOINT --root DATA --category bottle --set inference=search search_steps=100

Prints a row of a Markdown table: image AUROC, pixel AUROC, AU-PRO (false positive rate up to 0.3), image F1, and false
alarms on normal images, the last two at the threshold found from normal validation images. Maps and masks are compared
at the model's input size.
"""

from tempfile import TemporaryDirectory

from common import images, load, make_engine, make_parser

from anomalib_i3ad.evaluation.accuracy import measure_accuracy, predict

HEAD = (
    "| model | category | image AUROC | pixel AUROC | AU-PRO | image F1 | false alarms |\n|---|---|---|---|---|---|---|"
)

arguments = make_parser().parse_args()
with TemporaryDirectory() as folder:
    accuracy = measure_accuracy(predict(make_engine(folder), load(arguments, folder), images(arguments)))
columns = [f"{figure:.3f}" for figure in accuracy[:4]]
name = " ".join([arguments.model, *arguments.set])
row = " | ".join([name, arguments.category, *columns, f"{accuracy.false_alarms}/{accuracy.normal}"])
print(f"{HEAD}\n| {row} |")
