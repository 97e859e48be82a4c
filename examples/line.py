"""A program at the line: judge images as they come, without torch.

    python examples/line.py MODEL.xml IMAGE [IMAGE ...] [--threshold 0.55] [--out anomalous]

Needs ``pip install .`` in a clone, without extras. Prints a line an image; of each anomalous one it writes the image
with the defect outlined, what it should look like, and the map, named by its whole path with %2F for /. Exit code 1 if
an image failed. This is where your own program starts: ``anomalib-i3ad inspect`` does the same for folders, videos and
cameras, and survives crashes.
"""

import re
import sys
from argparse import ArgumentParser
from pathlib import Path

from anomalib_i3ad.deploy import ImageError, Inspector, ModelError
from anomalib_i3ad.deploy.decoding import read_image
from anomalib_i3ad.deploy.overlay import picture, write_picture

sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that a console has not
parser = ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("images", nargs="+", type=Path)
parser.add_argument("--threshold", type=float, help="score above which an image is anomalous; default: the model's")
parser.add_argument("--out", type=Path, default=Path("anomalous"))
arguments = parser.parse_args()

try:
    inspector = Inspector(arguments.model, image_threshold=arguments.threshold)
except (ModelError, ValueError) as error:
    parser.error(str(error))
failed = False
for path in arguments.images:
    try:
        image = read_image(path)
        result = inspector.inspect(image)
    except ImageError as error:  # the line goes on
        print(f"{path}: {error}", file=sys.stderr)
        failed = True
        continue
    verdict = "anomalous" if result.label else "normal"
    iterations = "" if result.iterations is None else f"{result.iterations} iterations, "
    print(f"{path}: {verdict}, score {result.score:.3f}, {iterations}{result.milliseconds:.0f} ms")
    if result.label:
        thresholds = inspector.image_threshold, inspector.pixel_threshold
        explained = picture(image, result, str(path), *thresholds)
        name = re.sub(r"[%/\\:]", lambda found: f"%{ord(found[0]):02X}", str(path))  # no two paths have the same
        try:
            write_picture(arguments.out / f"{name}.jpg", explained)
        except OSError as error:
            print(f"{path}: picture not written: {error.strerror}", file=sys.stderr)
            failed = True
sys.exit(failed)
