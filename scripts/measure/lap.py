"""A contender, once: a fresh folder, a process tree, a verdict on what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from measure.contender import Contender
from measure.process import MIB, Usage, run
from measure.verdict import Judge, Verdict


@dataclass(frozen=True)
class Lap:
    """What one run of a contender took, what its output is worth, and what it printed."""

    usage: Usage
    verdict: Verdict
    printed: str


@dataclass(frozen=True)
class Track:
    """Where laps are run.

    Attributes:
        under: the folder of all input; each lap has a folder of its own in it, which is gone afterwards.
        timeout: seconds after which a lap is ended.
        python: that runs what needs packages which this environment may not have.
    """

    under: Path
    timeout: int = 600
    python: str = sys.executable

    def interpreter(self, contender: Contender) -> str:
        """The Python that runs a contender."""
        return self.python if contender.package else sys.executable

    def lap(self, contender: Contender, judge: Judge, *, memory: bool = False) -> Lap:
        """Run a contender; looking at its memory slows it down, so that its times are then no figures."""
        with (
            tempfile.TemporaryDirectory(prefix="lap-", dir=self.under) as name,
            tempfile.TemporaryDirectory(prefix="lap-") as short,
        ):
            folder, out = Path(name), Path(name) / "out"
            out.mkdir()
            python = self.interpreter(contender)
            command = contender.command(python, judge.workload, judge.place, out)
            env = contender.env(folder, Path(short))
            os.sync()  # nobody waits for what others wrote
            warm([*libraries(python), *judge.workload.input(judge.place)])
            usage, printed = run(command, folder, env=env, limit=self.timeout, memory=memory)
            return Lap(usage, self._verdict(usage, judge, out), printed)

    def _verdict(self, usage: Usage, judge: Judge, out: Path) -> Verdict:
        if usage.code:
            ended = usage.wall >= self.timeout
            return Verdict(False, f"ended after {usage.wall:.0f} s" if ended else f"exit code {usage.code}")
        return judge.look(out)


def warm(files: Iterable[Path]) -> None:
    """Read files, so that they are in the page cache for whoever comes next.

    Some machines take what is there away within a minute, so that the first contender of a round would wait for the
    disk, and the next one find what it has read.
    """
    block = bytearray(MIB)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


@cache
def libraries(python: str) -> tuple[Path, ...]:
    """What an interpreter loads from its packages: shared libraries and compiled modules."""
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
    folder = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    return tuple(f for f in folder.rglob("*") if (f.suffix == ".pyc" or ".so" in f.suffixes) and f.is_file())


def tell(what: str, lap: Lap, *, memory: bool = False) -> None:
    """A line on stderr, so that one sees it go on."""
    usage = lap.usage
    taken = f"{usage.pss / MIB:,.0f} MiB" if memory else f"{usage.wall:.2f} s, {usage.cpu:.2f} s CPU"
    print(f"{what}: {taken}; {'right' if lap.verdict.right else lap.verdict.words}", file=sys.stderr)


def insist(what: str, lap: Lap) -> Lap:
    """The lap, if its output is right; else the end of this process."""
    if lap.verdict.right:
        return lap
    tail = "\n    ".join(lap.printed.strip().splitlines()[-5:])
    sys.exit(f"scripts/bench: {what}: {lap.verdict.words}\n    {tail}")
