"""The runtime at the line: the same numbers, every image once, and nothing that stops it."""

import csv
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pytest
import tifffile
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import read_image
from PIL import Image

from anomalib_i3ad import I3AD, Textures
from anomalib_i3ad.data.readable import check_readable
from anomalib_i3ad.deploy import (
    ImageError,
    Inspector,
    ModelError,
    command_line,
    convert,
    decoding,
    folders,
    graph,
    pipeline,
    sources,
    watch,
)
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.drawn_images import drawn_images
from anomalib_i3ad.deploy.engine import CPU_CACHE, Inspection, fitted
from anomalib_i3ad.deploy.frames import Frame, Frames
from anomalib_i3ad.deploy.overlay import ALERT, BAR, COLOURS, FONT, GAP, INK, LEAST, LINE, OUTLINE, SCALE, picture
from anomalib_i3ad.deploy.progress import Progress
from anomalib_i3ad.deploy.results import Results
from anomalib_i3ad.models.base import image_of
from conftest import TINY
from model_tester import faded_peaks, make_engine, make_images

#: No two of its channels are alike.
REDDISH = np.full((64, 64, 3), (200, 60, 10), np.uint8)


def make_pixels(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth random RGB bytes ``(height, width, 3)``."""
    return (255 * make_images(1, height, width, seed)[0]).round().byte().permute(1, 2, 0).numpy()


def encode(pixels: np.ndarray, suffix: str = ".png", **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, Image.registered_extensions()[suffix], **options)
    return data.getvalue()


def read_in_training(path: Path, data: bytes) -> np.ndarray:
    """Pixels ``(H, W, 3)`` of a file as models get them from anomalib's datasets."""
    path.write_bytes(data)
    batch = ImageBatch(image=read_image(path, as_tensor=True)[None], image_path=[str(path)])
    return (255 * image_of(batch)[0]).round().byte().permute(1, 2, 0).numpy()


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of 40 images."""
    path = tmp_path / "images"
    (path / "sub").mkdir(parents=True)
    for seed in range(40):
        name = f"sub/{seed:03}.png" if seed % 2 else f"{seed:03}.png"
        (path / name).write_bytes(encode(make_pixels(64, 64, seed)))
    return path


def graph_of(change: Callable[[ov.Node], ov.Node], threshold: float = 0.5) -> ov.Model:
    """Graph whose map is a function of each value of an image, and whose score is that of their mean."""
    image = ops.parameter([-1, 3, -1, -1], ov.Type.f32)
    score = change(ops.reduce_mean(image, np.array([1, 2, 3])))
    results = (score, ops.greater(score, np.float32(threshold)), change(image), image)
    model = ov.Model([ops.result(result) for result in results], [image])
    for output, name in zip(model.outputs, graph.OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    return model


def brightness(shift: float, threshold: float = 0.5) -> ov.Model:
    """Graph whose score is the mean of an image, and a shift; its map is the image with that."""
    return graph_of(lambda value: ops.add(value, np.float32(shift)), threshold)


def command(model: Path, source: Path | str, out: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--source", str(source), "--out", str(out), *more]


class TestInspector:
    def test_what_is_at_a_threshold_is_normal(self, tmp_path: Path) -> None:
        graph.save_model(brightness(0), tmp_path / "model.xml")
        gray = np.full((8, 8, 3), 128, np.uint8)
        found = Inspector(tmp_path / "model.xml").inspect(gray)
        at, value = found.score, float(found.anomaly_map[0, 0])
        assert (at, value) == pytest.approx((128 / 255, 128 / 255))
        for less, anomalous in ((0, False), (1e-6, True)):
            inspector = Inspector(tmp_path / "model.xml", image_threshold=at - less, pixel_threshold=value - less)
            result = inspector.inspect(gray)
            assert result.label is anomalous
            assert result.mask.all() == result.mask.any() == anomalous

    def test_results_are_not_those_of_the_next_image(self, tmp_path: Path) -> None:
        graph.save_model(brightness(0), tmp_path / "model.xml")
        inspector = Inspector(tmp_path / "model.xml", hint="latency")
        results = [inspector.inspect(np.full((8, 8, 3), value, np.uint8)) for value in (51, 204)]
        assert [result.anomaly_map.mean() for result in results] == pytest.approx([0.2, 0.8])

    def test_gives_the_numbers_of_the_model(self, untrained: I3AD, exported: Path) -> None:
        inspector = Inspector(exported)
        for seed, size in enumerate([(64, 64), (70, 90), (131, 50), (300, 200)]):
            pixels = make_pixels(*size, seed)
            result = inspector.inspect(pixels)
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                expected = untrained(image)
                iteration = untrained.model.iterate(untrained.pre_processor(image))
            assert result.score == pytest.approx(expected.pred_score.item(), abs=1e-4)
            assert result.label == expected.pred_label.item()
            assert np.abs(result.anomaly_map - expected.anomaly_map[0, 0].numpy()).max() < 1e-3
            assert 0 < result.mask.mean() < 1
            assert (result.mask != expected.pred_mask[0, 0].numpy()).mean() < 1e-3
            assert result.iterations == iteration.iterations.item()
            drawn = 255 * iteration.inpainting[0].permute(1, 2, 0).clamp(0, 1).numpy()
            assert np.abs(result.reconstruction - drawn).max() < 3
            assert 0 < result.milliseconds < 60_000

    def test_threads_share_one(self, exported: Path) -> None:
        inspector = Inspector(exported)
        pixels = [make_pixels(seed=seed) for seed in range(inspector.parallel + 7)]
        expected = [inspector.inspect(image).score for image in pixels]
        assert len(set(expected)) == len(pixels)
        with ThreadPoolExecutor(len(pixels)) as pool:
            assert [result.score for result in pool.map(inspector.inspect, pixels)] == expected
        tickets = [inspector.start(image) for image in pixels]  # more than there are requests to begin with
        assert [inspector.finish(ticket).score for ticket in tickets] == expected

    @pytest.mark.parametrize(("step", "told"), [("wait", ""), ("start_async", "inference cannot start: ")])
    def test_names_the_image_whose_inference_failed(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, told: str
    ) -> None:
        inspector = Inspector(exported)
        cv2.imwrite(str(tmp_path / "part.png"), make_pixels())
        usual = inspector.inspect(tmp_path / "part.png").score

        wait = ov.InferRequest.wait

        def fail(request: ov.InferRequest, *_: object, **__: object) -> None:
            wait(request)
            msg = "Exception from src/inference.cpp:1:\nthe device is lost"
            raise RuntimeError(msg)

        with monkeypatch.context() as patch:
            patch.setattr(f"openvino.InferRequest.{step}", fail)
            with pytest.raises(ImageError, match=rf"part\.png: {told}the device is lost$"):
                inspector.inspect(tmp_path / "part.png")
        for _ in range(3):
            assert len(inspector._free) == 1
            assert inspector.inspect(tmp_path / "part.png").score == usual

    def test_thresholds_change_at_the_line(self, exported: Path) -> None:
        pixels = make_pixels()
        usual = Inspector(exported).inspect(pixels)
        for above, threshold in ((True, usual.score - 1e-3), (False, usual.score + 1e-3)):
            changed = Inspector(exported, image_threshold=threshold, pixel_threshold=threshold).inspect(pixels)
            assert changed.label == above
            scores = usual.anomaly_map.astype(float) / (1 - usual.anomaly_map)
            reaches = scores >= 0.6 * faded_peaks(scores)
            assert (changed.mask == (usual.anomaly_map > threshold) & reaches).all()

    def test_gray_is_rgb_of_equal_channels(self, exported: Path) -> None:
        inspector, gray = Inspector(exported), make_pixels()[..., 0]
        assert inspector.inspect(gray).score == inspector.inspect(np.stack([gray] * 3, axis=-1)).score

    @pytest.mark.parametrize(
        "image", [np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.ones((9, 9, 3))]
    )
    def test_refuses_what_is_no_image(self, exported: Path, image: np.ndarray) -> None:
        with pytest.raises(ImageError, match=r"needed is \(H, W, 3\) RGB"):
            Inspector(exported).inspect(image)

    @pytest.mark.parametrize("image", [None, 0, b"image.png", [[[0, 0, 0]]], np.uint8(3)])
    def test_refuses_what_is_neither_image_nor_path(self, exported: Path, image: object) -> None:
        with pytest.raises(ImageError, match=f"image of type {type(image).__name__}: needed is"):
            Inspector(exported).inspect(image)

    def test_names_a_file_that_cannot_be_read(self, exported: Path, tmp_path: Path) -> None:
        inspector = Inspector(exported)
        with pytest.raises(ImageError, match=r"gone.png: cannot be read: No such file"):
            inspector.inspect(tmp_path / "gone.png")
        with pytest.raises(ImageError, match=r"cannot be read: .*null"):
            inspector.inspect("a\0b.png")

    def test_a_ticket_is_finished_once(self, exported: Path) -> None:
        inspector = Inspector(exported)
        expected = [inspector.inspect(make_pixels(seed=seed)).score for seed in range(2)]
        first = inspector.start(make_pixels())
        assert inspector.finish(first).score == expected[0]
        tickets = [inspector.start(make_pixels(seed=seed)) for seed in range(2)]
        for _ in range(2):
            with pytest.raises(ImageError, match="its result was taken before; finish each ticket once"):
                inspector.finish(first)
        assert [inspector.finish(ticket).score for ticket in tickets] == expected
        assert len(set(inspector._free)) == len(inspector._free)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
    def test_a_forked_process_is_told_to_make_its_own(self, exported: Path) -> None:
        code = """
import os, sys, warnings
import numpy as np
from anomalib_i3ad.deploy import Inspector
warnings.simplefilter("ignore")  # of forks beside threads
inspector, image = Inspector(sys.argv[1]), np.zeros((64, 64, 3), np.uint8)
child = os.fork()
try:
    inspector.inspect(image)
except RuntimeError as error:
    print(error, flush=True)
    os._exit(3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
        run = [sys.executable, "-c", code, str(exported)]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (3, "the Inspector was made in another process; make one in each\n")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
    def test_a_forked_process_can_make_its_own_and_end(self, exported: Path) -> None:
        code = """
import os, sys, warnings
import numpy as np
from anomalib_i3ad.deploy import Inspector
warnings.simplefilter("ignore")  # of forks beside threads
image = np.zeros((64, 64, 3), np.uint8)
print(Inspector(sys.argv[1]).inspect(image).score, flush=True)
child = os.fork()
if not child:
    print(Inspector(sys.argv[1]).inspect(image).score, flush=True)
    sys.exit(3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
        run = [sys.executable, "-c", code, str(exported)]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
        first, second = done.stdout.split()
        assert (done.returncode, first) == (3, second)

    @pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on Windows")
    @pytest.mark.parametrize("released", ["as they were made", "by another thread"])
    def test_signals_are_handled_after_models_are_released(self, exported: Path, released: str) -> None:
        code = """
import os, signal, sys, threading
from anomalib_i3ad.deploy import Inspector
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
inspectors = [Inspector(sys.argv[1]) for _ in range(2)]
if sys.argv[2] == "by another thread":
    thread = threading.Thread(target=inspectors.clear)
    thread.start()
    thread.join()
while inspectors:
    del inspectors[0]
os.kill(os.getpid(), signal.SIGUSR1)
"""
        run = [sys.executable, "-c", code, str(exported), released]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, "handled\n")

    def test_scores_that_are_not_normalised_are_no_result(self, tmp_path: Path) -> None:
        model = brightness(0)
        image = np.full((8, 8, 3), 255, np.uint8)
        graph.save_model(model, tmp_path / "normalised.xml")
        assert Inspector(tmp_path / "normalised.xml").inspect(image).score == pytest.approx(1, abs=1e-6)
        graph.save_model(brightness(2.5), tmp_path / "raw.xml")
        with pytest.raises(ImageError, match=r"score is 3\.5, so .* not normalised; export it with .*post-processor"):
            Inspector(tmp_path / "raw.xml").inspect(image)

    def test_a_reconstruction_beyond_black_and_white_is_cut_off(self, tmp_path: Path) -> None:
        model = graph_of(lambda value: ops.subtract(ops.multiply(value, np.float32(3)), np.float32(1)))  # -1 to 2
        model.output("anomaly_map").get_tensor().add_names({graph.RECONSTRUCTION})
        graph.save_model(graph.set_detail_names(model, [graph.RECONSTRUCTION]), tmp_path / "model.xml")
        image = np.full((8, 8, 3), (0, 128, 255), np.uint8)
        assert (Inspector(tmp_path / "model.xml").inspect(image).reconstruction == (0, 129, 255)).all()

    def test_details_that_are_gone_are_told(self, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
        model = graph.read_model(exported)
        names = graph.detail_names(model)
        assert graph.RECONSTRUCTION in names
        graph.save_model(graph.set_detail_names(model, [*names, "lost"]), tmp_path / "model.xml")
        with pytest.raises(ModelError, match=r"model\.xml: its details lost are not in the graph; export the model"):
            Inspector(tmp_path / "model.xml")
        assert command_line.main(command(tmp_path / "model.xml", tmp_path, tmp_path / "out")) == 2
        assert capfd.readouterr().err.count("\n") == 1

    def test_keeps_a_copy_of_what_it_inspects(self, exported: Path) -> None:
        """A camera's buffer holds the next image at once."""
        inspector, buffer = Inspector(exported), make_pixels(400, 500, seed=1)
        expected = inspector.inspect(buffer).score
        assert abs(inspector.inspect(make_pixels(400, 500, seed=2)).score - expected) > 1e-4
        for _ in range(3):
            buffer[:] = make_pixels(400, 500, seed=1)
            ticket = inspector.start(buffer)
            buffer[:] = make_pixels(400, 500, seed=2)
            assert inspector.finish(ticket).score == expected
            assert np.array_equal(ticket.image, make_pixels(400, 500, seed=1))

    def test_an_image_that_shrinks_keeps_its_mean(self) -> None:
        fine, small = np.zeros((64, 64, 3), np.uint8), make_pixels(16, 16)
        fine[:, ::4] = 240
        for size in ((16, 16), (64, 16), (80, 16)):
            assert (fitted(fine, size) == 60).all()
            assert (fitted(fine.transpose(1, 0, 2), size[::-1]) == 60).all()
        assert np.array_equal(fitted(small, (64, 64)), cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR))

    def test_does_not_depend_on_its_files_once_it_is_read(self, exported: Path, tmp_path: Path) -> None:
        for suffix in (".xml", ".bin"):
            shutil.copy(exported.with_suffix(suffix), tmp_path / f"model{suffix}")
        inspector = Inspector(tmp_path / "model.xml")
        expected = inspector.inspect(make_pixels()).score
        with (tmp_path / "model.bin").open("r+b") as file:  # as the beginning of a copy over it
            file.truncate(0)
        assert inspector.inspect(make_pixels()).score == expected
        assert 0 <= inspector.inspect(make_pixels(80, 60)).score < 1

    def test_refuses_a_hint_that_is_none(self, exported: Path) -> None:
        with pytest.raises(ValueError, match="hint 'fast' must be one of latency, throughput"):
            Inspector(exported, hint="fast")

    @pytest.mark.parametrize("shape", [[-1, 3], [-1, 1, -1, -1], [8, 3, 64, 64], [-1, 64, 64, 3]])
    def test_refuses_a_model_of_other_images(self, tmp_path: Path, shape: list[int]) -> None:
        image = ops.parameter(shape, np.float32, "image")
        outputs = [ops.result(ops.relu(image)) for _ in graph.OUTPUTS]
        for output, name in zip(outputs, graph.OUTPUTS, strict=True):
            output.output(0).get_tensor().set_names({name})
        graph.save_model(ov.Model(outputs, [image]), tmp_path / "model.xml")
        with pytest.raises(ModelError, match="not a model of colour images, one at a time"):
            Inspector(tmp_path / "model.xml")

    def test_names_a_device_that_is_not_there(self, exported: Path) -> None:
        assert Inspector(exported, device="cpu").inspect(make_pixels()).score > 0
        with pytest.raises(ModelError, match=r"device GPU\.7: not on this machine, which has CPU"):
            Inspector(exported, device="GPU.7")
        with pytest.raises(ValueError, match=r"image_threshold 2 must lie in \[0, 1\]"):
            Inspector(exported, image_threshold=2)

    @pytest.mark.parametrize("name", ["image_threshold", "pixel_threshold"])
    @pytest.mark.parametrize("value", [-0.1, 1.5])
    def test_names_the_threshold_that_is_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"^{name} {value} must lie in \[0, 1\]"):
            Inspector("model.xml", **{name: value})

    @pytest.mark.parametrize("device", ["GPU", "GPU.1", "AUTO:GPU,CPU", "BATCH:GPU"])
    def test_of_two_gpus_either_is_taken_in_full_precision(
        self, exported: Path, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        class Core(ov.Core):
            available_devices = ["CPU", "GPU.0", "GPU.1"]

            def compile_model(self, model: ov.Model, name: str, config: dict) -> ov.CompiledModel:
                asked.append((name, config))
                return super().compile_model(model, "CPU", config)

        monkeypatch.setattr(ov, "Core", Core)
        Inspector(exported, device=device)
        assert asked == [(device, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})]
        with pytest.raises(ModelError, match=r"device NPU: not on this machine, which has CPU, GPU\.0, GPU\.1"):
            Inspector(exported, device="NPU")

    def test_cache_that_cannot_be_written_is_done_without(
        self, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        expected = Inspector(exported).inspect(make_pixels()).score
        assert Inspector(exported, cache=tmp_path / "file").inspect(make_pixels()).score == expected
        assert "no cache" in caplog.text
        assert Inspector(exported, cache=tmp_path / "cache").inspect(make_pixels()).score == expected
        assert list((tmp_path / "cache").iterdir())

    def test_a_cache_that_is_cut_ends_nothing(self, exported: Path, tmp_path: Path) -> None:
        for _ in range(2):  # the second is read from the cache
            inspector = Inspector(exported, cache=tmp_path)
        expected = inspector.inspect(make_pixels()).score
        (blob,) = tmp_path.glob("*.blob")
        if sys.platform == "linux":
            assert str(blob) not in Path("/proc/self/maps").read_text()
            blob.chmod(0o644)
            os.truncate(blob, 0)
        assert inspector.inspect(make_pixels()).score == expected
        assert 0 <= inspector.inspect(make_pixels(80, 60)).score < 1

    def test_an_openvino_that_runs_loops_wrongly_is_refused(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert convert.main(["--model", str(exported), "--out", str(tmp_path / "unrolled.xml"), "--unroll"]) == 0
        for version in ("2025.2.0-19140-c01cd93e24d-releases/2025/2", "2026.3.1-1-x"):
            monkeypatch.setattr(ov, "__version__", version)
            refused = f'{exported}: has a loop.* OpenVINO {version[:8]} .*"openvino>=2026\\.4".* convert --unroll'
            with pytest.raises(ModelError, match=refused):
                Inspector(exported)
            assert 0 <= Inspector(tmp_path / "unrolled.xml").inspect(make_pixels()).score < 1
        for version in ("2026.4.0-1-x", "2027.0.0-1-x"):
            monkeypatch.setattr(ov, "__version__", version)
            assert 0 <= Inspector(exported).inspect(make_pixels()).score < 1

    def test_nothing_is_kept_of_each_size_where_that_can_be_said(
        self, exported: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected, asked = Inspector(exported).inspect(make_pixels()).score, []

        class Core(ov.Core):
            def set_property(self, *what: object) -> None:
                if what[0] == "CPU":
                    asked.append(what[1])
                    msg = "NotFound: Unsupported property"
                    raise RuntimeError(msg)
                super().set_property(*what)

        monkeypatch.setattr(ov, "Core", Core)
        assert Inspector(exported).inspect(make_pixels()).score == expected
        assert asked == [{CPU_CACHE: 0}]

    def test_labels_are_plain_whatever_the_kind_of_the_threshold(self, exported: Path) -> None:
        for number in (np.float32(0.25), np.float64(0.25), 0):
            inspector = Inspector(exported, image_threshold=number, pixel_threshold=number)
            assert json.dumps([inspector.inspect(make_pixels()).label, inspector.image_threshold]) in {
                f"[true, {float(number)}]",
                f"[false, {float(number)}]",
            }

    def test_needs_neither_torch_nor_anomalib(self, exported: Path, tmp_path: Path) -> None:
        Image.fromarray(make_pixels()).save(tmp_path / "image.png")
        code = """
import sys
for name in ("torch", "anomalib", "lightning", "pandas", "matplotlib", "PIL", "nncf"):
    sys.modules[name] = None  # importing it fails
sys.argv = ["anomalib-i3ad", "inspect", *sys.argv[1:]]
from anomalib_i3ad.cli import main
main()
"""
        arguments = command(exported, tmp_path / "image.png", tmp_path / "out")
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert float(rows_of(tmp_path / "out")[0]["score"]) > 0


class TestDecoding:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
    def test_keeps_pixels(self, suffix: str) -> None:
        pixels = make_pixels()
        assert (decoding.decode(encode(pixels, suffix)) == pixels).all()

    def test_modes_become_rgb_as_in_training(self) -> None:
        pixels = make_pixels()
        image = Image.fromarray(pixels)
        for mode in ("L", "P", "RGBA", "1", "LA"):
            data = io.BytesIO()
            image.convert(mode).save(data, "PNG")
            expected = np.array(Image.open(data).convert("RGB"))
            assert (decoding.decode(data.getvalue()) == expected).all(), mode

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "CMYK", "RGBA"])
    def test_tiff_becomes_rgb_as_in_training(self, tmp_path: Path, mode: str) -> None:
        data = io.BytesIO()
        image = Image.fromarray(make_pixels()).convert(mode)
        image.save(data, "TIFF")
        assert (decoding.decode(data.getvalue()) == read_in_training(tmp_path / "image.tiff", data.getvalue())).all()
        if mode == "RGBA":
            image.putalpha(200)
            for big in (True, False):
                image.save(data := io.BytesIO(), "TIFF", big_tiff=big)
                with pytest.raises(ImageError, match="TIFF file with transparent parts"):
                    decoding.decode(data.getvalue())
            with pytest.raises(ValueError, match=r"part.tiff: TIFF file with transparent parts"):
                read_in_training(tmp_path / "part.tiff", data.getvalue())

    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_16_bit_colours_are_those_of_training(self, tmp_path: Path, suffix: str, channels: int) -> None:
        deep = np.random.default_rng(0).integers(0, 2**16, (9, 7, channels), np.uint16)
        deep[..., 3:] = 2**16 - 1
        data = cv2.imencode(suffix, deep)[1].tobytes()
        assert (decoding.decode(data) == read_in_training(tmp_path / f"deep{suffix}", data)).all()
        assert (decoding.decode(data) == deep[..., 2::-1] >> 8).all()

    @pytest.mark.parametrize(
        ("suffix", "kind"),
        [(".png", "uint16"), (".tiff", "uint16"), (".pgm", "uint16"), (".tiff", "int32"), (".tiff", "f4")],
    )
    def test_deep_gray_is_refused_as_in_training(self, tmp_path: Path, suffix: str, kind: str) -> None:
        data = encode(np.full((9, 7), 40_000, kind), suffix)
        with pytest.raises(ImageError, match=r"gray values of more than 8 bits|OpenCV can read"):
            decoding.decode(data)
        with pytest.raises(ValueError, match=rf"deep{suffix}: gray values of more than 8 bits"):
            read_in_training(tmp_path / f"deep{suffix}", data)

    def test_a_fit_on_deep_gray_is_refused(self, texture_root: Path, tmp_path: Path) -> None:
        root = shutil.copytree(texture_root, tmp_path / "deep")
        for path in root.rglob("train/good/*.png"):
            path.write_bytes(encode(np.full((64, 64), 40_000, np.uint16)))
        datamodule = Textures(root=root, **TINY, train_batch_size=4, eval_batch_size=4, num_workers=0)
        with pytest.raises(
            ValueError, match=r"train/good/\d+\.png: gray values of more than 8 bits, all above 255 lost"
        ):
            make_engine(max_epochs=1).fit(I3AD(image_size=64, width=4), datamodule=datamodule)

    def test_orientation_is_left_as_stored(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(make_pixels(40, 60), ".jpg", exif=exif, quality=95)
        assert decoding.decode(data).shape == (40, 60, 3)
        assert np.abs(decoding.decode(data).astype(int) - np.array(Image.open(io.BytesIO(data)))).max() <= 2

    def test_huge_images_are_shrunk_by_whole_factors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "MOST_PIXELS", 1000)
        pixels = make_pixels(60, 90)
        expected = pixels.reshape(20, 3, 30, 3, 3).mean(axis=(1, 3))
        assert np.abs(decoding.decode(encode(pixels)) - expected).max() <= 1

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
    def test_as_many_pixels_as_are_decoded_are_decoded(self, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "MOST_DECODED", 70 * 90)
        assert decoding.decode(encode(make_pixels(70, 90), suffix)).shape == (70, 90, 3)
        larger = encode(make_pixels(70, 91), suffix)
        with pytest.raises(ImageError, match="91 x 70 pixels; at most"):
            decoding.decode(larger)
        if suffix != ".tiff":
            assert "pixels; at most" in decoding.fault(larger)

    def test_images_of_32_megapixels_keep_their_pixels(self) -> None:
        data = cv2.imencode(".png", np.zeros((4000, 8000), np.uint8))[1].tobytes()
        assert decoding.decode(data).shape == (4000, 8000, 3)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
    def test_a_part_of_a_file_is_no_image(self, suffix: str) -> None:
        data = encode(make_pixels(), suffix)
        for length in range(0, len(data) - 1, max(1, len(data) // 40)):
            with pytest.raises(ImageError, match=r"empty|incomplete|not an image|cannot decode"):
                decoding.decode(data[:length])
        assert "incomplete" in decoding.fault(data[:-1])

    @pytest.mark.parametrize(("suffix", "place", "form"), [(".png", 16, ">II"), (".jpg", 0, ">HH")])
    def test_a_small_file_that_tells_of_a_huge_image_is_not_decoded(self, suffix: str, place: int, form: str) -> None:
        data = encode(make_pixels(40, 30), suffix)
        sizes = struct.pack(form, *((30, 40) if suffix == ".png" else (40, 30)))
        place = place or data.index(sizes)
        assert data[place:].startswith(sizes)
        for side in (17000, 60000):
            huge = data[:place] + struct.pack(form, side, side) + data[place + len(sizes) :]
            with pytest.raises(ImageError, match=f"{side} x {side} pixels; at most 256 million are decoded"):
                decoding.decode(huge)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("sides", ["H", "I", "Q"])
    def test_nor_is_one_of_a_small_tiff_file(self, order: str, sides: str) -> None:
        head = b"II" if order == "<" else b"MM"
        big, kind = sides == "Q", {"H": 3, "I": 4, "Q": 16}[sides]
        head += struct.pack(order + ("HHHQ" if big else "HI"), *([43, 8, 0, 16] if big else [42, 8]))
        size = struct.Struct(order + ("HHQQ" if big else f"HHI{sides}{'2x' if sides == 'H' else ''}"))
        tags = (
            struct.pack(order + ("Q" if big else "H"), 2)
            + size.pack(256, kind, 1, 17_000)
            + size.pack(257, kind, 1, 60_000)
        )
        with pytest.raises(ImageError, match="17000 x 60000 pixels; at most 256 million are decoded"):
            decoding.decode(head + tags + bytes(8 if big else 4))

    @pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"comment": b"\xff\xd9" * 900}])
    @pytest.mark.parametrize("behind", [b"", b"\0" * 5000, b"\xff\xd8 a second image of the camera" * 99])
    def test_a_jpeg_ends_where_its_image_does(self, kind: dict, behind: bytes) -> None:
        pixels = make_pixels()
        data = encode(pixels, ".jpg", quality=95, **kind)
        assert (decoding.decode(data + behind) == decoding.decode(data)).all()
        assert np.abs(decoding.decode(data).astype(int) - pixels).max() < 30
        with pytest.raises(ImageError, match="incomplete JPEG"):  # whatever a preview or comment may hold
            decoding.decode(data[:-2])

    def test_a_file_that_changes_is_checked_again(self, tmp_path: Path) -> None:
        path = tmp_path / "part.png"
        for depth in (np.uint8, np.uint16):
            cv2.imwrite(str(path), np.full((8, 8), 200, depth))
            os.utime(path, ns=(0, np.dtype(depth).itemsize))
            if depth is np.uint8:
                check_readable(str(path))
        with pytest.raises(ValueError, match=r"part\.png: gray values"):
            check_readable(str(path))

    @pytest.mark.parametrize("big", [False, True])
    def test_a_tiff_of_several_pages_is_refused(self, exported: Path, tmp_path: Path, big: bool) -> None:
        pixels = [make_pixels(seed=seed) for seed in range(3)]
        first, *others = map(Image.fromarray, pixels)
        first.save(tmp_path / "one.tiff", big_tiff=big)
        assert (decoding.read_image(tmp_path / "one.tiff") == pixels[0]).all()
        first.save(tmp_path / "three.tiff", save_all=True, append_images=others, big_tiff=big)
        with pytest.raises(ImageError, match=r"three\.tiff: has 3 pages; save each as a file of its own"):
            Inspector(exported).inspect(tmp_path / "three.tiff")
        with pytest.raises(ValueError, match=r"three\.tiff: has 3 pages"):
            check_readable(str(tmp_path / "three.tiff"))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True])
    def test_a_tiff_of_planes_of_16_bits_is_refused(self, tmp_path: Path, order: str, big: bool) -> None:
        path, pixels = tmp_path / "image.tiff", make_pixels()

        def decoded(pixels: np.ndarray, planes: str) -> np.ndarray:
            stored = pixels if planes == "contig" else pixels.transpose(2, 0, 1)
            tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planes, byteorder=order, bigtiff=big)
            return decoding.read_image(path)

        with pytest.raises(ImageError, match="TIFF file of 16 bits with a plane for each colour"):
            decoded(pixels.astype(np.uint16) * 257, "separate")
        assert (decoded(pixels.astype(np.uint16) * 257, "contig") == pixels).all()
        assert (decoded(pixels, "separate") == pixels).all()

    def test_a_tiff_that_is_to_be_turned_is_refused(self, tmp_path: Path) -> None:
        stored, path = make_pixels(), tmp_path / "turned.tiff"
        for orientation, taken in ((1, True), (5, False), (6, False), (7, False), (8, False)):
            tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
            if taken:
                np.testing.assert_array_equal(decoding.read_image(path), stored)
                check_readable(str(path))
                continue
            for reader, error in ((decoding.read_image, ImageError), (check_readable, ValueError)):
                with pytest.raises(error, match="turns it by 90 degrees; save it turned"):
                    reader(str(path))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True])
    def test_small_copies_and_masks_are_no_pages(self, order: str, big: bool) -> None:
        def tiff(kinds: list[int], last: int = 0) -> bytes:
            """TIFF file of pages that have nothing but their kind; behind the last, what lies at ``last``."""
            head = b"II" if order == "<" else b"MM"
            head += struct.pack(order + ("HHHQ" if big else "HI"), *([43, 8, 0, 16] if big else [42, 8]))
            page, length = (order + "QHHQI4xQ", 36) if big else (order + "HHHIII", 18)
            ends = [*(len(head) + length * number for number in range(1, len(kinds))), last]
            pages = (struct.pack(page, 1, 254, 4, 1, kind, end) for kind, end in zip(kinds, ends, strict=True))
            return head + b"".join(pages)

        for kinds, pages in (([0], 1), ([0, 0], 2), ([0, 1, 4, 5], 1), ([1, 0], 1), ([0, 2, 2], 3)):
            assert len(decoding._tiff_pages(tiff(kinds))) == pages
        for damaged in (tiff([0, 0], last=16 if big else 8), tiff([0, 0], last=2**31), tiff([0, 0, 0])[:-16]):
            assert len(decoding._tiff_pages(damaged)) == 2

    @pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
    @pytest.mark.parametrize("largest", [1, 100, 254, 1023, 4095])
    def test_pgm_and_ppm_that_would_be_misread_are_refused(self, tmp_path: Path, kind: bytes, largest: int) -> None:
        pixels = b"0 0 0 " if kind < b"P4" else bytes(6)
        for head in (b"%s 1 1 %d\n", b"%s\n# a camera's 9 9 255\n1 #\r1\n%d\n"):
            with pytest.raises(ImageError, match=f"largest value is {largest}; save it with 255"):
                decoding.decode(head % (kind, largest) + pixels)
            assert decoding.decode(head % (kind, 255) + pixels).shape == (1, 1, 3)
        (tmp_path / "image.ppm").write_bytes(b"%s 1 1 %d\n" % (kind, largest) + pixels)
        with pytest.raises(ValueError, match=r"image\.ppm: (PGM or PPM file|gray values)"):
            check_readable(str(tmp_path / "image.ppm"))

    def test_a_damaged_png_is_no_image(self) -> None:
        data = bytearray(encode(make_pixels()))
        data[len(data) // 2] ^= 4
        with pytest.raises(ImageError, match="a checksum is wrong"):
            decoding.decode(bytes(data))


class TestInspect:
    def test_a_row_for_each_image_and_a_picture_of_each_defect(
        self, exported: Path, folder: Path, tmp_path: Path
    ) -> None:
        began = datetime.now(timezone.utc)
        assert command_line.main(command(exported, folder, tmp_path / "out", "--threshold", "0.49")) == 0
        took = datetime.now(timezone.utc) - began
        rows = rows_of(tmp_path / "out")
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        assert sorted(row["image"] for row in rows) == paths
        inspector = Inspector(exported, image_threshold=0.49)
        for row in rows:
            expected = inspector.inspect(folder / row["image"])
            assert float(row["score"]) == pytest.approx(expected.score, abs=2e-6)
            assert row["label"] == ("anomalous" if expected.label else "normal")
            assert int(row["iterations"]) == expected.iterations
            assert -0.001 <= (datetime.fromisoformat(row["time"]) - began).total_seconds() <= took.total_seconds()
            assert 0 < float(row["milliseconds"]) < 1000 * took.total_seconds()
            assert (row["picture"] != "") == expected.label
            if row["picture"]:
                shown = cv2.imread(str(tmp_path / "out" / row["picture"]))
                assert shown.shape == (512 + 4 * LINE + GAP + BAR, 3 * (512 + GAP) + GAP, 3)
        assert len({row["label"] for row in rows}) == 2

    def test_pictures_mark_the_threshold_of_pixels(
        self, exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        marked = []

        def draw(*arguments: object) -> np.ndarray:
            marked.append(arguments[3:])
            return picture(*arguments)

        monkeypatch.setattr(pipeline, "picture", draw)
        chosen = ["--threshold", "0.1", "--pixel-threshold", "0.3"]
        assert command_line.main(command(exported, folder, tmp_path / "out", *chosen)) == 0
        assert set(marked) == {(0.1, 0.3)}

    def test_goes_on_where_it_stopped(self, exported: Path, folder: Path, tmp_path: Path) -> None:
        moved = tmp_path / "later"
        (folder / "sub").rename(moved)
        assert command_line.main(command(exported, folder, tmp_path / "out", "--format", "jsonl")) == 0
        first = (tmp_path / "out" / "results.jsonl").read_text()
        moved.rename(folder / "sub")
        assert command_line.main(command(exported, folder, tmp_path / "out", "--format", "jsonl")) == 0
        text = (tmp_path / "out" / "results.jsonl").read_text()
        assert text.startswith(first)
        names = [json.loads(line)["image"] for line in text.splitlines()]
        assert len(names) == len(set(names)) == 40

    def test_interrupted_it_ends_with_whole_rows(self, exported: Path, folder: Path, tmp_path: Path) -> None:
        program = [
            sys.executable,
            "-m",
            "anomalib_i3ad",
            "inspect",
            "--watch",
            *command(exported, folder, tmp_path / "out"),
        ]
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        results = tmp_path / "out" / "results.csv"
        while process.poll() is None and not (results.exists() and results.read_text().count("\n") >= 5):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT
        assert "Traceback" not in errors
        assert "images/s" in errors
        assert all(row["score"] for row in rows_of(tmp_path / "out"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"--source": "nowhere"}, "nowhere: there is no such folder or file"),
            ({"--model": "nowhere.xml"}, "nowhere.xml: there is no such file"),
            ({"--model": ""}, ".: there is no such file; a model is an .xml file"),
            ({"--out": "taken/out"}, "taken"),
            ({"--device": "GPU"}, "device GPU: not on this machine"),
            ({"--threshold": "7"}, r"image_threshold 7.0 must lie in"),
            ({"--source": ""}, "--source is empty; name a folder"),
            ({"--source": "loop"}, "loop: there is no such folder or file"),
            ({"--source": "taken"}, "taken: neither an image nor a video"),
            ({"--source": "20240101123000"}, "20240101123000: there is no such folder or file"),
        ],
    )
    def test_what_cannot_start_says_so_in_one_line(
        self, exported: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, change: dict, message: str
    ) -> None:
        Path("taken").write_text("a file")
        Path("loop").symlink_to("loop")
        arguments = {"--model": str(exported), "--source": str(folder), "--out": str(tmp_path / "out"), **change}
        assert command_line.main([word for pair in arguments.items() for word in pair]) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("anomalib-i3ad inspect: ")]
        assert len(errors) == 1
        assert message in errors[0]

    def test_what_nobody_foresaw_is_told_from_broken_images(
        self,
        exported: Path,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
    ) -> None:
        def fails(*_: object) -> None:
            msg = "can't start new thread"
            raise RuntimeError(msg)

        monkeypatch.setattr(command_line, "run", fails)
        assert command_line.main(command(exported, folder, tmp_path / "out")) == 2
        assert "RuntimeError: can't start new thread" in capfd.readouterr().err


class TestPictures:
    HEAD, BELOW = 2 * LINE, GAP + BAR + LINE  # above the panels' titles, and below each panel

    @pytest.mark.parametrize(
        ("size", "panel", "rows", "columns"),
        [
            ((1, 12_000), (1, 1024), 3, 1),
            ((12_000, 1), (512, LEAST), 1, 3),
            ((90, 70), (512, 398), 1, 3),
            ((4000, 5000), (512, 640), 1, 3),
        ],
    )
    def test_any_shape_stays_small(
        self, exported: Path, size: tuple[int, int], panel: tuple[int, int], rows: int, columns: int
    ) -> None:
        image = np.full((*size, 3), 128, np.uint8)
        result = Inspector(exported).inspect(image)
        shape = picture(image, result, "name", 0.5, 0.5).shape
        height, width = LINE + panel[0] + self.BELOW, panel[1] + GAP
        assert shape == (self.HEAD + rows * height, columns * width + GAP, 3)
        half = picture(image, result, "name", 0.5, 0.5, height=256)
        assert half.shape[0] <= self.HEAD + rows * (LINE + 256 + self.BELOW)

    def test_say_what_they_show(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image, drawn, draw = make_pixels(60, 60), [], cv2.putText

        def put(pixels: np.ndarray, text: str, place: tuple[int, int], *how: object) -> np.ndarray:
            drawn.append(text)
            return draw(pixels, text, place, *how)

        monkeypatch.setattr(cv2, "putText", put)
        result = Inspector(exported).inspect(image)._replace(score=0.51234567, label=True)
        shown = picture(image, result, "sub/ärm.png", 0.5125, 0.75)
        titles = ["defect outlined", "as it should look", "anomaly map"]
        meanings = ["red: map above 0.75, at peaks", "a sketch by the model", "0", "0.75: threshold", "1"]
        said = "anomalous: score 0.512346, threshold 0.5125"
        assert sorted(drawn) == sorted(["sub/?rm.png", said, *titles, *meanings])
        for text in range(3):
            assert shown[text * LINE : (text + 1) * LINE].max() == 255
        bare = result._replace(reconstruction=None)
        second = np.s_[GAP + 512 + GAP : GAP + 2 * (512 + GAP)]
        assert (picture(image, bare, "", 0.5, 0.75)[3 * LINE :] == np.delete(shown[3 * LINE :], second, 1)).all()
        drawn.clear()
        picture(image, result._replace(label=False), "", 0.5, 0.5)
        assert "normal: score 0.512346, threshold 0.5" in drawn
        drawn.clear()
        picture(image[:, :2], result, "folder/" * 40 + "0001.png", 0.5, 0.5)
        (name,) = [text for text in drawn if text.endswith("/0001.png")]
        assert name.startswith("...")
        assert cv2.getTextSize(name, FONT, SCALE, 1)[0][0] <= 3 * (LEAST + GAP)

    def test_map_and_scale_have_the_same_colours(self, exported: Path) -> None:
        image = make_pixels(60, 60)
        anomaly_map = np.full((64, 64), 0.25, np.float32)
        anomaly_map[:32] = 0.75
        result = Inspector(exported).inspect(image)._replace(anomaly_map=anomaly_map, mask=anomaly_map > 0.5)
        shown, left = picture(image, result, "", 0.5, 0.5), GAP + 2 * (512 + GAP)
        scale = shown[3 * LINE + 512 + GAP + BAR // 2, left : left + 512].astype(int)
        for row, value in ((100, 0.75), (400, 0.25)):
            np.testing.assert_allclose(shown[3 * LINE + row, left + 256], scale[round(511 * value)], atol=3)
        assert (scale[255] == INK).all()  # the threshold
        ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), COLOURS)[0]
        np.testing.assert_allclose(scale[[1, -2]], ends, atol=6)

    def test_the_outline_leaves_the_defect_bare(self, exported: Path) -> None:
        image = np.full((64, 64, 3), 128, np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[20:22, 30:32] = True  # 16 pixels of the panel
        result = Inspector(exported).inspect(image)._replace(mask=mask)
        panel = picture(image, result, "", 0.5, 0.5)[3 * LINE : 3 * LINE + 512, GAP : GAP + 512]
        assert (panel[160:176, 240:256] == 128).all()
        assert (panel[168, 230:240] == OUTLINE).all(axis=1).any()
        assert OUTLINE == (0, 0, 255)  # red, as is said below it

    def test_the_result_stands_out_where_it_is_anomalous(self) -> None:
        flat = np.zeros((64, 64), np.float32)
        for label, ink in ((True, ALERT), (False, INK)):
            result = Inspection(0.7, label, flat, flat > 0, None, None, 1.0)
            shown = picture(REDDISH, result, "", 0.5, 0.5)[LINE : 2 * LINE].reshape(-1, 3)
            assert tuple(shown[shown.sum(axis=1).argmax()]) == ink

    def test_panels_have_the_colours_of_the_image(self) -> None:
        flat = np.zeros((64, 64), np.float32)
        result = Inspection(0.7, True, flat, flat > 0, None, REDDISH[..., [2, 0, 1]].copy(), 1.0)  # noqa: FBT003
        shown = picture(REDDISH, result, "", 0.5, 0.5)
        image, drawn = (shown[3 * LINE + 256, left + 256].tolist() for left in (GAP, GAP + 512 + GAP))
        assert (image, drawn) == ([10, 60, 200], [60, 200, 10])


class TestProgress:
    def test_figures_by_hand(self) -> None:
        told, flat = Progress(), np.zeros((2, 2), np.float32)
        for number in range(1, 101):
            told.add(Inspection(0.5, number > 70, flat, flat > 0, None, None, float(number)), dropped=number % 2)
        told.add(None, dropped=3)
        told.fail("one")
        figures = r"101 images, 30 anomalous, 1 errors, [\d.]+ images/s, 53 dropped, "
        p50, p95, p99 = np.percentile(np.arange(1, 101), (50, 95, 99))
        assert re.fullmatch(rf"{figures}inference p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms", str(told))


class TestCommand:
    def test_passes_on_what_was_chosen(
        self, exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[tuple] = []

        def make(*arguments: object) -> None:
            given.append(arguments)
            raise ModelError

        monkeypatch.setattr(command_line, "Inspector", make)
        usual = command(exported, folder, tmp_path / "out")
        chosen = [
            "--device", "GPU", "--hint", "latency", "--cache", "some", "--threshold", "0.4", "--pixel-threshold", "0.6",
        ]  # fmt: skip
        for more in ([], chosen):
            assert command_line.main([*usual, *more]) == 2
        assert given == [
            (exported, "CPU", "throughput", None, None, None),
            (exported, "GPU", "latency", Path("some"), 0.4, 0.6),
        ]

    def test_the_second_signal_ends_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stop, codes = threading.Event(), []
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(os, "_exit", codes.append)
        with command_line.stopped_by_signals(stop) as signals:
            signal.raise_signal(signal.SIGTERM)
            assert (stop.is_set(), signals, codes) == (True, [signal.SIGTERM], [])
            signal.raise_signal(signal.SIGINT)
        assert codes == [128 + signal.SIGINT]
        assert signal.getsignal(signal.SIGTERM) is before


class TestSources:
    def test_nothing_is_taken_from_the_folder_of_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        for name in ("1.png", "out/2.png"):
            (tmp_path / name).write_bytes(encode(make_pixels()))
        frames = sources.frames_of(
            str(tmp_path), {}, threading.Event(), watch=False, pictures=tmp_path / "out" / "anomalous"
        )
        assert [frame.name for frame in frames if frame] == ["1.png"]

    def test_video_frames_are_numbered(self, exported: Path, tmp_path: Path) -> None:
        path = tmp_path / "video.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (90, 70))
        for seed in range(7):
            writer.write(np.ascontiguousarray(make_pixels(seed=seed)[..., ::-1]))
        writer.release()
        assert command_line.main(command(exported, path, tmp_path / "out")) == 0
        rows, inspector = rows_of(tmp_path / "out"), Inspector(exported)
        assert [row["image"] for row in rows] == [f"video.avi#{i:08}" for i in range(7)]
        for seed, (row, frame) in enumerate(zip(rows, sources.video_frames(str(path)), strict=True)):
            pixels = frame.read()
            assert np.abs(pixels.astype(int) - make_pixels(seed=seed)).mean() < 10  # in RGB, of lossy compression
            assert float(row["score"]) == pytest.approx(inspector.inspect(pixels).score, abs=2e-6)
            assert frame.stamp == folders.stamp_of(path) == (int(row["size"]), int(row["mtime_ns"]))

    def test_a_video_whose_name_is_not_unicode(self, exported: Path, tmp_path: Path) -> None:
        writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (90, 70))
        for seed in range(3):
            writer.write(make_pixels(70, 90, seed))
        writer.release()
        try:
            path = (tmp_path / "video.avi").rename(tmp_path / "video\udcff.avi")
        except (OSError, ValueError):
            pytest.skip("this system has no such names")
        run = [sys.executable, "-m", "anomalib_i3ad", "inspect", *command(exported, path, tmp_path / "out")]
        assert subprocess.run(run, check=False).returncode == 0  # a process, since one may crash
        assert (tmp_path / "out" / "results.csv").read_bytes().count(b"\nvideo\xff.avi#") == 3

    def test_a_video_without_a_frame_is_no_source(
        self, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Empty:
            isOpened = staticmethod(lambda: True)  # noqa: N815
            get = staticmethod(lambda _: 9.0)
            read = staticmethod(lambda: (False, None))

        (tmp_path / "video.avi").touch()
        monkeypatch.setattr(cv2, "VideoCapture", lambda _: Empty())
        assert command_line.main(command(exported, tmp_path / "video.avi", tmp_path / "out")) == 2
        assert "video.avi: a video of which no frame can be read" in capfd.readouterr().err

    def test_a_video_that_ends_early_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "video.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (90, 70))
        for seed in range(20):
            writer.write(np.ascontiguousarray(make_pixels(seed=seed)[..., ::-1]))
        writer.release()
        assert len(list(sources.video_frames(str(path)))) == 20
        assert not caplog.records
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        read = len(list(sources.video_frames(str(path))))
        assert 0 < read < 20
        assert [record.message for record in caplog.records] == [
            f"{path}: {read} frames can be read of the 20 that it tells of"
        ]

    def test_images_of_a_folder_come_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("b", "a", "c", "e/b", "e/a", "d/a"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.bmp").write_bytes(b"")
        walk = os.walk

        def backwards(*of: object, **how: object) -> Iterator[tuple[str, list[str], list[str]]]:
            for root, below, files in walk(*of, **how):
                below.sort(reverse=True)
                yield root, below, sorted(files, reverse=True)

        monkeypatch.setattr(os, "walk", backwards)
        found = [frame.name.removesuffix(".bmp") for frame in folders.folder_frames(tmp_path)]
        assert found == ["a", "b", "c", "d/a", "e/a", "e/b"]

    def test_a_folder_may_be_named_by_digits(self, exported: Path, folder: Path, tmp_path: Path) -> None:
        folder.rename("2024")
        assert command_line.main(command(exported, "2024", tmp_path / "out")) == 0
        assert len(rows_of(tmp_path / "out")) == 40

    def test_watch_waits_until_a_file_is_written(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "SETTLED", 0.1)
        monkeypatch.setattr(watch, "POLL", 0.02)
        watched, out, data = tmp_path / "watched", tmp_path / "out", encode(make_pixels())
        watched.mkdir()
        (watched / "before.png").write_bytes(data)

        over = threading.Event()

        def wait_for_rows(count: int) -> None:
            given_up = time.monotonic() + 60
            while time.monotonic() < given_up and not ((out / "results.csv").exists() and len(rows_of(out)) >= count):
                if over.wait(0.02):
                    return

        def camera() -> None:
            wait_for_rows(1)
            with (watched / "slow.png").open("wb", buffering=0) as file:
                for part in range(0, len(data), len(data) // 5 + 1):
                    file.write(data[part : part + len(data) // 5 + 1])
                    time.sleep(0.25)  # longer than SETTLED
            watched.rename(tmp_path / "away")
            time.sleep(0.2)
            (tmp_path / "away").rename(watched)
            (watched / "after.png").write_bytes(data)
            wait_for_rows(3)
            if not over.is_set():  # or it would end the tests
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=camera)
        thread.start()
        try:
            code = command_line.main(command(exported, watched, out, "--watch"))
        finally:
            over.set()
        assert code == 128 + signal.SIGTERM
        thread.join()
        rows = {row["image"]: row["error"] for row in rows_of(out)}
        assert rows == {"before.png": "", "slow.png": "", "after.png": ""}


def bad_files(rng: random.Random) -> dict[str, bytes]:
    """Hundreds of files by name; those named ``good`` are images."""
    files = {}
    pixels = make_pixels(30, 40)
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff"):
        whole = encode(pixels, suffix)
        files[f"good{suffix}"] = whole
        for number in range(30):
            files[f"cut_{number}{suffix}"] = whole[: rng.randrange(1, len(whole) - 2)]
        for number in range(20):
            damaged = bytearray(whole)
            for _ in range(rng.randrange(1, 30)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            files[f"damaged_{number}{suffix}"] = bytes(damaged)
    for number in range(20):
        files[f"noise_{number}.png"] = rng.randbytes(rng.randrange(2000))
    for mode in ("L", "P", "RGBA", "LA", "1"):
        data = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(data, "PNG")
        files[f"good_{mode}.png"] = data.getvalue()
    for number in range(5):  # a second image, a maker's own data, zeros of a preallocated file
        files[f"good_trailing_{number}.jpg"] = files["good.jpg"] + rng.choice((files["good.jpg"], rng.randbytes(5000)))
        files[f"good_gif_{number}.png"] = encode(pixels[number:], ".gif")  # decoders go by the content
        deep = np.full((20, 30), 4000 * number + 300, np.uint16)
        for suffix in (".png", ".tiff", ".pgm"):
            files[f"deep_{number}{suffix}"] = encode(deep, suffix)
        files[f"good_deep_{number}.png"] = cv2.imencode(".png", np.dstack([deep] * 3))[1].tobytes()
    cmyk, exif = io.BytesIO(), Image.Exif()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    exif[0x0112] = 8
    files["good_cmyk.jpg"] = cmyk.getvalue()
    files["good_turned.jpg"] = encode(pixels, ".jpg", exif=exif)
    files["good_one_pixel.png"] = encode(pixels[:1, :1])
    files["good_one_row.png"] = encode(pixels[:1])
    files["good_huge.png"] = cv2.imencode(".png", np.full((9000, 12000), 128, np.uint8))[1].tobytes()
    files["empty.png"] = b""
    files["text.png"] = b"This is no image.\n" * 20
    files['good_ änd, "ödd".png'] = files["good.png"]
    return files


def test_hundreds_of_bad_files_do_not_stop_a_run(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder, files = tmp_path / "bad", bad_files(random.Random(1))
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "image.gif").write_bytes(files["good_gif_0.png"])
    assert command_line.main(command(exported, folder, tmp_path / "out")) == 1
    rows = {row["image"]: row for row in rows_of(tmp_path / "out")}
    assert rows.keys() == {*files, "dangling.png"}
    for name, row in rows.items():
        assert bool(row["score"]) != bool(row["error"]), name
        if name.startswith("good"):
            assert row["score"], row
        if name.startswith(("cut", "noise", "empty", "text", "dangling")) and not name.endswith(".tiff"):
            assert row["error"], name
        if name.startswith("deep"):
            assert "gray values of more than 8 bits" in row["error"]
    assert "cannot be read: No such file" in rows["dangling.png"]["error"]
    errors = capfd.readouterr().err
    assert f"{len(rows)} images" in errors
    assert "more; see the column error" in errors


@pytest.mark.parametrize("stderr", ["/dev/full", "closed pipe", "none"])
def test_nobody_who_listens_stops_no_run(exported: Path, folder: Path, tmp_path: Path, stderr: str) -> None:
    code = "import sys; from anomalib_i3ad.deploy import command_line, progress; progress.ELSEWHERE = 0; "
    code += "sys.stderr = None; " if stderr == "none" else ""
    code += "sys.exit(command_line.main(sys.argv[1:]))"
    run = [sys.executable, "-c", code, *command(exported, folder, tmp_path / "out")]
    listener = os.open("/dev/full", os.O_WRONLY)
    if stderr == "closed pipe":
        reading, listener = os.pipe()
        os.close(reading)
    assert subprocess.run(run, stderr=listener, check=False).returncode == 0
    os.close(listener)
    assert len(rows_of(tmp_path / "out")) == 40


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(exported: Path, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert command_line.main(command(exported, folder, tmp_path / "out")) == 1
    (row,) = (row for row in rows_of(tmp_path / "out") if row["error"])
    assert (row["image"], row["error"]) == ("pipe.png", "not a file with content")
    assert not watch._is_whole(folder / "pipe.png")


def test_a_folder_that_vanishes_and_a_disk_that_fills(exported: Path, folder: Path, tmp_path: Path) -> None:
    """Pictures that cannot be written cost their row nothing, and files that are gone become rows."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "anomalous").write_text("in the way")
    taken = folders.folder_frames(folder)
    frames = iter([next(taken) for _ in range(10)])
    for number in range(0, 10, 2):
        (folder / f"{number:03}.png").unlink()
    results = Results(out / "results.csv")
    progress = pipeline.run(
        Inspector(exported, image_threshold=0.0), frames, results, out / "anomalous", threading.Event()
    )
    results.close()
    rows = rows_of(out)
    assert len(rows) == progress.images == progress.failed == 10
    for row in rows:
        expected = "picture not written" if row["score"] else "cannot be read: No such file"
        assert expected in row["error"]
    assert len({bool(row["score"]) for row in rows}) == 2


def test_whatever_is_wrong_with_an_image_becomes_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def too_large() -> np.ndarray:
        msg = "of 3 GB"
        raise MemoryError(msg)

    model = graph_of(lambda value: ops.sqrt(ops.subtract(value, np.float32(0.5))))  # NaN below 0.5
    inspector = Inspector(graph.save_model(model, tmp_path / "model.xml"))
    white = np.full_like(REDDISH, 255)
    stained = np.where(np.arange(64)[:, None, None] > 0, white, 0).astype(np.uint8)  # its score is finite
    gray = np.zeros((8, 8), np.uint8)
    repeat = np.repeat  # of gray images, as they are started
    monkeypatch.setattr(np, "repeat", lambda *of, **by: too_large() if of[0].shape == (8, 8, 1) else repeat(*of, **by))
    images = {
        "dark": lambda: REDDISH, "stained": lambda: stained, "large": too_large, "gray": lambda: gray,
        "white": lambda: white,
    }  # fmt: skip
    frames = (Frame(name, read) for name, read in images.items())
    results = Results(tmp_path / "results.csv")
    progress = pipeline.run(inspector, frames, results, tmp_path / "anomalous", threading.Event())
    monkeypatch.setattr(pipeline, "picture", lambda *_: too_large())
    pipeline.run(inspector, iter([Frame("its picture", lambda: white)]), results, tmp_path, threading.Event())
    results.close()
    assert [(row["image"], row["label"], row["error"]) for row in rows_of(tmp_path)] == [
        ("dark", "", "inference failed: the model's result is not finite"),
        ("stained", "", "inference failed: the model's result is not finite"),
        ("large", "", "MemoryError: of 3 GB"),
        ("gray", "", "MemoryError: of 3 GB"),
        ("white", "anomalous", ""),
        ("its picture", "anomalous", "picture not written: of 3 GB"),
    ]
    assert (progress.images, progress.failed) == (5, 4)
    progress.close()
    assert "more; see the column error" not in capfd.readouterr().err


def test_a_slow_disk_holds_up_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or results would fill the memory."""
    inspector, asked, written, ahead = Inspector(graph.save_model(brightness(0), tmp_path / "model.xml")), [], [], []

    def slow(*_: object) -> str:
        time.sleep(0.03)
        written.append(0)
        return ""

    def frames() -> Frames:
        for number in range(60):
            asked.append(number)
            ahead.append(len(asked) - len(written))
            yield Frame(str(number), lambda: REDDISH)

    monkeypatch.setattr(pipeline, "_write", slow)
    with closing(Results(tmp_path / "results.csv")) as results:
        progress = pipeline.run(inspector, frames(), results, tmp_path, threading.Event())
    assert progress.images == len(written) == 60
    # decoded, under inspection, and waiting for the disk
    assert max(ahead) <= pipeline.MOST_DECODERS + inspector.parallel + 2 * inspector.parallel + 3


def test_nothing_is_begun_after_the_end_was_asked_for(tmp_path: Path) -> None:
    inspector, stop = Inspector(graph.save_model(brightness(0), tmp_path / "model.xml")), threading.Event()

    def frames() -> Frames:
        """One look at a folder of many files."""
        for number in range(50):
            yield Frame(str(number), lambda: REDDISH)
            stop.set()

    results = Results(tmp_path / "results.csv")
    assert pipeline.run(inspector, frames(), results, tmp_path / "anomalous", stop).images == 1
    results.close()


def test_images_are_decoded_while_others_are_inspected(tmp_path: Path) -> None:
    inspector, asked = Inspector(graph.save_model(brightness(0), tmp_path / "model.xml")), []
    frames = (Frame(str(number), lambda: REDDISH) for number in range(100) if asked.append(number) is None)
    next(pipeline.outcomes(inspector, frames, decoders=4))
    assert len(asked) == 4 + inspector.parallel + 1


def test_an_image_is_done_before_another_is_waited_for(tmp_path: Path) -> None:
    inspector, asked = Inspector(graph.save_model(brightness(0), tmp_path / "model.xml")), []

    def frames() -> Frames:
        for number in range(3):
            asked.append(number)
            yield Frame(str(number), lambda: REDDISH)
            yield None

    for done, _ in enumerate(pipeline.outcomes(inspector, frames(), decoders=4), start=1):
        assert len(asked) == done


class TestConvert:
    """An exported model in other forms, without torch."""

    @staticmethod
    def convert(model: Path, out: Path, *forms: str) -> int:
        return convert.main(["--model", str(model), "--out", str(out), *forms])

    @pytest.fixture(scope="class")
    @classmethod
    def fixed(cls, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Model of one size, neither square nor that of any image drawn for all sizes."""
        path = tmp_path_factory.mktemp("fixed") / "fixed.xml"
        assert cls.convert(exported, path, "--size", "70", "90") == 0
        return path

    def test_writes_the_forms_devices_want(self, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        forms = ["--image-input", "--unroll", "--size", "70", "90", "--model-server"]
        assert self.convert(exported, tmp_path / "line.xml", *forms) == 0
        path = tmp_path / "line" / "1" / "model.xml"
        assert str(path) in capsys.readouterr().out
        model = graph.read_model(path)
        assert list(model.input(0).get_shape()) == [1, 70, 90, 3]
        assert not graph.loops_of(model)
        pixels = make_pixels(70, 90)
        expected = Inspector(exported).inspect(pixels).score
        assert Inspector(path).inspect(pixels).score == pytest.approx(expected, abs=1e-4)
        assert Inspector(path).inspect(make_pixels(140, 180)).score > 0

    def test_tells_by_how_much_what_it_wrote_differs(
        self, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert self.convert(exported, tmp_path / "same.xml") == 0
        assert "by at most 0.0e+00, and 0 labels, on 4 drawn images" in capsys.readouterr().out
        half = tmp_path / "half.xml"
        assert self.convert(exported, half, "--fp16") == 0
        told = re.search(r"by at most (\S+), and (\d) labels", capsys.readouterr().out)
        assert half.with_suffix(".bin").stat().st_size < 0.6 * exported.with_suffix(".bin").stat().st_size
        runs = [new_core().compile_model(path, "CPU", graph.FP32) for path in (exported, half)]
        largest, labels = 0.0, 0
        for image in drawn_images(None):
            before, after = (run(image[None].transpose(0, 3, 1, 2) / np.float32(255)) for run in runs)
            largest = max(
                largest, *(np.abs(before[name] - after[name]).max() for name in ("pred_score", "anomaly_map"))
            )
            labels += int(before["pred_label"].item() != after["pred_label"].item())
        assert largest > 1e-6
        assert told is not None
        assert told.groups() == (f"{largest:.1e}", str(labels))

    def test_counts_labels_that_change(self) -> None:
        means = np.array([image.mean() / 255 for image in drawn_images(None)])

        found = convert.compare(brightness(0, means.mean()), brightness(0.5, means.mean()))
        half = pytest.approx(0.5, abs=1e-5)
        assert found == (half, half, (means >= means.mean()).sum(), 4)

    def test_tells_of_scores_that_are_no_numbers(self) -> None:
        found = convert.compare(brightness(0, 0.5), brightness(np.nan, 0.5))
        assert np.isnan(found.score)
        assert np.isnan(found.anomaly_map)

    def test_a_smaller_size_is_compared_with_the_images_own(self, exported: Path, tmp_path: Path) -> None:
        small = tmp_path / "small.xml"
        assert self.convert(exported, small, "--size", "32", "24") == 0
        one, other = Inspector(exported), Inspector(small)
        pairs = [[inspector.inspect(image) for inspector in (one, other)] for image in drawn_images(None)]
        moved = max(
            max(abs(before.score - after.score), np.abs(before.anomaly_map - after.anomaly_map).max())
            for before, after in pairs
        )
        found = convert.compare(graph.read_model(exported), graph.read_model(small))
        assert max(found.score, found.anomaly_map) == pytest.approx(moved, rel=1e-3)
        assert moved > 1e-3

    def test_a_disk_that_fills_leaves_the_model_that_was_there(
        self, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out.xml"
        assert self.convert(exported, out) == 0
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}

        def full(_: ov.Model, path: Path, **__: object) -> None:
            Path(path).write_text("half")
            msg = "basic_ios::clear: iostream error"
            raise RuntimeError(msg)

        monkeypatch.setattr(ov, "save_model", full)
        assert self.convert(exported, out, "--image-input") == 2
        assert f"the model cannot be written; is the disk full?: '{out}'" in capsys.readouterr().err
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Windows has no full device")
    @pytest.mark.parametrize("stdout", ["cp1252", "/dev/full", "closed pipe"])
    def test_nobody_who_reads_what_it_tells_changes_no_exit_code(
        self, exported: Path, tmp_path: Path, stdout: str
    ) -> None:
        listener, out = os.open(os.devnull if stdout == "cp1252" else "/dev/full", os.O_WRONLY), tmp_path / "零件.xml"
        if stdout == "closed pipe":
            reading, listener = os.pipe()
            os.close(reading)
        run = [sys.executable, "-m", "anomalib_i3ad", "convert", "--model", str(exported), "--out", str(out)]
        env = {**os.environ, "PYTHONIOENCODING": "cp1252"} if stdout == "cp1252" else None
        done = subprocess.run(run, env=env, stdout=listener, stderr=subprocess.PIPE, check=False)
        os.close(listener)
        assert (done.returncode, done.stderr) == (0, b"")
        assert graph.read_model(out).inputs

    @pytest.mark.parametrize("forms", [[], ["--size", "70", "90"], ["--fp16", "--image-input"]])
    def test_takes_a_model_of_fixed_size(self, fixed: Path, tmp_path: Path, forms: list[str]) -> None:
        assert self.convert(fixed, tmp_path / "out.xml", *forms) == 0
        pixels = make_pixels(70, 90)
        expected = Inspector(fixed).inspect(pixels).score
        assert Inspector(tmp_path / "out.xml").inspect(pixels).score == pytest.approx(expected, abs=5e-3)

    def test_refuses_another_size_than_a_fixed_one(
        self, fixed: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for model, size, takes in (
            (fixed, "64 90", "70 90 alone; start from a model of any size"),
            (fixed, "70 64", "70 90 alone; start from a model of any size"),
            (exported, "0 64", "1 pixel or more a side"),
            (exported, "64 0", "1 pixel or more a side"),
        ):
            assert self.convert(model, tmp_path / "out.xml", "--size", *size.split()) == 2
            assert f"size {size}: the model takes {takes}" in capsys.readouterr().err
        assert not (tmp_path / "out.xml").exists()

    def test_tells_model_api_what_the_form_needs(self, exported: Path, fixed: Path, tmp_path: Path) -> None:
        written = graph.read_model(exported).rt_info[graph.MODEL_INFO]
        assert "scale_values" not in written
        assert graph.read_model(fixed).rt_info[graph.MODEL_INFO] == {**written, "scale_values": "255 255 255"}
        for model in (exported, fixed):
            assert self.convert(model, tmp_path / "bytes.xml", "--image-input") == 0
            assert not graph.read_model(tmp_path / "bytes.xml").has_rt_info([graph.MODEL_INFO])

    def test_never_writes_over_its_input(self, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        served = tmp_path / "line" / "1" / "model.xml"
        assert self.convert(exported, tmp_path / "line.xml", "--model-server") == 0
        content = served.read_bytes()
        for out, forms in ((served, []), (tmp_path / "line.xml", ["--model-server"])):
            assert self.convert(served, out, "--fp16", *forms) == 2
            assert f"{served}: --out is an .xml file other than the model itself" in capsys.readouterr().err
        assert served.read_bytes() == content


@pytest.mark.slow
def test_ten_thousand_images_leave_memory_flat(exported: Path, folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(10_000):
        os.link(paths[number % len(paths)], many / f"{number:05}.png")
    memory: list[tuple[int, float]] = []
    results = Results(tmp_path / "out" / "results.csv")

    def frames():
        for number, frame in enumerate(folders.folder_frames(many)):
            if number % 100 == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append((number, pages * os.sysconf("SC_PAGE_SIZE")))
            yield frame

    inspector = Inspector(exported, hint="throughput", image_threshold=0.495)
    progress = pipeline.run(inspector, frames(), results, tmp_path / "out" / "anomalous", threading.Event())
    results.close()
    names = [row["image"] for row in rows_of(tmp_path / "out")]
    assert len(names) == len(set(names)) == progress.images == 10_000
    images, resident = np.array(memory[20:]).T
    slope = np.polyfit(images, resident, 1)[0]
    print(f"\n{progress}; memory {resident[0] / 1e6:.0f} to {resident[-1] / 1e6:.0f} MB, {slope:.0f} bytes an image")
    assert slope < 1000
