"""Two runs on one output at the same time: one works, the other says who does; never both. Clocks that jump."""

from __future__ import annotations

import os
import random
import re
import signal

import pytest

from tests.children import Ending, Fault, server
from tests.jobs import FORMATS, Job, check_again, check_now, clean

YEAR = 365 * 24 * 3600


def worked(ending: Ending) -> bool:
    """Whether this run published anything beside the record of who holds the lock."""
    return ending.counts["rename"] > 1


def meet(job: Job, k: int) -> tuple[Ending, Ending]:
    """A run that stands still before its k-th call, and one that comes then."""
    pid = job.start(Fault("any", k, "stop"))
    assert server().wait(pid).code is None
    second = job.run()
    check_now(job)
    told = (job.state / "lock.json").exists()  # not if it was frozen between taking the lock and saying so
    os.kill(pid, signal.SIGCONT)
    first = server().wait(pid)
    if second.code == 75:
        who = rf"pid {pid} on \S+ since 20" if told else "holder unknown"
        assert re.search(rf"^error: another run is writing this output: {who}", second.err), second.err
    return first, second


@pytest.mark.parametrize("format_", FORMATS)
def test_of_two_runs_one_works_and_the_other_says_who_does(format_: str) -> None:
    """Wherever the first one is when the second one comes."""
    rng, calls = random.Random(format_), clean(format_).ending.counts["any"]
    for k in (rng.randrange(1, calls + 1) for _ in range(2)):
        check_pair(format_, k)


def check_pair(format_: str, k: int) -> tuple[int | None, int | None]:
    job = Job.make(format_)
    first, second = meet(job, k)
    codes = first.code, second.code
    assert codes in ((0, 75), (0, 0)), (codes, first.err, second.err)
    if codes == (0, 0):
        assert not (worked(first) and worked(second)), "both wrote"
    check_now(job)
    check_again(job)
    return codes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_a_second_run_may_come_at_every_call(format_: str) -> None:
    """Before each call of the first; and the two started at once, twenty times."""
    codes = dict[tuple[int | None, int | None], int]()
    for k in range(1, clean(format_).ending.counts["any"] + 1):
        pair = check_pair(format_, k)
        codes[pair] = codes.get(pair, 0) + 1
    at_once = [check_at_once(format_) for _ in range(20)]
    print(f"{format_}: {codes}; started at once: {at_once}")


def check_at_once(format_: str) -> list[int | None]:
    job = Job.make(format_)
    pids = [job.start(), job.start()]
    endings = [server().wait(pid) for pid in pids]
    codes = sorted(ending.code or 0 for ending in endings)
    assert codes in ([0, 75], [0, 0]), [ending.err for ending in endings]
    assert sum(map(worked, endings)) == 1
    check_again(job)
    return list(codes)


def test_two_runs_that_start_at_once_share_the_work_of_one() -> None:
    """Nobody stops either of them."""
    check_at_once("npy")


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_jumps_by_a_year_changes_nothing(jump: int) -> None:
    """In the middle of a run; the run after it has the old clock."""
    for format_ in FORMATS:
        job = Job.make(format_)
        ending = job.run(Fault("any", 30, "clock", jump))
        assert (ending.code, ending.met) == (0, 1), ending.err
        assert job.everything() == clean(format_).everything
        check_again(job)
