"""Checks at work in a stage: what fails, what warns, which rows leave, and what a run does when the checks change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.check.checks import parse
from pipeline.check.rules import bind
from pipeline.core import Columns, Output, Schema, Split
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import ConfigError, DataError, OutputError, PipelineError
from pipeline.manifest import read_manifest
from pipeline.run import Options, plan
from pipeline.sink.npy import Npy
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet
from pipeline.transform.standardize import Standardize
from pipeline.verify import verify
from tests.fakes import FailAt, Rows, run_rows, same, table
from tests.faults import checked

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ["id", "x"]
SIDE = "_pipeline/quarantine"


def run(
    out: Path, *entries: dict[str, Any], output: Any = (), source: Any = None, how: Any = same, **options: Any
) -> Any:
    """A run with these checks of the input, and those of the output."""
    given = {"columns": NUMBERS, "checks": parse({"input": entries, "output": output}), **options}
    return run_rows(source or Rows(table()), how, out, **given)


def digests(out: Path) -> dict[str, str]:
    """Bytes of all data files, those in quarantine too."""
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.parquet"))}


def rows(out: Path) -> list[int]:
    """The ids of the output, in order."""
    files = [f["path"] for part in read_manifest(out)["parts"] for f in part["files"]]
    return [int(i) for f in files for i in pq.read_table(out / f, partitioning=None)["id"].to_pylist()]


def aside(out: Path, phase: str = "input") -> pa.Table:
    """The quarantine."""
    return pq.read_table(out / SIDE / phase)


X_LOW = {"column": "x", "min": 10, "action": "quarantine"}
WORDS = {"column": "word", "allowed": ["w0", "w1", "w2", "w3"], "action": "quarantine"}


# ---- quarantine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_refused_rows_leave_with_all_their_columns(tmp_path: Path, size: int, depth: int) -> None:
    """The same bytes in both places whatever the batches; no row is lost, none is there twice."""
    summary = run(tmp_path / "a", X_LOW, WORDS, batch_rows=size, stream_depth=depth)
    run(tmp_path / "b", X_LOW, WORDS, source=Rows(table(), chunk=1000), batch_rows=64)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    bad = [i for i in range(250) if i < 10 or i % 5 == 4]
    kept = aside(tmp_path / "a")
    assert kept.select(table().column_names).equals(table().take(bad), check_metadata=True)
    assert rows(tmp_path / "a") == [i for i in range(250) if i not in bad]
    assert (summary["rows_in"], summary["rows"], summary["quarantined"]) == (250, 250 - len(bad), len(bad))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_words_of_rows_that_stay_leave_no_trace_in_quarantine(tmp_path: Path, size: int) -> None:
    """Dictionaries whose words come in another order in each piece; in quarantine they are plain."""
    words = [pa.array(["a", "b"][:: 1 if i % 2 else -1] * 5).dictionary_encode() for i in range(9)]
    second = pa.array([int(10 <= i < 20) for i in range(90)])
    source = Pieces(table(90).append_column("d", pa.chunked_array(words)).append_column("q", second), splits_of=90)
    bad = {"column": "q", "max": 0, "action": "quarantine"}
    for name, rows_ in (("a", size), ("b", 90)):
        run(tmp_path / name, bad, source=source, batch_rows=rows_)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert aside(tmp_path / "a")["d"].to_pylist() == source.table["d"].to_pylist()[10:20]


class Pieces(Rows):
    """A table that is read as it is cut."""

    def read(self, split: Split) -> Iterator[Columns]:
        for batch in self.table.to_batches():
            yield dict(zip(batch.schema.names, batch.columns, strict=True))


def test_progress_counts_the_rows_that_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else a run would seem to stop before its end."""
    with caplog.at_level(logging.INFO, "pipeline"):
        run(tmp_path / "a", X_LOW, WORDS, progress="lines", every=0.0)
    assert "250 rows of 250 (100%)" in caplog.text


def test_a_refused_row_says_where_it_comes_from_and_why(tmp_path: Path) -> None:
    """The split, the row in it, the first check that it breaks, and all of them."""
    run(tmp_path / "a", X_LOW, WORDS)
    found = aside(tmp_path / "a").select(["_split", "_row", "_check", "_message"]).to_pylist()
    words = "word allowed w0, w1, w2, w3"
    assert found[4] == {
        "_split": "rows-0", "_row": 4, "_check": "x min 10", "_message": f"breaks x min 10; breaks {words}"
    }  # fmt: skip
    assert found[-1] == {"_split": "rows-200", "_row": 49, "_check": words, "_message": f"breaks {words}"}


def test_counts_stand_in_the_bookkeeping(tmp_path: Path) -> None:
    """In the manifest by part, in the report by check."""
    run(tmp_path / "a", X_LOW, {"column": "n", "null_share": {"max": 0.5}})
    parts = read_manifest(tmp_path / "a")["parts"]
    assert [part["quarantined"] for part in parts] == [{"input": 10}, {"input": 0}, {"input": 0}]
    assert parts[0]["checks"]["input: x min 10"] == {"rows": 10, "first": "rows-0, row 0"}
    assert parts[2]["checks"]["input: n nulls"] == {"rows": 7, "first": "rows-200, row 6"}
    (side,) = parts[0]["side"]
    assert (side["rows"], side["path"]) == (10, f"{SIDE}/input/{parts[0]['files'][0]['path']}")
    report = json.loads((tmp_path / "a/_pipeline/report.json").read_text())
    assert [(check["rows"], check["held"]) for check in report["checks"]] == [(10, False), (36, True)]
    assert report["quarantined"] == 10


def test_the_rows_of_the_output_are_looked_at_as_they_would_be_written(tmp_path: Path) -> None:
    """A transform that drops and moves rows: each refused row still knows its place in the input."""

    def shuffled(tensors: Any) -> Output:
        index = torch.arange(len(tensors["x"])).flip(0)[::2]
        return Output({"id": tensors["id"][index], "x": tensors["x"][index] * 2}, index)

    high = {"column": "x", "max": 300, "action": "quarantine"}
    even = Rows(table(), splits_of=250, chunk=250)
    summary = run(tmp_path / "a", X_LOW, output=[high], source=even, how=shuffled, batch_rows=250)
    found = aside(tmp_path / "a", "output")
    assert found["_row"].to_pylist() == found["id"].to_pylist() == list(range(249, 150, -2))
    assert found["word"].to_pylist() == [f"w{i % 5}" for i in range(249, 150, -2)]
    assert rows(tmp_path / "a") == list(range(149, 9, -2))
    assert (summary["rows"], summary["quarantined"]) == (70, 60)


@pytest.mark.parametrize("entry", [X_LOW, {"column": "id", "max": -1, "action": "quarantine"}])
@pytest.mark.parametrize("length", [0, 5])
def test_nothing_may_be_left(tmp_path: Path, entry: dict[str, Any], length: int) -> None:
    """No rows, or none that are good: an empty output with its schema."""
    summary = run(tmp_path / "a", entry, source=Rows(table(length)))
    assert (summary["rows"], summary["quarantined"]) == (0, length)
    assert (tmp_path / "a" / SIDE / "input").exists() == bool(length)
    assert pq.read_table(tmp_path / "a").schema.names == table().column_names


def test_a_batch_too_large_for_the_device_keeps_its_places(tmp_path: Path) -> None:
    """Rows that were taken out before do not shift the numbers of the others."""

    def small(tensors: Any) -> Any:
        if len(tensors["x"]) > 3:
            raise torch.OutOfMemoryError("planned: no room")
        return tensors

    high = {"column": "x", "max": 90, "action": "quarantine"}
    run(tmp_path / "a", X_LOW, WORDS, output=[high], how=small)
    run(tmp_path / "b", X_LOW, WORDS, output=[high])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert aside(tmp_path / "a", "output")["_row"].to_pylist()[:2] == [91, 92]


@pytest.mark.parametrize("sink", [Npy, Npz, Parquet])
def test_a_single_file_keeps_its_quarantine_beside_it(tmp_path: Path, sink: Any) -> None:
    """In the folder of its bookkeeping; the number of rows in the header is right."""
    path = tmp_path / f"o.{sink.__name__.lower()}"
    run(tmp_path, X_LOW, sink=sink(str(path)), columns=["x"], carry="none")
    (side,) = (tmp_path / f"{path.name}.run/quarantine/input").iterdir()
    assert pq.read_table(side)["id"].to_pylist() == list(range(10))
    assert read_manifest(path)["rows"] == 240
    if sink is Npy:
        np.testing.assert_array_equal(np.load(path), np.arange(10, 250, dtype=np.float32))


def test_numpy_columns_go_to_quarantine_as_they_are(tmp_path: Path) -> None:
    """Shapes, bytes of another order and complex numbers have a form in Parquet; objects are refused before work."""
    from pipeline.source.npz import Npz as Source

    arrays = {"m": np.arange(6, dtype=">f4").reshape(3, 2), "z": np.array([1j, 2, 3]), "x": np.array([1.0, np.nan, 3])}
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    entry = {"column": "x", "nan": 0, "action": "quarantine"}
    source = Source(str(tmp_path / "in.npz"))
    run(tmp_path, entry, source=source, columns=["x"], carry="none", sink=Npy(str(tmp_path / "o.npy")))
    (row,) = pq.read_table(tmp_path / "o.npy.run/quarantine/input").select(["m", "z", "_row"]).to_pylist()
    assert row == {"m": [2.0, 3.0], "z": [2.0, 0.0], "_row": 1}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"_row": pa.array([1])}, "quarantine adds a column '_row', and there is one already"),
        ({"u": pa.nulls(1, pa.month_day_nano_interval())}, "quarantine is written as Parquet: column 'u' is month"),
    ],
)
def test_what_quarantine_cannot_hold_is_refused_before_work(tmp_path: Path, made: Any, words: str) -> None:
    """Also where that column does not travel."""
    source = Rows(pa.table({"x": [1.0], **made}))
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "a", X_LOW, source=source, columns=["x"], carry="none")


# ---- fail ------------------------------------------------------------------------------------------------------------


def test_a_failure_names_the_first_row_and_the_way_out(tmp_path: Path) -> None:
    """File, row, column, value, check, and how many there are; parts before it are kept, nothing of this one."""
    with pytest.raises(DataError) as error:
        run(tmp_path / "a", X_LOW, {"column": "x", "max": 129.5}, {"column": "id", "max": 140})
    assert str(error.value) == (
        "rows-100, rows 16-32 of split rows-100: row 30: column 'x' is 130.0, which breaks max 129.5 "
        "(checks.input[1]), as 2 of the 16 rows of this batch do. Correct the input, or set action to quarantine or "
        "warn there"
    )
    assert list((tmp_path / "a").glob("part*")) == [
        tmp_path / "a" / json.loads(_journal(tmp_path / "a"))["files"][0]["path"]
    ]
    assert not (tmp_path / "a/.tmp").exists() or not list((tmp_path / "a/.tmp").iterdir())


def _journal(out: Path) -> str:
    return (out / "_pipeline/journal.jsonl").read_text().splitlines()[-1]


def test_a_failure_after_the_transform_names_the_row_of_the_input(tmp_path: Path) -> None:
    """The row behind the value, in the numbers of the split, past those that are in quarantine."""
    with pytest.raises(DataError, match=r"row 12: column 'x' is -12.0, which breaks min -11 .*\(checks.output\[0\]\)"):
        run(tmp_path / "a", X_LOW, output=[{"column": "x", "min": -11}], how=lambda t: {**t, "x": -t["x"]})


@pytest.mark.parametrize("point", ["transform", "later"])
def test_a_part_that_fails_leaves_no_quarantine(tmp_path: Path, point: str) -> None:
    """Neither in the batch at hand nor after its file was published."""
    how: Any = FailAt(same, 4) if point == "transform" else same
    sink = Parquet(str(tmp_path / "a"))
    if point == "later":
        sink = _Refusing(str(tmp_path / "a"))
    with pytest.raises(PipelineError, match="planned"):
        run(tmp_path / "a", WORDS, how=how, sink=sink)
    assert list((tmp_path / "a" / SIDE).rglob("*.parquet")) == []


class _Refusing(Parquet):
    """A sink whose parts cannot be closed, by a fault as data."""

    def open(self, task: Any, schema: Any) -> Any:
        writer = super().open(task, schema)
        writer.close = _raise  # type: ignore[method-assign]
        return writer


def _raise() -> Any:
    raise PipelineError("planned fault")


# ---- the whole run ---------------------------------------------------------------------------------------------------

SHARE = {"column": "n", "null_share": 0.1}


def test_a_share_is_judged_over_the_whole_run_and_again_without_reading(tmp_path: Path) -> None:
    """The output is not declared complete; with another limit it is, and no part is made again."""
    with pytest.raises(DataError, match=r"n nulls at most 0.1 of the rows \(checks.input\[0\]\): 36 of 250 rows"):
        run(tmp_path / "a", SHARE)
    assert not (tmp_path / "a/_SUCCESS").exists()
    summary = run(tmp_path / "a", {**SHARE, "null_share": 0.2})
    assert (summary["state"], summary["parts_made"]) == ("done", 0)
    with pytest.raises(DataError, match="36 of 250 rows"):
        run(tmp_path / "a", SHARE)


def test_a_warning_is_one_line_with_the_first_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For each check, at the end; again when there is nothing to do."""
    low, share = {"column": ["id", "x"], "max": 200, "action": "warn"}, {**SHARE, "action": "warn"}
    for state in ("done", "nothing to do"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pipeline"):
            summary = run(tmp_path / "a", low, share)
        assert (summary["state"], summary["warnings"]) == (state, 3)
        assert [record.getMessage() for record in caplog.records] == [
            "check input: id max 200 (checks.input[0]): 49 of 250 rows, first rows-200, row 1",
            "check input: x max 200 (checks.input[0]): 49 of 250 rows, first rows-200, row 1",
            "check input: n nulls at most 0.1 of the rows (checks.input[1]): 36 of 250 rows, first rows-0, row 3",
        ]


@pytest.mark.parametrize(
    ("given", "output", "words"),
    [
        ({"rows": {"min": 251}}, [], "input: rows at least 251"),
        ({"rows": {"min": 1}}, [{"rows": {"max": 239}}], r"output: rows at most 239 \(checks.output\[0\]\): 240 rows"),
    ],
)
def test_the_number_of_rows_is_that_of_the_run(tmp_path: Path, given: Any, output: Any, words: str) -> None:
    """Of the input before any work, where headers tell; of the output without those in quarantine."""
    with pytest.raises(DataError, match=words):
        run(tmp_path / "a", X_LOW, given, output=output)
    assert (tmp_path / "a").exists() == bool(output)


TYPES = {"id": "int64", "x": "float", "n": "double", "word": "string", "list": "list<item: int64>"}


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (TYPES, ""),
        ({**TYPES, "x": "float32"}, ""),
        ({**TYPES, "x": "double"}, "x is float, not double"),
        ({**TYPES, "y": "double"}, "y is missing"),
        ({k: v for k, v in TYPES.items() if k != "id"}, "id is not expected"),
    ],
)
def test_the_schema_is_compared_before_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, types: Any, words: str
) -> None:
    """Every column with its type, in any order."""
    if words:
        with pytest.raises(DataError, match=rf"input: schema \(checks.input\[0\]\): {words}"):
            run(tmp_path / "a", {"schema": types})
        assert not (tmp_path / "a").exists()
    with caplog.at_level(logging.WARNING, "pipeline"):
        run(tmp_path / "a", {"schema": types, "action": "warn"})
    assert words in caplog.text
    assert bool(words) == ("schema" in caplog.text)


# ---- unique ----------------------------------------------------------------------------------------------------------


def doubled(*ids: int) -> Rows:
    """A table of two splits with these ids."""
    return Rows(table(len(ids)).set_column(0, "id", pa.array(ids)), splits_of=3)


UNIQUE = {"column": "id", "unique": True}


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_value_that_repeats_within_a_part_is_at_fault(tmp_path: Path, size: int) -> None:
    """The second row of it."""
    with pytest.raises(DataError, match=r"row 2: column 'id' is 1, which breaks unique \(checks.input\[0\]\)"):
        run(tmp_path / "a", UNIQUE, source=doubled(1, 2, 1, 4, 5, 6), batch_rows=size)


def test_a_value_that_repeats_across_parts_is_found_at_the_end(tmp_path: Path) -> None:
    """All parts are there and the output is not declared complete; the parts that share a value are named."""
    for _ in range(2):
        with pytest.raises(DataError, match=r"id unique .*across parts: 2 values, first in rows-0 and rows-3"):
            run(tmp_path / "a", UNIQUE, source=doubled(1, 2, 3, 1, 2, 6))
    assert not (tmp_path / "a/_SUCCESS").exists()


def test_values_of_earlier_runs_count(tmp_path: Path) -> None:
    """A new file that repeats what an old one had."""
    assert run(tmp_path / "a", UNIQUE, source=doubled(1, 2, 3))["parts_made"] == 1
    with pytest.raises(DataError, match="across parts: 1 values, first in rows-0 and rows-3"):
        run(tmp_path / "a", UNIQUE, source=doubled(1, 2, 3, 4, 5, 3))
    assert run(tmp_path / "b", UNIQUE, source=doubled(1, 2, 3, 4, 5, 6))["rows"] == 6


@pytest.mark.parametrize("size", [1, 2, 100])
def test_quarantine_takes_repeated_rows_of_a_part(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    """The first row of a value stays, unless another check takes it; across parts there is a warning."""
    entries = [{**UNIQUE, "action": "quarantine"}, {"column": "x", "min": 1, "action": "quarantine"}]
    with caplog.at_level(logging.WARNING, "pipeline"):
        run(tmp_path / "a", *entries, source=doubled(1, 1, 1, 4, 1, 4), batch_rows=size)
    assert aside(tmp_path / "a").select(["_split", "_row", "_check"]).to_pylist() == [
        {"_split": "rows-0", "_row": 0, "_check": "x min 1"},
        {"_split": "rows-0", "_row": 2, "_check": "id unique"},
        {"_split": "rows-3", "_row": 2, "_check": "id unique"},
    ]
    assert "id unique (checks.input[0]), across parts: 1 values, first in rows-0 and rows-3" in caplog.text
    assert rows(tmp_path / "a") == [1, 4, 1]


# ---- what a change of the checks does --------------------------------------------------------------------------------


def test_a_new_check_looks_at_every_row_again_and_gives_the_same_bytes(tmp_path: Path) -> None:
    """What was not looked at has not passed."""
    run(tmp_path / "a")
    before = digests(tmp_path / "a")
    assert run(tmp_path / "a", {"column": "x", "min": 0})["parts_made"] == 3
    assert digests(tmp_path / "a") == before
    assert run(tmp_path / "a", {"column": "x", "min": 0})["state"] == "nothing to do"
    assert run(tmp_path / "a", {"column": "x", "min": 0, "action": "warn"})["state"] == "nothing to do"
    assert run(tmp_path / "a")["state"] == "nothing to do"


def test_a_warning_that_becomes_a_failure_fails_where_it_warned(tmp_path: Path) -> None:
    """Only the part that broke it is read again, for the message."""
    run(tmp_path / "a", {"column": "x", "max": 100, "action": "warn"}, source=Rows(table(150)))
    with pytest.raises(DataError, match="row 1: column 'x' is 101.0"):
        run(tmp_path / "a", {"column": "x", "max": 100}, source=Rows(table(150)))


@pytest.mark.parametrize("entry", [{**X_LOW, "min": 11}, {**X_LOW, "action": "fail"}])
def test_another_quarantine_is_another_output(tmp_path: Path, entry: dict[str, Any]) -> None:
    """It decides which rows are written; restart replaces both."""
    run(tmp_path / "a", X_LOW)
    with pytest.raises(OutputError, match=r"checks.input.quarantine was \[\"input: x min 10\"\], now"):
        run(tmp_path / "a", entry)
    run(tmp_path / "a", {**X_LOW, "min": 3}, restart=True)
    assert aside(tmp_path / "a")["id"].to_pylist() == [0, 1, 2]
    run(tmp_path / "a", restart=True)
    assert list((tmp_path / "a" / SIDE).rglob("*.parquet")) == []


def test_a_changed_input_replaces_its_quarantine(tmp_path: Path) -> None:
    """What belonged to the old part goes with it."""
    run(tmp_path / "a", WORDS)
    before = set(digests(tmp_path / "a"))
    run(tmp_path / "a", WORDS, source=Rows(table(), versions={1: "2"}))
    assert len(set(digests(tmp_path / "a")) - before) == len(before - set(digests(tmp_path / "a"))) == 2


def test_a_part_without_its_quarantine_is_made_again(tmp_path: Path) -> None:
    """Both or none."""
    run(tmp_path / "a", WORDS)
    before = digests(tmp_path / "a")
    next((tmp_path / "a" / SIDE / "input").iterdir()).unlink()
    assert run(tmp_path / "a", WORDS)["parts_made"] == 1
    assert digests(tmp_path / "a") == before


# ---- a killed run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "number"), [("publish", 2), *(pytest.param("batch", n, marks=pytest.mark.slow) for n in (1, 12, 30))]
)
def test_a_killed_run_leaves_no_quarantine_that_belongs_to_no_part(tmp_path: Path, point: str, number: int) -> None:
    """The next run ends in the bytes of one that was never killed; a file of no part is gone."""
    out = tmp_path / "a"
    argv = [sys.executable, "-m", "tests.faults", str(out), "checked", point, str(number)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stray = out / SIDE / "input/part-00009-00000000.parquet"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"of a part whose input has changed since")
    checked(out)
    checked(tmp_path / "b")
    assert digests(out) == digests(tmp_path / "b")
    assert sum(len(pq.read_table(p)) for p in out.rglob("*.parquet")) == 500


# ---- learning, planning, verifying -----------------------------------------------------------------------------------


def test_refused_rows_are_not_learned_from(tmp_path: Path) -> None:
    """As if they had never been there."""
    run(tmp_path / "a", {"column": "x", "min": 100, "action": "quarantine"}, how=Standardize(), columns=["x"])
    run_rows(Rows(table().slice(100)), Standardize(), tmp_path / "b", columns=["x"])
    one, other = (pq.read_table(tmp_path / name)["x"].to_numpy() for name in "ab")
    np.testing.assert_array_equal(one, other)


def test_a_failure_comes_before_anything_is_learned(tmp_path: Path) -> None:
    """A pass over bad data would only cost time."""
    with pytest.raises(DataError, match="column 'x' is 249.0, which breaks max 248"):
        run(tmp_path / "a", {"column": "x", "max": 248}, how=Standardize(), columns=["x"])
    assert not (tmp_path / "a/_pipeline/fit.json").exists()


def stage(out: Path, *entries: dict[str, Any], output: Any = ()) -> dict[str, Any]:
    checks = parse({"input": entries, "output": output})
    options = Options(columns=NUMBERS, batch_rows=16, progress="none", checks=checks)
    parts = {"source": Rows(table()), "transform": same, "sink": Parquet(str(out)), "engine": Local(), "device": Cpu()}
    return {**parts, "options": options}


def test_rules_travel_cold() -> None:
    """To a worker in another process, where they find the same."""
    schema = Schema(tuple(table().schema))
    rules = bind(parse({"input": [X_LOW, WORDS, {"column": "n", "nulls": 3}, {"rows": {"min": 1}}]}), schema, schema)
    back = pickle.loads(pickle.dumps(rules))
    assert back.tables == rules.tables
    for rule, other in zip(rules.columns, back.columns, strict=True):
        column = table()[rule.column].combine_chunks()
        assert rule.condition is not None
        np.testing.assert_array_equal(rule.condition.broken(column), other.condition.broken(column))


def test_a_plan_shows_what_is_asked(tmp_path: Path) -> None:
    """Place, column, test, limit and action."""
    text = plan(**stage(tmp_path / "a", X_LOW, {"column": "n*", "nan_share": 0.5}, {"rows": {"min": 1}}))
    table_ = [line.split("  ") for line in text.splitlines() if line.startswith("checks.")]
    assert [[cell.strip() for cell in line if cell.strip()] for line in table_] == [
        ["checks.input[0]", "x min 10", "quarantine"],
        ["checks.input[1]", "n nan at most 0.5 of the rows", "fail"],
        ["checks.input[2]", "rows at least 1", "fail"],
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"column": "wrd", "nulls": 0}, "checks.input[0].column: 'wrd' matches no column - did you mean 'word'?"),
        ({"column": "*d", "nan": 0}, "checks.input[0].column: '*d' matches no column"),
        ({"column": "word", "nan": 0}, "checks.input[0]: nan cannot be asked of 'word', which is string"),
    ],
)
def test_a_plan_refuses_what_cannot_be_asked(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    """A glob takes only columns that can be asked; a name must be one."""
    with pytest.raises(ConfigError) as error:
        plan(**stage(tmp_path / "a", entry))
    assert str(error.value).startswith(words)


def test_verify_tries_the_rows_that_pass(tmp_path: Path) -> None:
    """Nothing is written, quarantine neither; the sample is not held to be the whole input."""
    high = {"column": "x", "max": 90, "action": "quarantine"}
    given = stage(tmp_path / "a", X_LOW, WORDS, {"rows": {"min": 250}}, output=[high])
    assert verify(**given).settle()["state"] == "verified"
    assert list(tmp_path.iterdir()) == []
