"""The DAG files of docs/airflow in a real Airflow, and its scheduler; `scripts/test_airflow` makes its environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faulty import ROOT, operator

DAGS = ROOT / "docs/airflow"

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # those of Airflow are not ours to mend
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Airflow's folder, with a fresh database: the dates of earlier runs decide what is caught up."""
    home = tmp_path / "airflow"
    home.mkdir()
    airflow(home, "db", "migrate")
    return home


def environment(home: Path, dags: Path = DAGS) -> dict[str, str]:
    """Everything on this machine alone, and in this folder alone."""
    port = home / "port"  # of the API server, once one is wanted
    url = f"http://127.0.0.1:{port.read_text()}/execution/" if port.exists() else ""
    return {
        **os.environ,
        "PYTHONPATH": os.fspath(ROOT),
        "ETL_DATA": os.fspath(home / "data"),
        "AIRFLOW_HOME": os.fspath(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=100",  # seconds
        "AIRFLOW__CORE__DAGS_FOLDER": os.fspath(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only for this test, as long as a secret must be" * 2,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def airflow(home: Path, *args: str, **more: Any) -> str:
    """What one command of Airflow printed."""
    argv = [sys.executable, "-m", "airflow", *args]
    done = subprocess.run(argv, cwd=home, env=environment(home, **more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def partition(home: Path, day: str) -> None:
    (home / f"data/in/dt={day}").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "pipeline/data/flights.parquet", home / f"data/in/dt={day}/flights.parquet")


def made(home: Path) -> set[str]:
    """Days whose output is complete."""
    return {done.parent.name.removeprefix("dt=") for done in (home / "data/out").glob("dt=*/_SUCCESS")}


@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_parsing_a_dag_file_loads_nothing_heavy(file: Path, tmp_path: Path) -> None:
    """A scheduler parses it every half minute: no torch, even where there is one, nor Hydra, Arrow or NumPy's users."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); import importlib.util as u; assert u.find_spec('torch'); "
    code += "print(sorted(sys.modules.keys() & {'torch', 'hydra', 'omegaconf', 'pyarrow', 'pipeline.config'}))"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "AIRFLOW_HOME": os.fspath(tmp_path)}
    argv = [sys.executable, "-c", code, os.fspath(file)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.parametrize("dag", ["etl_by_date", "etl_by_operator"])
def test_a_run_is_about_the_day_before_its_date(home: Path, dag: str) -> None:
    """With a logical date, as the schedule and a backfill give it; `airflow dags test` runs every task."""
    partition(home, "2026-01-04")
    log = airflow(home, "dags", "test", dag, "2026-01-05")
    assert "state=success" in log
    assert f"{home}/data/out/dt=2026-01-04: 27004 rows, 1 parts made now" in log
    assert made(home) == {"2026-01-04"}


def test_every_partition_has_a_mapped_task(home: Path) -> None:
    """Those that are there, and no date of the run."""
    for day in ("2026-01-04", "2026-02-05", "2026-02-07"):
        partition(home, day)
    log = airflow(home, "dags", "test", "etl_mapped")
    assert "state=success" in log
    assert made(home) == {"2026-01-04", "2026-02-05", "2026-02-07"}


# ---- a scheduler -----------------------------------------------------------------------------------------------------

KILLED = """
from datetime import timedelta
from airflow.sdk import dag
from pipeline.airflow import PipelineOperator

@dag(schedule="@once")
def killed():
    PipelineOperator(task_id="etl", retries=1, retry_delay=timedelta(0), grace=60, **{stage!r})

killed()
"""


@pytest.fixture
def processes(home: Path, tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """API server, DAG processor and scheduler, over two DAG files; ended by their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (home / "port").write_text(str(free.getsockname()[1]))
    env = environment(home, dags=tmp_path / "dags")
    commands = [
        ["api-server", "--host", "127.0.0.1", "--port", (home / "port").read_text(), "--apps", "execution"],
        ["dag-processor"],
        ["scheduler", "--skip-serve-logs"],
    ]
    with ExitStack() as stack:
        started = []
        for command in commands:
            log = stack.enter_context((home / f"{command[0]}.log").open("wb"))
            argv = [sys.executable, "-m", "airflow", *command]
            process = subprocess.Popen(argv, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
            stack.callback(end, process)
            started.append(process)
        yield started


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process and its children; then insist."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    """Of Airflow's database, which others write to."""
    with closing(sqlite3.connect(f"file:{home}/airflow.db?mode=ro", uri=True, timeout=60)) as base:
        return base.execute(query).fetchall()


def await_runs(home: Path, expected: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until so many runs are over; a process that ends before is an error."""
    ended = "select count(*) from dag_run where state in ('success', 'failed')"
    while rows(home, ended) != [(expected,)]:
        assert [process.poll() for process in processes] == [None] * len(processes), home
        with suppress(subprocess.TimeoutExpired):
            processes[-1].wait(1)


def test_a_scheduler_catches_up_retries_and_takes_runs_by_hand(
    home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Runs that were missed, a task that is ended and tried again, runs by hand for a day and for none, a backfill."""
    last = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    last -= timedelta(days=last > datetime.now(UTC))
    missed = [(last - timedelta(days=n)).date().isoformat() for n in (1, 2)]
    earlier = last - timedelta(days=9)
    before = (earlier - timedelta(days=1)).date().isoformat()
    for day in (*missed, before, "2026-01-05"):
        partition(home, day)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/killed.py").write_text(KILLED.format(stage=operator(tmp_path, "ask to stop", 11)))
    text = (DAGS / "by_date.py").read_text()
    start = f"datetime.fromisoformat('{last - timedelta(days=1)}')"
    assert "datetime(2026, 1, 1, tzinfo=UTC)" in text
    (tmp_path / "dags/by_date.py").write_text(text.replace("datetime(2026, 1, 1, tzinfo=UTC)", start))
    processes = request.getfixturevalue("processes")

    await_runs(home, 3, processes)
    assert made(home) == set(missed)
    for conf in ({}, {"date": "2026-01-05"}):
        airflow(home, "dags", "trigger", "etl_by_date", "--conf", json.dumps(conf), dags=tmp_path / "dags")
    await_runs(home, 5, processes)
    dates = ["--from-date", earlier.isoformat(), "--to-date", earlier.isoformat()]
    airflow(home, "backfill", "create", "--dag-id", "etl_by_date", *dates, dags=tmp_path / "dags")
    await_runs(home, 6, processes)

    assert made(home) == {*missed, before, "2026-01-05"}
    assert {state for (state,) in rows(home, "select state from task_instance")} == {"success"}
    assert rows(home, "select try_number from task_instance where dag_id = 'killed'") == [(2,)]
    ((value,),) = rows(home, "select value from xcom where dag_id = 'killed' and key = 'return_value'")
    assert (json.loads(value)["parts"], json.loads(value)["parts_made"]) == (4, 2)
    logs = "".join(path.read_text() for path in (home / "logs").glob("dag_id=killed/**/attempt=1.log"))
    assert "exit code 143: stopped by SIGTERM" in logs
    listening = {
        at.laddr.ip
        for process in processes
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for at in each.net_connections("inet")
        if at.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
