"""The operator in a real Airflow; `scripts/test_airflow` makes its environment."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.documents import blocks
from tests.faulty import operator

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # those of Airflow are not ours to mend
]

Execute = Callable[..., dict[str, Any]]


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Make an operator of the faulty stage and run it as Airflow's task runner does, SIGTERM included."""
    from pipeline.airflow import PipelineOperator

    def call(fault: str = "", at: int = 0, overrides: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        given = operator(tmp_path, fault, at)
        task = PipelineOperator(
            task_id="etl", **{**given, "overrides": {**given["overrides"], **(overrides or {})}, **more}
        )
        before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
        try:
            return dict(task.execute({}))
        finally:
            signal.signal(signal.SIGTERM, before)

    return call


def test_the_summary_is_the_xcom(execute: Execute, tmp_path: Path) -> None:
    """The last line of stdout, as a dict; a path of any characters goes through."""
    summary = execute()
    assert (summary["state"], summary["rows"], summary["parts_made"]) == ("done", 160, 4)
    assert summary["output"] == f"{tmp_path}/out, (1)'s/dt=2026-01-01"
    assert len(list(Path(summary["output"]).glob("part-*.npy"))) == 4


def test_the_operator_of_the_page_can_be_made() -> None:
    """As docs/airflow.md writes it."""
    made: dict[str, Any] = {}
    block = next(text for kind, text in blocks("docs/airflow.md") if kind == "python")
    exec(block.replace("\nPipelineOperator(", "\nmade = PipelineOperator("), made)
    assert made["made"].task_id == "etl"
    assert made["made"].overrides["columns"] == ["a", "b, c"]


# ---- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, "AirflowException"),
        (2, "AirflowFailException"),
        (65, "AirflowFailException"),
        (66, "AirflowException"),
        (70, "AirflowFailException"),
        (73, "AirflowFailException"),
        (74, "AirflowException"),
        (75, "AirflowException"),
        (99, "AirflowSkipException"),
        (143, "AirflowException"),
    ],
)
def test_the_exit_code_decides(code: int, error: str, execute: Execute, tmp_path: Path) -> None:
    """Skip, fail at once where the same command fails again, and retry the rest; the message is the stage's own."""
    python = tmp_path / "python"
    line = json.dumps({"state": "failed", "error": "it says why", "code": code})
    python.write_text(f"#!/bin/sh\necho '{line}'\necho later >&2\nexit {code}\n")
    python.chmod(0o755)
    with pytest.raises(Exception, match=f"exit code {code}: it says why") as raised:
        execute(python=os.fspath(python))
    assert type(raised.value).__name__ == error


def test_codes_of_the_stage_itself(execute: Execute) -> None:
    """A typo, an exception in the transform, an input that is not there, and nothing to do as a skip."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    with pytest.raises(AirflowFailException, match=r"exit code 2: .*did you mean 'batch\.rows'"):
        execute(overrides={"batch.rowz": 1})
    with pytest.raises(AirflowFailException, match="exit code 70: .*boom"):
        execute("explode", 1)
    with pytest.raises(AirflowException, match="exit code 66") as raised:
        execute(overrides={"source.path": "/nowhere"})
    assert type(raised.value) is AirflowException
    assert execute()["state"] == "done"
    with pytest.raises(AirflowSkipException, match="exit code 99: nothing to do"):
        execute(overrides={"run.nothing_to_do": "skip"})


def test_output_is_in_the_log_of_the_task(execute: Execute) -> None:
    """Lines of both streams."""
    from structlog.testing import capture_logs

    with capture_logs() as logged:
        execute()
    text = "\n".join(entry["event"] for entry in logged)
    for words in ("Running [", "done: Faulty on", "rows     160 in, 160 out", '{"state": "done"'):
        assert words in text


# ---- how it is ended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "grace", "message"),
    [
        ("ask to stop", 60, "exit code 143: stopped by SIGTERM"),
        ("stubborn", 0.1, "exit code -9: it left no line of JSON"),
        ("die", 60, "exit code -9: it left no line of JSON"),
    ],
)
def test_a_retry_resumes(fault: str, grace: float, message: str, execute: Execute) -> None:
    """on_kill asks, then insists; what was finished before the end is not made again."""
    from airflow.sdk.exceptions import AirflowException

    with pytest.raises(AirflowException, match=message):
        execute(fault, 11, grace=grace)
    summary = execute(fault, 11, grace=grace)
    assert (summary["parts"], summary["parts_made"], summary["rows"]) == (4, 2, 160)


def test_a_timeout_of_airflow_ends_the_stage(tmp_path: Path) -> None:
    """Airflow raises inside of execute then; no process may be left."""
    from airflow.sdk.exceptions import AirflowTaskTimeout

    from pipeline.airflow import PipelineOperator

    def late(*_: object) -> None:
        raise AirflowTaskTimeout

    task = PipelineOperator(task_id="etl", **operator(tmp_path, "ask for the alarm", 11))
    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(AirflowTaskTimeout):
            task.execute({})
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.killpg(task._process.pid, 0)
