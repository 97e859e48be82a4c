"""Cameras: the newest image, named by when it was read, and without secrets."""

import csv
import os
import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_i3ad.deploy import Inspector, camera, command_line
from anomalib_i3ad.deploy.engine import Inspection, Ticket
from anomalib_i3ad.deploy.frames import Frame
from anomalib_i3ad.deploy.pipeline import run
from anomalib_i3ad.deploy.results import Results
from anomalib_i3ad.deploy.sources import frames_of
from test_deploy import REDDISH

#: Only for the camera of these tests, and never to be seen.
USER, PASSWORD, TOKEN = "operator", "s3cr3t", "t0k3n"
#: Value of an image whose decoding raises an error.
DAMAGED = 255


class Capture:
    """In the place of OpenCV's: an image that is all of one value, or none where that is ``None``."""

    images: Iterator[int | None]
    opened: list[object]

    def __init__(self, *where: object) -> None:
        self.open(*where)

    def open(self, *where: object) -> None:
        self.opened.append(where[0])

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        value = next(self.images, None)
        if value == DAMAGED:
            raise cv2.error
        return value is not None, np.full((4, 5, 3), value or 0, np.uint8)

    def release(self) -> None:
        self.opened.append("released")


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[Capture]:
    monkeypatch.setattr(Capture, "opened", [], raising=False)
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(camera, "RECONNECT", 0.01)
    return Capture


@contextmanager
def frames_from(source: str) -> Iterator[Iterator[Frame]]:
    """Frames of a camera, which is let go at the end."""
    stop = threading.Event()
    frames = frames_of(source, set(), stop, watch=False)
    try:
        yield (frame for frame in frames if frame)
    finally:
        stop.set()
        frames.close()


def value_of(frame: Frame) -> int:
    return int(frame.read()[0, 0, 0])


def read_at(name: str) -> datetime:
    return datetime.strptime(name.rpartition(" ")[2], "%Y-%m-%dT%H:%M:%S.%f%z")


@contextmanager
def streamed(next_image: Callable[[], bytes]) -> Iterator[str]:
    """Address of a camera that sends JPEG files over HTTP to whoever knows its password."""
    allowed = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == allowed
            self.send_response(200 if known else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
            self.end_headers()
            with suppress(OSError):  # nobody looks any more
                while known:
                    data = next_image()
                    head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_port}/live/{TOKEN}?key={TOKEN}"
        finally:
            server.shutdown()
            thread.join()


def jpeg(number: int, size: int = 64) -> bytes:
    """Image of 16 fields that tell its number, black or white each."""
    bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    return cv2.imencode(".jpg", np.kron(255 * bits, np.ones((size // 4, size // 4), np.uint8)))[1].tobytes()


def number_in(image: np.ndarray) -> int:
    """Number that :func:`jpeg` drew."""
    step = len(image) // 4
    bits = image[step // 2 :: step, step // 2 :: step, 1].ravel() > 127
    return sum(int(bit) << index for index, bit in enumerate(bits))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (3, "3"),
        ("rtsp://camera.local:554/live/1?channel=2", "rtsp-camera.local-554"),
        ("rtsp://user:secret@10.0.0.7/live", "rtsp-10.0.0.7"),
        ("rtsp://user:se@cret@10.0.0.7:554/live", "rtsp-10.0.0.7-554"),
        ("rtsp://user:se/cret@10.0.0.7:554/live", "rtsp"),
        ("rtsp://user:se?cret#@10.0.0.7", "rtsp"),
        ("rtsp://10.0.0.7:554/user=admin_password=secret_channel=1_stream=0.sdp", "rtsp-10.0.0.7-554"),
        ("http://10.0.0.7/video?user=admin&password=se@cret", "http"),
        ("http://[::1]:8080/secret", "http-1-8080"),
    ],
)
def test_names_hold_no_secrets_and_make_no_folders(address: int | str, name: str) -> None:
    assert camera.name_of(address) == name


def test_the_newest_image_and_how_many_were_dropped(capture: type[Capture]) -> None:
    asked, given = threading.Semaphore(0), threading.Semaphore(1)

    def images() -> Iterator[int]:
        for value in count():
            asked.release()
            assert given.acquire(timeout=60)
            yield value

    def take(number: int) -> None:
        """Let the camera take so many images, and wait until they are read."""
        for _ in range(number):
            given.release()
            assert asked.acquire(timeout=60)

    capture.images = images()
    with frames_from("0") as frames:
        assert value_of(next(frames)) == 0
        assert asked.acquire(timeout=60)
        assert asked.acquire(timeout=60)
        for number, newest, dropped in ((1, 1, 0), (9, 10, 8), (1, 11, 0), (200, 211, 199)):
            take(number)
            before = datetime.now(timezone.utc)
            frame = next(frames)
            assert (value_of(frame), frame.dropped) == (newest, dropped)
            assert frame.name.startswith("camera 0 ")
            assert read_at(frame.name) <= before
        given.release()
    assert capture.opened == [0, "released"]


@pytest.mark.usefixtures("capture")
def test_images_are_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Capture, "read", lambda _: (True, np.ascontiguousarray(REDDISH[..., ::-1])))
    with frames_from("0") as frames:
        assert (next(frames).read() == REDDISH).all()


def test_a_camera_that_fails_is_opened_again(capture: type[Capture], caplog: pytest.LogCaptureFixture) -> None:
    capture.images = iter([0, 1, None, None, 2, DAMAGED, 3])
    with frames_from("3") as frames:
        while value_of(next(frames)) < 3:
            pass
    assert capture.opened[:7] == [3, *("released", 3) * 3]
    assert caplog.text.count("camera 3 gives images again") == 2
    # twice in a row it is told once; the third time is after the last image
    assert caplog.text.count("camera 3 gives no image") in {2, 3}
    assert "camera 3 gives no image (" in caplog.text  # and why


def test_a_camera_that_failed_is_not_opened_after_the_end(
    capture: type[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(Capture, "release", lambda _: released.set())
    monkeypatch.setattr(camera, "RECONNECT", 60.0)
    capture.images = iter([0])
    with frames_from("3") as frames:
        next(frames)
        assert released.wait(60)
    assert capture.opened == [3]


@pytest.mark.parametrize("watch", [[], ["--watch"]])
@pytest.mark.parametrize("source", ["97", "unreachable", "refused"])
def test_the_first_open_decides(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture, source: str, watch: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port, streamed(lambda: jpeg(0)) as address:
        unreachable = f"http://{USER}:{PASSWORD}@127.0.0.1:{port.getsockname()[1]}/live?key={TOKEN}"
        port.close()
        source = {"unreachable": unreachable, "refused": address.replace(USER, "nobody")}.get(source, source)
        arguments = ["--model", str(exported), "--source", source, "--out", str(tmp_path / "out"), *watch]
        assert command_line.main(arguments) == 2
    errors = capfd.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("anomalib-i3ad inspect: ")]
    assert camera.name_of(source) in line
    assert ("only a folder can be watched" if watch else "cannot be opened: ") in line
    assert not {secret for secret in (PASSWORD, TOKEN) if secret in errors}


def test_no_secret_reaches_results_or_log(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out, numbers = tmp_path / "out", count()
    results = out / "results.csv"

    over = threading.Event()

    def end() -> None:
        given_up = time.monotonic() + 60
        while time.monotonic() < given_up and not (results.exists() and results.read_text().count("\n") >= 12):
            if over.wait(0.02):
                return
        if not over.is_set():  # or it would end the tests
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    with streamed(lambda: jpeg(next(numbers) % 65536)) as address:
        thread.start()
        arguments = ["--model", str(exported), "--source", address, "--out", str(out), "--threshold", "0"]
        try:
            code = command_line.main(arguments)
        finally:
            over.set()
        thread.join()
        assert code == 128 + signal.SIGTERM
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = sorted(path.relative_to(out).as_posix() for path in (out / "anomalous").rglob("*"))
    assert len({row["image"] for row in rows}) == len(rows) >= 11
    assert all(row["image"].startswith("camera http-127.0.0.1-") for row in rows)
    assert sorted(row["picture"] for row in rows) == pictures
    assert not any((out / picture).is_dir() for picture in pictures)
    text = "".join([capfd.readouterr().err, *map(str, out.rglob("*")), *(p.read_text() for p in out.glob("*.*"))])
    assert f"{len(rows)} images" in text
    assert " dropped, inference" in text
    assert not {secret for secret in (USER, PASSWORD, TOKEN) if secret in text}


@pytest.mark.slow
def test_twenty_thousand_images_of_a_camera(exported: Path, tmp_path: Path) -> None:
    """Nothing grows, and no image is older than two inferences when its own ends, however fast the camera is."""
    total, out = 20_000, tmp_path / "out"
    sent, left, ended, resident = (np.ones(length) for length in (2**16, total, total, total))  # the test grows neither
    numbers, began, done = count(), count(), count()

    def next_image() -> bytes:
        time.sleep(1 / 400)
        number = next(numbers) % len(sent)
        sent[number] = time.time()
        return jpeg(number)

    class Timed(Inspector):
        def start(self, image: np.ndarray) -> Ticket:
            number = next(began)
            left[number] = sent[number_in(image)]
            resident[number] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            if number == total - 1:
                stop.set()
            return super().start(image)

        def finish(self, ticket: Ticket) -> Inspection:
            result = super().finish(ticket)
            ended[next(done)] = time.time()
            return result

    stop, results = threading.Event(), Results(out / "results.csv")
    with streamed(next_image) as address:
        frames = frames_of(address, results.done, stop, watch=False)
        progress = run(Timed(exported, image_threshold=1.0), frames, results, out / "anomalous", stop)
    results.close()
    with (out / "results.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    read = np.array([read_at(name).timestamp() for name in names])
    # inferences that ended from when an image was read, or sent, until its own did, that one included
    age, age_since_sent = (np.arange(1, total + 1) - ended.searchsorted(when) for when in (read, left))
    slope = np.polyfit(np.arange(total // 10, total), resident[total // 10 :], 1)[0]
    print(
        f"\n{progress}; memory {resident[total // 10] / 1e6:.1f} to {resident[-1] / 1e6:.1f} MB, {slope:.1f} bytes an "
        f"image; inferences old since read {np.bincount(age)}, since sent {np.bincount(age_since_sent)}; "
        f"camera {next(numbers)} images"
    )
    assert progress.images == len(set(names)) == total
    assert not progress.failed
    assert progress.dropped > 0
    assert slope <= 50
    assert age.max() <= 2
