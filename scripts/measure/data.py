"""`scripts/bench data`: the input of the workloads, made once."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure.workload import WORKLOADS

PLACE = Path(tempfile.gettempdir()) / "bench"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "Make the input of workloads: seeded, the same each time; what is there stays."
    parser = commands.add_parser("data", help=words, description=words)
    names(parser)
    parser.set_defaults(command=make)


def names(parser: argparse.ArgumentParser) -> None:
    """The options by which a command is told its input."""
    listed = "; ".join(f"{name}: {workload.words}" for name, workload in WORKLOADS.items())
    parser.add_argument("workload", nargs="+", choices=[*WORKLOADS, "all"], help=listed)
    parser.add_argument("--scale", type=float, default=1.0, help="rows, as a multiple of the full workload")
    parser.add_argument("--to", type=Path, default=PLACE, metavar="DIR", help=f"where input lies; else {PLACE}")


def chosen(given: list[str]) -> list[str]:
    """The workloads that the options name."""
    return list(WORKLOADS) if "all" in given else list(dict.fromkeys(given))


def make(arguments: argparse.Namespace) -> None:
    for name in chosen(arguments.workload):
        print(WORKLOADS[name].prepare(arguments.to, arguments.scale))
