"""The command as a process: standard files that are closed or full, signals before it begins, and no telemetry."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_i3ad.deploy import command_line
from test_deploy import command, encode, make_pixels, rows_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals and pipes")
INSPECT = [sys.executable, "-m", "anomalib_i3ad", "inspect"]


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)])
def test_closed_standard_files_are_no_files_of_the_run(closed: tuple[int, ...]) -> None:
    code = (
        "import os; from anomalib_i3ad.deploy.telling import fill_standard_files as fill; "
        f"[os.close(number) for number in {closed}]; fill(); "
        "file = os.open('/dev/zero', os.O_RDONLY); "
        "null = os.stat(os.devnull); "
        f"ok = file > 2 and all(os.path.samestat(os.fstat(number), null) for number in {closed}); "
        "os._exit(0 if ok else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_decoders_write_no_messages_into_the_results(exported: Path, tmp_path: Path) -> None:
    for seed in range(9):
        pixels = encode(make_pixels(seed=seed), ".jpg")
        # before the end marker: libjpeg tells of data that belong to nothing
        (tmp_path / f"{seed}.jpg").write_bytes(pixels[:-2] + bytes(40) + pixels[-2:])
    closing = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    arguments = command(exported, tmp_path, out := tmp_path / "out")
    for _ in range(2):  # a second run reads what the first has written
        assert subprocess.run([*closing, *INSPECT, *arguments], check=False).returncode == 0
    assert [row["image"] for row in rows_of(out)] == [f"{seed}.jpg" for seed in range(9)]


@pytest.mark.parametrize("pages", [0, 1])
def test_a_pipe_that_nobody_empties_stops_no_run(exported: Path, tmp_path: Path, pages: int) -> None:
    code = "import sys; from anomalib_i3ad.deploy import command_line, progress; "
    code += f"progress.ELSEWHERE = {pages * 60}; "  # where there is some room, it is left to what is told at the end
    code += "sys.exit(command_line.main(sys.argv[1:]))"
    reading, full = os.pipe()
    room = select.poll()  # select() takes no file numbers of 1024 and more, as this process may have
    room.register(full, select.POLLOUT)
    while room.poll(0):
        os.write(full, bytes(select.PIPE_BUF))
    os.read(reading, pages * select.PIPE_BUF)
    for seed in range(9):
        (tmp_path / f"{seed}.png").write_bytes(encode(make_pixels(seed=seed)))
    cut = encode(make_pixels(), ".tif")
    (tmp_path / "cut.tif").write_bytes(cut[: len(cut) // 2])  # of which libtiff tells
    for number in range(30):  # of which the end of the run tells more than the pipe takes
        (tmp_path / f"{number}{'e' * 220}.png").write_bytes(b"no image")
    run = [sys.executable, "-c", code, *command(exported, tmp_path, tmp_path / "out")]
    assert subprocess.run(run, stderr=full, timeout=60, check=False).returncode == 1
    assert len(rows_of(tmp_path / "out")) == 40
    for end in (reading, full):
        os.close(end)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_ends_the_command(number: int) -> None:
    code = (
        "import os, sys, anomalib_i3ad.cli as cli; sys.argv[1:] = ['inspect']; "
        f"cli.import_module = lambda _: os.kill(os.getpid(), {int(number)}); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, b"")


def test_a_signal_while_a_camera_is_opened_is_no_error(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        msg = "cannot be opened"
        raise ConnectionError(msg)

    monkeypatch.setattr(command_line, "frames_of", refused)
    assert command_line.main(command(exported, tmp_path, tmp_path / "out")) == 128 + signal.SIGTERM
    assert "cannot be opened" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_an_empty_folder_is_not_the_current_one(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command_line.main(command(exported, tmp_path, tmp_path / "out", option, ""))
    assert stopped.value.code == 2
    assert f"argument {option}: is empty; name a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", ["deploy", "export.to_openvino"])
def test_nobody_is_told_of_a_start_or_an_export(tmp_path: Path, room: str) -> None:
    """OpenVINO's telemetry keeps its records in the home folder, and ends the program where they are damaged."""
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "stats").write_text("7")
    code = f"import json, sys, anomalib_i3ad.{room}; print(json.dumps(sorted(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "openvino" in json.loads(done.stdout)
    assert not [name for name in json.loads(done.stdout) if name.startswith("openvino_telemetry.")]
    assert [path.name for path in (tmp_path / "intel").iterdir()] == ["stats"]


def test_what_is_said_comes_whole_and_what_decoders_say_does_not() -> None:
    code = "import os; from anomalib_i3ad.deploy.telling import decoders_silenced, say; text = 'ä' * 9999\n"
    code += "with decoders_silenced(): say(text); os.write(2, b'no'); say(text)\n"
    code += "os.write(2, b'yes'); say('!')"
    env = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stderr.decode() == 2 * ("ä" * 9999 + os.linesep) + "yes!" + os.linesep


def test_a_signal_ends_a_wait_at_any_moment() -> None:
    code = """
import os, signal, sys
from anomalib_i3ad.deploy.stop import Stop

def trace(frame, event, _):
    # a signal in every line of it: Event's would wait for the lock that the wait holds
    if frame.f_code.co_name in {"wait", "set"}:
        os.kill(os.getpid(), signal.SIGUSR1)
        return trace
    return None

stop = Stop()
signal.signal(signal.SIGUSR1, lambda *_: stop.set())
sys.settrace(trace)
assert stop.wait(60)
assert stop.is_set()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
