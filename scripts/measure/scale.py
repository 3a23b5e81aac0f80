"""`scripts/bench scale`: whether time grows with the input and memory does not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from measure import data, page
from measure.contender import CONTENDERS, parse
from measure.lap import Lap, Track, insist, tell
from measure.process import MIB, noise
from measure.verdict import Judge
from measure.workload import WORKLOADS, Workload

TIMES = (1, 3, 10)
LINEAR = 1.25  # times the seconds of a row between the smaller sizes, for one between the larger
FLAT = 0.05  # bytes of memory for a byte more of input


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "Run this stage on 1, 3 and 10 times the input: is time linear, and memory flat?"
    parser = commands.add_parser("scale", help=words, description=words)
    data.names(parser)
    parser.add_argument("--n", type=int, default=3, help="rounds that count; one before them measures memory")
    parser.add_argument("--contender", default="ours", help=f"one of {', '.join(CONTENDERS)}, or a variant of ours")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table in its section of this page")
    parser.set_defaults(command=scale)


@dataclass
class Size:
    """The laps on one size of the input."""

    judge: Judge
    rows: int
    bytes: int
    memory: Lap | None = None
    laps: list[Lap] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return median(lap.usage.wall for lap in self.laps)

    @property
    def cpu(self) -> float:
        return median(lap.usage.cpu for lap in self.laps)

    @property
    def pss(self) -> int:
        return self.memory.usage.pss if self.memory else 0

    @property
    def anonymous(self) -> int:
        return self.memory.usage.anonymous if self.memory else 0


def scale(arguments: argparse.Namespace) -> None:
    """Run each workload on all sizes, in turn, and say what grows."""
    if arguments.n < 1 or arguments.scale <= 0:
        sys.exit("scripts/bench: --n must be at least 1, --scale above 0")
    if arguments.write is not None:
        page.frame("scale", arguments.write)
    found = {name: _sizes(WORKLOADS[name], arguments) for name in data.chosen(arguments.workload)}
    usages = [lap.usage for sizes in found.values() for size in sizes for lap in size.laps]
    text = PAGE.format(
        n=arguments.n,
        machine=page.machine(),
        noise=noise(usages),
        table=page.table(HEADER, [row for name, sizes in found.items() for row in _rows(name, sizes)]),
        verdicts="\n".join(f"- {name}: {verdict(sizes)}" for name, sizes in found.items()),
    )
    page.publish("scale", text, arguments.write)


PAGE = """\
Written by `scripts/bench scale` ({n} rounds) on {machine}.

The same job on 1, 3 and 10 times the input, in turn, each as a whole process. Seconds are medians; memory is the peak
of the process tree, from a round of its own. A row costs what it adds, so that start-up does not count; time is called
linear if a row between the larger sizes costs at most {linear} times one between the smaller, memory flat if a byte
more of input takes at most {flat} bytes more. {noise}

{table}

{verdicts}""".replace("{linear}", f"{LINEAR:g}").replace("{flat}", f"{FLAT:g}")

HEADER = ("workload", "rows", "input MiB", "wall s", "CPU s", "peak MiB", "anonymous MiB")


def _sizes(workload: Workload, arguments: argparse.Namespace) -> list[Size]:
    contender, track = parse(arguments.contender), Track(arguments.to)
    sizes = [_size(workload, arguments, arguments.scale * times) for times in TIMES]
    for i in range(arguments.n + 1):
        for times, size in zip(TIMES, sizes, strict=True):
            what = f"{workload.name} {i}/{arguments.n} x{times}"
            lap = insist(what, track.lap(contender, size.judge, memory=i == 0))
            tell(what, lap, memory=i == 0)
            if i:
                size.laps.append(lap)
            else:
                size.memory = lap
    return sizes


def _size(workload: Workload, arguments: argparse.Namespace, factor: float) -> Size:
    place = workload.prepare(arguments.to, factor)
    files = workload.input(place)
    return Size(Judge(workload, place), round(workload.rows * factor), sum(file.stat().st_size for file in files))


def _rows(workload: str, sizes: Sequence[Size]) -> list[Sequence[str]]:
    return [
        (
            workload,
            f"{size.rows:,}",
            f"{size.bytes / MIB:,.0f}",
            f"{size.wall:.2f}",
            f"{size.cpu:.2f}",
            f"{size.pss / MIB:,.0f}",
            f"{size.anonymous / MIB:,.0f}",
        )
        for size in sizes
    ]


def verdict(sizes: Sequence[Size]) -> str:
    """What a row and a byte more cost, and whether that stays so."""
    small, middle, large = sizes
    wall = _slope(small, middle, "wall"), _slope(middle, large, "wall")
    cpu = _slope(small, middle, "cpu"), _slope(middle, large, "cpu")
    growth = (large.anonymous - middle.anonymous) / (large.bytes - middle.bytes)
    linear = "linear" if cpu[1] <= LINEAR * cpu[0] else "NOT linear"
    flat = "flat" if growth <= FLAT else "NOT flat"
    return (
        f"time is {linear}: a million rows more take {wall[0] * 1e6:.2f}, then {wall[1] * 1e6:.2f} s of wall, "
        f"{cpu[0] * 1e6:.2f}, then {cpu[1] * 1e6:.2f} s of CPU; memory is {flat}: a byte more of input takes "
        f"{growth:.3f} bytes more"
    )


def _slope(less: Size, more: Size, what: str) -> float:
    return float((getattr(more, what) - getattr(less, what)) / (more.rows - less.rows))
