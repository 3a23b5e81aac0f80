"""What the next run takes up: what decides the bytes, and what a reader sees while an output changes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.check.checks import parse
from pipeline.core import Part, Task
from pipeline.errors import OutputError, StorageError
from pipeline.manifest import read_manifest
from pipeline.source.parquet import Parquet
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


@dataclass(frozen=True)
class LoseAt:
    """An engine that fails when this part and those after it are published, and not yet recorded."""

    part: int

    def map(self, worker: Callable[[Iterable[Task]], Iterator[Part]], tasks: Sequence[Task]) -> Iterator[Part]:
        parts = list(worker(tasks))
        yield from parts[: self.part]
        raise StorageError("planned fault")


@pytest.mark.parametrize("restart", [False, True])
def test_files_that_no_run_recorded_are_not_read_twice(tmp_path: Path, restart: bool) -> None:
    """Their input changed, and with it their names; who reads the folder finds each row once."""
    with pytest.raises(StorageError, match="planned fault"):
        run_rows(Rows(table()), same, tmp_path / "a", engine=LoseAt(1), columns=["x"])
    assert len(list((tmp_path / "a").glob("part-*"))) == 3
    changed = Rows(table(), versions={1: "2", 2: "2"})
    done = run_rows(changed, same, tmp_path / "a", columns=["x"], restart=restart)
    assert (done["rows"], done["parts_made"]) == (250, 3 if restart else 2)
    assert pq.read_table(tmp_path / "a").num_rows == 250
    listed = {file["path"] for part in read_manifest(tmp_path / "a")["parts"] for file in part["files"]}
    assert {p.name for p in (tmp_path / "a").glob("part-*")} == listed


def test_a_part_that_is_made_again_in_another_place_is_read_once(tmp_path: Path) -> None:
    """A check that it was not asked, and a file that sorts before its own."""
    (tmp_path / "in").mkdir()
    source, checks = Parquet(str(tmp_path / "in")), parse({"input": [{"column": "x", "min": 0, "action": "warn"}]})
    pq.write_table(table(20), tmp_path / "in/b.parquet")
    run_rows(source, same, tmp_path / "a", columns=["x"])
    pq.write_table(table(10), tmp_path / "in/a.parquet")
    done = run_rows(Parquet(source.path), same, tmp_path / "a", columns=["x"], checks=checks)
    assert done["parts_made"] == 2
    assert pq.read_table(tmp_path / "a").num_rows == done["rows"] == 30


def test_a_configuration_is_mended_beside_files_that_no_run_recorded(tmp_path: Path) -> None:
    """They are nobody's result: the run goes on without a restart, and they go."""
    with pytest.raises(StorageError, match="planned fault"):
        run_rows(Rows(table()), same, tmp_path / "a", engine=LoseAt(0), columns=["x"])
    done = run_rows(Rows(table()), same, tmp_path / "a", columns=["x"], carry="none", identity={"mended": "yes"})
    assert done["rows"] == pq.read_table(tmp_path / "a").num_rows == 250
    assert len(list((tmp_path / "a").glob("part-*"))) == 3


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
