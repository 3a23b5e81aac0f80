"""The five workloads: seeded input, and a reference that finds what is wrong."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measure.contender import CONTENDERS, SCRIPTS
from measure.verdict import Judge, Verdict
from measure.workload import WORDS, WORKLOADS, Columns, Workload, read

from pipeline.__main__ import main

SCALES = {"W1": 1e-4, "W2": 1e-3, "W3": 1e-4, "W4": 5e-4, "W5": 1e-3}
TABLES = ("W1", "W3", "W4")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    under = tmp_path_factory.mktemp("input")
    return {name: WORKLOADS[name].prepare(under, scale) for name, scale in SCALES.items()}


def answer(workload: Workload, place: Path) -> Columns:
    """All rows of the reference, in the dtype of the output."""
    pieces = [workload.expect(p, place) for p in read(workload.input(place), workload.piece_rows)]
    whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return {name: x.astype(workload.dtype) if x.dtype == np.float64 else x for name, x in whole.items()}


def store(workload: Workload, columns: Columns, out: Path) -> Path:
    out.mkdir()
    if workload.suffix == ".npy":
        np.save(out / "out.npy", columns["data"])
    else:
        arrays = {name: arrow(name, array) for name, array in columns.items()}
        pq.write_table(pa.table(arrays), out / "out.parquet")
    return out


def arrow(name: str, array: np.ndarray) -> pa.Array:
    if name == "kind":
        return pa.DictionaryArray.from_arrays(array, WORDS).cast(pa.string())
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.array(array)


def look(name: str, inputs: dict[str, Path], tmp_path: Path, change: Callable[[Columns], Columns]) -> Verdict:
    workload, place = WORKLOADS[name], inputs[name]
    return Judge(workload, place).look(store(workload, change(answer(workload, place)), tmp_path / "out"))


def test_input_is_the_same_wherever_it_is_made_and_made_once(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Figures of two machines are about the same rows."""
    for name, place in inputs.items():
        workload = WORKLOADS[name]
        again = workload.prepare(tmp_path, SCALES[name])
        made = workload.input(again)
        assert [f.read_bytes() for f in made] == [f.read_bytes() for f in workload.input(place)]
        before = [f.stat().st_mtime_ns for f in made]
        assert workload.prepare(tmp_path, SCALES[name]) == again
        assert [f.stat().st_mtime_ns for f in made] == before


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_the_reference_says_is_right(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Rounded to the dtype of the output, that is."""
    assert look(name, inputs, tmp_path, lambda columns: columns) == Verdict(True, "")


def each(columns: Columns, change: Callable[[np.ndarray], np.ndarray]) -> Columns:
    return {name: change(array) for name, array in columns.items()}


def swapped(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[1::-1], array[2:]])


def rounded(array: np.ndarray) -> np.ndarray:
    return np.round(array, 2) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("name", WORKLOADS)
def test_two_rows_in_each_others_place_are_found(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """All the right rows are there, which is said."""
    found = look(name, inputs, tmp_path, lambda columns: each(columns, swapped))
    assert found == Verdict(False, "order of rows not kept", moved=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_rounded_values_are_found(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Nobody saves time by fewer digits."""
    found = look(name, inputs, tmp_path, lambda columns: each(columns, rounded))
    assert not found.right
    assert not found.moved
    assert "row 0 holds" in found.words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: each(c, lambda x: x[:-1]), "ends after 1,999 rows"),
        (lambda c: each(c, lambda x: np.concatenate([x, x[-1:]])), "more than 2,000 rows"),
        (lambda c: {name: x for name, x in c.items() if name != "f3"}, "columns id, kind, f0"),
        (lambda c: {**c, "f3": c["f3"].astype("f8")}, "f3: float64[]; expected float32[]"),
        (lambda c: {**c, "f3": np.roll(c["f3"], 1)}, "f3: row 0 holds"),
        (lambda c: {**c, "id": c["id"] + (c["id"] == 1500)}, "id: row 1,500 holds 1501; expected 1500"),
        (lambda c: {**c, "kind": c["kind"] ^ (c["id"] == 7)}, "kind: row 7 holds"),
        (lambda c: {**c, "f0": np.where(c["id"] == 1999, np.nan, c["f0"]).astype("f4")}, "f0: row 1,999 holds nan"),
    ],
)
def test_every_column_and_row_counts(change: object, words: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Each change is named, by column and row."""
    found = look("W1", inputs, tmp_path, change)  # type: ignore[arg-type]
    assert (found.right, found.moved) == (False, False)
    assert words in found.words


def test_an_output_is_looked_at_again_when_its_bytes_are_others(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Only the very bytes that were right are right unseen."""
    workload, place = WORKLOADS["W2"], inputs["W2"]
    judge, good = Judge(workload, place), answer(workload, place)
    out = store(workload, good, tmp_path / "out")
    assert judge.look(out).right
    np.save(out / "out.npy", good["data"] + 1)
    assert not judge.look(out).right
    assert judge.look(tmp_path / "nowhere") == Verdict(False, "no .npy file")


def test_types_of_carried_columns_that_changed_are_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    """They are no error: the values are there."""
    workload, place = WORKLOADS["W1"], inputs["W1"]
    out = store(workload, answer(workload, place), tmp_path / "out")
    table = pq.read_table(out)
    pq.write_table(table.set_column(1, "kind", table["kind"].cast(pa.large_string())), out / "out.parquet")
    assert Judge(workload, place).look(out) == Verdict(True, "kind is large_string")


# ---- the contenders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_this_stage_does_every_workload(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """By the command that is measured, up to the interpreter."""
    command = CONTENDERS["ours"].command("python", WORKLOADS[name], inputs[name], tmp_path / "out")
    assert command[:3] == ["python", "-m", "pipeline"]
    assert main([*command[3:], "log.progress=none"]) == 0
    assert Judge(WORKLOADS[name], inputs[name]).look(tmp_path / "out") == Verdict(True, "")


@pytest.fixture
def in_scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def start(command: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")

    monkeypatch.syspath_prepend(SCRIPTS)
    return start


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # the naive ones do not care
@pytest.mark.parametrize(
    ("contender", "name"),
    [
        (each, name)
        for each in ("naive_memory", "naive_stream", "polars", "duckdb")
        for name in CONTENDERS[each].workloads
    ],
)
def test_a_script_does_every_workload_it_says(
    contender: str, name: str, inputs: dict[str, Path], tmp_path: Path, in_scripts: Callable[[list[str]], None]
) -> None:
    """Those that need no process of their own."""
    _, *command = CONTENDERS[contender].command("python", WORKLOADS[name], inputs[name], tmp_path)
    in_scripts(command)
    assert Judge(WORKLOADS[name], inputs[name]).look(tmp_path).right


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_tuned_script_does_them_all(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    """It ends its process by itself."""
    contender = CONTENDERS["hand_tuned"]
    command = contender.command(sys.executable, WORKLOADS[name], inputs[name], tmp_path)
    subprocess.run(command, env={**os.environ, **contender.env(tmp_path, tmp_path)}, check=True)
    assert Judge(WORKLOADS[name], inputs[name]).look(tmp_path).right
