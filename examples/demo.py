"""The whole way on images that need no download: train, test, export, and predict without torch.

    python examples/demo.py

Trains FeatureI3AD on a drawn fabric with configs/demo.yaml, then leaves under results/FeatureI3AD/Textures/fabric/v0
the metrics (metrics.json), a picture of every test image (images/), the checkpoint and the OpenVINO model
(weights/), what that model said of each test image (predictions.csv) and demo.png, a look at some of them.
"""

import csv
import json
import os
from argparse import ArgumentParser
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: beside other work threads do not spin

from anomalib_i3ad.deploy import Inspector  # before anomalib: OpenVINO's telemetry stays off

# isort: split
import cv2
import numpy as np
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from rich.progress import track

from anomalib_i3ad.deploy.decoding import read_image
from anomalib_i3ad.deploy.overlay import picture

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SHOWN = ("scratch", "hole", "missing_yarn", "double_yarn", "spot", "good")


def main() -> None:
    """Train, test, export and predict."""
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    engine, model, datamodule = Engine.from_config(CONFIG)
    metrics = engine.train(model, datamodule=datamodule)[0]
    folder = Path(engine.best_model_path).parents[2]
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    xml = engine.export(model, ExportType.OPENVINO, export_root=folder, ckpt_path=engine.best_model_path)

    # from here on OpenVINO, OpenCV and NumPy alone, as on the machine at the line
    inspector = Inspector(xml)
    thresholds = inspector.image_threshold, inspector.pixel_threshold
    shown = {}
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "score", "anomalous"])
        for path in track(sorted((datamodule.root / datamodule.category / "test").rglob("*.png")), "predicting"):
            image = read_image(path)
            result = inspector.inspect(image)
            rows.writerow([path, f"{result.score:.4f}", result.label])
            name = f"{path.parent.name}/{path.name}"
            shown.setdefault(path.parent.name, picture(image, result, name, *thresholds, height=256))
    pictures = [shown[kind] for kind in SHOWN]
    look = np.vstack([np.hstack(pictures[at : at + 2]) for at in range(0, len(pictures), 2)])
    cv2.imwrite(str(folder / "demo.png"), look)
    print(f"image AUROC {metrics['image_AUROC']:.3f}, pixel AUROC {metrics['pixel_AUROC']:.3f}; results in {folder}")


if __name__ == "__main__":
    main()
