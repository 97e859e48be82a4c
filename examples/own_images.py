"""Train on a folder of your own normal images, and have others judged.

    python examples/own_images.py NORMAL --others OTHERS --out runs/own
    python examples/own_images.py                                      # the embedded fabric

NORMAL and OTHERS are folders of images; a tenth of NORMAL, at least two, is held out to find the thresholds on. Leaves
under ``--out`` the run with its checkpoint (``FeatureI3AD``), the OpenVINO model (``weights``), and a film strip of
each of the others (``strips``): the image, what was found and the map it was found by, then for every iteration what
was hidden, its reconstruction, and where the two differ.
"""

import os
from argparse import ArgumentParser
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: beside other work threads do not spin

from anomalib_i3ad import FeatureI3AD, Textures  # before anomalib: OpenVINO's telemetry stays off

# isort: split
from anomalib.data import Folder
from anomalib.data.utils import get_image_filenames, read_image
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_i3ad.data.mvtec import at_least_two
from anomalib_i3ad.data.readable import check_readable
from anomalib_i3ad.visualization import FilmStripVisualizer

LEAST = 10

parser = ArgumentParser()
parser.add_argument("normal", nargs="?", type=Path)
parser.add_argument("--others", type=Path)
parser.add_argument("--out", type=Path, default=Path("runs/own"))
parser.add_argument("--steps", type=int, default=1000, help="training steps")
arguments = parser.parse_args()
normal, others = arguments.normal, arguments.others
if normal is None and others is not None:
    parser.error("--others: name a folder NORMAL of normal images to train on, too")
if normal is None:
    fabric = Textures()
    fabric.prepare_data()
    normal, others = (fabric.root / fabric.category / folder for folder in ("train/good", "test/scratch"))
if others is not None:
    if not others.exists():
        parser.error(f"--others: there is no folder {others}")
    path = others
    try:  # before training, not after
        for path in get_image_filenames(others):
            check_readable(str(path))
            read_image(path)
    except (OSError, ValueError) as error:
        parser.error(f"--others: {path}: {error}")
count = sum(path.suffix.lower() in IMG_EXTENSIONS for path in normal.rglob("*"))
if count < LEAST:
    parser.error(f"NORMAL: {normal} holds {count} images; it takes {LEAST}, a tenth of them to find the thresholds on")

model = FeatureI3AD(max_train_steps=arguments.steps, visualizer=FilmStripVisualizer(arguments.out / "strips"))
datamodule = Folder(
    name=normal.name, normal_dir=normal, train_batch_size=16, num_workers=0,
    test_split_mode="none", val_split_mode="from_train", val_split_ratio=at_least_two(0.1, count), seed=0,
)  # fmt: skip
engine = Engine(default_root_dir=arguments.out, logger=False, max_epochs=-1)
engine.fit(model, datamodule=datamodule)
xml = engine.export(model, ExportType.OPENVINO, export_root=arguments.out, ckpt_path=engine.best_model_path)
print(f"for the line: anomalib-i3ad inspect --model {xml} --source FOLDER --out results")
if others is not None:
    for batch in engine.predict(model, data_path=others) or []:
        for path, score, anomalous in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
            print(f"{path}: {'anomalous' if anomalous else 'normal'}, score {float(score):.3f} (threshold 0.5)")
