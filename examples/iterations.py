"""What each pass of the iteration buys: accuracy of a trained model after 0, 1, 2, ... passes.

    python examples/iterations.py FeatureI3AD CHECKPOINT --root DATA --category bottle --set max_iterations=8

Prints a Markdown table: image and pixel AUROC if the iteration ended after so many passes, defective images that each
pass found and lost when 5 % of the good ones are rejected, and how many passes good and defective images used.
Metrics are computed at the model's input size.
"""

from collections import Counter
from tempfile import TemporaryDirectory

from common import images, load, make_engine, make_parser

from anomalib_i3ad.comparison.accuracy import predict
from anomalib_i3ad.comparison.passes import measure_passes

arguments = make_parser().parse_args()
with TemporaryDirectory() as folder:
    model = load(arguments, folder)
    predictions = predict(make_engine(folder), model, images(arguments))
    passes = measure_passes(model.cpu(), predictions)
print("| passes | image AUROC | pixel AUROC | found | won | lost |")
print("|---|---|---|---|---|---|")
for n, figures in enumerate(zip(passes.image_auroc, passes.pixel_auroc, strict=True)):
    found = int((passes.found(n) & (passes.label == 1)).sum())
    before = max(0, n - 1)
    changed = f"{len(passes.rescued(before, n))} | {len(passes.rescued(n, before))}"
    print(f"| {n} | " + " | ".join(f"{figure:.3f}" for figure in figures) + f" | {found} | {changed} |")
for kind, name in enumerate(("good", "defective")):
    print(
        f"\npasses used on {name} images: {dict(sorted(Counter(passes.used[passes.label == kind].tolist()).items()))}"
    )
