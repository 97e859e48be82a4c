"""Put what was measured into the documentation, so that no number there is typed by hand.

    python examples/measure/tables.py            # rewrite the tables in README.md and the model cards
    python examples/measure/tables.py --check    # only say whether they are what examples/measured holds

``examples/measured/benchmark.csv`` holds rows of ``anomalib-i3ad benchmark``, several seeds or one; ``speed.csv`` is
written by ``examples/measure/speed.py --csv``. A table stands between ``<!-- NAME -->`` and ``<!-- end -->``.
"""

import re
import sys
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd

from anomalib_i3ad.evaluation.markdown import markdown

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "examples" / "measured"
FIGURES = ["image_auroc", "pixel_auroc", "au_pro"]
#: What tells the forms of one model apart.
FORMS = {'"anomaly_map": "last"': ", last map"}
ENGINES = {
    "torch": "torch", "compile": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
    "fp16": "FP16 file", "int8": "INT8",
}  # fmt: skip


#: Folder of each model's card, what the model is for, and whether it needs ImageNet weights.
MODELS = {
    "FeatureI3AD": ("feature_i3ad", "first choice: iterates over features, on textures and objects", "yes"),
    "I3AD": ("i3ad", "the same over pixels: objects, if no pretrained network may be used", "no"),
    "Riad": ("riad", "inpaints pixels at four sizes: objects, if time does not matter", "no"),
    "SsimAe": ("ssim_ae", "autoencoder compared by SSIM or L2: objects, for comparison", "no"),
    "AnoGan": ("ano_gan", "nearest image that a GAN can draw: for comparison", "no"),
}


def figures(runs: pd.DataFrame) -> str:
    """Means of image AUROC, with its deviation over several seeds, pixel AUROC and AU-PRO; ``-`` if there are none."""
    image, pixel, pro = (f"{runs[name].mean():.3f}".replace("nan", "-") for name in FIGURES)
    deviation = f" ± {runs['image_auroc'].std():.3f}" if len(runs) > 1 else ""
    return f"{image}{deviation} / {pixel} / {pro}"


def accuracy(measured: Path = MEASURED) -> str:
    """Figures by model and category."""
    every = pd.read_csv(measured / "benchmark.csv", dtype={"commit": str, "version": str})
    version = every["version"].fillna("version not recorded") if "version" in every else ""
    several = every.assign(version=version).groupby("model")["version"].transform("nunique") > 1
    for argument, label in FORMS.items():
        every.loc[every["model_args"].str.contains(argument, regex=False), "model"] += label
    every.loc[several, "model"] += ", " + version
    categories = sorted(set(every["category"]))
    rows = []
    for model, of_model in every.groupby("model", sort=False):
        by_category = {name: of_model[of_model["category"] == name] for name in categories}
        ranked = [figures(runs) if len(runs) else "" for runs in by_category.values()]
        found, alarms = (
            " / ".join(
                f"{100 * runs[counted].sum() / runs[among].sum():.0f}" if len(runs) else "-"
                for runs in by_category.values()
            )
            for counted, among in (("found", "anomalous"), ("false_alarms", "normal"))
        )
        rows.append([model, *ranked, found, alarms, f"{of_model['megabytes'].mean():.1f}"])
    return markdown(["model", *categories, "found, %", "false alarms, %", "MB"], rows)


def speed(measured: Path = MEASURED) -> str:
    """Milliseconds by model and engine."""
    table = pd.read_csv(measured / "speed.csv")
    engines = {name: label for name, label in ENGINES.items() if name in set(table["engine"])}
    rows = []
    for model, of_model in table.groupby("model", sort=False):
        by_engine = of_model.set_index("engine")
        ov = by_engine.loc["openvino"]
        more = [f"{float(ov['images/s']):.0f}", f"{float(ov['MB of memory']):.0f}"]
        rows.append([str(model), *(f"{float(by_engine.loc[engine, 'ms']):.1f}" for engine in engines), *more])
    return markdown(["model", *engines.values(), "images/s", "MB of memory"], rows)


def which(measured: Path = MEASURED) -> str:
    """This plugin's models: what each is for, image AUROC by category, milliseconds, and size of the exported file."""
    every, table = pd.read_csv(measured / "benchmark.csv"), pd.read_csv(measured / "speed.csv")
    milliseconds = table[table["engine"] == "openvino"].set_index("model")["ms"]
    categories = sorted(set(every["category"]))
    rows = []
    for model, (folder, purpose, weights) in MODELS.items():
        runs = every[every["model"] == model]
        means = runs.groupby("category")["image_auroc"].mean()
        aurocs = " / ".join(f"{means[name]:.3f}" if name in means else "-" for name in categories)
        ms = f"{milliseconds[model]:.0f}" if model in milliseconds else "-"
        link = f"[`{model}`](src/anomalib_i3ad/models/{folder}/README.md)"
        size = f"{runs['megabytes'].mean():.1f}".replace("nan", "-")
        rows.append([link, purpose, weights, aurocs if len(runs) else "see its page", ms, size])
    return markdown(["model", "when", "ImageNet", f"image AUROC, {' / '.join(categories)}", "ms", "MB"], rows)


TABLES = {"accuracy": accuracy, "speed": speed, "which": which}


def filled(text: str) -> str:
    """The text with its tables as measured."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text, flags=re.DOTALL)
    return text


def main() -> int:
    """Rewrite or check; returns the exit code."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say which documents are not what was measured")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", MEASURED / "README.md", *sorted((ROOT / "src").rglob("README.md"))]:
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'not what was measured' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
