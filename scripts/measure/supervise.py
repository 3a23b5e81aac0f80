"""Runs a command, and writes down what its whole process tree took. A process of its own, with no library.

    python supervise.py RESULT SAMPLE_SECONDS LIMIT_SECONDS COMMAND ...

It makes itself the one that orphans fall to, so that daemons which a command leaves behind are counted, and ended. With
`SAMPLE_SECONDS` above 0 it adds up the memory of the tree that often; that walks page tables and slows the command
down, so the times of such a run are no figures. After `LIMIT_SECONDS` the tree is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 5.0  # seconds that daemons have to end by themselves


def main() -> None:
    result, every, limit, command = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    for name in (signal.SIGALRM, signal.SIGTERM):  # too late, or whoever asked for this is gone
        signal.signal(name, lambda *_: _kill())
    done = threading.Event()
    peak = {"pss": 0, "anonymous": 0}
    sampler = threading.Thread(target=_sample, args=(peak, every, done))
    busy, start = _machine_seconds(), time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    signal.alarm(limit)
    if every:
        sampler.start()
    code, cpu = _wait(pid)
    wall = time.perf_counter() - start
    busy = _machine_seconds() - busy
    signal.alarm(0)
    done.set()
    if every:
        sampler.join()
    cpu += _rest()
    result.write_text(json.dumps({"code": code, "wall": wall, "cpu": cpu, "machine": busy, **peak}))


def _wait(pid: int) -> tuple[int, float]:
    """Exit code of a process, and the seconds of all that ended until then."""
    cpu = 0.0
    while True:
        ended, status, usage = os.wait4(-1, 0)
        cpu += usage.ru_utime + usage.ru_stime
        if ended == pid:
            return os.waitstatus_to_exitcode(status), cpu


def _rest() -> float:
    """Seconds of the processes that are left, after they have ended, by force if need be."""
    cpu, deadline = 0.0, time.monotonic() + GRACE
    with suppress(ChildProcessError):
        while True:
            ended, _, usage = os.wait4(-1, os.WNOHANG)
            cpu += usage.ru_utime + usage.ru_stime
            if not ended:
                if time.monotonic() > deadline:
                    _kill()
                time.sleep(0.02)
    return cpu


def _kill() -> None:
    for pid in _tree():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _sample(peak: dict[str, int], every: float, done: threading.Event) -> None:
    while not done.wait(every):
        pss = anonymous = 0
        for pid in _tree():
            of_all, of_own = _memory(pid)
            pss, anonymous = pss + of_all, anonymous + of_own
        peak["pss"], peak["anonymous"] = max(peak["pss"], pss), max(peak["anonymous"], anonymous)


def _memory(pid: int) -> tuple[int, int]:
    """Proportional share of all pages, and of the anonymous ones, in bytes; nothing of a process that has ended."""
    pss = anonymous = 0
    with suppress(OSError), Path(f"/proc/{pid}/smaps_rollup").open() as lines:
        for line in lines:
            if line.startswith("Pss:"):
                pss = 1024 * int(line.split()[1])
            elif line.startswith("Pss_Anon:"):
                anonymous = 1024 * int(line.split()[1])
    return pss, anonymous


def _tree() -> list[int]:
    """All descendants of this process."""
    below: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                children = (thread / "children").read_text().split()
                waiting += map(int, children)
                below += map(int, children)
    return below


def _machine_seconds() -> float:
    """Seconds for which the processors of the machine were at work, whoever asked for it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
