"""Results at the line belong to what is there now: its files, the model and the thresholds; and to one process."""

import argparse
import csv
import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from anomalib_i3ad import I3AD
from anomalib_i3ad.deploy import (
    Inspector,
    command_line,
    decoding,
    folders,
    pipeline,
    results,
    results_folder,
    sources,
    watch,
)
from anomalib_i3ad.deploy.decoding import ImageError
from anomalib_i3ad.deploy.files import write_whole
from anomalib_i3ad.deploy.frames import Frame, Frames
from anomalib_i3ad.deploy.results import FIELDS, Results
from anomalib_i3ad.deploy.results_folder import ClaimError, claimed
from test_deploy import command, encode, make_pixels, rows_of

#: Images of one size in bytes, so that only the time of a file tells that it holds another.
SIZE = 64
BROKEN = b"no image"


def content(seed: int) -> bytes:
    return encode(make_pixels(SIZE, SIZE, seed), ".bmp")


def scores_of(model: Path, count: int) -> list[float]:
    inspector = Inspector(model)
    return [inspector.inspect(make_pixels(SIZE, SIZE, seed)).score for seed in range(count)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folder of ``0.bmp`` to ``4.bmp``, each with the content of its number."""
    path = tmp_path / "images"
    path.mkdir()
    for seed in range(5):
        (path / f"{seed}.bmp").write_bytes(content(seed))
    return path


@pytest.fixture(scope="module")
def scores(exported: Path) -> list[float]:
    """Of the contents 0 to 9."""
    return scores_of(exported, 10)


def read_rows(out: Path, form: str) -> dict[str, dict[str, object]]:
    """Rows by name; no name may have two."""
    if form == "csv":
        rows = rows_of(out)
    else:
        rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["image"] for row in rows})
    return {row["image"]: row for row in rows}


class TestSecondStart:
    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_inspects_what_changed_failed_or_is_new(
        self,
        exported: Path,
        source: Path,
        scores: list[float],
        tmp_path: Path,
        capfd: pytest.CaptureFixture,
        form: str,
    ) -> None:
        arguments = command(exported, source, tmp_path / "out", "--format", form)
        (source / "broken.bmp").write_bytes(BROKEN)
        (source / "padded.bmp").write_bytes(content(7))
        for told in ("7 images", "1 images"):
            assert command_line.main(arguments) == 1  # the error stays open
            assert told in capfd.readouterr().err
        before = (source / "padded.bmp").stat()
        (source / "0.bmp").write_bytes(content(5))  # another time
        (source / "padded.bmp").write_bytes(content(8) + b"\0")  # another size
        os.utime(source / "padded.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
        (source / "broken.bmp").write_bytes(content(6))
        (source / "new.bmp").write_bytes(content(9))
        (source / "4.bmp").unlink()
        assert command_line.main(arguments) == 0
        errors = capfd.readouterr().err
        assert "4 images" in errors
        assert "passed over: 3 inspected before\n" in errors
        rows = read_rows(tmp_path / "out", form)
        now = {"0": 5, "1": 1, "2": 2, "3": 3, "4": 4, "broken": 6, "padded": 8, "new": 9}
        assert rows.keys() == {f"{name}.bmp" for name in now}
        for name, seed in now.items():
            assert float(rows[f"{name}.bmp"]["score"]) == pytest.approx(scores[seed], abs=2e-6)
            assert not rows[f"{name}.bmp"]["error"]
        assert command_line.main(arguments) == 0
        assert "0 images" in capfd.readouterr().err

    def test_refuses_to_mix(
        self, exported: Path, source: Path, scores: list[float], tmp_path: Path, capfd: pytest.CaptureFixture
    ) -> None:
        out, other = tmp_path / "out", tmp_path / "other"
        limit = sorted(scores[:5])[2]
        assert command_line.main(command(exported, source, out, "--threshold", str(limit))) == 0
        content_before = (out / "results.csv").read_bytes()
        (out / "anomalous" / "mine.txt").write_text("not the run's")
        shutil.copytree(source, other)
        for suffix in (".xml", ".bin"):
            shutil.copy(exported.with_suffix(suffix), tmp_path / f"model{suffix}")
        with (tmp_path / "model.xml").open("a") as file:
            file.write("<!-- exported anew -->\n")
        model = tmp_path / "model.xml"
        for changed, told in (
            (command(exported, source, out, "--threshold", "0.9"), f"threshold {limit}, not 0.9"),
            (command(exported, source, out, "--pixel-threshold", "0.9"), "pixel_threshold 0.5, not 0.9"),
            (command(model, source, out, "--threshold", str(limit)), "model_sha256"),
            (command(exported, other, out, "--threshold", str(limit)), f"source {source}, not {other}"),
        ):
            assert command_line.main(changed) == 2
            errors = capfd.readouterr().err
            assert told in errors
            assert "give another --out, or --again" in errors
        assert (out / "results.csv").read_bytes() == content_before
        assert len(list((out / "anomalous").glob("*.jpg"))) == 2
        assert command_line.main(command(model, source, out, "--threshold", "0.9", "--again")) == 0
        rows = read_rows(out, "csv")
        assert len(rows) == 5
        assert {row["threshold"] for row in rows.values()} == {"0.9"}
        assert [path.name for path in (out / "anomalous").iterdir()] == ["mine.txt"]
        assert command_line.main(command(model, source, out, "--threshold", "0.9")) == 0
        assert json.loads((out / "run.json").read_text())["source"] == str(source)

    def test_a_picture_goes_with_the_content_that_it_shows(
        self, exported: Path, source: Path, scores: list[float], tmp_path: Path
    ) -> None:
        worst, best = (scores.index(pick(scores[:5])) for pick in (max, min))
        limit = str(sorted(scores[:5])[-2])
        arguments = command(exported, source, tmp_path / "out", "--threshold", limit)
        assert command_line.main(arguments) == 0
        pictures = tmp_path / "out" / "anomalous"
        assert [path.name for path in pictures.iterdir()] == [f"{worst}.bmp.jpg"]
        (source / f"{worst}.bmp").write_bytes(content(best))
        assert command_line.main(arguments) == 0
        assert not list(pictures.iterdir())
        assert {row["picture"] for row in rows_of(tmp_path / "out")} == {""}

    def test_a_recording_that_was_replaced_is_another_source(self, tmp_path: Path) -> None:
        path = tmp_path / "video.avi"
        path.write_bytes(b"one")
        first = sources.identity_of(str(path))
        assert first == sources.identity_of(str(path))
        path.write_bytes(b"another")
        assert sources.identity_of(str(path)) != first

    def test_two_cameras_of_one_host_are_two_sources(self) -> None:
        first = sources.identity_of("rtsp://me:p@ss@camera/1")
        assert first == "camera rtsp-camera, 88d5"
        assert sources.identity_of("rtsp://another:word@camera/1") == first
        assert sources.identity_of("rtsp://me:p@ss@camera/2") != first


class TestOwnPictures:
    @pytest.mark.parametrize("out", ["images", "images/results", "."])
    def test_are_not_inspected(self, exported: Path, source: Path, tmp_path: Path, out: str) -> None:
        arguments = command(exported, source, tmp_path / out, "--threshold", "0")
        for _ in range(2):
            assert command_line.main(arguments) == 0
            assert set(read_rows(tmp_path / out, "csv")) == {f"{seed}.bmp" for seed in range(5)}
            assert len(list((tmp_path / out / "anomalous").iterdir())) == 5

    def test_nor_are_those_of_another_run(self, exported: Path, source: Path, tmp_path: Path) -> None:
        assert command_line.main(command(exported, source, source / "results", "--threshold", "0")) == 0
        assert len(list((source / "results" / "anomalous").iterdir())) == 5
        assert command_line.main(command(exported, source, source, "--threshold", "0")) == 0
        assert len(list((source / "anomalous").iterdir())) == 5
        for out in (source / "results2", tmp_path / "out"):
            assert command_line.main(command(exported, source, out, "--threshold", "1")) == 0
            assert set(read_rows(out, "csv")) == {f"{seed}.bmp" for seed in range(5)}

    def test_are_told_by_more_than_the_name_of_a_file(self, source: Path) -> None:
        (source / "0.bmp").rename(source / "run.json")
        (source / "sub").mkdir()
        for name in ("run.json", "a.bmp"):
            (source / "sub" / name).write_bytes(content(0))
        assert [frame.name for frame in folders.folder_frames(source) if "sub" in frame.name] == ["sub/a.bmp"]

    def test_are_no_source(self, exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
        (tmp_path / "out" / "anomalous" / "sub").mkdir(parents=True)
        assert command_line.main(command(exported, tmp_path / "out" / "anomalous" / "sub", tmp_path / "out")) == 2
        assert "the run puts its own pictures there; give another --out" in capfd.readouterr().err


class TestWatch:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch, "SETTLED", -1.0)
        monkeypatch.setattr(watch, "POLL", 0.0)

    def test_sees_what_is_overwritten_and_not_its_own_pictures(self, source: Path, tmp_path: Path) -> None:
        known, passed = {f"{seed}.bmp": folders.stamp_of(source / f"{seed}.bmp") for seed in range(4)}, Counter()
        frames = sources.frames_of(
            str(source), known, threading.Event(), watch=True, pictures=source / "anomalous", passed=passed
        )

        def look() -> list[str]:
            """Names up to the end of a look."""
            return [frame.name for frame in iter(partial(next, frames), None)]

        assert look() == ["4.bmp"]
        (source / "anomalous").mkdir()
        (source / "anomalous" / "4.bmp.jpg").write_bytes(encode(make_pixels(), ".jpg"))
        assert look() == []
        (source / "2.bmp").write_bytes(content(5))
        (source / "4.bmp").write_bytes(content(6))
        assert look() == ["2.bmp", "4.bmp"]
        assert look() == []
        assert passed == {folders.BEFORE: 3, "folder of results": 1}

    def test_tells_once_that_its_folder_is_lost_and_once_that_it_is_back(
        self, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        passed: Counter[str] = Counter()
        frames = watch.watched_frames(source, {}, threading.Event(), None, passed)
        assert len(list(iter(partial(next, frames), None))) == 5
        assert not passed  # not even none of a kind
        source.rename(tmp_path / "away")
        assert [next(frames) for _ in range(3)] == [None] * 3
        (tmp_path / "away").rename(source)
        assert [next(frames) for _ in range(3)] == [None] * 3  # and nothing is inspected anew
        assert [record.message for record in caplog.records] == [
            f"{source}: cannot be read any more: No such file or directory; waiting for it",
            f"{source}: is back",
        ]

    def test_forgets_files_that_are_gone_unless_all_are(self, source: Path, tmp_path: Path) -> None:
        frames = watch.watched_frames(source, {}, threading.Event(), None, Counter())
        away = tmp_path / "away"
        away.mkdir()

        def moved(names: list[str], there: Path, back: Path) -> list[str]:
            """Names of the look after the one that missed these files."""
            for name in names:
                (there / name).rename(back / name)
            assert next(frames) is None
            for name in names:
                (back / name).rename(there / name)
            return [frame.name for frame in iter(partial(next, frames), None)]

        every = [frame.name for frame in iter(partial(next, frames), None)]
        assert len(every) == 5
        assert moved(every, source, away) == []  # as of a disk that is not mounted
        assert moved(every[1:3], source, away) == every[1:3]
        (source / "sub").mkdir()
        (away / "sub").mkdir()
        (source / every[0]).rename(source / "sub" / every[0])
        while not [frame.name for frame in iter(partial(next, frames), None)]:
            pass
        assert moved([f"sub/{every[0]}"], source, away) == []  # nor of one of two disks

    def test_takes_a_file_that_stayed_as_it_is_for_a_while(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        monkeypatch.setattr(watch, "SETTLED", 1.0)
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        frames = watch.watched_frames(source, {}, threading.Event(), None, Counter())

        def look(now: float) -> list[str]:
            clock[0] = now
            return [frame.name for frame in iter(partial(next, frames), None)]

        assert look(0.0) == look(0.9) == []
        (source / "4.bmp").write_bytes(content(4) + b"\0")
        assert look(1.1) == [f"{seed}.bmp" for seed in range(4)]
        assert look(2.0) == []
        assert look(2.2) == ["4.bmp"]

    def test_rests_for_longer_than_it_looks(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, below, rests = [0.0], folders.images_below, []

        def pass_by(seconds: float) -> bool:
            clock[0] += seconds
            return True

        class Stop:
            is_set = staticmethod(lambda: False)
            wait = staticmethod(rests.append)

        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        monkeypatch.setattr(watch, "_is_whole", lambda _: pass_by(100))
        monkeypatch.setattr(watch, "images_below", lambda *of: (path for path in below(*of) if pass_by(0.5)))
        frames = watch.watched_frames(source, {}, Stop(), None, Counter())
        for _ in range(2):
            while next(frames) is not None:
                pass_by(1000)
        next(frames)
        assert rests == [watch.RESTS * 5 * 0.5] * 2

    def test_a_file_that_stays_locked_is_inspected_in_the_end(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "_is_whole", lambda path: Path(path).name != "2.bmp")
        frames = watch.watched_frames(source, {}, threading.Event(), None, Counter())
        assert [frame.name for frame in iter(partial(next, frames), None)] == ["0.bmp", "1.bmp", "3.bmp", "4.bmp"]
        monkeypatch.setattr(watch, "GIVEN_UP", -1.0)
        assert [frame.name for frame in iter(partial(next, frames), None)] == ["2.bmp"]

    def test_a_file_that_is_always_overwritten_is_inspected_once_in_a_while(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, whole = [0.0], [True]
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        monkeypatch.setattr(watch, "SETTLED", 1.0)
        monkeypatch.setattr(watch, "_is_whole", lambda _: whole[0])
        frames, taken = watch.watched_frames(source, {}, threading.Event(), None, Counter()), []
        for look in range(100):
            clock[0], whole[0] = look / 2, look % 3 == 0
            os.utime(source / "2.bmp", ns=(look, look))
            taken += [clock[0] for frame in iter(partial(next, frames), None) if frame.name == "2.bmp"]
        # once more than 30 s have gone since it was first seen, and it is whole
        assert taken == [31.5]

    def test_a_link_to_what_is_away_is_an_error_in_the_end(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (source / "9.bmp").symlink_to(tmp_path / "9.bmp")
        (source / "8.bmp").symlink_to("8.bmp")
        frames = watch.watched_frames(source, {}, threading.Event(), None, Counter())
        assert [frame.name for frame in iter(partial(next, frames), None)] == [f"{seed}.bmp" for seed in range(5)]
        monkeypatch.setattr(watch, "GIVEN_UP", -1.0)
        to_itself, away = iter(partial(next, frames), None)
        assert (to_itself.name, away.name) == ("8.bmp", "9.bmp")
        for frame in (to_itself, away):
            with pytest.raises(ImageError, match="cannot be read"):
                frame.read()
        assert next(frames) is None  # and no more
        (tmp_path / "9.bmp").write_bytes(content(9))
        (back,) = iter(partial(next, frames), None)
        assert (back.name, back.read().shape) == ("9.bmp", (SIZE, SIZE, 3))

    def test_what_nobody_can_look_at_any_more_keeps_its_row(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stamp_of = folders.stamp_of

        def refused(path: str) -> results.Stamp:
            if Path(path).name == "2.bmp":
                raise PermissionError
            return stamp_of(path)

        done = {f"{seed}.bmp": stamp_of(source / f"{seed}.bmp") for seed in range(3)}
        passed: Counter[str] = Counter()
        frames = watch.watched_frames(source, done, threading.Event(), None, passed)
        monkeypatch.setattr(watch, "stamp_of", refused)
        monkeypatch.setattr(watch, "GIVEN_UP", -1.0)
        assert [frame.name for frame in iter(partial(next, frames), None)] == ["3.bmp", "4.bmp"]
        assert passed == {folders.BEFORE: 3}

    def test_links_that_nobody_can_look_at_end_nothing(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "5.bmp").write_bytes(content(5))
        lstat = os.lstat

        def away(path: str | Path) -> os.stat_result:  # as of a share
            return Dead().fileno() if Path(path).name == "sub" else lstat(path)

        monkeypatch.setattr(os, "lstat", away)
        frames = watch.watched_frames(source, {}, threading.Event(), None, Counter())
        assert len(list(iter(partial(next, frames), None))) == 6

    def test_a_file_that_cannot_be_read_is_not_whole(self, source: Path) -> None:
        assert watch._is_whole(source / "0.bmp")
        (source / "1.bmp").write_bytes(content(1)[:-1])
        assert not watch._is_whole(source / "1.bmp")
        assert not watch._is_whole(source / "gone.bmp")


def test_what_was_inspected_before_keeps_its_row_where_it_is_moved_away(source: Path, tmp_path: Path) -> None:
    done = {path.name: folders.stamp_of(path) for path in source.iterdir() if path.name != "0.bmp"}
    passed: Counter[str] = Counter()
    frames = sources.frames_of(str(source), done, threading.Event(), watch=False, passed=passed)
    assert next(frames).name == "0.bmp"  # the folder has been listed
    (source / "3.bmp").rename(tmp_path / "3.bmp")
    assert list(frames) == []
    assert passed[folders.BEFORE] == 4


def test_a_look_ends_where_the_end_is_asked_for(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {path.name: folders.stamp_of(path) for path in source.iterdir()}
    stop, seen, stamp_of = threading.Event(), [], folders.stamp_of

    def looked_at(path: str) -> results.Stamp:
        seen.append(Path(path).name)
        if len(seen) == 3:
            stop.set()
        return stamp_of(path)

    monkeypatch.setattr(watch, "stamp_of", looked_at)
    assert list(watch.watched_frames(source, done, stop, None, Counter())) == []
    assert seen == ["0.bmp", "1.bmp", "2.bmp"]


def test_what_was_inspected_before_is_passed_over_until_the_end_is_asked_for(source: Path) -> None:
    done = {path.name: folders.stamp_of(path) for path in source.iterdir()}
    stop, read = threading.Event(), []

    def frames() -> Frames:
        for frame in folders.folder_frames(source):
            read.append(frame.name)
            if len(read) == 3:
                stop.set()
            yield frame

    passed: Counter[str] = Counter()
    assert list(sources._not_done(frames(), done, passed, stop)) == []
    assert (len(read), passed[folders.BEFORE]) == (3, 2)


class TestNoImage:
    def test_is_an_error_of_a_first_run(
        self, exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        arguments = command(exported, empty, tmp_path / "out")
        for _ in range(2):
            assert command_line.main(arguments) == 1
            told = [line for line in capfd.readouterr().err.splitlines() if "inspect: " in line]
            needed = ".bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"
            assert told == [f"anomalib-i3ad inspect: {empty}: holds no image; needed are {needed}"]
            (empty / "notes.txt").write_text("no image")
        shutil.copy(source / "0.bmp", empty)
        assert command_line.main(arguments) == 0
        (empty / "0.bmp").unlink()
        assert command_line.main(arguments) == 0
        assert "holds no image" not in capfd.readouterr().err

    def test_is_none_of_a_watch(
        self, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin = command_line.run

        def run(*arguments: object) -> object:
            os.kill(os.getpid(), signal.SIGTERM)
            return begin(*arguments)

        monkeypatch.setattr(command_line, "run", run)
        (tmp_path / "empty").mkdir()
        for more in ([], ["--watch"]):
            assert command_line.main(command(exported, tmp_path / "empty", tmp_path / "out", *more)) == 143
        errors = capfd.readouterr().err
        assert errors.count("0 images, ") == 2
        assert "holds no image" not in errors


def test_images_under_way_get_their_rows_where_the_source_fails(exported: Path, source: Path, tmp_path: Path) -> None:
    def frames() -> Frames:
        yield from folders.folder_frames(source)
        msg = "no memory for the next"
        raise MemoryError(msg)

    with closing(Results(tmp_path / "results.csv")) as file, pytest.raises(MemoryError):
        pipeline.run(Inspector(exported), frames(), file, tmp_path / "anomalous", threading.Event())
    assert [row["image"] for row in rows_of(tmp_path)] == [f"{seed}.bmp" for seed in range(5)]


@pytest.mark.parametrize("size", [decoding.MOST_BYTES + 1, 2**40])
def test_a_file_that_is_too_large_is_an_error_of_its_own(source: Path, size: int) -> None:
    with (source / "2.bmp").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ImageError, match=f"{size} bytes; at most {decoding.MOST_BYTES} are read, cut it into parts"):
        decoding.read_image(source / "2.bmp")
    assert not watch._is_whole(str(source / "2.bmp"))


def test_a_file_that_memory_is_too_small_for_is_an_error_of_its_own(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(ImageError, match="cannot be read: there is no memory for it"):
        decoding.read_image(source / "2.bmp")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are shorter, or counted in letters")
def test_images_with_long_names_have_pictures(exported: Path, source: Path, tmp_path: Path) -> None:
    names = [letter * count + ".bmp" for letter, count in (("a", 246), ("a", 247), ("a", 251), ("b", 251), ("ü", 125))]
    for name in names:
        (source / name).write_bytes(content(0))
    assert command_line.main(command(exported, source, tmp_path / "out", "--threshold", "0")) == 0
    rows = read_rows(tmp_path / "out", "csv")
    assert set(names) <= set(rows)
    pictures = [tmp_path / "out" / str(row["picture"]) for row in rows.values()]
    assert len(set(pictures)) == len(rows) == 10
    assert all(picture.stat().st_size for picture in pictures)
    assert rows[names[0]]["picture"] == f"anomalous/{names[0]}.jpg"


class TestPassedOver:
    def test_is_told(self, exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
        for name in ("a.gif", "b.GIF", "notes.txt", "README", ".hidden.bmp", "._0.bmp", ".cache/x.bmp", "sub/y.bmp"):
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(content(5))
        (source / "link").symlink_to(source / "sub")
        assert command_line.main(command(exported, source, tmp_path / "out")) == 0
        assert set(read_rows(tmp_path / "out", "csv")) == {"sub/y.bmp", *(f"{seed}.bmp" for seed in range(5))}
        told = "passed over: 2 .gif, 1 .txt, 3 hidden, 1 linked folder, 1 without suffix\n"
        assert told in capfd.readouterr().err

    def test_a_folder_that_vanished_is_told(self, tmp_path: Path) -> None:
        passed: Counter[str] = Counter()
        assert not list(folders.folder_frames(tmp_path / "gone", None, passed))
        assert passed == {"folder that cannot be read": 1}

    def test_a_folder_that_cannot_be_read_is_told(
        self,
        exported: Path,
        source: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
    ) -> None:
        (source / "sub").mkdir()
        look = os.scandir

        def refuse(path: str | os.PathLike) -> object:
            if str(path) in refused:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return look(path)

        monkeypatch.setattr(os, "scandir", refuse)
        refused = {str(source / "sub")}
        assert command_line.main(command(exported, source, tmp_path / "out")) == 1
        assert len(rows_of(tmp_path / "out")) == 5
        assert "passed over: 1 folder that cannot be read" in capfd.readouterr().err
        look_at = os.stat

        def refuse_within(path: object, *args: object, **kwargs: object) -> os.stat_result:
            if str(path).startswith(f"{source / 'sub'}{os.sep}"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return look_at(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", refuse_within)
            assert command_line.main(command(exported, source, tmp_path / "out")) == 1
        assert "passed over: 1 folder that cannot be read, 5 inspected before" in capfd.readouterr().err
        refused = {str(source)}
        assert command_line.main(command(exported, source, tmp_path / "out")) == 2
        assert f"{source}: the folder cannot be read: Permission denied" in capfd.readouterr().err


def test_again_removes_no_file_but_pictures(exported: Path, source: Path, tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious.txt"
    arguments = command(exported, source, out, "--threshold", "0")
    assert command_line.main(arguments) == 0
    precious.write_text("of somebody else")
    table = out / "results.csv"
    text = table.read_text().replace("anomalous/0.bmp.jpg", "../precious.txt")
    table.write_text(text.replace("anomalous/1.bmp.jpg", "anomalous/../run.json"))
    (out / "anomalous" / "notes.txt").write_text("of the operator")
    with claimed(out, {}, again=True):
        assert sorted(file.name for file in (out / "anomalous").iterdir()) == ["0.bmp.jpg", "1.bmp.jpg", "notes.txt"]
    assert precious.exists()


def test_again_that_is_ended_leaves_no_row_without_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "results.csv")
    results.append({**dict.fromkeys(FIELDS), "image": "a", "picture": "anomalous/a.jpg"})
    results.close()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "anomalous").mkdir()
    (tmp_path / "anomalous" / "a.jpg").touch()
    unlink = Path.unlink

    def end(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", end)
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path, {}, again=True):
        pass
    assert not (tmp_path / "results.csv").exists()


def test_again_removes_nothing_once_the_end_was_asked_for(
    exported: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, loaded = command(exported, source, tmp_path / "out"), command_line.loaded
    assert command_line.main(arguments) == 0
    before = rows_of(tmp_path / "out")

    def ended_meanwhile(chosen: argparse.Namespace) -> tuple[Inspector, str]:
        signal.raise_signal(signal.SIGTERM)
        return loaded(chosen)

    monkeypatch.setattr(command_line, "loaded", ended_meanwhile)
    assert command_line.main([*arguments, "--again", "--watch"]) == 128 + signal.SIGTERM
    assert rows_of(tmp_path / "out") == before


def test_again_removes_nothing_where_the_source_is_none(
    exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert command_line.main(command(exported, source, out, "--threshold", "0")) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in {".csv", ".json", ".jpg"}}
    assert len(before) == 7
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "empty").mkdir()  # as where a disk is away
    (tmp_path / "empty" / "x.gif").touch()
    for none in (tmp_path / "nowhere", tmp_path / "notes.txt", out / "anomalous", "9999", tmp_path / "empty"):
        code = 1 if none == tmp_path / "empty" else 2
        assert command_line.main([*command(exported, none, out), "--again"]) == code
        assert {path: path.read_bytes() for path in before} == before
    told = capfd.readouterr().err
    whys = "no such folder or file", "neither an image nor a video", "its own pictures", "cannot be opened"
    for why in (*whys, "passed over: 1 .gif\n", "empty: holds no image"):
        assert why in told


def test_a_folder_of_results_that_was_removed_can_be_resumed(tmp_path: Path) -> None:
    out, of = tmp_path / "out", {"model": "m"}
    with claimed(out, of) as renew, closing(Results(out / "results.csv", renew)) as file:
        shutil.rmtree(out)
        file.append({**dict.fromkeys(FIELDS), "image": "a"})
        assert json.loads((out / "run.json").read_text()) == of  # at once: the process may be killed
        with pytest.raises(ClaimError, match="writes here"), claimed(out, of):
            pass
    with claimed(out, of):
        assert [row["image"] for _, row in results.rows_in(out / "results.csv")] == ["a"]
        (out / "run.json").unlink()
    with claimed(out, of):
        shutil.rmtree(out)
    assert not out.exists()


def test_a_folder_of_results_that_another_process_took_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    out, row = tmp_path / "out", {**dict.fromkeys(FIELDS), "image": "a"}
    with claimed(out, {}) as renew:
        first = Results(out / "results.csv", renew)
        out.rename(tmp_path / "archive")
        with claimed(out, {}), closing(Results(out / "results.csv")):
            (out / "results.csv").unlink()
            with pytest.raises(ClaimError, match="writes here"):
                first.append(row)
        first._file.close()


def test_rows_wait_while_the_disk_of_their_folder_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, device_of = tmp_path / "mounted" / "out", results_folder._device_of
    with claimed(out, {}) as renew, closing(Results(out / "results.csv", renew)) as file:
        names = iter("abcd")

        def append() -> None:
            file.append({**dict.fromkeys(FIELDS), "image": next(names)})

        append()
        out.parent.rename(tmp_path / "away")
        out.parent.mkdir()
        monkeypatch.setattr(results_folder, "_device_of", lambda folder: device_of(folder) + 1)
        append()
        append()
        assert (file.waiting, list(out.parent.iterdir())) == (2, [])
        out.parent.rmdir()
        (tmp_path / "away").rename(out.parent)  # as another device, as shares may be
        append()
        assert not file.waiting
    assert [row["image"] for _, row in results.rows_in(out / "results.csv")] == list("abcd")


def test_no_picture_goes_where_the_disk_of_its_folder_is_away(
    exported: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, device_of = tmp_path / "mounted" / "out", results_folder._device_of
    inspector = Inspector(exported, image_threshold=0.0)
    names = iter(sorted(source.iterdir()))

    def inspect(file: Results) -> str:
        path = next(names)
        frame = Frame(path.name, partial(decoding.read_image, path), folders.stamp_of(path))
        outcome = pipeline.Outcome(frame, frame.read(), inspector.inspect(frame.read()))
        return pipeline._write(outcome, file, out / "anomalous", inspector)

    with claimed(out, {}) as renew, closing(Results(out / "results.csv", renew)) as file:
        assert inspect(file) == ""
        out.parent.rename(tmp_path / "away")
        out.parent.mkdir()
        monkeypatch.setattr(results_folder, "_device_of", lambda folder: device_of(folder) + 1)
        assert inspect(file) == "picture not written: its disk is away"
        assert (file.waiting, list(out.parent.iterdir())) == (1, [])
        out.parent.rmdir()
        (tmp_path / "away").rename(out.parent)
        assert inspect(file) == ""
    rows = [row for _, row in results.rows_in(out / "results.csv")]
    assert [row["error"] for row in rows] == [None, "picture not written: its disk is away", None]
    assert [row["picture"] and (out / row["picture"]).is_file() for row in rows] == [True, None, True]


def test_a_picture_is_written_where_a_share_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    with closing(Results(tmp_path / "results.csv", lambda: held.append(1))) as file, monkeypatch.context() as patch:
        file.prepare()
        assert held == []
        patch.setattr(file, "_file", Dead())
        file.prepare()
        assert held == [1]


class Dead:
    """A file of a share that was away."""

    def fileno(self) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    close = fileno


def test_a_folder_of_results_whose_lock_is_dead_is_held_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.fstat

    def dead_once(_: int) -> os.stat_result:
        monkeypatch.setattr(os, "fstat", stat)
        return Dead().fileno()

    with claimed(tmp_path / "out", {}) as renew:
        for _ in range(2):
            monkeypatch.setattr(os, "fstat", dead_once)
            renew()
            with pytest.raises(ClaimError, match="writes here"), claimed(tmp_path / "out", {}):
                pass


def test_a_lock_that_nobody_can_write_to_stands_in_no_ones_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(tmp_path / "out", {}) as renew:
        (tmp_path / "out" / "inspect.lock").unlink()
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: Dead().fileno())
            with pytest.raises(OSError, match="Stale"):
                renew()
        renew()


@pytest.mark.parametrize("change", [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text])
def test_again_keeps_a_table_that_another_program_saved(
    exported: Path, source: Path, tmp_path: Path, change: Callable[[bytes], bytes], capfd: pytest.CaptureFixture
) -> None:
    out, arguments = tmp_path / "out", command(exported, source, tmp_path / "out")
    assert command_line.main(arguments) == 0
    saved = change((out / "results.csv").read_bytes())
    (out / "results.csv").write_bytes(saved)
    assert command_line.main(arguments) == 2
    assert command_line.main([*arguments, "--again"]) == 0
    assert (out / "results.csv.1.bad").read_bytes() == saved
    assert "results.csv: has other columns" in capfd.readouterr().err
    assert len(read_rows(out, "csv")) == 5


def test_a_model_that_is_replaced_while_it_is_read_is_not_run(
    exported: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    model = tmp_path / "model.xml"
    for suffix in (".xml", ".bin"):
        shutil.copy(exported.with_suffix(suffix), model.with_suffix(suffix))

    def read_and_replaced(*arguments: object) -> Inspector:
        inspector = Inspector(*arguments)
        model.write_text(model.read_text() + "\n")
        return inspector

    monkeypatch.setattr(command_line, "Inspector", read_and_replaced)
    assert command_line.main(command(model, source, tmp_path / "out")) == 2
    assert f"{model}: was replaced while it was read; start again" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no file of Windows has a colon in its name")
def test_names_that_differ_in_a_colon_have_two_pictures(exported: Path, source: Path, tmp_path: Path) -> None:
    for name in ("a-a.bmp", "a:a.bmp"):
        (source / name).write_bytes(content(7))
    assert command_line.main(command(exported, source, tmp_path / "out", "--threshold", "0")) == 0
    pictures = [row["picture"] for row in rows_of(tmp_path / "out")]
    assert len(set(pictures)) == len(pictures) == len(list((tmp_path / "out" / "anomalous").iterdir())) == 7


def test_only_one_process_writes(exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    arguments = command(exported, source, tmp_path / "out")
    with claimed(tmp_path / "out", {}):
        assert command_line.main(arguments) == 2
        assert command_line.main([*arguments, "--again"]) == 2
        assert not (tmp_path / "out" / "results.csv").exists()
    errors = capfd.readouterr().err
    assert errors.count(f"process {os.getpid()} on ") == 2
    assert "writes here; wait for its end or give another --out" in errors
    assert command_line.main(arguments) == 0


def test_two_formats_do_not_mix(exported: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert command_line.main(command(exported, source, tmp_path / "out")) == 0
    assert command_line.main(command(exported, source, tmp_path / "out", "--format", "jsonl")) == 2
    assert "its results are of format csv, not jsonl: give another --out" in capfd.readouterr().err
    assert not (tmp_path / "out" / "results.jsonl").exists()
    note = tmp_path / "out" / "run.json"
    before = json.loads(note.read_text())
    del before["format"]  # as older versions wrote it
    note.write_text(json.dumps(before))
    assert command_line.main(command(exported, source, tmp_path / "out", "--format", "jsonl")) == 2
    assert command_line.main(command(exported, source, tmp_path / "out")) == 0


def test_json_lines_hold_numbers(exported: Path, source: Path, tmp_path: Path) -> None:
    (source / "broken.bmp").write_bytes(BROKEN)
    assert command_line.main(command(exported, source, tmp_path / "out", "--format", "jsonl")) == 1
    rows = read_rows(tmp_path / "out", "jsonl")
    assert rows.pop("broken.bmp")["score"] is None
    for name, row in rows.items():
        kinds = {field: type(row[field]) for field in ("score", "threshold", "iterations", "milliseconds", "size")}
        assert kinds == {"score": float, "threshold": float, "iterations": int, "milliseconds": float, "size": int}
        assert row["mtime_ns"] == (source / name).stat().st_mtime_ns
        assert row["error"] is None


class TestWriteWhole:
    def test_takes_any_name_that_the_disk_takes(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 251 + ".csv")
        for content in ([b"a", b"b"], [b"c"]):
            write_whole(path, content)
            assert path.read_bytes() == b"".join(content)
        assert list(tmp_path.iterdir()) == [path]

    def test_what_cannot_be_written_leaves_what_was_there(self, tmp_path: Path) -> None:
        def lines() -> Iterator[bytes]:
            yield b"new"
            raise OSError(28, "No space left on device")

        path = tmp_path / "results.csv"
        path.write_bytes(b"old")
        with pytest.raises(OSError, match=r"No space left on device: '.*results\.csv'"):
            write_whole(path, lines())
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


class TestResults:
    def row(self, name: str, **more: object) -> dict[str, object]:
        return {**dict.fromkeys(FIELDS), "image": name, "size": 1, "mtime_ns": 2, **more}

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_torn_at_any_byte_keeps_whole_rows(self, tmp_path: Path, suffix: str) -> None:
        names = ["plain.png", 'with "quotes", commas.png', "with\nline break.png", "umlaut ä.png", "odd \udcff.png"]
        path = tmp_path / f"results.{suffix}"
        results = Results(path)
        ends = [path.stat().st_size]
        for name in names:
            results.append(self.row(name, picture="x" * 50))
            ends.append(path.stat().st_size)
        results.close()
        content = path.read_bytes()
        for cut in range(len(content) + 1):
            path.write_bytes(content[:cut])
            results = Results(path)
            whole = sum(cut >= end for end in ends[1:])
            assert results.done == dict.fromkeys(names[:whole], (1, 2))
            for name in names[whole:]:
                results.append(self.row(name, picture="x" * 50))
            results.close()
            assert path.read_bytes() == content

    def test_full_disk_loses_nothing(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=False).returncode:
            pytest.skip("needs the right to mount a small tmpfs")
        try:
            results = Results(small / "results.csv")
            (small / "filler").write_bytes(b"x" * 8192)
            for number in range(150):
                results.append(self.row(f"{number:03}.png", picture="x" * 50))
            assert 0 < results.waiting < 150
            with (small / "results.csv").open(newline="") as file:
                assert len(list(csv.DictReader(file))) == 150 - results.waiting
            (small / "filler").unlink()
            results.append(self.row("last.png", picture="x" * 50))
            assert not results.waiting
            results.close()
            with (small / "results.csv").open(newline="") as file:
                assert [row["image"] for row in csv.DictReader(file)] == [
                    *(f"{i:03}.png" for i in range(150)),
                    "last.png",
                ]
            (small / "filler").write_bytes(b"x" * 4096)
            results = Results(small / "results.csv")
            for number in range(150, 400):
                results.append(self.row(f"{number}.png", picture="x" * 50))
            with pytest.raises(OSError, match=r"results.csv: no room for the last \d+ rows"):
                results.close()
        finally:
            subprocess.run(["umount", small], check=True)

    @pytest.mark.parametrize("moved", ["", "results.old", "../old"])
    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_that_are_removed_or_moved_meanwhile_are_begun_anew(
        self, tmp_path: Path, suffix: str, moved: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "out" / f"results.{suffix}"
        with closing(Results(path)) as file:
            file.append(self.row("a"))
            if moved:
                whole = path.parent if ".." in moved else path
                whole.rename(path.parent / moved)
            else:
                shutil.rmtree(path.parent)
            file.append(self.row("b"))
            file.append(self.row("c"))
        assert [row["image"] for _, row in results.rows_in(path)] == ["b", "c"]
        told = f"{path}: was removed, moved or emptied; another one is begun"
        assert [record.message for record in caplog.records] == [told]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_that_nobody_can_look_at_for_a_while_lose_no_row(
        self, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        out, away = tmp_path / "out", tmp_path / "away"
        path = out / f"results.{suffix}"
        with closing(Results(path)) as file:
            file.append(self.row("a"))
            out.rename(away)
            out.write_text("what is in the way")
            for name in "bc":
                file.append(self.row(name))
            assert file.waiting == 2
            out.unlink()
            away.rename(out)
            file.append(self.row("d"))
            assert not file.waiting
        assert [row["image"] for _, row in results.rows_in(path)] == list("abcd")
        told = f"{path}: Not a directory; rows wait in memory until they can be written"
        assert [record.message for record in caplog.records] == [told]
        file = Results(path)
        shutil.rmtree(out)
        out.write_text("what is in the way")
        file.append(self.row("e"))
        told = rf"results.{suffix}: Not a directory for the last 1 rows; mend it and start again"
        with pytest.raises(OSError, match=told):
            file.close()

    @pytest.mark.parametrize("left", [0, 2, 2.5])
    @pytest.mark.parametrize("how", ["cut", "replaced"])
    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_that_another_program_writes_meanwhile_go_on_there(
        self, tmp_path: Path, suffix: str, how: str, left: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As an editor does when it saves: all is gone but so many lines."""
        path = tmp_path / f"results.{suffix}"
        with closing(Results(path)) as file:
            for name in "abcd":
                file.append(self.row(name))
            lines = path.read_bytes().splitlines(keepends=True)
            rest = b"".join(lines[: int(left)]) + (lines[2][:-5] if left % 1 else b"")
            if how == "replaced":
                (tmp_path / "saved").write_bytes(rest)
                (tmp_path / "saved").replace(path)
            else:
                path.write_bytes(rest)
            for name in "ef":
                file.append(self.row(name))
        kept = ["", "a", "ab"][int(left)] if suffix == "jsonl" else ["", "", "a"][int(left)]
        if left % 1:
            with pytest.raises(ValueError, match=r"line 3 is no row of results"):
                list(results.rows_in(path))
            path.write_bytes(path.read_bytes().replace(lines[2][:-5] + b"\n", b""))
        assert [row["image"] for _, row in results.rows_in(path)] == [*kept, "e", "f"]
        (record,) = caplog.records
        told = "changed by another program" if left else "removed, moved or emptied; another one is begun"
        assert record.message.startswith(f"{path}: was {told}")

    @pytest.mark.parametrize("left", ["nothing", "a part", "all", "another's"])
    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_of_a_share_that_was_away_go_on(self, tmp_path: Path, suffix: str, left: str) -> None:
        """Whatever the last attempt, or another process, has left there."""
        path = tmp_path / f"results.{suffix}"
        with closing(Results(path)) as file:
            file.append(self.row("a"))
            file._file.close()
            file._file = Dead()
            for name in "bc":
                file.append(self.row(name))
                if name == "b":
                    assert file.waiting == 1
                    (line,) = file._waiting
                    more = {
                        "nothing": b"", "a part": line[:9], "all": line, "another's": line.replace(b"b", b"z", 1),
                    }  # fmt: skip
                    with path.open("ab") as of_server:
                        of_server.write(more[left])
            assert not file.waiting
        assert [row["image"] for _, row in results.rows_in(path)] == (
            list("azbc") if left == "another's" else list("abc")
        )

    def test_zeros_behind_the_last_row_are_no_row(self, tmp_path: Path) -> None:
        """As a power cut leaves them."""
        path = tmp_path / "results.jsonl"
        for torn in (b"\0" * 99, b'{"image": "b", "ti' + b"\0" * 99):
            with closing(Results(path)) as table:
                table.append(self.row("a"))
            with path.open("ab") as file:
                file.write(torn)
            Results(path).close()
            assert [row["image"] for _, row in results.rows_in(path)] == ["a"]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    @pytest.mark.parametrize("name", ["a\rb", "a\nb", "\r", 'a,"b', "a\r\n"])
    def test_any_name_comes_back(self, tmp_path: Path, suffix: str, name: str) -> None:
        path = tmp_path / f"results.{suffix}"
        with closing(Results(path)) as file:
            file.append(self.row(name))
            file.append(self.row("z"))
        with closing(Results(path)) as file:
            assert file.done == {name: (1, 2), "z": (1, 2)}

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_the_last_row_of_an_image_stays(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"results.{suffix}"
        first = Results(path)  # never closed: its process is killed
        for row in (self.row("a"), self.row("b", error="x"), self.row("c"), self.row("a", mtime_ns=3)):
            first.append(row)
        again = Results(path)
        assert again.done == {"c": (1, 2), "a": (1, 3)}
        again.append(self.row("b"))
        again.append(self.row("c", error="y"))
        again.close()
        rows = [row for _, row in results.rows_in(path)]
        assert [(row["image"], row["mtime_ns"], row["error"]) for row in rows] == [
            ("a", 3, None),
            ("b", 2, None),
            ("c", 2, "y"),
        ]

    def test_no_room_to_remove_rows_loses_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(file: int) -> None:
            sizes.append(os.fstat(file).st_size)
            raise OSError(28, "No space left on device")

        path, sizes = tmp_path / "results.csv", []
        table = Results(path)
        for mtime in (1, 2):
            table.append(self.row("a", mtime_ns=mtime))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"No space left on device: .*results.csv"):
                table.close()
        assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]
        assert len(list(results.rows_in(path))) == 2
        Results(path).close()
        assert [row["mtime_ns"] for _, row in results.rows_in(path)] == [2]
        assert sizes == [path.stat().st_size]  # all of it is what the disk is asked to keep

    def test_what_another_program_added_is_not_cut_off_by_a_full_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(Results(tmp_path / "results.csv")) as table:
            table.append(self.row("a"))
            with table.path.open("ab") as other:
                other.write(results._to_line(self.row("z"), as_json=False))
            table.append(self.row("b"))
            with monkeypatch.context() as patch:
                whole = table._file
                some = SimpleNamespace(fileno=whole.fileno, write=lambda lines: whole.write(lines[:5]))
                patch.setattr(table, "_file", some)
                table.append(self.row("c"))
        assert [row["image"] for _, row in results.rows_in(table.path)] == ["a", "z", "b", "c"]

    def test_a_full_disk_is_called_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(_: bytes) -> None:
            raise OSError(errno.ENOSPC, "as the system says it")

        with closing(Results(tmp_path / "results.csv")) as table, monkeypatch.context() as patch:
            patch.setattr(table, "_file", SimpleNamespace(fileno=table._file.fileno, write=full))
            table.append(self.row("a"))
        assert caplog.messages == [f"{table.path}: no room; rows wait in memory until they can be written"]

    def test_a_file_that_is_gone_has_one_row(self, tmp_path: Path) -> None:
        path = tmp_path / "results.csv"
        for _ in range(2):
            with closing(Results(path)) as table:
                table.append(self.row("dangling", size=None, mtime_ns=None, error="x"))
        assert [row["image"] for _, row in results.rows_in(path)] == ["dangling"]

    def test_images_of_a_camera_are_not_remembered(self, tmp_path: Path) -> None:
        table = Results(tmp_path / "results.csv")
        for number in range(10):
            table.append(self.row(f"camera {number}", size=None, mtime_ns=None))
        table.close()
        table = Results(tmp_path / "results.csv")
        assert not table.done
        assert not table._named
        table.close()

    HEADER = ",".join(FIELDS) + "\n"
    WHOLE = "a.png,t,normal,0.1,0.5,1,2,,,5,6\n"

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("results.csv", "a,b\n1,2\n3", "has other columns"),
            ("results.csv", "a,b\n1,2\n", "has other columns"),
            ("results.csv", HEADER + WHOLE + WHOLE.replace("normal", '"normal') + 2 * WHOLE, "from line 3 on"),
            ("results.csv", HEADER + WHOLE + WHOLE.replace(",", ";") + WHOLE, "line 3 is no row"),
            ("results.csv", HEADER + WHOLE.replace(",5,", ",five,") + WHOLE[:9], "line 2 is no row"),
            ("results.jsonl", '{"a": 1}', "from line 1 on"),
            ("results.jsonl", '{"a": 1}\n{"image": ', "line 1 is no row"),
            ("results.jsonl", "12\n", "line 1 is no row"),
            *(
                ("results.jsonl", json.dumps(dict.fromkeys(FIELDS) | row) + "\n", "line 1 is no row")
                for row in ({"image": ["a"]}, {"image": "a", "picture": 5}, {"image": "a", "size": math.inf})
            ),
        ],
    )
    def test_leaves_a_foreign_file_as_it_is(self, tmp_path: Path, name: str, text: str, told: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}: .*{told}"):
            Results(tmp_path / name)
        assert (tmp_path / name).read_text() == text
        with pytest.raises(ValueError, match=told), claimed(tmp_path, {}, again=True):
            pass
        assert (tmp_path / name).read_text() == text


class Line:
    """A folder of images that change, and an inspection of it that is killed; results must be right in the end."""

    def __init__(self, folder: Path, out: Path, models: list[Path], rng: random.Random) -> None:
        self.folder, self.out, self.rng = folder, out, rng
        self.contents = [content(seed) for seed in range(8)]
        self.scores = {model: scores_of(model, 8) for model in models}
        self.settings = [(model, round(sorted(self.scores[model])[4] - 1e-4, 6)) for model in models]
        self.settings += [(models[0], self.settings[0][1] + 1e-3)]
        self.now = self.settings[0]
        self.files: dict[str, int | None] = {}
        self.figures: Counter[str] = Counter()
        folder.mkdir()
        for number in range(240):
            self.put(f"{number:03}.bmp")

    @property
    def results(self) -> Path:
        return self.out / "results.csv"

    def put(self, name: str, *, whole: bool = True) -> None:
        self.files[name] = self.rng.randrange(8) if whole else None
        (self.folder / name).write_bytes(BROKEN if self.files[name] is None else self.contents[self.files[name]])

    def change(self) -> None:
        for name in self.rng.sample(sorted(self.files), 60):
            what = self.rng.random()
            if what < 0.1:
                (self.folder / name).unlink()
                del self.files[name]
                self.put(f"new_{len(self.figures)}_{self.rng.randrange(10**6)}.bmp")
            else:
                self.put(name, whole=what < 0.9)
            self.figures["changes"] += 1

    def program(self) -> list[str]:
        model, threshold = self.now
        begun = self.out / "run.json"
        belongs = json.loads(begun.read_text()) if begun.exists() else {}
        again = [belongs.get("model_sha256"), belongs.get("threshold")] != [command_line.digest_of(model), threshold]
        arguments = command(model, self.folder, self.out, "--threshold", str(threshold))
        return [sys.executable, "-m", "anomalib_i3ad", "inspect", *arguments, *(["--again"] if again else [])]

    def start_and_kill(self, processes: int, room: int | None) -> None:
        """Kill so many at a random moment; files may grow by so many bytes."""
        before = self.results.stat().st_size if self.results.exists() else 0

        def limit() -> None:
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (before + room, before + room))

        program = self.program()
        running = [
            subprocess.Popen(program, stderr=subprocess.PIPE, text=True, preexec_fn=limit)  # noqa: PLW1509
            for _ in range(processes)
        ]
        rows, seconds = self.rng.randrange(1, 30), self.rng.uniform(0, 2)
        anywhere, begun = self.rng.random() < 0.2, time.monotonic()
        while all(
            process.poll() is None for process in running
        ):  # of two, one ends at once, and one without room once it is done
            grown = abs((self.results.stat().st_size if self.results.exists() else 0) - before)
            if (
                time.monotonic() > begun + seconds
                if anywhere
                else processes == 1 and room is None and grown > 80 * rows
            ):
                break
            time.sleep(0.001)
        for process in running:
            self.figures["killed"] += process.poll() is None
            process.send_signal(signal.SIGKILL)
        for process in running:
            _, errors = process.communicate()
            self.figures["locked out"] += "writes here" in errors
            self.figures["without room"] += "no room" in errors
            assert "Traceback" not in errors

    def finish(self) -> None:
        """Run to the end, and check every row against what is there now."""
        assert subprocess.run(self.program(), check=False).returncode == int(None in self.files.values())
        with self.results.open(newline="") as file:
            table = list(csv.DictReader(file))
        rows = {row["image"]: row for row in table}
        assert len(rows) == len(table)
        assert rows.keys() >= self.files.keys()
        model, threshold = self.now
        for name, seed in self.files.items():
            row, status = rows[name], (self.folder / name).stat()
            assert (int(row["size"]), int(row["mtime_ns"])) == (status.st_size, status.st_mtime_ns)
            assert bool(row["error"]) == (seed is None)
            picture = self.out / "anomalous" / f"{name}.jpg"
            if seed is not None:
                score = self.scores[model][seed]
                assert float(row["score"]) == pytest.approx(score, abs=2e-6)
                assert float(row["threshold"]) == threshold
                assert row["label"] == ("anomalous" if score > threshold else "normal")
            assert bool(row["picture"]) == picture.exists() == (row["label"] == "anomalous")
        self.figures["rows"] = len(rows)
        self.figures["errors"] = sum(bool(row["error"]) for row in table)


@pytest.fixture(scope="session")
def second_model(untrained: I3AD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, calibrated otherwise: other scores."""
    threshold = untrained.post_processor._image_threshold
    before = threshold.clone()
    threshold.fill_(0.3)
    try:
        return untrained.to_openvino(tmp_path_factory.mktemp("second"))
    finally:
        threshold.copy_(before)


def crash(line: Line, kills: int) -> None:
    for start in range(3 * kills):
        if line.figures["killed"] >= kills:
            break
        line.figures["starts"] += 1
        if start % 5 == 3:
            line.now = line.rng.choice([setting for setting in line.settings if setting != line.now])
            line.figures["settings"] += 1
        line.start_and_kill(processes=1 + (start % 3 == 1), room=2000 if start % 4 == 2 else None)
        line.change()
    line.finish()
    for name in [name for name, seed in line.files.items() if seed is None]:
        line.put(name)
    line.finish()
    whole = line.results.read_bytes()
    line.finish()
    assert line.results.read_bytes() == whole
    print(f"\n{dict(line.figures)}")


def test_killed_three_times_every_row_is_of_now(exported: Path, tmp_path: Path) -> None:
    line = Line(tmp_path / "images", tmp_path / "out", [exported], random.Random(0))
    crash(line, 3)
    assert line.figures["killed"] >= 3


@pytest.mark.slow
def test_killed_thirty_times_every_row_is_of_now(exported: Path, second_model: Path, tmp_path: Path) -> None:
    line = Line(tmp_path / "images", tmp_path / "out", [exported, second_model], random.Random(1))
    crash(line, 30)
    assert line.figures["killed"] >= 30
    assert line.figures["locked out"]
    assert line.figures["without room"]
