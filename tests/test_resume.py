"""What the next run takes up: what decides the bytes, and what a reader sees while an output changes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputError
from pipeline.manifest import read_manifest
from tests.children import Fault
from tests.fakes import Rows, run_rows, same, table
from tests.jobs import Job, clean, inputs


def summed(tensors: Any) -> Any:
    """Rows that depend on the rows beside them."""
    return {name: t.cumsum(0).to(t.dtype) for name, t in tensors.items()}


summed.rowwise = False  # type: ignore[attr-defined]


def test_the_rows_of_a_batch_decide_bytes_only_if_rows_depend_on_each_other(tmp_path: Path) -> None:
    """A transform that says so is not resumed in other batches."""
    numbers: dict[str, Any] = {"columns": ["id", "x"], "carry": "none"}
    for rows in (16, 50):
        run_rows(Rows(table()), same, tmp_path / "a", batch_rows=rows, **numbers)
    run_rows(Rows(table()), summed, tmp_path / "b", batch_rows=16, **numbers)
    with pytest.raises(OutputError, match=r"batch.rows was 16, now 50"):
        run_rows(Rows(table()), summed, tmp_path / "b", batch_rows=50, **numbers)


def test_settings_of_speed_do_not_decide_bytes(tmp_path: Path) -> None:
    """Depth, threads and bounds: the second run finds all done."""
    run_rows(Rows(table()), same, tmp_path / "a", columns=["x"])
    again = run_rows(
        Rows(table()), same, tmp_path / "a", columns=["x"], stream_depth=0, stream_bytes=1, threads=2, batch_bytes=1
    )
    assert again["state"] == "nothing to do"


def test_the_marker_is_away_while_parts_come(tmp_path: Path) -> None:
    """Who waits for it does not read new parts beside a manifest that does not list them."""
    out = tmp_path / "out"
    run_rows(Rows(table()), same, out, columns=["x"])

    def looks(tensors: Any) -> Any:
        if len(tensors["x"]):
            seen.append((out / "_SUCCESS").exists())
        return tensors

    seen: list[bool] = []
    run_rows(Rows(table(), versions={1: "2"}), looks, out, columns=["x"])
    assert set(seen) == {False}
    assert read_manifest(out)["rows"] == 250


@pytest.mark.parametrize("format_", ["npy", "npz"])
def test_a_run_on_changed_input_is_killed(format_: str) -> None:
    """No marker stands for files that were replaced, and no manifest names a file that is another."""
    calls = clean(format_).ending.counts["rename"]
    for k in range(1, calls + 1):
        job = Job.make(format_)
        assert job.run().code == 0
        job.input.unlink()
        shutil.copy2(inputs() / f"other.{format_}", job.input)
        ending = job.run(Fault("rename", k, "killed_after"))
        assert ending.code in (0, -signal.SIGKILL)
        assert job.marked() or ending.code
        assert job.listed().items() <= job.data().items()
