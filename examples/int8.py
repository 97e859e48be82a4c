"""What does INT8 cost in accuracy, and what does it bring?

    python examples/int8.py FeatureI3AD CHECKPOINT --root DATA --category bottle

Exports a trained model in FP32 and in INT8, quantised by normal training images, runs both with the runtime over the
test images in turn, and prints image and pixel AUROC, changed labels, false alarms, latency, size, and what is INT8.
"""

import json
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from anomalib.deploy import CompressionType
from common import images, load, make_parser
from rich.progress import track
from torch import from_numpy
from torchmetrics.functional import auroc

from anomalib_i3ad.deploy import Inspector

arguments = make_parser().parse_args()
with TemporaryDirectory() as folder:
    model = load(arguments, folder)
    datamodule = images(arguments)
    paths = {
        "FP32": model.to_openvino(folder, "fp32", datamodule=datamodule),
        "INT8": model.to_openvino(folder, "int8", compression_type=CompressionType.INT8_PTQ, datamodule=datamodule),
    }
    inspectors = {name: Inspector(path) for name, path in paths.items()}
    results: dict[str, list] = {name: [] for name in paths}
    labels, masks = [], []
    for sample in track(datamodule.test_data.samples.itertuples(), "inspecting"):
        labels.append(int(sample.label_index))
        for name, inspector in inspectors.items():
            results[name].append(inspector.inspect(sample.image_path))
        size = results["FP32"][-1].anomaly_map.shape
        mask = cv2.imread(sample.mask_path, cv2.IMREAD_GRAYSCALE) if labels[-1] else np.zeros(size, np.uint8)
        masks.append(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST) > 0)
    reports = {name: json.loads(path.with_suffix(".json").read_text()) for name, path in paths.items()}

label, mask = from_numpy(np.array(labels)), from_numpy(np.stack(masks))
print("| precision | image AUROC | pixel AUROC | found | false alarms | ms | kB of weights |")
print("|---|---|---|---|---|---|---|")
for name, found in results.items():
    score = from_numpy(np.array([result.score for result in found]))
    anomaly_map = from_numpy(np.stack([result.anomaly_map for result in found]))
    flagged = np.array([result.label for result in found])
    normal = np.array(labels) == 0
    pixel_auroc = auroc(anomaly_map.flatten(), mask.flatten().long(), "binary")
    print(
        f"| {name} | {auroc(score, label, 'binary'):.4f} | {pixel_auroc:.4f} | "
        f"{flagged[~normal].sum()}/{(~normal).sum()} | {flagged[normal].sum()}/{normal.sum()} | "
        f"{np.median([result.milliseconds for result in found]):.1f} | "
        f"{sum(size for file, size in reports[name]['bytes'].items() if file.endswith('.bin')) / 1000:.0f} |"
    )
ratio = np.median([a.milliseconds / b.milliseconds for a, b in zip(*results.values(), strict=True)])
flips = sum(a.label != b.label for a, b in zip(*results.values(), strict=True))
print(f"\nINT8 is {ratio:.2f} times as fast (median over images); {flips}/{len(labels)} labels changed")
for found in reports["INT8"]["int8"]:
    print(f"{found['where']}: {len(found['quantized'])} of {found['convolutions']} convolutions in INT8")
print(f"FP32 against torch on training images: {reports['FP32']['agreement_with_torch']}")
