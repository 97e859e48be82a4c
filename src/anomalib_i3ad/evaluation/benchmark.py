"""``anomalib-i3ad benchmark``: train and test many models; a row is written as each job ends.

:mod:`.configuration` says what its file holds. A second start skips what is done with the same versions and
arguments, defaults included, and repeats what failed; ``--time-again`` measures latencies once more, when the machine
has nothing else to do.
"""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from anomalib_i3ad.deploy.results import write_whole

from .configuration import read_jobs
from .jobs import NOT_TIMED, as_json, key_of, run_job, time_job, title_of
from .parsers import benchmark_parser

logger = logging.getLogger(__name__)
#: Columns of text that may be empty, or look like a number.
TEXT = ["model", "category", "commit", "version", "checkpoint", "note"]
#: What pandas raises of a file that is no table.
UNREADABLE = (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError)
SHOWN = [
    "model",
    "category",
    "seed",
    "image_auroc",
    "pixel_auroc",
    "au_pro",
    "image_f1",
    "pixel_f1",
    "false_alarms",
    "milliseconds",
    "version",
    "note",
]


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of earlier runs; none if there is no such file. Columns that older rows lack are there, and empty.

    Raises:
        ValueError: If the file is another.
    """
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str)) if path.exists() else pd.DataFrame(columns=["key"])
    except UNREADABLE:
        rows = pd.DataFrame()
    if "key" not in rows:
        msg = f"{path}: not the results of a benchmark; name another --out"
        raise ValueError(msg)
    return rows.assign(**{name: rows[name].fillna("") if name in rows else "" for name in TEXT})


def read_benchmark(path: Path) -> pd.DataFrame:
    """Mean figures of each model and category, of the newest version, in ``results.csv`` of a benchmark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another.
    """
    needed = {"model", "category", "milliseconds", "image_auroc"}
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
        missing = needed - set(rows)
    except UNREADABLE:
        missing = needed
    if missing:
        msg = f"--benchmark {path}: not the results.csv of a benchmark: it has no {', '.join(sorted(missing))}"
        raise ValueError(msg)
    if "version" in rows:  # as jobs end, rows are added: the last one is of the newest version
        rows = rows[rows["version"].isin(rows["version"].tail(1))]
    return rows.groupby(["model", "category"], as_index=False).mean(numeric_only=True)


def add_rows(path: Path, added: list[dict[str, Any]]) -> None:
    """Append rows."""
    rows, new = read_rows(path), pd.DataFrame(added)
    # beside no rows integers would become floats
    write_rows(path, pd.concat([rows, new], ignore_index=True) if len(rows) else new)


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write all rows; the file is replaced as a whole, so that an interruption leaves the old one or the new."""
    write_whole(path, [rows.to_csv(index=False).encode()])


def _write_waiting(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Append rows and forget them; where that cannot be, tell why, and whether it was done."""
    try:
        if rows:
            add_rows(path, rows)
            rows.clear()
    except (OSError, ValueError):
        logger.exception("%s cannot be written; its rows wait until the next job ends", path)
    return not rows


def run(config: Path, out: Path, console: Console) -> int:
    """Run the jobs of a configuration that ``out/results.csv`` does not hold yet.

    Returns:
        0, or 1 if a job failed; the others are run nevertheless.
    """
    jobs = read_jobs(config)
    results = out / "results.csv"
    out.mkdir(parents=True, exist_ok=True)
    done = set(read_rows(results)["key"])
    failed, keys, waiting = [], [], list[dict[str, Any]]()
    try:
        for number, job in enumerate(jobs, start=1):
            title = f"{number}/{len(jobs)} {title_of(job)}"
            try:
                keys.append(key_of(job))
                if keys[-1] in done:
                    console.print(f"{title}: done before")
                    continue
                console.rule(title)
                row = run_job(job, out / keys[-1])
            except Exception as error:
                logger.exception("%s failed", title)
                failed.append(f"{title}: {type(error).__name__}: {error}")
                continue
            done.add(row["key"])
            waiting.append(row)
            _write_waiting(results, waiting)
            console.print(f"{title}: image AUROC {row['image_auroc']:.3f} after {row['fit_seconds']:.0f} s of training")
    finally:  # also where it is interrupted
        if not _write_waiting(results, waiting):
            failed += [f"{results}: not written: {as_json(row)}" for row in waiting]
        for line in failed:
            console.print(f"failed: {line}", style="red", markup=False)
    rows = read_rows(results)
    own = rows[rows["key"].isin(keys)]
    if len(own):
        console.print(own.reindex(columns=SHOWN).to_string(index=False, float_format="{:.3f}".format), soft_wrap=True)
    others = len(rows) - len(own)
    console.print(f"{results}: {len(rows)} rows" + (f", {others} of other arguments or versions" if others else ""))
    return 1 if failed else 0


def time_again(config: Path, out: Path, console: Console) -> int:
    """Measure latency and size of the finished jobs of a configuration once more.

    Returns:
        0, or 1 if a model could not be timed; its row stays as it was.
    """
    results, failed = out / "results.csv", 0
    for job in read_jobs(config):
        try:
            key, rows = key_of(job), read_rows(results)
            row = rows[rows["key"] == key]
            if row.empty:
                console.print(f"{title_of(job)}: no row of these arguments and versions")
                continue
            before, checkpoint, note = row[["milliseconds", "checkpoint", "note"]].iloc[0]
            cost = time_job(job, out / checkpoint)
        except Exception as error:
            logger.exception("%s cannot be timed", title_of(job))
            console.print(f"failed: {title_of(job)}: {error}", style="red", markup=False)
            failed = 1
            continue
        note = "; ".join(part for part in note.split("; ") if part != NOT_TIMED)
        rows = read_rows(results)  # another benchmark may have added some meanwhile
        for name, value in {**cost._asdict(), "note": note}.items():
            rows[name] = rows[name].mask(rows["key"] == key, value)
        write_rows(results, rows)
        console.print(f"{title_of(job)}: {cost.milliseconds:.1f} ms (before: {before:.1f})")
    return failed


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = benchmark_parser()
    parsed = parser.parse_args(arguments)
    try:
        out = parsed.out or Path("runs/benchmark") / parsed.config.stem
        return (time_again if parsed.time_again else run)(parsed.config, out, Console())
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"{parser.prog}: {parsed.config}: {error}\n")
