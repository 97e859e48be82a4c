"""The ``anomalib-i3ad`` command: anomalib's own with this plugin loaded, and commands of our own."""

import sys
from importlib import import_module
from importlib.util import find_spec

from . import register

#: Modules with a ``main`` that takes the arguments; those for the edge need neither torch nor anomalib.
EDGE = {"inspect": "deploy.command_line", "convert": "deploy.convert"}
COMMANDS = EDGE | {"benchmark": "evaluation.benchmark", "report": "evaluation.report"}
EDGE_HELP = """\
anomalib-i3ad inspect    run an exported model on images, at the line
anomalib-i3ad convert    give an exported model another form: image input, unrolled, fixed size, FP16, model server
"""
HELP = f"""\
{EDGE_HELP}anomalib-i3ad benchmark  train and test many models, one row each; a second start goes on
anomalib-i3ad report     one HTML file: how a trained model does on its test images, and why
"""


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    if command not in EDGE:
        if find_spec("anomalib") is None:
            sys.exit(f"anomalib is not installed here; what works without it:\n{EDGE_HELP}")
        register()
    if command in COMMANDS:
        module = import_module(f"{__package__}.{COMMANDS[command]}")
        sys.exit(module.main(arguments[1:]))
    if command in {"-h", "--help"}:
        print(HELP)  # noqa: T201
    from anomalib.cli.cli import main as anomalib  # noqa: PLC0415

    anomalib()
