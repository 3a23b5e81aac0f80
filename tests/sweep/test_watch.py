"""A sweep: what its jobs leave, what is told at the end, and what the same sweep does again."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import compare, day
from pipeline.__main__ import main
from pipeline.sweep import result
from pipeline.sweep.result import RUNNING, Result
from pipeline.sweep.watch import Watch

ROOT = Path(__file__).resolve().parents[2]
BASE = ("source=npy", "source.path=x.npy", "transform=identity", "log.progress=none", "device=cpu")

Front = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Front]:
    """Call the front door in a folder with x.npy: exit code, lines of stdout, text of stderr."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*args: str) -> tuple[int, list[str], str]:
        capfd.readouterr()
        given = [arg.lstrip("+").partition("=")[0] for arg in args]
        code = main((*args, *(each for each in BASE if each.partition("=")[0] not in given)))
        out, err = capfd.readouterr()
        return code, out.splitlines(), err

    yield call
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if matplotlib were not there: a page takes longer than all else here."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def table(err: str, first: str) -> list[list[str]]:
    """The rows of the last table on stderr whose head begins with `first`."""
    lines = err.splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith(first))
    stop = lines.index("", start)
    return [line.split() for line in lines[start:stop]]


def rows() -> list[dict[str, str]]:
    with Path("multirun/sweep.csv").open() as f:
        return list(csv.DictReader(f))


def test_a_sweep_ends_with_a_table_a_csv_and_a_page(front: Front) -> None:
    """What differs, what was measured, how it ended; the page needs nothing beside it."""
    code, out, err = front("-m", "batch.rows=2,3")
    assert code == 0, err
    head, *body = table(err, "batch.rows")
    assert head == ["batch.rows", "rows", "seconds", "rows/s", "memory", "state"]
    assert [(row[0], row[1], row[-1]) for row in body] == [("2", "6", "done"), ("3", "6", "done")]
    assert "2 jobs: 2 done" in err
    assert [(row["batch.rows"], row["rows"], row["state"], row["code"]) for row in rows()] == [
        ("2", "6", "done", "0"),
        ("3", "6", "done", "0"),
    ]
    assert float(rows()[0]["peak_memory_bytes"]) > 0
    assert "<td>3</td>" in Path("multirun/sweep.html").read_text()
    assert len(out) == 2


def test_failed_jobs_are_in_the_table_the_csv_and_the_page(front: Front) -> None:
    """A summary is wanted most when something went wrong; the table comes before the list of what failed."""
    code, _, err = front("-m", "batch.rows=2,3", "+device=cpu,cuda:7")
    assert code == 2
    assert [row[-2:] for row in table(err, "batch.rows")[1:]].count(["failed", "(2)"]) == 2
    assert err.index("4 jobs: 2 done, 2 failed") < err.index("error: 2 of 4 jobs failed")
    assert [row["code"] for row in rows()].count("2") == 2
    assert "there is no CUDA device" in rows()[1]["error"] or "no CUDA" in rows()[1]["error"]
    assert "<h2>Failed</h2>" in Path("multirun/sweep.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_same_sweep_again_runs_what_is_missing(front: Front) -> None:
    """Jobs that are complete have nothing to do and keep their numbers; those that failed run."""
    Path("x.npy").rename("y.npy")
    assert front("-m", "batch.rows=2", "source.path=x.npy,y.npy")[0] == 66
    before = {row["source.path"]: row for row in rows()}
    assert {path: row["state"] for path, row in before.items()} == {"x.npy": "failed", "y.npy": "done"}
    Path("x.npy").write_bytes(Path("y.npy").read_bytes())
    code, _, err = front("-m", "batch.rows=2", "source.path=x.npy,y.npy")
    assert code == 0, err
    after = {row["source.path"]: row for row in rows()}
    assert {path: row["state"] for path, row in after.items()} == {"x.npy": "done", "y.npy": "nothing to do"}
    assert after["y.npy"]["seconds"] == before["y.npy"]["seconds"]
    assert "1 done, 1 nothing to do" in err


@pytest.mark.usefixtures("undrawn")
def test_another_sweep_in_the_folder_tells_of_its_own_jobs(front: Front) -> None:
    """Results of jobs that were not in this sweep stay, and are not told again."""
    front("-m", "batch.rows=2,3")
    _, _, err = front("-m", "batch.rows=3,4")
    assert [row[0] for row in table(err, "batch.rows")[1:]] == ["3", "4"]
    assert len(list(Path("multirun/_jobs").iterdir())) == 3


@pytest.mark.usefixtures("undrawn")
def test_plan_and_audit_of_a_sweep_speak_of_its_outputs(front: Front) -> None:
    """The action is no part of the name of a job's folder."""
    for action, state in [("run", "done"), ("plan", "planned"), ("audit", "audited")]:
        code, out, err = front("-m", "batch.rows=2,3", f"action={action}")
        assert code == 0, err
        told = [json.loads(line) for line in out if line.startswith("{")]
        assert [each["state"] for each in told] == [state] * 2
        assert sorted(Path(each["output"]) for each in told) == sorted(Path("multirun").glob("batch.rows-*"))


@pytest.mark.usefixtures("undrawn")
def test_a_dry_run_of_a_sweep_makes_nothing(front: Front) -> None:
    """action=plan: the table says what each job would read; there is no output, and no result is replaced."""
    code, out, err = front("-m", "batch.rows=2,3", "action=plan")
    assert code == 0, err
    head, *body = table(err, "batch.rows")
    assert head == ["batch.rows", "rows", "batches", "memory", "(estimate)", "state"]
    assert [(*row[:3], row[-1]) for row in body] == [("2", "6", "3", "planned"), ("3", "6", "2", "planned")]
    assert [json.loads(line)["state"] for line in out if line.startswith("{")] == ["planned"] * 2
    assert sorted(path.name for path in Path("multirun").iterdir()) == ["_jobs", "multirun.yaml"]


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_leaves_no_results(front: Front) -> None:
    """Only sweeps keep a record of their jobs."""
    assert front("sink.path=out")[0] == 0
    assert not Path("multirun").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_preset_is_a_sweep_without_a_flag(front: Front) -> None:
    """The command line wins over it, and the command that repeats one of its jobs runs that job alone."""
    code, _, err = front("experiment=batches", "batch.rows=2,3")
    assert code == 0, err
    assert [row[0] for row in table(err, "batch.rows")[1:]] == ["2", "3"]
    report = next(Path("multirun").glob("*rows-2*/_pipeline/report.json"))
    command = json.loads(report.read_text())["command"]
    assert "hydra.mode=RUN" in command


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_there_is_a_table_and_the_name_of_the_extra(front: Front) -> None:
    """The core installs no plotting."""
    code, _, err = front("-m", "batch.rows=2,3")
    assert code == 0
    assert "pip install 'tensor-etl-stage[report]'" in err
    assert Path("multirun/sweep.csv").exists()
    assert not Path("multirun/sweep.html").exists()


def test_a_job_that_was_killed_is_told_as_dead(tmp_path: Path) -> None:
    """It has left that it began, and no more."""
    watch = Watch()
    watch.folder, watch.before = tmp_path, {}
    result.write(result.path(tmp_path, "a"), Result("a", RUNNING, {"a": "1"}, {"number": 1}))
    result.write(result.path(tmp_path, "b"), Result("b", "done", {"a": "2"}, {"number": 0}))
    assert [(one.name, one.state, one.failed) for one in watch.results()] == [
        ("b", "done", False),
        ("a", "died", True),
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_summary_that_cannot_be_written_fails_no_sweep(front: Front) -> None:
    """The outputs are what counts."""
    Path("multirun/sweep.csv").mkdir(parents=True)
    code, out, err = front("-m", "batch.rows=2,3")
    assert (code, len(out)) == (0, 2)
    assert "the sweep cannot be summed up" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("undrawn")
def test_a_signal_leaves_a_table_too(front: Front) -> None:
    """What ended before is known, and the job that was interrupted is told as stopped."""
    Path("stops.py").write_text("import os, signal\n\ndef stops(t):\n    os.kill(os.getpid(), signal.SIGTERM)\n")
    code, _, err = front("-m", "batch.rows=2,3", "transform._target_=stops.stops", "stream.depth=0")
    assert code == 128 + signal.SIGTERM
    assert table(err, "run")[1][-2:] == ["stopped", "(143)"]
    assert "1 job: 1 stopped" in err


@pytest.mark.usefixtures("undrawn")
def test_the_peak_of_memory_is_that_of_the_job(front: Front) -> None:
    """Jobs in one process do not take over the peaks of those before."""
    Path("eats.py").write_text(
        "import torch\n\ndef eats(t, mb: int = 0):\n    torch.ones(mb << 20, dtype=torch.uint8).sum()\n    return t\n"
    )
    code, _, err = front("-m", "transform._target_=eats.eats", "+transform.mb=64,1")
    assert code == 0, err
    first, second = (int(row["peak_memory_bytes"]) for row in rows())
    assert first > second + (40 << 20)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("objective", "expected"), [("data.max", 11.0), ("rows", 6.0)])
def test_the_objective_is_in_the_table_and_the_last_line(front: Front, objective: str, expected: float) -> None:
    """A number of the report, or a statistic of a column of the output."""
    code, out, err = front("-m", "batch.rows=2", f"sweep.objective={objective}")
    assert code == 0, err
    assert json.loads(out[-1])["objective"] == expected
    assert "objective" in table(err, "run")[0]


@pytest.mark.usefixtures("undrawn")
def test_an_objective_that_cannot_be_is_refused_before_the_job(front: Front) -> None:
    """With what is possible."""
    code, _, err = front("-m", "batch.rows=2", "sweep.objective=speed")
    assert code == 2
    assert "expected one of rows_per_second" in err
    assert not list(Path("multirun").glob("*/part-*"))


@pytest.mark.usefixtures("undrawn")
def test_the_action_may_be_swept(front: Front) -> None:
    """A plan and the run that follows it speak of one output."""
    code, out, err = front("-m", "batch.rows=2", "action=plan,run")
    assert code == 0, err
    assert [(row[0], row[-1]) for row in table(err, "action")[1:]] == [("plan", "planned"), ("run", "done")]
    told = [json.loads(line) for line in out if line.startswith("{")]
    assert told[0]["output"] == told[1]["output"]


@pytest.mark.usefixtures("undrawn")
def test_a_day_from_the_clock_is_told_as_the_day(front: Front) -> None:
    """In the name of the folder and in the table: tomorrow's job is another."""
    yesterday = day.yesterday()
    Path("x.npy").rename(f"{yesterday}.npy")
    code, out, err = front("-m", "date=${yesterday:}", "source.path=${date}.npy", "batch.rows=2,3")
    assert code == 0, err
    assert [(row["date"], row["source.path"]) for row in rows()] == [(yesterday, f"{yesterday}.npy")] * 2
    assert all(f"date-{yesterday}" in json.loads(line)["output"] for line in out)


SECRET = "hunter2-hunter2"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "given",
    [
        f"transform.api_token={SECRET},other",
        f"+transform.api_token={SECRET}",
        f"source.path=s3://me:{SECRET}@host/x.npy",
    ],
)
def test_a_sweep_is_told_no_secret(front: Front, given: str) -> None:
    """Hydra would write it to multirun.yaml; the message has the way out, and not the secret."""
    Path("sealed.py").write_text("def sealed(t, api_token: str = ''):\n    return t\n")
    code, out, err = front("-m", "transform._target_=sealed.sealed", given, "batch.rows=2,3")
    assert code == 2
    assert "multirun.yaml" in err
    assert "${oc.env:" in err
    assert SECRET not in err + "".join(out)
    assert not [file for file in Path().rglob("*.yaml") if SECRET in file.read_text()]


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_may_name_the_variables_of_its_secrets(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out that the message names; no file below the folder has them."""
    monkeypatch.setenv("FIRST_TOKEN", SECRET)
    monkeypatch.setenv("SECOND_TOKEN", SECRET[::-1])
    Path("sealed.py").write_text("def sealed(t, api_token: str = ''):\n    assert len(api_token) == 15\n    return t\n")
    tokens = "+transform.api_token=${oc.env:FIRST_TOKEN},${oc.env:SECOND_TOKEN}"
    code, _, err = front("-m", "transform._target_=sealed.sealed", tokens)
    assert code == 0, err
    assert len(rows()) == 2
    assert not [file for file in Path().rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_hydras_own_words_are_named_with_their_colon(front: Front) -> None:
    """A dot is what everybody tries first."""
    code, _, err = front("-m", "batch.rows=2,3", "sink.path=x/${hydra.job.num}")
    assert code == 2
    assert "write ${hydra:job.num}" in err


@pytest.mark.usefixtures("undrawn")
def test_a_check_of_the_whole_that_fails_leaves_a_report(front: Front) -> None:
    """What was measured, why it failed, and the page: in the table of the sweep too."""
    code, _, err = front("-m", "batch.rows=2,3", "checks.output=[{rows: {min: 7}}]")
    assert code == 65
    assert "failed: Identity on cpu" in err
    assert [(row["state"], row["code"], row["rows_in"]) for row in rows()] == [("failed", "65", "6")] * 2
    report = json.loads(next(Path("multirun").glob("*/_pipeline/report.json")).read_text())
    assert (report["state"], report["code"]) == ("failed", 65)
    assert "7" in report["error"]
    assert not list(Path("multirun").glob("*/_SUCCESS"))


def test_a_job_that_was_ended_by_its_time_limit_is_told(front: Front) -> None:
    """By the sweep, whose process ends with it, and by the comparison afterwards."""
    Path("mine.py").write_text(
        "import signal\n\ndef mine(t):\n    if len(next(iter(t.values()))):\n        signal.pause()\n    return t\n"
    )
    args = ["-m", "batch.rows=2,3", "run.batch_timeout=0.2", "transform._target_=mine.mine", "stream.depth=0"]
    known = [each for each in BASE if not each.startswith("transform")]
    argv = [sys.executable, "-m", "pipeline", *args, *known, "transform=identity"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert [(row["state"], row["code"]) for row in rows()] == [("timed out", "75")]
    Path("multirun/sweep.csv").unlink()
    assert compare.main(["multirun"]) == 0
    assert [(row["state"], row["code"]) for row in rows()] == [("timed out", "75")]
    assert "run.batch_timeout" in rows()[0]["error"]
