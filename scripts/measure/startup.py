"""`scripts/bench startup`: a small job end to end, against what nobody who imports torch can do without."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from measure import data, page
from measure.contender import CONTENDERS
from measure.lap import Track, insist, libraries, warm
from measure.process import Usage, noise, run
from measure.verdict import Judge
from measure.workload import WORKLOADS

ROWS = 1000
OURS, SCRIPT = CONTENDERS["ours"], CONTENDERS["naive_stream"]
IMPORTS = {"import torch": "import torch", "import torch, pyarrow.parquet": "import torch, pyarrow.parquet"}
SHOWN = 15


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = f"A job of {ROWS} rows end to end against a bare torch script and bare imports; where our imports go."
    parser = commands.add_parser("startup", help=words, description=words)
    parser.add_argument("--n", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--to", type=Path, default=data.PLACE, metavar="DIR", help="where input lies")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables in their section of this page")
    parser.set_defaults(command=startup)


def startup(arguments: argparse.Namespace) -> None:
    """Time them in turn, then look at our imports once."""
    if arguments.n < 1:
        sys.exit("scripts/bench: --n must be at least 1")
    if arguments.write is not None:
        page.frame("startup", arguments.write)
    workload = WORKLOADS["W1"]
    judge = Judge(workload, workload.prepare(arguments.to, ROWS / workload.rows))
    track = Track(arguments.to)
    usages: dict[str, list[Usage]] = {}
    for i in range(arguments.n + 1):
        for name, usage in _round(judge, track).items():
            usages.setdefault(name, []).extend([usage] if i else [])
    traced = insist("ours", track.lap(replace(OURS, start=("-X", "importtime", *OURS.start)), judge))
    page.publish("startup", _page(usages, packages(traced.printed), arguments), arguments.write)


def _round(judge: Judge, track: Track) -> dict[str, Usage]:
    jobs = {"ours": OURS, "a bare torch script": SCRIPT}
    taken = {name: insist(name, track.lap(contender, judge)).usage for name, contender in jobs.items()}
    return taken | {name: _python(code) for name, code in IMPORTS.items()} | {"python": _python("pass")}


def _python(code: str) -> Usage:
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        warm(libraries(sys.executable))
        usage, printed = run([sys.executable, "-c", code], Path(name), env={}, limit=600)
    if usage.code:
        sys.exit(f"scripts/bench: python -c {code!r} failed:\n{printed}")
    return usage


def packages(printed: str) -> dict[str, tuple[float, int]]:
    """Seconds and number of modules that each package took to import, its own alone, by what `-X importtime` prints."""
    seconds: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for match in re.finditer(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)\s*$", printed, re.MULTILINE):
        package = match[2].partition(".")[0]
        package = "standard library" if package in sys.stdlib_module_names else package
        seconds[package] += int(match[1])
        modules[package] += 1
    return {package: (taken / 1e6, modules[package]) for package, taken in seconds.most_common()}


PAGE = """\
Written by `scripts/bench startup` ({n} rounds) on {machine}.

{rows:,} rows of W1 end to end, manifest, fsync and report on, against a script that reads, computes and writes the same
in one loop, and against imports alone; in turn, each as a whole process. Seconds: minimum / median. {noise}

{table}

Imports of ours, by package: seconds that its modules took themselves (`-X importtime`, which makes them slower), of
{total:.2f} s in all.

{imports}"""


def _page(usages: Mapping[str, Sequence[Usage]], found: dict[str, tuple[float, int]], a: argparse.Namespace) -> str:
    base = usages["a bare torch script"]
    rows = [(name, *_figures(taken), *_beyond(taken, base)) for name, taken in usages.items()]
    imports = [(name, f"{seconds:.3f}", f"{count:,}") for name, (seconds, count) in list(found.items())[:SHOWN]]
    return PAGE.format(
        n=a.n,
        rows=ROWS,
        machine=page.machine(),
        noise=noise([usage for taken in usages.values() for usage in taken]),
        table=page.table(("process", "wall s", "CPU s", "wall beyond the script", "CPU beyond it"), rows),
        total=sum(seconds for seconds, _ in found.values()),
        imports=page.table(("package", "s", "modules"), imports),
    )


def _figures(taken: Sequence[Usage]) -> tuple[str, str]:
    walls, cpus = [u.wall for u in taken], [u.cpu for u in taken]
    return f"{min(walls):.2f} / {median(walls):.2f}", f"{min(cpus):.2f} / {median(cpus):.2f}"


def _beyond(taken: Sequence[Usage], base: Sequence[Usage]) -> tuple[str, str]:
    wall = median(u.wall for u in taken) - median(u.wall for u in base)
    cpu = median(u.cpu for u in taken) - median(u.cpu for u in base)
    return f"{wall:+.2f}", f"{cpu:+.2f}"
