"""A transform that never returns ends the run, and leaves it as a stopped run is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.run import Options
from pipeline.watchdog import Watchdog

ROOT = Path(__file__).resolve().parent.parent

HANGS = """
import threading

def hangs(tensors):
    if 4 in tensors["data"]:
        threading.Event().wait()
    return tensors
"""


@pytest.mark.parametrize("depth", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_that_never_returns_ends_the_run(depth: int, tmp_path: Path) -> None:
    """Whichever thread hangs: all stacks, one line with file, rows and key, a line of JSON, no temporaries, no lock."""
    np.save(tmp_path / "x.npy", np.arange(8))
    (tmp_path / "usercode.py").write_text(HANGS)
    overrides = ("source.path=x.npy", "transform._target_=usercode.hangs", "sink.path=y.npy", "log.progress=none")
    done = subprocess.run(
        [*(sys.executable, "-m", "pipeline", "source=npy", "transform=identity", "sink=npy", "device=cpu", *overrides),
         *("batch.rows=2", f"stream.depth={depth}", "run.batch_timeout=0.5")],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert 'usercode.py", line 6 in hangs' in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: x.npy, rows 4-6 of split ")
    assert "no result after run.batch_timeout=0.5 seconds" in last
    assert json.loads(done.stdout.splitlines()[-1])["code"] == 75
    assert {p.name for p in tmp_path.rglob("*") if p.suffix != ".pyc"} == {
        *("x.npy", "usercode.py", "__pycache__", "y.npy.run", "identity.json", "journal.jsonl", "lock")
    }


def test_a_call_that_blocks_the_interpreter_is_ended_too() -> None:
    """By the system, since no thread of ours can run."""
    code = """
import re
from pipeline.watchdog import Watchdog
with Watchdog(0.2, print, grace=0.2).over("a batch"):
    re.match("(a+)+$", "a" * 60 + "b")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout" in done.stderr


def test_what_returns_in_time_is_not_disturbed() -> None:
    """Also after the block, and if it raises; and without a limit."""
    code = """
import threading
from pipeline.watchdog import Watchdog
for seconds in (0.2, None):
    try:
        with Watchdog(seconds, print, grace=0.1).over("a batch"):
            raise ZeroDivisionError
    except ZeroDivisionError:
        for thread in set(threading.enumerate()) - {threading.main_thread()}:
            thread.join()
print("here")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")


def test_no_time_at_all_is_refused() -> None:
    """It would end every run."""
    with pytest.raises(ConfigError, match=r"run.batch_timeout must be more than 0 seconds; got 0"):
        Options(batch_timeout=0)
    assert Watchdog().seconds is None
