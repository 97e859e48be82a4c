"""``anomalib-i3ad benchmark``: train and test many models; a row is written as each job ends.

:mod:`.configuration` says what its file holds. A second start skips what is done with the same versions and
arguments, defaults included, and repeats what failed; ``--time-again`` measures latencies once more, when the machine
has nothing else to do.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from .configuration import read_jobs
from .jobs import NOT_TIMED, as_json, key_of, run_job, time_job, title_of
from .parsers import benchmark_parser
from .table import add_rows, read_rows, write_rows

logger = logging.getLogger(__name__)
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


def _write_waiting(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Append rows and forget them; where that cannot be, tell why, and whether it was done."""
    try:
        if rows:
            add_rows(path, rows)
            rows.clear()
    except (OSError, ValueError):
        logger.exception("%s cannot be written; its rows wait until the next job ends", path)
    return not rows


def _tell(failed: list[str], console: Console) -> None:
    for line in failed:
        console.print(f"failed: {line}", style="red", markup=False)


def _each(jobs: list[dict[str, Any]], work: Callable[[dict[str, Any], str], None], failed: list[str]) -> None:
    """Do something with each job and its title, and note those with which that fails."""
    for number, job in enumerate(jobs, start=1):
        title = f"{number}/{len(jobs)} {title_of(job)}"
        try:
            work(job, title)
        except Exception as error:
            logger.exception("%s failed", title)
            failed.append(f"{title}: {type(error).__name__}: {error}")


def run(config: Path, out: Path, console: Console) -> int:
    """Run the jobs of a configuration that ``out/results.csv`` does not hold yet.

    Returns:
        0, or 1 if a job failed; the others are run nevertheless.
    """
    jobs = read_jobs(config)
    results = out / "results.csv"
    out.mkdir(parents=True, exist_ok=True)
    done = set(read_rows(results)["key"])
    keys, waiting, failed = list[str](), list[dict[str, Any]](), list[str]()

    def work(job: dict[str, Any], title: str) -> None:
        keys.append(key_of(job))
        if keys[-1] in done:
            console.print(f"{title}: done before", markup=False)
            return
        console.rule(escape(title))
        row = run_job(job, out / keys[-1])
        done.add(row["key"])
        waiting.append(row)
        _write_waiting(results, waiting)
        told = f"{title}: image AUROC {row['image_auroc']:.3f} after {row['fit_seconds']:.0f} s of training"
        console.print(told, markup=False)

    try:
        _each(jobs, work, failed)
    finally:  # also where it is interrupted
        if not _write_waiting(results, waiting):
            failed += [f"{results}: not written: {as_json(row)}" for row in waiting]
        _tell(failed, console)
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
    results, failed = out / "results.csv", list[str]()

    def work(job: dict[str, Any], title: str) -> None:
        key, rows = key_of(job), read_rows(results)
        row = rows[rows["key"] == key]
        if row.empty:
            console.print(f"{title}: no row of these arguments and versions", markup=False)
            return
        before, checkpoint, note = row[["milliseconds", "checkpoint", "note"]].iloc[0]
        cost = time_job(job, out / checkpoint)
        note = "; ".join(part for part in note.split("; ") if part != NOT_TIMED)
        rows = read_rows(results)  # another benchmark may have added some meanwhile
        for name, value in {**cost._asdict(), "note": note}.items():
            rows[name] = rows[name].mask(rows["key"] == key, value)
        write_rows(results, rows)
        console.print(f"{title}: {cost.milliseconds:.1f} ms (before: {before:.1f})", markup=False)

    _each(read_jobs(config), work, failed)
    _tell(failed, console)
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = benchmark_parser()
    parsed = parser.parse_args(arguments)
    try:
        out = parsed.out or Path("runs/benchmark") / parsed.config.stem
        return (time_again if parsed.time_again else run)(parsed.config, out, Console())
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"{parser.prog}: {parsed.config}: {error}\n")
