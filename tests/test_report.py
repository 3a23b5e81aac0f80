"""The summary of a run begins with what to do about its speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import Rows, run_rows, same, table


def test_the_first_line_names_the_slowest_lane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its share is that of one of its threads, and never above the whole time."""
    run_rows(Rows(table(), 30), same, tmp_path / "a", writers=3, nulls="mask")
    first = capsys.readouterr().err.splitlines()[1].split()
    report = json.loads((tmp_path / "a" / "_pipeline" / "report.json").read_text())
    lanes = {lane["lane"]: lane for lane in report["lanes"]}
    assert first[0] == "slowest"
    assert lanes[first[1]]["busy"] / lanes[first[1]]["threads"] == pytest.approx(
        max(lane["busy"] / lane["threads"] for lane in lanes.values())
    )
    assert report["verdict"].startswith(report["bottleneck"])
    assert int(report["bottleneck"].split("(")[1].split("%")[0]) <= 100
    assert lanes["write"]["threads"] == 3


def test_nothing_made_is_nothing_slow(tmp_path: Path) -> None:
    """A run that found all parts has no slowest lane."""
    run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask")
    assert "verdict" not in run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask")
