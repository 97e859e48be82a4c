"""The runtime at the line: the same numbers, every image once, and nothing that stops it."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_i3ad import I3AD
from anomalib_i3ad.deploy import ImageError, Inspector, ModelError, decoding, inspect, sources
from anomalib_i3ad.deploy.records import FIELDS, Records
from model_tester import make_images


def make_pixels(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth random RGB bytes ``(height, width, 3)``."""
    return (255 * make_images(1, height, width, seed)[0]).round().byte().permute(1, 2, 0).numpy()


def encode(pixels: np.ndarray, suffix: str = ".png", **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, Image.registered_extensions()[suffix], **options)
    return data.getvalue()


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


def command(model: Path, source: Path | str, out: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--source", str(source), "--out", str(out), *more]


class TestInspector:
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
            assert result.passes == iteration.passes.item()
            drawn = 255 * iteration.inpainting[0].permute(1, 2, 0).clamp(0, 1).numpy()
            assert np.abs(result.reconstruction - drawn).max() < 3
            assert 0 < result.milliseconds < 60_000

    def test_thresholds_change_at_the_line(self, exported: Path) -> None:
        pixels = make_pixels()
        usual = Inspector(exported).inspect(pixels)
        for above, threshold in ((True, usual.score - 1e-3), (False, usual.score + 1e-3)):
            changed = Inspector(exported, image_threshold=threshold, pixel_threshold=threshold).inspect(pixels)
            assert changed.label == above
            assert (changed.mask == (usual.anomaly_map > threshold)).all()

    def test_gray_is_rgb_of_equal_channels(self, exported: Path) -> None:
        inspector, gray = Inspector(exported), make_pixels()[..., 0]
        assert inspector.inspect(gray).score == inspector.inspect(np.stack([gray] * 3, axis=-1)).score

    @pytest.mark.parametrize(
        "image", [np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.ones((9, 9, 3))]
    )
    def test_refuses_what_is_no_image(self, exported: Path, image: np.ndarray) -> None:
        with pytest.raises(ImageError, match=r"needed is \(H, W, 3\) RGB"):
            Inspector(exported).inspect(image)

    def test_names_a_file_that_cannot_be_read(self, exported: Path, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"gone.png: cannot be read: No such file"):
            Inspector(exported).inspect(tmp_path / "gone.png")

    def test_names_a_device_that_is_not_there(self, exported: Path) -> None:
        with pytest.raises(ModelError, match=r"device GPU\.7: not on this machine, which has CPU"):
            Inspector(exported, device="GPU.7")
        with pytest.raises(ValueError, match=r"image_threshold 2 must lie in \[0, 1\]"):
            Inspector(exported, image_threshold=2)

    def test_cache_that_cannot_be_written_is_done_without(
        self, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        expected = Inspector(exported).inspect(make_pixels()).score
        assert Inspector(exported, cache=tmp_path / "file").inspect(make_pixels()).score == expected
        assert "no cache" in caplog.text
        assert Inspector(exported, cache=tmp_path / "cache").inspect(make_pixels()).score == expected
        assert list((tmp_path / "cache").iterdir())

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

    def test_16_bits_keep_the_upper_8(self) -> None:
        deep = make_pixels()[..., 0].astype(np.uint16) * 256 + 77
        data = cv2.imencode(".png", deep)[1].tobytes()
        assert (decoding.decode(data)[..., 1] == make_pixels()[..., 0]).all()

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

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
    def test_a_part_of_a_file_is_no_image(self, suffix: str) -> None:
        data = encode(make_pixels(), suffix)
        for length in range(0, len(data) - 1, max(1, len(data) // 40)):
            with pytest.raises(ImageError, match=r"empty|incomplete|not an image|cannot decode"):
                decoding.decode(data[:length])

    def test_a_damaged_png_is_no_image(self) -> None:
        data = bytearray(encode(make_pixels()))
        data[len(data) // 2] ^= 4
        with pytest.raises(ImageError, match="a checksum is wrong"):
            decoding.decode(bytes(data))


class TestRecords:
    ROW = {**dict.fromkeys(FIELDS), "picture": "x" * 50, "size": 1, "mtime_ns": 2}

    def row(self, name: str) -> dict[str, object]:
        return {**self.ROW, "image": name}

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_torn_at_any_byte_keeps_whole_rows(self, tmp_path: Path, suffix: str) -> None:
        names = ["plain.png", 'with "quotes", commas.png', "with\nline break.png", "umlaut ä.png", "odd \udcff.png"]
        path = tmp_path / f"results.{suffix}"
        records = Records(path)
        ends = [path.stat().st_size]
        for name in names:
            records.append(self.row(name))
            ends.append(path.stat().st_size)
        records.close()
        content = path.read_bytes()
        for cut in range(len(content) + 1):
            path.write_bytes(content[:cut])
            records = Records(path)
            whole = sum(cut >= end for end in ends[1:])
            assert records.done == dict.fromkeys(names[:whole], (1, 2))
            for name in names[whole:]:
                records.append(self.row(name))
            records.close()
            assert path.read_bytes() == content

    def test_full_disk_loses_nothing(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=False).returncode:
            pytest.skip("needs the right to mount a small tmpfs")
        try:
            records = Records(small / "results.csv")
            (small / "filler").write_bytes(b"x" * 8192)
            for number in range(150):
                records.append(self.row(f"{number:03}.png"))
            assert 0 < records.waiting < 150
            with (small / "results.csv").open(newline="") as file:
                assert len(list(csv.DictReader(file))) == 150 - records.waiting
            (small / "filler").unlink()
            records.append(self.row("last.png"))
            assert not records.waiting
            records.close()
            with (small / "results.csv").open(newline="") as file:
                assert [row["image"] for row in csv.DictReader(file)] == [
                    *(f"{i:03}.png" for i in range(150)),
                    "last.png",
                ]
            (small / "filler").write_bytes(b"x" * 4096)
            records = Records(small / "results.csv")
            for number in range(150, 400):
                records.append(self.row(f"{number}.png"))
            with pytest.raises(OSError, match=r"results.csv: no room for the last \d+ rows"):
                records.close()
        finally:
            subprocess.run(["umount", small], check=True)

    def test_refuses_a_table_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "results.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match=r"results.csv: has other columns"):
            Records(tmp_path / "results.csv")
        assert (tmp_path / "results.csv").read_text() == "a,b\n1,2\n"


class TestInspect:
    def test_a_row_for_each_image_and_a_picture_of_each_defect(
        self, exported: Path, folder: Path, tmp_path: Path
    ) -> None:
        assert inspect.main(command(exported, folder, tmp_path / "out", "--threshold", "0.49")) == 0
        rows = rows_of(tmp_path / "out")
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        assert sorted(row["image"] for row in rows) == paths
        inspector = Inspector(exported, image_threshold=0.49)
        for row in rows:
            expected = inspector.inspect(folder / row["image"])
            assert float(row["score"]) == pytest.approx(expected.score, abs=2e-6)
            assert row["label"] == ("defective" if expected.label else "normal")
            assert int(row["passes"]) == expected.passes
            assert (row["picture"] != "") == expected.label
            if row["picture"]:
                picture = cv2.imread(str(tmp_path / "out" / row["picture"]))
                assert picture.shape == (512, 3 * 512, 3)
        assert len({row["label"] for row in rows}) == 2

    def test_goes_on_where_it_stopped(self, exported: Path, folder: Path, tmp_path: Path) -> None:
        moved = tmp_path / "later"
        (folder / "sub").rename(moved)
        assert inspect.main(command(exported, folder, tmp_path / "out", "--format", "jsonl")) == 0
        first = (tmp_path / "out" / "results.jsonl").read_text()
        moved.rename(folder / "sub")
        assert inspect.main(command(exported, folder, tmp_path / "out", "--format", "jsonl")) == 0
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
        while not results.exists() or results.read_text().count("\n") < 5:
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
            ({"--out": "taken/out"}, "taken"),
            ({"--device": "GPU"}, "device GPU: not on this machine"),
            ({"--threshold": "7"}, r"image_threshold 7.0 must lie in"),
            ({"--source": "taken"}, "taken: neither an image nor a video"),
        ],
    )
    def test_what_cannot_start_says_so_in_one_line(
        self, exported: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, change: dict, message: str
    ) -> None:
        Path("taken").write_text("a file")
        arguments = {"--model": str(exported), "--source": str(folder), "--out": str(tmp_path / "out"), **change}
        assert inspect.main([word for pair in arguments.items() for word in pair]) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("anomalib-i3ad inspect: ")]
        assert len(errors) == 1
        assert message in errors[0]


@pytest.mark.parametrize(("size", "panel"), [((1, 12_000), (1, 1024)), ((12_000, 1), (512, 1)), ((90, 70), (512, 398))])
def test_pictures_of_any_shape_stay_small(exported: Path, size: tuple[int, int], panel: tuple[int, int]) -> None:
    from anomalib_i3ad.deploy.pictures import picture

    image = np.full((*size, 3), 128, np.uint8)
    assert picture(image, Inspector(exported).inspect(image)).shape == (panel[0], 3 * panel[1], 3)


class TestSources:
    def test_video_frames_are_numbered(self, exported: Path, tmp_path: Path) -> None:
        path = tmp_path / "video.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (90, 70))
        for seed in range(7):
            writer.write(np.ascontiguousarray(make_pixels(seed=seed)[..., ::-1]))
        writer.release()
        assert inspect.main(command(exported, path, tmp_path / "out")) == 0
        assert [row["image"] for row in rows_of(tmp_path / "out")] == [f"video.avi#{i:08}" for i in range(7)]
        result = Inspector(exported).inspect(make_pixels(seed=3))
        assert float(rows_of(tmp_path / "out")[3]["score"]) == pytest.approx(result.score, abs=0.02)

    def test_a_camera_that_fails_is_opened_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = []

        class Camera:
            def __init__(self, address: int) -> None:
                opened.append(address)
                self.left = 0 if len(opened) == 2 else 2

            def isOpened(self) -> bool:  # noqa: N802
                return len(opened) != 2

            def read(self) -> tuple[bool, np.ndarray | None]:
                self.left -= 1
                return (True, make_pixels()[..., ::-1]) if self.left >= 0 else (False, None)

            def release(self) -> None:
                pass

        monkeypatch.setattr(cv2, "VideoCapture", Camera)
        monkeypatch.setattr(sources, "RECONNECT", 0.01)
        stop = threading.Event()
        frames = (frame for frame in sources.frames_of("3", set(), stop, watch=False) if frame)
        taken = [next(frames) for _ in range(4)]
        stop.set()
        assert opened == [3, 3, 3]
        assert len({frame.name for frame in taken}) == 4
        assert (taken[3].read() == make_pixels()).all()

    def test_watch_waits_until_a_file_is_written(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "SETTLED", 0.1)
        monkeypatch.setattr(sources, "POLL", 0.02)
        watched, out, data = tmp_path / "watched", tmp_path / "out", encode(make_pixels())
        watched.mkdir()
        (watched / "before.png").write_bytes(data)

        def camera() -> None:
            with (watched / "slow.png").open("wb", buffering=0) as file:
                for part in range(0, len(data), len(data) // 5 + 1):
                    file.write(data[part : part + len(data) // 5 + 1])
                    time.sleep(0.25)  # longer than SETTLED
            watched.rename(tmp_path / "away")
            time.sleep(0.2)
            (tmp_path / "away").rename(watched)
            (watched / "after.png").write_bytes(data)
            while not (out / "results.csv").exists() or len(rows_of(out)) < 3:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=camera)
        thread.start()
        assert inspect.main(command(exported, watched, out, "--watch")) == 128 + signal.SIGTERM
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
    for mode in ("L", "P", "RGBA", "LA", "1", "I;16"):
        data = io.BytesIO()
        image = (
            Image.fromarray(np.full((20, 30), 40_000, np.uint16))
            if mode == "I;16"
            else Image.fromarray(pixels).convert(mode)
        )
        image.save(data, "PNG")
        files[f"good_{mode.replace(';', '')}.png"] = data.getvalue()
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
    assert inspect.main(command(exported, folder, tmp_path / "out")) == 1
    rows = {row["image"]: row for row in rows_of(tmp_path / "out")}
    assert rows.keys() == {*files, "dangling.png"}
    for name, row in rows.items():
        assert bool(row["score"]) != bool(row["error"]), name
        if name.startswith("good"):
            assert row["score"], row
        if name.startswith(("cut", "noise", "empty", "text", "dangling")) and not name.endswith(".tiff"):
            assert row["error"], name
    assert "cannot be read: No such file" in rows["dangling.png"]["error"]
    errors = capfd.readouterr().err
    assert f"{len(rows)} images" in errors
    assert "more; see the column error" in errors


def test_a_folder_that_vanishes_and_a_disk_that_fills(exported: Path, folder: Path, tmp_path: Path) -> None:
    """Pictures that cannot be written cost their row nothing, and files that are gone become rows."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "defective").write_text("in the way")
    taken = sources.folder_frames(folder)
    frames = iter([next(taken) for _ in range(10)])
    for number in range(0, 10, 2):
        (folder / f"{number:03}.png").unlink()
    from anomalib_i3ad.deploy.run import run

    records = Records(out / "results.csv")
    progress = run(Inspector(exported, image_threshold=0.0), frames, records, out / "defective", threading.Event())
    records.close()
    rows = rows_of(out)
    assert len(rows) == progress.images == progress.failed == 10
    for row in rows:
        expected = "picture not written" if row["score"] else "cannot be read: No such file"
        assert expected in row["error"]
    assert len({bool(row["score"]) for row in rows}) == 2


def test_convert_writes_the_forms_devices_want(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from anomalib_i3ad.deploy import convert, graph

    out = tmp_path / "line.xml"
    forms = ["--image-input", "--unroll", "--size", "70", "90", "--model-server"]
    assert convert.main(["--model", str(exported), "--out", str(out), *forms]) == 0
    path = tmp_path / "line" / "1" / "model.xml"
    assert str(path) in capsys.readouterr().out
    model = graph.read_model(path)
    assert list(model.input(0).get_shape()) == [1, 70, 90, 3]
    assert not graph.loops_of(model)
    pixels = make_pixels(70, 90)
    assert Inspector(path).inspect(pixels).score == pytest.approx(Inspector(exported).inspect(pixels).score, abs=1e-4)
    assert Inspector(path).inspect(make_pixels(140, 180)).score > 0
    assert convert.main(["--model", str(exported), "--out", str(exported)]) == 2
    assert "other than the model itself" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_thousand_images_leave_memory_flat(exported: Path, folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(10_000):
        os.link(paths[number % len(paths)], many / f"{number:05}.png")
    memory: list[tuple[int, float]] = []
    records = Records(tmp_path / "out" / "results.csv")

    def frames():
        for number, frame in enumerate(sources.folder_frames(many)):
            if number % 100 == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append((number, pages * os.sysconf("SC_PAGE_SIZE")))
            yield frame

    from anomalib_i3ad.deploy.run import run

    inspector = Inspector(exported, hint="throughput", image_threshold=0.495)
    progress = run(inspector, frames(), records, tmp_path / "out" / "defective", threading.Event())
    records.close()
    names = [row["image"] for row in rows_of(tmp_path / "out")]
    assert len(names) == len(set(names)) == progress.images == 10_000
    images, resident = np.array(memory[20:]).T
    slope = np.polyfit(images, resident, 1)[0]
    print(f"\n{progress}; memory {resident[0] / 1e6:.0f} to {resident[-1] / 1e6:.0f} MB, {slope:.0f} bytes an image")
    assert slope < 1000
