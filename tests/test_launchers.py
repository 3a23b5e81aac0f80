"""Sweeps whose jobs run elsewhere: what is told at the end comes from files, whoever ran the jobs."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BASE = ("source=npy", "source.path=x.npy", "transform=identity", "log.progress=none", "device=cpu")
DEVICE = ("hydra/launcher=device", "hydra.launcher.locks=locks")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    return tmp_path


def start(*args: str) -> subprocess.Popen[str]:
    """A process of its own: launchers start others like it. Without matplotlib, which would only take time."""
    code = "import sys; sys.modules['matplotlib'] = None; from pipeline.__main__ import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, text=True, stdout=pipe, stderr=pipe)


def sweep(*args: str) -> tuple[int, list[dict[str, Any]], str, list[dict[str, str]]]:
    """Exit code, lines of JSON, stderr, and sweep.csv."""
    given = [arg.partition("=")[0] for arg in args]
    child = start("-m", *args, *(each for each in BASE if each.partition("=")[0] not in given))
    out, err = child.communicate(timeout=110)
    assert Path("multirun/sweep.csv").exists(), err
    with Path("multirun/sweep.csv").open() as f:
        rows = list(csv.DictReader(f))
    said = [json.loads(line[line.index("{") :]) for line in out.splitlines()]  # Ray says first whose it is
    return child.returncode, said, err, rows


def test_jobs_on_slots_of_the_cpu(here: Path) -> None:
    """Two at a time; one is killed as if memory had run out, and the others and the table are there."""
    Path("mine.py").write_text(
        "import os, signal\n\ndef mine(t, dies: bool = False):\n"
        "    dies and os.kill(os.getpid(), signal.SIGKILL)\n    return t\n"
    )
    mine = ("transform._target_=mine.mine", "+transform.dies=false,true", "batch.rows=2")
    code, lines, err, rows = sweep(*DEVICE, "hydra.launcher.devices=[cpu,cpu]", *mine)
    assert code == 1
    assert [row["state"] for row in rows] == ["done", "died"]
    assert "it was killed" in rows[1]["error"]
    assert "[#0 cpu:0] done: mine on cpu" in err
    assert "1 of 2 jobs failed" in err
    assert [line["state"] for line in lines] == ["done", "failed"]
    report = json.loads(next(Path("multirun").glob("*/_pipeline/report.json")).read_text())
    assert "sink.path=" in report["command"][-1]
    assert not any(part.startswith("hydra.job.num") for part in report["command"])


def test_no_job_is_started_if_one_does_not_compose(here: Path) -> None:
    """The message is that of a single run."""
    child = start("-m", *DEVICE, "hydra.launcher.devices=[cpu]", "batch.rows=2,big", *BASE)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "batch.rows: Value 'big'" in err
    assert not list(Path("multirun").glob("*/*"))


@pytest.mark.launchers
def test_a_signal_ends_the_jobs_in_order(here: Path) -> None:
    """Each child is told once, ends as a run does, and is waited for."""
    Path("mine.py").write_text(
        "import signal, sys\n\ndef mine(t):\n    if len(next(iter(t.values()))):\n"
        "        print('here', file=sys.stderr, flush=True)\n        signal.pause()\n    return t\n"
    )
    mine = ("transform._target_=mine.mine", "batch.rows=2,3", "stream.depth=0")
    child = start("-m", *DEVICE, "hydra.launcher.devices=[cpu]", *mine, *BASE)
    assert child.stderr is not None
    assert any("here" in line for line in child.stderr)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143
    assert "[#0 cpu:0] error: stopped by SIGTERM" in err
    assert "[#1" not in err
    assert re.search(r"stopped \(143\)", err)


@pytest.mark.launchers
def test_jobs_end_with_a_launcher_that_is_killed(here: Path) -> None:
    """What they say nobody hears; their results tell it, and the same sweep finishes the work."""
    Path("mine.py").write_text(
        "import pathlib, signal, sys\n\ndef mine(t):\n"
        "    if len(next(iter(t.values()))) and pathlib.Path('wait').exists():\n"
        "        print('here', file=sys.stderr, flush=True)\n        signal.pause()\n    return t\n"
    )
    Path("wait").touch()
    mine = ("transform._target_=mine.mine", "batch.rows=2,3", "stream.depth=0")
    child = start("-m", *DEVICE, "hydra.launcher.devices=[cpu]", *mine, *BASE)
    assert child.stderr is not None
    assert any("here" in line for line in child.stderr)
    child.kill()
    child.communicate()
    with Path("locks/cpu:0").open() as free:
        fcntl.flock(free, fcntl.LOCK_EX)  # comes back when the job is gone
    results = [json.loads(file.read_text()) for file in Path("multirun/_jobs").iterdir()]
    assert [(one["state"], one["code"]) for one in results] == [("stopped", 143)]
    Path("wait").unlink()
    code, _, err, rows = sweep(*DEVICE, "hydra.launcher.devices=[cpu]", *mine)
    assert (code, [row["state"] for row in rows]) == (0, ["done", "done"]), err


# ---- launchers and sweepers of others --------------------------------------------------------------------------------


def needs(plugin: str) -> pytest.MarkDecorator:
    found = any((Path(place) / "hydra_plugins" / plugin).is_dir() for place in sys.path)
    return pytest.mark.skipif(not found, reason=f"{plugin} is not installed; see CONTRIBUTING.md")


@pytest.mark.launchers
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs("hydra_joblib_launcher")),
        pytest.param(("hydra/launcher=submitit_local",), marks=needs("hydra_submitit_launcher")),
        pytest.param(("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"), marks=needs("hydra_ray_launcher")),
    ],
    ids=["joblib", "submitit", "ray"],
)
def test_jobs_in_processes_of_a_launcher_are_all_told(here: Path, launcher: tuple[str, ...]) -> None:
    """Those that failed too, each with its exit code; the same again runs what is missing."""
    code, lines, err, rows = sweep(*launcher, "source.path=x.npy,y.npy")
    assert (code, [row["state"] for row in rows], rows[1]["code"]) == (66, ["done", "failed"], "66"), err
    assert "1 of 2 jobs failed" in err
    assert lines[-1]["code"] == 66
    Path("y.npy").write_bytes(Path("x.npy").read_bytes())
    code, _, err, rows = sweep(*launcher, "source.path=x.npy,y.npy")
    assert (code, [row["state"] for row in rows]) == (0, ["nothing to do", "done"]), err


@pytest.mark.launchers
@pytest.mark.timeout(300)
@needs("hydra_optuna_sweeper")
@pytest.mark.parametrize("storage", [(), ('hydra.sweeper.storage="sqlite:///study.db"',)], ids=["memory", "sqlite"])
def test_optuna_finds_the_best_of_what_it_tried(here: Path, storage: tuple[str, ...]) -> None:
    """By a statistic of the output, with a job that fails in between."""
    mine = (
        "import torch\n\ndef mine(t, by: int = 0):\n    assert by != 2\n    return {k: v * by for k, v in t.items()}\n"
    )
    Path("mine.py").write_text(mine)
    code, _, err, rows = sweep(
        "experiment=tune", "hydra.sweeper.n_trials=6", "sweep.objective=data.max", *storage,
        "transform._target_=mine.mine", "+transform.by=choice(1,2,3)",
    )  # fmt: skip
    best = max(float(row["objective"] or 0) for row in rows)
    assert re.search(rf"Best value: {best}", err), err
    assert code in (0, 70)
    assert Path("study.db").exists() == bool(storage)


@pytest.mark.launchers
@pytest.mark.timeout(300)
@needs("hydra_optuna_sweeper")
@needs("hydra_joblib_launcher")
def test_of_two_trials_on_one_output_one_is_refused(here: Path) -> None:
    """A sweeper that chooses as it goes cannot be rehearsed: the lock or the bookkeeping says whose the output is."""
    at_once = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=2")
    code, _, err, rows = sweep(
        "experiment=tune",
        *at_once,
        "run.seed=int(interval(1,1000000000))",
        "sink.path=one",
        "batch.rows=2",
        "hydra.sweeper.sampler.seed=1",
    )
    assert sorted(row["state"] for row in rows) == ["done", "failed"], err
    failed = next(row for row in rows if row["state"] == "failed")
    said = {"75": "another run is writing this output: pid", "73": "Choose another sink.path"}
    assert failed["code"] == str(code)
    assert said[failed["code"]] in failed["error"]
