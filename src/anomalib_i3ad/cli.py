"""The ``anomalib-i3ad`` command: anomalib's own, with this plugin already imported."""

from anomalib.cli.cli import main

__all__ = ["main"]
