"""The table of a benchmark's rows."""

from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_i3ad.deploy.files import write_whole

#: Columns of text that may be empty, or look like a number.
TEXT = ["model", "category", "commit", "version", "checkpoint", "note"]


def _read(path: Path, needed: set[str], what: str) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):  # it is no table
        rows = pd.DataFrame()
    if missing := needed - set(rows):
        msg = f"{path}: not {what}: it has no {', '.join(sorted(missing))}"
        raise ValueError(msg)
    return rows


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of earlier runs; none if there is no such file. Columns that older rows lack are there, and empty.

    Raises:
        ValueError: If the file is another.
    """
    rows = _read(path, {"key"}, "the results of a benchmark") if path.exists() else pd.DataFrame(columns=["key"])
    return rows.assign(**{name: rows[name].fillna("") if name in rows else "" for name in TEXT})


def read_benchmark(path: Path) -> pd.DataFrame:
    """Mean figures of each model and category, of the newest version, in ``results.csv`` of a benchmark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another.
    """
    rows = _read(path, {"model", "category", "milliseconds", "image_auroc"}, "the results.csv of a benchmark")
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
