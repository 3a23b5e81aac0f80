"""A command as a process tree of its own, and what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SUPERVISE = Path(__file__).with_name("supervise.py")
MIB = 1 << 20
SAMPLE = 0.02  # seconds between looks at the memory


@dataclass(frozen=True)
class Usage:
    """What a process tree took.

    Attributes:
        code: of its exit; negative for a signal.
        wall: seconds until the process that was started ended.
        cpu: user and system seconds of the whole tree, daemons included.
        others: seconds for which the processors of the machine worked for anybody else meanwhile.
        load: average of the last minute, before.
        pss, anonymous: peak bytes of all pages, shared ones in proportion, and of those that no file stands behind; 0
            where memory was not looked at.
    """

    code: int
    wall: float
    cpu: float
    others: float
    load: float
    pss: int
    anonymous: int


def run(
    command: Sequence[str], folder: Path, *, env: Mapping[str, str], limit: int, memory: bool = False
) -> tuple[Usage, str]:
    """Run a command in a folder, for at most `limit` seconds, and return what it took and what it printed.

    Looking at memory slows it down, so that the times of such a run are no figures.
    """
    result, log = folder / "usage.json", folder / "log.txt"
    load = os.getloadavg()[0]
    supervised = [sys.executable, "-ES", str(SUPERVISE), str(result), str(SAMPLE * memory), str(limit), *command]
    with log.open("wb") as printed:
        subprocess.run(
            supervised, cwd=folder, env={**os.environ, **env}, stdout=printed, stderr=subprocess.STDOUT, check=True
        )
    found = json.loads(result.read_text())
    others = max(0.0, found.pop("machine") - found["cpu"])
    return Usage(**found, others=others, load=load), log.read_text(errors="replace")


def noise(usages: Sequence[Usage]) -> str:
    """What else ran meanwhile, in a sentence."""
    shares = [u.others / (u.wall * (os.cpu_count() or 1)) for u in usages]
    loads = [u.load for u in usages]
    if not usages:
        return ""
    return (
        f"Others used {median(shares):.0%} of the machine meanwhile (median; {max(shares):.0%} at most); load average "
        f"before a run {min(loads):.1f} to {max(loads):.1f}."
    )
