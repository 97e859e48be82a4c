"""The whole way on images that need no download: train, test, export, and predict without torch.

    python examples/demo.py

Trains FeatureI3AD on a drawn fabric with configs/demo.yaml, then leaves under results/FeatureI3AD/Textures/fabric/v0
the metrics (metrics.json), a picture of every test image (images/), the checkpoint and the OpenVINO model
(weights/), what that model said of each test image (predictions.csv) and demo.png, a look at some of them.
"""

import csv
import json
from argparse import ArgumentParser
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from rich.progress import track

from anomalib_i3ad.deploy.graph import FP32

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SHOWN = ("scratch", "hole", "missing_yarn", "double_yarn", "spot", "good")


def picture(image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image, anomaly map and outlined mask side by side, ``(H, 3 * W, 3)`` BGR, at the map's size."""
    image = cv2.resize(image, anomaly_map.shape[::-1])
    heat = cv2.applyColorMap((255 * anomaly_map).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlined = cv2.drawContours(image.copy(), outlines, -1, (0, 0, 255), 1)
    return np.hstack([image, heat, outlined])


def main() -> None:
    """Train, test, export and predict."""
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    engine, model, datamodule = Engine.from_config(CONFIG)
    metrics = engine.train(model, datamodule=datamodule)[0]
    folder = Path(engine.best_model_path).parents[2]
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    xml = engine.export(model, ExportType.OPENVINO, export_root=folder, ckpt_path=engine.best_model_path)

    # from here on OpenVINO, OpenCV and NumPy alone, as on the machine at the line
    compiled = ov.Core().compile_model(xml, "CPU", FP32)
    shown = {}
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "score", "defective"])
        for path in track(sorted((datamodule.root / datamodule.category / "test").rglob("*.png")), "predicting"):
            image = cv2.imread(str(path))
            result = compiled(image[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255)
            rows.writerow([path, f"{result['pred_score'].item():.4f}", bool(result["pred_label"].item())])
            shown.setdefault(path.parent.name, picture(image, result["anomaly_map"][0, 0], result["pred_mask"][0, 0]))
    columns = [shown[kind] for kind in SHOWN]
    look = np.vstack([np.hstack(columns[:3]), np.hstack(columns[3:])])
    cv2.imwrite(str(folder / "demo.png"), look)
    print(f"image AUROC {metrics['image_AUROC']:.3f}, pixel AUROC {metrics['pixel_AUROC']:.3f}; results in {folder}")


if __name__ == "__main__":
    main()
