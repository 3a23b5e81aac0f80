"""SIGTERM and SIGINT at any moment: one line, 143 or 130, nothing left under construction, the next run completes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.children import Ending, Fault, server
from tests.jobs import FORMATS, Job, check_again, check_now, clean

CODES = {"term": 143, "int": 130}
HANGS = ("transform=identity", "transform._target_=tests.faults.hang")


def moments(format_: str) -> list[Fault]:
    """SIGTERM at every call of a clean run, from the listing of the input on; at every fourth SIGINT, its like."""
    calls = clean(format_, hydra=True).ending.counts["any"]
    term = [Fault("any", k, "term") for k in range(1, calls + 1)]
    return term + [Fault("any", k, "int") for k in range(1, calls + 1, 4)]


def check(job: Job, fault: Fault) -> None:
    ending = job.run(fault)
    assert ending.code == CODES[fault.how], (ending.code, ending.err)
    check_words(ending, fault.how)
    assert not job.temporaries()
    check_now(job)
    check_again(job)


def check_words(ending: Ending, how: str) -> None:
    name = {"term": "SIGTERM", "int": "SIGINT"}[how]
    assert "Traceback" not in ending.err
    assert "Exception ignored" not in ending.err
    assert ending.err.count("error: ") == 1, ending.err
    assert f"error: stopped by {name}; finished parts are kept: run the same command again" in ending.err
    assert ending.out.count('"state"') == 1, ending.out


@pytest.mark.parametrize("format_", FORMATS)
def test_a_signal_ends_the_run_in_order(format_: str) -> None:
    """While it plans, learns, works or commits."""
    check(Job.make(format_, hydra=True), random.Random(format_).choice(moments(format_)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_a_signal_may_come_at_every_call(format_: str) -> None:
    """Whichever call the signal arrives before."""
    failed = []
    for fault in (faults := moments(format_)):
        try:
            check(Job.make(format_, hydra=True), fault)
        except AssertionError as e:
            failed.append(f"{fault}: {e}")
    print(f"{format_}: {len(faults)} signals, {len(failed)} failed")
    assert not failed, "\n".join(failed[:20])


def hanging(job: Job, *more: str) -> int:
    """A child whose transform hangs. When this returns, it stands still in there."""
    pid = server().start([*job.argv, *HANGS, *more], job.folder)
    assert server().wait(pid).code is None
    return pid


def test_a_second_signal_ends_at_once() -> None:
    """The first one waits for a transform that does not return."""
    pid = hanging(Job.make("npy", hydra=True))
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    while caught(pid, signal.SIGTERM):
        os.sched_yield()
    os.kill(pid, signal.SIGTERM)
    assert server().wait(pid).code in (-signal.SIGTERM, 143)


def caught(pid: int, number: int) -> bool:
    """Whether the process still has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("how", CODES)
def test_a_transform_that_hangs_does_not_keep_a_run_alive(how: str, depth: int) -> None:
    """Nor does it leave anything under construction; the line is the same."""
    job = Job.make("npy", hydra=True)
    pid = hanging(job, f"stream.depth={depth}")
    os.kill(pid, signal.SIGTERM if how == "term" else signal.SIGINT)
    os.kill(pid, signal.SIGCONT)
    ending = server().wait(pid)
    assert ending.code == CODES[how]
    check_words(ending, how)
    assert not job.temporaries()
    check_again(job)


def test_a_shell_that_ignores_sigint_for_its_children_does_not_matter() -> None:
    """As with nohup or `&`: the stage has handlers of its own."""
    ending = Job.make("npy", hydra=True).run(Fault("write", 3, "int"), ignore=["SIGINT"])
    assert ending.code == 130, ending.err
