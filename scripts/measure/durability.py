"""`scripts/bench durability`: what it costs that an output survives, can be resumed and can be checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from measure import data, page
from measure.contender import CONTENDERS
from measure.lap import Lap, Track, insist, tell
from measure.process import noise
from measure.verdict import Judge
from measure.workload import WORKLOADS, Workload

OURS = CONTENDERS["ours"]
RENAME = "sink.durability=rename"
STEPS = (
    OURS,
    replace(OURS, name="without fsync", overrides=(RENAME,)),
    replace(OURS, name="nor SHA-256", overrides=(RENAME,), start=("-m", "measure.without", "hash")),
    replace(OURS, name="nor manifest and report", overrides=(RENAME,), start=("-m", "measure.without", "manifest")),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "What fsync, SHA-256, manifest and report cost: the same job with less and less of them."
    parser = commands.add_parser("durability", help=words, description=words)
    data.names(parser)
    parser.add_argument("--n", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table in its section of this page")
    parser.set_defaults(command=durability)


def durability(arguments: argparse.Namespace) -> None:
    """Run the steps in turn on each workload and show the differences."""
    if arguments.n < 1 or arguments.scale <= 0:
        sys.exit("scripts/bench: --n must be at least 1, --scale above 0")
    if arguments.write is not None:
        page.frame("durability", arguments.write)
    laps = {name: _rounds(WORKLOADS[name], arguments) for name in data.chosen(arguments.workload)}
    rows = [row for name, taken in laps.items() for row in _rows(name, taken)]
    usages = [lap.usage for taken in laps.values() for each in taken.values() for lap in each]
    text = PAGE.format(
        n=arguments.n,
        scale=arguments.scale,
        machine=page.machine(),
        noise=noise(usages),
        table=page.table(HEADER, rows, words=2),
    )
    page.publish("durability", text, arguments.write)


PAGE = """\
Written by `scripts/bench durability` ({n} rounds, scale {scale:g}) on {machine}.

The same job with less and less of what makes its output durable, in turn, each as a whole process; what is left out
beyond fsync no user can leave out. Seconds: minimum / median; the cost is the difference of medians to the line below.
{noise}

{table}"""

HEADER = ("workload", "job", "wall s", "CPU s", "cost, wall s", "cost, CPU s")


def _rounds(workload: Workload, arguments: argparse.Namespace) -> dict[str, list[Lap]]:
    track, place = Track(arguments.to), workload.prepare(arguments.to, arguments.scale)
    judge = Judge(workload, place)
    laps: dict[str, list[Lap]] = {step.name: [] for step in STEPS}
    for i in range(arguments.n + 1):
        for step in STEPS:
            what = f"{workload.name} {i}/{arguments.n} {step.name}"
            lap = insist(what, track.lap(step, judge))
            tell(what, lap)
            laps[step.name] += [lap] if i else []
    return laps


def _rows(workload: str, laps: dict[str, list[Lap]]) -> list[Sequence[str]]:
    walls = [[lap.usage.wall for lap in taken] for taken in laps.values()]
    cpus = [[lap.usage.cpu for lap in taken] for taken in laps.values()]
    costs = [
        [f"{median(more) - median(less):+.2f}" for more, less in pairwise(seconds)] + ["-"] for seconds in (walls, cpus)
    ]
    return [
        (workload, name, f"{min(wall):.2f} / {median(wall):.2f}", f"{min(cpu):.2f} / {median(cpu):.2f}", *cost)
        for name, wall, cpu, *cost in zip(laps, walls, cpus, *costs, strict=True)
    ]
