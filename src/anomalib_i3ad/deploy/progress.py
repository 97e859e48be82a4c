"""What a run tells while it goes on, and at its end."""

import sys
import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from .engine import Inspection
from .telling import say

#: Latest latencies of which percentiles are told, and errors that are listed at the end.
REMEMBERED, LISTED = 10_000, 20
#: Seconds between two updates of the progress, on a terminal and elsewhere.
ON_TERMINAL, ELSEWHERE = 0.2, 30.0


class Progress:
    """Counts, speed and latencies of a run, shown on standard error."""

    def __init__(self) -> None:
        self.images = self.anomalous = self.dropped = 0
        self.errors: list[str] = []
        self.failed = 0
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._started = time.perf_counter()
        self._shown = self._started
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def add(self, result: Inspection | None, dropped: int) -> None:
        """Count an image and those dropped before it; from time to time, show where the run stands."""
        self.images += 1
        self.dropped += dropped
        if result is not None:
            self.anomalous += result.label
            self._latencies.append(result.milliseconds)
        now = time.perf_counter()
        if now - self._shown > (ON_TERMINAL if self._terminal else ELSEWHERE):
            self._shown = now
            say(f"\r{self}" if self._terminal else str(self), end="\x1b[K" if self._terminal else "\n")

    def fail(self, message: str) -> None:
        """Count an error and keep the first ones."""
        self.failed += 1
        if len(self.errors) < LISTED:
            self.errors.append(message)

    def __str__(self) -> str:
        """One line of figures."""
        speed = self.images / max(time.perf_counter() - self._started, 1e-9)
        line = f"{self.images} images, {self.anomalous} anomalous, {self.failed} errors, {speed:.1f} images/s"
        if self.dropped:
            line += f", {self.dropped} dropped"
        if self._latencies:
            p50, p95, p99 = np.percentile(np.array(self._latencies), (50, 95, 99))
            line += f", inference p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms"
        return line

    def close(self, passed: Mapping[str, int] | None = None) -> None:
        """Show the final figures and what went wrong.

        Args:
            passed: How many files of which kind were passed over.
        """
        lines = [("\r" if self._terminal else "") + str(self) + ("\x1b[K" if self._terminal else "")]
        if passed:
            lines.append("passed over: " + ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items())))
        lines += self.errors
        if self.failed > len(self.errors):
            lines.append(f"... and {self.failed - len(self.errors)} more; see the column error")
        say("\n".join(lines))
