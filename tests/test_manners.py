"""Cron and pipes: an empty environment, closed streams, a full log disk. No commit is lost, the exit code is true."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from tests.children import Fault, server
from tests.jobs import FORMATS, Job, check_again, clean

FULL = "/dev/full"
STREAMS = {
    "closed": {"0": "", "1": "", "2": ""},
    "full": {"1": FULL, "2": FULL},
    "nobody-reads": {"1": "|", "2": "|"},
    "nobody-reads-the-result": {"1": "|"},
    "no-stderr": {"2": ""},
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_run_does_not_depend_on_its_streams(name: str) -> None:
    """Its output is there and its exit code 0, and the interpreter takes its leave without a word."""
    job = Job.make("npy", hydra=True)
    ending = job.run(streams=STREAMS[name], whole=name in ("closed", "full"))
    assert ending.code == 0, ending.err
    assert job.everything() == clean("npy", hydra=True).everything
    assert "Broken" not in ending.err


@pytest.mark.parametrize("name", ["closed", "full"])
def test_a_failure_keeps_its_exit_code_without_streams(name: str) -> None:
    """What cannot be said is still told by the code."""
    job = Job.make("npy", hydra=True)
    ending = job.run(Fault("fsync", 8), streams=STREAMS[name])
    assert ending.code == 74
    assert not job.marked()


def test_what_a_library_prints_to_a_closed_stream_does_not_go_into_the_data() -> None:
    """The first files that are opened would get the numbers of closed streams."""
    job = Job.make("npy", hydra=True)
    noisy = [*job.argv, "transform._target_=tests.faults.noisy"]
    ending = server().run(noisy, job.folder, streams=STREAMS["closed"])
    assert ending.code == 0
    assert job.data() == clean("npy").data


def test_a_run_from_cron() -> None:
    """Empty environment, no HOME, no terminal, cwd=/, closed streams, umask 077: a process of its own."""
    job = Job.make("npy", hydra=True)
    argv = [arg.replace("path=", f"path={job.folder}/") for arg in job.argv]

    def cron() -> None:
        os.umask(0o077)
        os.setsid()
        for fd in (0, 1, 2):
            os.close(fd)

    done = subprocess.run([sys.executable, "-m", "pipeline", *argv], env={}, cwd="/", preexec_fn=cron, check=False)
    assert done.returncode == 0
    out = job.folder / "out.npy"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert stat.S_IMODE(job.state.stat().st_mode) == 0o700
    check_again(job)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_may_not_grow_beyond_a_limit_of_the_shell(format_: str) -> None:
    """ulimit -f: an error with the file and the reason, not a signal that kills without a word."""
    job = Job.make(format_)
    ending = job.run(file_size=1500)
    assert ending.code == 74, ending.err
    assert "File too large" in ending.err
    assert not job.data()
    assert not job.temporaries()
    check_again(job)
