"""A killed run, run again, gives the bytes of a run that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import ROOT, Ending, Fault
from tests.faults import main as stage
from tests.jobs import FORMATS, Job, check_again, check_now, clean

PARTS = {"parquet": 4, "npy": 1, "npz": 1}


def points(format_: str) -> Iterator[Fault]:
    """Before and after every call that changes the disk, and in the middle of every write."""
    counts = clean(format_).ending.counts
    for how in ("kill", "killed_after"):
        yield from (Fault("change", k, how) for k in range(1, counts["change"] + 1))
    yield from (Fault("write", k, "torn") for k in range(1, counts["write"] + 1))


def check(job: Job, ending: Ending) -> None:
    """What is there after a kill, and that the next run does only what is missing."""
    assert ending.code in (-signal.SIGKILL, 0), ending.err
    assert not ending.orphans
    check_now(job)
    recorded = job.recorded()
    if not job.marked():
        assert job.run().code == 0
        made = json.loads((job.state / "report.json").read_text())["parts_made"]
        assert made == PARTS[job.format] - recorded
    check_again(job)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_run_killed_at_a_call_is_completed_by_the_next(format_: str) -> None:
    """Every visible file is whole at any moment; nothing is done twice, nothing is left over."""
    for fault in random.Random(format_).sample(list(points(format_)), 3):
        job = Job.make(format_)
        check(job, job.run(fault))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_a_run_may_be_killed_at_every_call(format_: str) -> None:
    """All of them."""
    failed = []
    for fault in (faults := list(points(format_))):
        job = Job.make(format_)
        try:
            ending = job.run(fault)
            assert ending.code == -signal.SIGKILL
            check(job, ending)
        except AssertionError as e:
            failed.append(f"{fault}: {e}")
    print(f"{format_}: {len(faults)} points, {len(failed)} failed")
    assert not failed, "\n".join(failed[:20])


def at_random(format_: str, trials: int) -> int:
    """The number of kills at random moments of the work, up to three of each output in a row."""
    seconds = min(measured(format_) for _ in range(3))
    rng, kills = random.Random(format_), 0
    while kills < trials:
        job = Job.make(format_)
        for _ in range(rng.randint(1, 3)):
            ending = job.run(Fault("change", 1, "timer", int(rng.uniform(0, 0.8) * seconds * 1e6)))
            kills += ending.code == -signal.SIGKILL
            check_now(job)
        check(job, ending)
    return kills


def measured(format_: str) -> float:
    """Seconds of a run."""
    start = time.perf_counter()
    assert Job.make(format_).run().code == 0
    return time.perf_counter() - start


@pytest.mark.parametrize("format_", ["parquet", "npy"])
def test_a_run_killed_at_a_random_moment_is_completed_by_the_next(format_: str) -> None:
    """The kernel chooses the moment, not the calls."""
    at_random(format_, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_a_run_may_be_killed_at_any_moment(format_: str) -> None:
    """A hundred of them."""
    print(f"{format_}: {at_random(format_, 100)} kills")


@pytest.mark.parametrize(("point", "number"), [("publish", 4), ("batch", 3)])
def test_a_run_that_dies_between_calls_is_completed_by_the_next(point: str, number: int, tmp_path: Path) -> None:
    """After a part was published and before it is recorded; in the transform. Needs no compiler."""
    stage(str(tmp_path / "clean"), "parquet", "", 0)
    expected, out = parts(tmp_path / "clean"), tmp_path / "out"
    argv = [sys.executable, "-m", "tests.faults", str(out), "parquet", point, str(number)]
    killed = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert parts(out).items() <= expected.items()
    assert not (out / "_SUCCESS").exists()
    stage(str(out), "parquet", "", 0)
    assert parts(out) == expected
    assert not (out / ".tmp").exists()


def parts(out: Path) -> dict[str, bytes]:
    """What a reader of the folder sees."""
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.startswith(("_", "."))}
