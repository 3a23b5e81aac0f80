"""Child processes on slots: one job at a time on each, ended together, free again when a child is gone."""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.sweep.slots import Crew, Job, Slot, slots

ROOT = Path(__file__).resolve().parents[2]
QUICK = [sys.executable, "-S", "-E", "-c"]
CPU = [Slot("cpu:0", ""), Slot("cpu:1", "")]

ALONE = """
import fcntl, sys, os
fd = os.open(sys.argv[1] + os.environ["CUDA_VISIBLE_DEVICES"], os.O_CREAT | os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""

WAITS = "import signal, sys; print('here', file=sys.stderr, flush=True); signal.pause()"


def job(code: str, *args: str, name: str = "#0") -> Job:
    return Job(name, [*QUICK, code, *args])


def test_one_job_at_a_time_has_a_device(tmp_path: Path) -> None:
    """No two jobs that see the same GPU overlap, also of two crews that share their locks."""
    gpus = [Slot("cuda:0", "0"), Slot("cuda:1", "1")]
    jobs = [job(ALONE, str(tmp_path / "busy")) for _ in range(6)]
    other = f"""
from pathlib import Path
from pipeline.sweep.slots import *
crew = Crew([Slot("cuda:0", "0"), Slot("cuda:1", "1")], Path({str(tmp_path)!r}))
print(crew.run([Job("x", {jobs[0].command!r})] * 6))
"""
    child = subprocess.Popen([sys.executable, "-c", other], stdout=subprocess.PIPE, text=True)
    mine = Crew(gpus, tmp_path).run(jobs)
    out, _ = child.communicate()
    assert mine == dict.fromkeys(range(6), 0)
    assert ast.literal_eval(out) == mine


def test_a_slot_is_held_by_the_child_itself(tmp_path: Path) -> None:
    """Whoever starts jobs may die: the device is busy as long as the job runs."""
    tries = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(0)
sys.exit(3)
"""
    assert Crew([CPU[0]], tmp_path).run([job(tries, str(tmp_path / "cpu:0"))]) == {0: 0}
    with (tmp_path / "cpu:0").open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_job_frees_its_slot(tmp_path: Path) -> None:
    """The others go on, and its code tells the signal."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert Crew([CPU[0]], tmp_path).run([job(kill), job("")]) == {0: -signal.SIGKILL, 1: 0}


def test_fail_fast_ends_those_that_run_and_starts_no_other(tmp_path: Path) -> None:
    """The second job fails when the first is at work; the third is not started."""
    meet = str(tmp_path / "meet")
    os.mkfifo(meet)
    stays = job("import signal, sys; open(sys.argv[1], 'w'); signal.pause()", meet)
    fails = job("import sys; open(sys.argv[1]); sys.exit(1)", meet)
    assert Crew(CPU, tmp_path, fail_fast=True).run([stays, fails, job("")]) == {0: -signal.SIGTERM, 1: 1}


def test_nothing_to_do_is_no_failure(tmp_path: Path) -> None:
    """The exit code 99 says that a job was complete before."""
    assert Crew(CPU[:1], tmp_path, fail_fast=True).run([job("raise SystemExit(99)"), job("")]) == {0: 99, 1: 0}


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    """Unless fail_fast is set."""
    assert Crew(CPU, tmp_path).run([job("raise SystemExit(7)"), job(""), job("")]) == {0: 7, 1: 0, 2: 0}


def test_lines_are_marked_and_what_is_printed_comes_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines on stderr say whose they are, the last one too if it has no end; stdout stays as it is."""
    talks = "import sys; print('{\"a\": 1}'); sys.stderr.write('one\\ntwo'); sys.stderr.flush()"
    Crew(CPU, tmp_path).run([job(talks, name="#5")])
    out, err = capsys.readouterr()
    assert out == '{"a": 1}\n'
    assert err == "[#5 cpu:0] one\n[#5 cpu:0] two\n"


def test_a_job_sees_its_gpu_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And on a slot of the CPU none."""
    shows = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    Crew([Slot("cuda:3", "3")], tmp_path).run([job(shows)])
    Crew([CPU[0]], tmp_path).run([job(shows)])
    assert capsys.readouterr().out == "'3'\n''\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_is_passed_on_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """What ends the crew ends its jobs, by the same signal, and is raised again when they are gone."""
    waits = job(WAITS.replace("signal.pause", "signal.signal(2, signal.SIG_DFL); signal.pause"))
    driver = f"""
import os, signal, sys
from pathlib import Path
from pipeline.sweep.slots import Crew, Job, Slot
def stop(n, _):
    raise KeyboardInterrupt if n == signal.SIGINT else SystemExit(5)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
crew = Crew([Slot("cpu:0", "")], Path({str(tmp_path)!r}))
try:
    crew.run([Job("#0", {waits.command!r})])
finally:
    print(crew.codes, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert "here" in child.stderr.readline()
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert out.strip() == str({0: code}), err


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["cuda:0", "cuda:1"]),
        ("2,3", ["cuda:2", "cuda:3"]),
        ([0, "cpu", "cpu"], ["cuda:0", "cpu:0", "cpu:1"]),
        (["cuda:1"], ["cuda:1"]),
        ("GPU-5a,MIG-7b", ["cuda:GPU-5a", "cuda:MIG-7b"]),
        ("", ["cpu:0"]),
    ],
)
def test_the_slots_that_are_meant(given: list[str | int] | str | None, names: list[str]) -> None:
    """As CUDA_VISIBLE_DEVICES names GPUs; nothing means all that are there."""
    assert [slot.name for slot in slots(given, lambda: 2)] == names


def test_no_gpu_means_one_job_at_a_time_on_the_cpu() -> None:
    """And a GPU belongs to one slot."""
    assert slots(None, lambda: 0) == (Slot("cpu:0", ""),)
    with pytest.raises(ConfigError, match="named twice"):
        slots([0, "cuda:0"], lambda: 2)


def test_no_job_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    """Killed at once, it can tell nobody: its jobs notice, end in order, and free their slots."""
    says = tmp_path / "says"
    os.mkfifo(says)
    waits = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.sweep.tether import tie
says = open({str(says)!r}, "w", buffering=1)
def stop(n, _):
    says.write("ended")
    sys.exit(n)
signal.signal(signal.SIGTERM, stop)
tie()
print("here", repr(sys.stdin.read()), file=says)
signal.pause()
"""
    driver = f"""
import sys
from pathlib import Path
from pipeline.sweep.slots import Crew, Job, Slot
job = Job("#0", [sys.executable, "-c", {waits!r}])
Crew([Slot("cpu:0", ""), Slot("cpu:1", "")], Path({str(tmp_path)!r})).run([job, job])
"""
    child = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT)
    with says.open() as heard:
        assert [heard.readline() for _ in range(2)] == ["here ''\n"] * 2
        child.kill()
        child.wait()
        assert heard.read() == "endedended"
    for slot in CPU:
        with (tmp_path / slot.name).open() as free:
            fcntl.flock(free, fcntl.LOCK_EX)  # comes back when the job is gone


def test_no_process_is_left(tmp_path: Path) -> None:
    """All children have been waited for."""
    before = children()
    Crew(CPU, tmp_path).run([job("")] * 3)
    assert children() <= before


def children() -> set[str]:
    """Processes that this one has started and not waited for."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread of another test has ended meanwhile
            found.update((task / "children").read_text().split())
    return found
