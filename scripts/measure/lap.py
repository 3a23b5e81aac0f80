"""A contender, once: a fresh folder, a process tree, a verdict on what it wrote."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from measure.contender import SCRIPTS, Contender
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
        under: the folder of all input; each lap has a folder of its own in it, emptied after the lap.
        timeout: seconds after which a lap is ended.
        python: that runs what needs packages which this environment may not have.
    """

    under: Path
    timeout: int = 600
    python: str = sys.executable

    def interpreter(self, contender: Contender) -> str:
        """The Python that runs a contender."""
        return self.python if contender.package else sys.executable

    @cached_property
    def _laps(self) -> str:
        """The folder of all laps, removed with their files in the end.

        Where a filesystem has no journal (ext4), the numbers of files that were just removed are passed over one by
        one, and whoever makes hundreds of files after that waits for it.
        """
        folder = tempfile.mkdtemp(prefix="laps-", dir=self.under)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def lap(self, contender: Contender, judge: Judge, *, memory: bool = False) -> Lap:
        """Run a contender; looking at its memory slows it down, so that its times are then no figures."""
        folder = Path(tempfile.mkdtemp(prefix="lap-", dir=self._laps))
        with tempfile.TemporaryDirectory(prefix="lap-") as short:
            out = folder / "out"
            out.mkdir()
            python = self.interpreter(contender)
            command = contender.command(python, judge.workload, judge.place, out)
            env = contender.env(folder, Path(short))
            for source in (contender.checkout / "pipeline", contender.checkout / "hydra_plugins", SCRIPTS):
                build(source)
            os.sync()  # nobody waits for what others wrote
            warm([*libraries(python), *judge.workload.input(judge.place)])
            usage, printed = run(command, folder, env=env, limit=self.timeout, memory=memory)
            verdict = self._verdict(usage, judge, out)
        empty(folder)
        return Lap(usage, verdict, printed)

    def _verdict(self, usage: Usage, judge: Judge, out: Path) -> Verdict:
        if usage.code:
            ended = usage.wall >= self.timeout
            return Verdict(False, f"ended after {usage.wall:.0f} s" if ended else f"exit code {usage.code}")
        return judge.look(out)


def empty(folder: Path) -> None:
    """Give back the room of all files in a folder, which stay."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            os.truncate(file, 0)


@cache
def build(folder: Path) -> None:
    """Compile the modules in a folder, as pip does with those that it installs.

    Where Python is told to write no bytecode, what runs from a checkout would be compiled at each start.
    """
    compileall.compile_dir(folder, quiet=1)


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
