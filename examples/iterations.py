"""What each iteration buys: accuracy of a trained model after 0, 1, 2, ... iterations.

    python examples/iterations.py FeatureI3AD CHECKPOINT --root DATA --category bottle --set max_iterations=8

Prints a Markdown table: image and pixel AUROC if the iteration ended after so many iterations, anomalous images
that each one found and lost at the threshold that 5 % of the normal ones exceed, and how many iterations normal and
anomalous images used. Metrics are computed at the model's input size.
"""

from collections import Counter
from tempfile import TemporaryDirectory

from common import images, load, make_engine, make_parser

from anomalib_i3ad.evaluation.accuracy import predict
from anomalib_i3ad.evaluation.iterations import measure_iterations

arguments = make_parser().parse_args()
with TemporaryDirectory() as folder:
    model = load(arguments, folder)
    predictions = predict(make_engine(folder), model, images(arguments))
    iterations = measure_iterations(model.cpu(), predictions)
print("| iterations | image AUROC | pixel AUROC | found | won | lost |")
print("|---|---|---|---|---|---|")
for n, figures in enumerate(zip(iterations.image_auroc, iterations.pixel_auroc, strict=True)):
    found = int((iterations.found(n) & (iterations.label == 1)).sum())
    before = max(0, n - 1)
    changed = f"{len(iterations.rescued(before, n))} | {len(iterations.rescued(n, before))}"
    print(f"| {n} | " + " | ".join(f"{figure:.3f}" for figure in figures) + f" | {found} | {changed} |")
for kind, name in enumerate(("normal", "anomalous")):
    used = Counter(iterations.used[iterations.label == kind].tolist())
    print(f"\niterations used on {name} images: {dict(sorted(used.items()))}")
