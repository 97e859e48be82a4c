"""The ``anomalib-i3ad`` command: anomalib's own with this plugin loaded, and two that need no torch."""

import sys
from importlib import import_module
from importlib.util import find_spec

from . import register

EDGE_COMMANDS = """\
anomalib-i3ad inspect   run an exported model on images, at the line
anomalib-i3ad convert   bring an exported model into another form: image input, unrolled, fixed size, FP16, model server
"""


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    if command in {"inspect", "convert"}:
        module = import_module(f"anomalib_i3ad.deploy.{command}")
        sys.exit(module.main(arguments[1:]))
    if find_spec("anomalib") is None:
        sys.exit(f"anomalib is not installed here; what works without it:\n{EDGE_COMMANDS}")
    if command in {"-h", "--help"}:
        print(EDGE_COMMANDS)  # noqa: T201
    from anomalib.cli.cli import main as anomalib  # noqa: PLC0415

    register()
    anomalib()
