"""The ``anomalib-i3ad`` command: anomalib's own with this plugin loaded, and commands of our own."""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

from . import __version__, register
from .evaluation.parsers import benchmark_parser, evaluate_parser, report_parser

#: Modules with a ``main`` that takes the arguments; those for the edge need neither torch nor anomalib.
EDGE = {"inspect": "deploy.command_line", "convert": "deploy.convert"}
COMMANDS = EDGE | {
    "benchmark": "evaluation.benchmark",
    "evaluate": "evaluation.evaluate",
    "report": "evaluation.report",
}
#: Commands of anomalib.
ANOMALIBS = ("train", "fit", "validate", "test", "predict", "export")
#: Parsers of commands whose modules take seconds to import.
PARSERS = {
    "benchmark": benchmark_parser,
    "evaluate": evaluate_parser,
    "report": report_parser,
}
HELP = f"""\
usage: anomalib-i3ad COMMAND ...

For the edge, by the base install:
  inspect    run an exported model on images, at the line
  convert    give an exported model another form: image input, unrolled, fixed size, FP16, model server

To compare models, by anomalib-i3ad[train]:
  benchmark  train and test many models, one row each; a second start resumes
  evaluate   accuracy of a trained model; what each iteration buys, and what exports and INT8 change
  report     one HTML file: how a trained model does on its test images, and why

anomalib's, with this plugin's models and data, by anomalib-i3ad[train]; their --help is anomalib's:
  {", ".join(ANOMALIBS)}

options:
  -h, --help  show this and exit; COMMAND --help explains a command
  --version   show the version and exit
"""


def _when_asked_to_end(leave: Callable[[int], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: leave(128 + number))


def main() -> None:
    """Run the command line."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in {"-h", "--help"}:
        print(HELP, end="")  # noqa: T201
        return
    if command == "--version":
        print(f"anomalib-i3ad {__version__}")  # noqa: T201
        return
    if not (command in {*COMMANDS, *ANOMALIBS, "install"} or command.startswith("-")):
        known = ", ".join([*COMMANDS, *ANOMALIBS])
        print(f"anomalib-i3ad {command}: there is no such command; there are {known}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    if command in PARSERS:
        PARSERS[command]().parse_args(arguments)  # shows help and mistakes before what takes seconds is imported
    if command in EDGE:
        # what is imported takes a while, and a container's first process would not get the signal at all
        _when_asked_to_end(os._exit)
    else:
        # before torch is imported: threads that spin while they wait take the cores from whatever else runs, and from
        # each other
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            register()
        except ModuleNotFoundError as error:
            print(f"anomalib-i3ad {command}: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(2)
    if command in COMMANDS:
        module = import_module(f"{__package__}.{COMMANDS[command]}")
        if command in EDGE:
            _when_asked_to_end(sys.exit)  # removes what is half written
        sys.exit(module.main(arguments))
    from anomalib.cli.cli import main as anomalib  # noqa: PLC0415

    anomalib()
