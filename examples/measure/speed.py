"""What does an image cost? Our models and anomalib's, side by side in one run, with random weights.

    python examples/measure/speed.py                # ours, and anomalib's on FeatureI3AD's network
    python examples/measure/speed.py --models FeatureI3AD Padim-lite0 --engines openvino int8

Prints a Markdown table, one image of 256x256 pixels at a time: latency (median of rounds), images/s with several
requests at once, files on disk, memory the process grows by, multiply-accumulates, and the share reached of the
machine's convolution peak, which is measured first. All models and engines take turns, each model in a process of its
own, so that other work on the machine hits all alike: compare what one run measured. I3AD and FeatureI3AD never stop
early here, their worst case; FeatureI3AD-stops ends after the initial inpainting. ONNX Runtime takes part where it is
installed.
"""

import csv
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import openvino as ov
import psutil
import torch
import yaml
from anomalib.models import AnomalibModule, Draem, EfficientAd, Padim, Patchcore, Stfpm
from anomalib.models.components import TimmFeatureExtractor
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

from anomalib_i3ad import I3AD, AnoGan, FeatureI3AD, Riad, SsimAe
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.graph import FP32, one_at_a_time
from anomalib_i3ad.evaluation.cost import shortest
from anomalib_i3ad.evaluation.markdown import markdown
from anomalib_i3ad.export.quantization import quantize

if ONNX_RUNTIME := find_spec("onnxruntime"):  # only the extra dev has it
    import onnxruntime

SIZE, ROUNDS, RUNS, THROUGHPUT_IMAGES = 256, 15, 4, 12
HEAD = ("model", "engine", "ms", "images/s", "MB on disk", "MB of memory", "GMAC", "of the peak")
ENGINES = ("torch", "compile", "onnxruntime", "openvino", "fp16", "int8")


def i3ad(config: str | None = None) -> AnomalibModule:
    """I3AD with its defaults, or as a file of ``configs/`` has it, taking every iteration over everything."""
    of_file: dict[str, Any] = {}
    if config:
        text = (Path(__file__).parents[2] / "configs" / f"{config}.yaml").read_text()
        of_file = yaml.safe_load(text)["model"]["init_args"]
    model = I3AD(**{**of_file, "adversarial_weight": 0.0})
    model.model.mask_threshold.fill_(0.0)
    model.model.min_shrink = -1.0
    return model


def feature_i3ad(threshold: float) -> AnomalibModule:
    """FeatureI3AD with its defaults, hiding everything (-1) or nothing (infinity)."""
    model = FeatureI3AD()
    model.model.mask_threshold.fill_(threshold)
    model.model.min_shrink = -1.0
    usual, memory = model.model.usual_errors, model.model.memory
    for values in (model.model.mean, model.model.std, model.model.usual_cosine, *usual.buffers(), *memory.buffers()):
        values.uniform_(0.5, 1.0)
    return model


def patchcore(
    share: float, backbone: str = "wide_resnet50_2", layers: Sequence[str] = ("layer2", "layer3")
) -> AnomalibModule:
    """PatchCore with the memory of 209 images, of which the coreset is this share; anomalib's default is 0.1."""
    model = Patchcore(backbone=backbone, layers=layers, pre_trained=False)
    channels = sum(model.model.feature_extractor.out_dims)
    model.model.memory_bank = torch.rand(int(share * 209 * 32 * 32), channels)
    return model


def padim(**of_network: Any) -> AnomalibModule:
    """PaDiM with Gaussians of its shapes."""
    model = Padim(pre_trained=False, **of_network)
    positions, features = (SIZE // 4) ** 2, model.model.n_features
    model.model.gaussian.mean = torch.rand(features, positions)
    model.model.gaussian.inv_covariance = torch.eye(features).repeat(positions, 1, 1)
    return model


def stfpm() -> AnomalibModule:
    """STFPM whose teacher has random weights: it would download its own."""

    def untrained(**kwargs: Any) -> TimmFeatureExtractor:
        return TimmFeatureExtractor(**{**kwargs, "pre_trained": False})

    with patch("anomalib.models.image.stfpm.torch_model.TimmFeatureExtractor", untrained):
        return Stfpm()


def draem() -> AnomalibModule:
    """DRAEM without the textures it would download for training."""
    with TemporaryDirectory() as textures:
        return Draem(dtd_dir=textures)


#: FeatureI3AD's network, under its peers.
NETWORK, LAYERS = "tf_efficientnet_lite0", ("blocks.2", "blocks.4")
MODELS: dict[str, Callable[[], AnomalibModule]] = {
    "FeatureI3AD": lambda: feature_i3ad(-1.0),
    "FeatureI3AD-stops": lambda: feature_i3ad(float("inf")),
    "Padim-lite0": lambda: padim(backbone=NETWORK, layers=["blocks.1", *LAYERS], n_features=100),
    # the first as configs/benchmark/cpu.yaml has it
    "Patchcore-lite0-0.002": lambda: patchcore(0.002, NETWORK, LAYERS),
    "Patchcore-lite0-0.02": lambda: patchcore(0.02, NETWORK, LAYERS),
    "Patchcore-lite0-0.1": lambda: patchcore(0.1, NETWORK, LAYERS),
    "I3AD": i3ad,
    "I3AD-paper": lambda: i3ad("i3ad"),
    "SsimAe": lambda: SsimAe(image_size=SIZE),
    "Riad": Riad,
    "AnoGan": lambda: AnoGan(image_size=SIZE),
    "Patchcore": lambda: patchcore(0.1),
    "Padim": padim,
    "Stfpm": stfpm,
    "EfficientAd": EfficientAd,
    "Draem": draem,
}
#: Those on other networks are left to be asked for: PaDiM's takes many gigabytes.
DEFAULT = [name for name in MODELS if name not in {"Patchcore", "Padim", "Stfpm", "EfficientAd", "Draem"}]


def convolution_peak() -> float:
    """Multiply-accumulates a second of a large convolution in OpenVINO, the most this machine reaches."""
    channels, side = 256, 64
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1)
    graph = ov.convert_model(layer, input=[1, channels, side, side])
    compiled, x = new_core().compile_model(graph, "CPU", FP32), np.zeros((1, channels, side, side), np.float32)
    compiled(x)
    return 9 * channels**2 * side**2 / shortest(lambda: compiled(x), 15)


def to_onnx(model: AnomalibModule, image: torch.Tensor, folder: str) -> Path:
    """Export for one image at a time."""
    path = model.to_onnx(folder, "model", (SIZE, SIZE))
    if new_core().read_model(path).input(0).partial_shape[0].is_static:
        # anomalib 2.7 fixes PatchCore's batch at the 2 images it traces with
        settings = {"dynamo": True, "opset_version": 18, "input_names": ["input"], "verbose": False}
        torch.onnx.export(model, (image,), path, **settings)
    return path


def resident() -> int:
    """Memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def throughput(run: Callable[[], Any], workers: int) -> float:
    """Images a second with several threads."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda _: run(), range(workers)))
        start = time.perf_counter()
        list(pool.map(lambda _: run(), range(THROUGHPUT_IMAGES)))
        return THROUGHPUT_IMAGES / (time.perf_counter() - start)


def openvino_engine(path: Path, image: np.ndarray) -> tuple[Callable[[], Any], Callable[[], float]]:
    """A file's single inference, and its throughput."""
    core = new_core()
    compiled = core.compile_model(path, "CPU", {**FP32, "PERFORMANCE_HINT": "LATENCY"})

    def images_per_second() -> float:
        queue = ov.AsyncInferQueue(core.compile_model(path, "CPU", {**FP32, "PERFORMANCE_HINT": "THROUGHPUT"}))

        def all_of(count: int) -> None:
            for _ in range(count):
                queue.start_async(image)
            queue.wait_all()

        all_of(len(queue))
        start = time.perf_counter()
        all_of(THROUGHPUT_IMAGES)
        return THROUGHPUT_IMAGES / (time.perf_counter() - start)

    return lambda: compiled(image), images_per_second


class Measured:
    """One model in every engine.

    Args:
        name: The model's, of :data:`MODELS`.
        engines: Of :data:`ENGINES`.
        folder: Where its files go, and stay while it is measured.
    """

    def __init__(self, name: str, engines: Sequence[str], folder: str) -> None:
        self.name, self.engines = name, engines
        self.runs: dict[str, Callable[[], Any]] = {}
        self.speeds: dict[str, Callable[[], float]] = {}
        self.sizes: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.times: dict[str, list[float]] = {engine: [] for engine in engines}
        torch.manual_seed(0)
        self.model = MODELS[name]().eval()
        for threshold in ("_image_threshold", "_pixel_threshold"):
            getattr(self.model.post_processor, threshold).fill_(0.5)
        pixels = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
        self.x = torch.nn.functional.interpolate(pixels, SIZE, mode="bicubic").clamp(0, 1)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.model(self.x)
        self.gmac = counter.get_total_flops() / 2e9
        onnx = to_onnx(self.model, self.x, folder)
        graph = one_at_a_time(ov.convert_model(onnx))
        for engine in engines:
            before = resident()
            try:
                self._prepare(engine, onnx, graph)
                self.runs[engine]()
                self.memory[engine] = resident() - before
            except Exception as error:  # noqa: BLE001  # told in the table's place
                said = str(error).strip() or "no message"
                self.failed[engine] = f"{type(error).__name__}: {said.splitlines()[0][:100]}"

    def _prepare(self, engine: str, onnx: Path, graph: ov.Model) -> None:
        image = self.x.numpy()
        if engine in {"torch", "compile"}:
            module = self.model if engine == "torch" else torch.compile(self.model)

            def eager() -> None:
                with torch.inference_mode():
                    module(self.x)

            self.sizes[engine] = sum(value.nbytes for value in self.model.state_dict().values())
            self.runs[engine], self.speeds[engine] = eager, lambda: throughput(eager, 1)
        elif engine == "onnxruntime":
            options = onnxruntime.SessionOptions()
            # or its idle threads would take their turn of the engine after it
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(onnx, options)

            def run() -> Any:
                return session.run(None, {"input": image})

            self.sizes[engine] = sum(file.stat().st_size for file in onnx.parent.glob(f"{onnx.name}*"))
            self.runs[engine], self.speeds[engine] = run, lambda: throughput(run, 2)
        else:
            path = onnx.with_name(f"{engine}.xml")
            made = quantize(graph, [image])[0] if engine == "int8" else graph
            ov.save_model(made, path, compress_to_fp16=engine == "fp16")
            self.sizes[engine] = path.stat().st_size + path.with_suffix(".bin").stat().st_size
            self.runs[engine], self.speeds[engine] = openvino_engine(path, image)

    def take_turns(self) -> None:
        """Time every engine; the first runs fetch its weights into the cache again."""
        for engine in self.engines:
            if engine not in self.failed:
                self.times[engine].append(shortest(self.runs[engine], RUNS))

    def rows(self, peak: float) -> list[list[str]]:
        """Rows of the table."""
        rows = []
        for engine in self.engines:
            if engine in self.failed:
                rows.append([self.name, engine, self.failed[engine], *[""] * 5])
                continue
            seconds = float(np.median(self.times[engine]))
            rows.append([
                self.name, engine, f"{1000 * seconds:.1f}", f"{self.speeds[engine]():.2f}",
                f"{self.sizes[engine] / 1e6:.1f}", f"{self.memory[engine] / 1e6:.0f}", f"{self.gmac:.1f}",
                f"{1e9 * self.gmac / seconds / peak:.0%}",
            ])  # fmt: skip
        return rows


class Process(BaseManager):
    """A process of its own for one model."""

    Measured: type[Measured]


Process.register("Measured", Measured)


def main() -> None:
    """Prepare all models, let them take turns, and print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=DEFAULT, choices=list(MODELS))
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    engines = tuple(arguments.engines)
    if "onnxruntime" in engines and not ONNX_RUNTIME:
        print("ONNX Runtime is not installed, and its rows are left out: pip install onnxruntime")
        engines = tuple(engine for engine in engines if engine != "onnxruntime")
    peak = convolution_peak()
    print(f"convolution peak: {peak / 1e9:.1f} GMAC/s, torch threads: {torch.get_num_threads()}\n")
    with ExitStack() as stack:
        measured = []
        for name in arguments.models:
            process = stack.enter_context(Process(ctx=get_context("spawn")))
            measured.append(process.Measured(name, engines, stack.enter_context(TemporaryDirectory())))
        for _ in track(range(ROUNDS), "rounds"):
            for model in measured:
                model.take_turns()
        rows = [row for model in measured for row in model.rows(peak)]
    print(markdown(HEAD, rows))
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])


if __name__ == "__main__":
    main()
