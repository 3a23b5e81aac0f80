"""System calls that fail: the exit code is true, nothing torn is seen, the same command again completes the output."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Iterator

import pytest

from tests.children import Ending, Fault
from tests.jobs import FORMATS, Job, check_again, check_now, clean

FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT), errno.EROFS
CODES = {
    "open_read": (errno.EIO,),
    "open_write": (*FULL, errno.EIO, READ_ONLY),
    "read": (errno.EIO,),
    "write": (*FULL, errno.EIO),
    "fsync": (*FULL, errno.EIO),
    "rename": (*FULL, errno.EIO, READ_ONLY),
    "close": (*FULL, errno.EIO),
    "mkdir": (*FULL, errno.EIO, READ_ONLY),
    "unlink": (errno.EIO, READ_ONLY),
}


def faults(format_: str) -> Iterator[Fault]:
    """Every call of a clean run, and one more that is not reached, with every error; and one from there on."""
    for op, codes in CODES.items():
        for k in range(1, clean(format_).ending.counts[op] + 2):
            for code in codes:
                yield Fault(op, k, "fail", code)
            yield Fault(op, k, "fail", codes[-1], sticky=True)
    for k in range(1, clean(format_).ending.counts["write"] + 2):
        yield Fault("write", k, "short")
    for k in range(1, clean(format_).ending.counts["rename"] + 2):
        yield Fault("rename", k, "after")


def sample(format_: str, number: int) -> list[Fault]:
    return random.Random(format_).sample(list(faults(format_)), number)


def check(job: Job, fault: Fault) -> Ending:
    """One fault, then the same command without it."""
    ending = job.run(fault)
    check_ending(ending, fault, job)
    check_now(job)
    if ending.code == 0:
        assert job.everything() == clean(job.format).everything
    if fault.op not in ("unlink", "open_read") and not fault.sticky:  # with which things are removed
        assert not job.temporaries()
    check_again(job)
    return ending


def check_ending(ending: Ending, fault: Fault, job: Job) -> None:
    """The code and the one line that fit the error."""
    assert not ending.hung
    assert "Traceback" not in ending.err
    assert "Exception ignored" not in ending.err
    if ending.code == 0:
        return
    lines = [line for line in ending.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ending.err
    assert re.search(r"'\S*(out|in)\S*'", lines[0]), lines
    if job.input.name in lines[0] and fault.op == "close":
        assert ending.code in (65, 74)  # Arrow keeps the reason to itself
        return
    expected = {READ_ONLY: {73, 74}} | {code: {75} for code in FULL}
    assert ending.code in expected.get(fault.code, {74}), ending.err
    assert os.strerror(fault.code) in lines[0], lines


@pytest.mark.parametrize("format_", FORMATS)
def test_a_call_that_fails_costs_a_part_and_no_more(format_: str) -> None:
    """Some calls, errors and moments, the same ones in every run of this test."""
    for fault in sample(format_, 4):
        check(Job.make(format_), fault)


@pytest.mark.parametrize("fault", [Fault("write", 1, "short", sticky=True), Fault("rename", 1, "after", sticky=True)])
@pytest.mark.parametrize("format_", FORMATS)
def test_half_writes_and_lost_replies_are_no_failures(format_: str, fault: Fault) -> None:
    """Every write takes half of the bytes; every rename is done and said to have failed."""
    ending = check(Job.make(format_), fault)
    assert ending.code == 0
    assert ending.met > 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_every_call_may_fail(format_: str) -> None:
    """The k-th call of each kind with each error, for every k until none is reached."""
    failed, met, codes = [], 0, dict[int | None, int]()
    for fault in (all_ := list(faults(format_))):
        try:
            ending = check(Job.make(format_), fault)
        except AssertionError as e:
            failed.append(f"{fault}: {e}")
            continue
        met += ending.met > 0
        codes[ending.code] = codes.get(ending.code, 0) + 1
    print(f"{format_}: {len(all_)} faults, {met} met, exit codes {codes}")
    assert not failed, f"{len(failed)} of {len(all_)}:\n" + "\n".join(failed[:40])
