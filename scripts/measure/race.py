"""`scripts/bench run`: this stage and others at the same work, in turn, each as a whole process."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from measure import data, page, plot
from measure.contender import CONTENDERS, LIMIT, Contender, parse, present
from measure.lap import Lap, Track, insist, tell
from measure.process import MIB, noise
from measure.verdict import Judge
from measure.workload import WORKLOADS, Workload


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "Run contenders in turn (A B C A B C ...) on a workload, each as a whole process; check what comes out."
    parser = commands.add_parser("run", help=words, description=words)
    data.names(parser)
    parser.add_argument("--n", type=int, default=5, help="rounds that count; one before them measures memory")
    parser.add_argument(
        "--contenders",
        default=",".join(CONTENDERS),
        help=f"any of {', '.join(CONTENDERS)}, with commas; variants of this stage: ours@CHECKOUT, "
        "'ours:stream.depth=0;batch.bytes=65536'",
    )
    parser.add_argument(
        "--peers-python", type=interpreter, default=sys.executable, metavar="PATH", help="which Python runs the others"
    )
    parser.add_argument("--timeout", type=int, default=600, help="seconds after which one is ended")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every figure here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them here, such as race.svg")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables in their section of this page")
    parser.set_defaults(command=race)


@dataclass
class Entry:
    """A contender on one workload: the lap that measured memory, and the ones that count."""

    contender: Contender
    memory: Lap | None = None
    laps: list[Lap] = field(default_factory=list)
    absent: str = ""

    def add(self, lap: Lap) -> None:
        """The first lap is for memory alone."""
        if self.memory is None:
            self.memory = lap
        else:
            self.laps.append(lap)

    @property
    def walls(self) -> list[float]:
        return [lap.usage.wall for lap in self.laps]

    @property
    def cpus(self) -> list[float]:
        return [lap.usage.cpu for lap in self.laps]

    @property
    def moved(self) -> bool:
        """Whether rows came out in another order, in one lap at least."""
        return any(lap.verdict.moved for lap in self._all)

    @property
    def last(self) -> Lap:
        return self._all[-1]

    @property
    def _all(self) -> list[Lap]:
        return ([self.memory] if self.memory else []) + self.laps

    @property
    def wrong(self) -> Lap | None:
        """A lap whose output is not that of the reference. Other libraries may have rows in an order of their own."""
        forgiven = bool(self.contender.package)
        return next((lap for lap in self._all if not (lap.verdict.right or (forgiven and lap.verdict.moved))), None)


@dataclass
class Heat:
    """All contenders on one workload."""

    workload: Workload
    scale: float
    entries: list[Entry]
    limits: list[dict[str, float]] = field(default_factory=list)
    """CPU seconds of decode, transform and encode alone, once for each round."""

    @property
    def limit(self) -> float:
        """CPU seconds that nobody can do without."""
        return median(sum(each.values()) for each in self.limits)

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.absent]


def interpreter(path: str) -> str:
    """The path of a Python as any folder knows it. Links are not followed: they tell which environment it is of."""
    return os.path.abspath(path) if os.sep in path else path  # noqa: PTH100  (resolve() follows links)


def race(arguments: argparse.Namespace) -> None:
    """Run every workload, then show, draw and keep the figures."""
    if arguments.n < 1 or arguments.timeout < 1 or arguments.scale <= 0:
        sys.exit("scripts/bench: --n and --timeout must be at least 1, --scale above 0")
    if arguments.write is not None:
        page.frame("run", arguments.write)  # refuses a page without the section before the minutes are spent
    if arguments.plot is not None:
        plot.check()
    contenders = [parse(text) for text in arguments.contenders.split(",")]
    heats: list[Heat] = []
    for name in data.chosen(arguments.workload):
        heats.append(heat(WORKLOADS[name], contenders, arguments))
        if arguments.json is not None:  # each time, so that a run that is broken off has not measured for nothing
            arguments.json.write_text(json.dumps(facts(heats, arguments), indent=1) + "\n")
    if arguments.plot is not None:
        plot.draw(heats, arguments.plot)
    page.publish("run", text(heats, arguments), arguments.write)
    wrong = [(h, entry) for h in heats for entry in h.entries if entry.wrong]
    if wrong:
        sys.exit("\n".join(f"scripts/bench: {h.workload.name}: {_failure(entry)}" for h, entry in wrong))


def _failure(entry: Entry) -> str:
    lap = entry.wrong
    assert lap is not None
    tail = "\n    ".join(lap.printed.strip().splitlines()[-5:]) if lap.usage.code else ""
    return f"{entry.contender.name}: {lap.verdict.words}" + (f"\n    {tail}" if tail else "")


# ---- rounds ----------------------------------------------------------------------------------------------------------


def heat(workload: Workload, contenders: Sequence[Contender], arguments: argparse.Namespace) -> Heat:
    """Run the contenders on a workload: a round that looks at memory, then those that count."""
    track = Track(arguments.to, arguments.timeout, arguments.peers_python)
    place = workload.prepare(arguments.to, arguments.scale)
    found = Heat(workload, arguments.scale, [_entry(each, workload, track) for each in contenders])
    judge = Judge(workload, place)
    for i in range(arguments.n + 1):
        for entry in found.running:
            if entry.wrong is None:  # what is fast and wrong gets no figures
                entry.add(track.lap(entry.contender, judge, memory=i == 0))
                tell(f"{workload.name} {i}/{arguments.n} {entry.contender.name}", entry.last, memory=i == 0)
        lap = insist(f"{workload.name}: the limit itself", track.lap(LIMIT, judge))
        if i:
            found.limits.append(json.loads(lap.printed.splitlines()[-1]))
    return found


def _entry(contender: Contender, workload: Workload, track: Track) -> Entry:
    if workload.name not in contender.workloads:
        return Entry(contender, absent="-")
    if not present(contender, track.interpreter(contender)):
        return Entry(contender, absent="not installed")
    return Entry(contender)


# ---- figures ---------------------------------------------------------------------------------------------------------


PAGE = """\
Written by `scripts/bench run` ({n} rounds, scale {scale:g}) on {machine}.

Contenders run in turn, A B C A B C, each as a whole process from start to exit; input and libraries are read just
before each, so that they are in the page cache, and what runs from a checkout is compiled, as what is installed is.
Seconds: minimum / median. CPU is user and system time of the whole process tree. "Ours" and "limit" are ratios of
medians: the wall to that of this stage, and the CPU to the least CPU time of decode, transform and encode alone,
measured in the same rounds; half of that on two cores is the ideal wall. Memory is the peak over the tree, shared pages
in proportion (PSS), and of it what no file stands behind, from a round of its own. Every output is compared with a
float64 NumPy reference, order of rows included. {noise}

{tables}"""


def text(heats: Sequence[Heat], arguments: argparse.Namespace) -> str:
    """The page."""
    return PAGE.format(
        n=arguments.n,
        scale=arguments.scale,
        machine=page.machine(),
        noise=noise([lap.usage for h in heats for e in h.running for lap in e.laps]),
        tables="\n\n".join([*_picture(arguments), *(_table(h) for h in heats)]),
    )


def _picture(arguments: argparse.Namespace) -> list[str]:
    """A link to what was drawn, if it can be seen from the page."""
    if arguments.plot is None or arguments.write is None:
        return []
    return [f"![Seconds of each contender]({os.path.relpath(arguments.plot, arguments.write.parent)})"]


MOVED = "order not kept"
HEADER = ("contender", "wall s", "CPU s", "ours", "limit", "peak MiB", "anonymous", "output")


def _table(found: Heat) -> str:
    base = next((e for e in found.running if e.contender.ours and not e.wrong and e.laps), None)
    parts = {name: median(each[name] for each in found.limits) for name in ("decode", "transform", "encode")}
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
    title = f"**{found.workload.name}**: {found.workload.words}. Limit: {found.limit:.2f} s CPU ({spent})."
    return f"{title}\n\n" + page.table(HEADER, [_row(e, base, found.limit) for e in found.entries])


def _row(entry: Entry, base: Entry | None, limit: float) -> Sequence[str]:
    name = entry.contender.name
    if entry.absent or entry.wrong or not entry.laps or entry.memory is None:
        words = entry.absent or (f"WRONG: {entry.wrong.verdict.words}" if entry.wrong else "no figures")
        return (name, *["-"] * 6, words)
    ratio = f"{median(entry.walls) / median(base.walls):.2f}x" if base else "-"
    peak = entry.memory.usage
    remark = entry.last.verdict.words
    return (
        name,
        f"{min(entry.walls):.2f} / {median(entry.walls):.2f}",
        f"{min(entry.cpus):.2f} / {median(entry.cpus):.2f}",
        ratio,
        f"{median(entry.cpus) / limit:.2f}x",
        f"{peak.pss / MIB:,.0f}",
        f"{peak.anonymous / MIB:,.0f}",
        MOVED if entry.moved else f"right; {remark}" if remark else "right",
    )


def facts(heats: Sequence[Heat], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure, for machines."""
    return {
        "machine": page.machine(),
        "n": arguments.n,
        "workloads": [
            {
                "workload": h.workload.name,
                "scale": h.scale,
                "limit": h.limits,
                "contenders": [
                    {
                        "contender": e.contender.name,
                        "absent": e.absent,
                        "memory": _lap_facts(e.memory) if e.memory else None,
                        "laps": [_lap_facts(lap) for lap in e.laps],
                    }
                    for e in h.entries
                ],
            }
            for h in heats
        ],
    }


def _lap_facts(lap: Lap) -> dict[str, Any]:
    return {**asdict(lap.usage), **asdict(lap.verdict)}
