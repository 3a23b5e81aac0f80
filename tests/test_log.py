"""Words on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.log import emit


def test_logs_are_lines_of_json_if_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Records, the summary, and what went wrong."""
    job = ["hydra/job_logging=json", "transform=identity", "log.progress=lines", "log.every=1e-9"]
    assert main([*job, f"sink.path={tmp_path / 'out'}"]) == 0
    assert main([*job, f"sink.path={tmp_path / 'out'}", "source.path=absent"]) == 66
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines][-2:] == ["INFO", "ERROR"]
    assert lines[-2]["message"].startswith("done: Identity")
    assert "'absent'" in lines[-1]["message"]
    assert any(line["message"].startswith("rows: 27,004") for line in lines)
    assert all(set(line) == {"time", "level", "logger", "message"} for line in lines)


def test_logs_are_for_people_otherwise(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A summary over several lines."""
    assert main(["transform=identity", f"sink.path={tmp_path / 'out'}"]) == 0
    assert "done: Identity on cpu\n  slowest" in capsys.readouterr().err


def test_results_need_no_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cron may close it."""
    monkeypatch.setattr(sys, "stdout", None)
    emit("x")
