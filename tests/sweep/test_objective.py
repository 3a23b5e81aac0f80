"""The number that a sweeper optimizes: of the report, or of a column of the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import ConfigError, DataError, DTypeError
from pipeline.policy import Conversion
from pipeline.run import Options, run
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.parquet import Parquet
from pipeline.sweep import objective
from pipeline.transform.identity import Identity

OPTIONS = Options(progress="none", conversion=Conversion().with_nulls("mask"))


def made(source: Any, sink: Any) -> dict[str, Any]:
    return run(source=source, transform=Identity(), sink=sink, engine=Local(), device=Cpu(), options=OPTIONS)


@pytest.fixture
def facts(tmp_path: Path) -> dict[str, Any]:
    """A run over two files, with nulls in both and row groups smaller than batches."""
    (tmp_path / "in").mkdir()
    for i, values in enumerate([[1.5, None, 4.0, -2.0], [10.0, None, None, 3.0]]):
        table = pa.table({"x": pa.array(values, pa.float64()), "name": list("abcd")})
        pq.write_table(table, tmp_path / f"in/{i}.parquet", row_group_size=3)
    return made(Parquet(str(tmp_path / "in")), ParquetSink(str(tmp_path / "out")))


VALUES = np.array([1.5, 4.0, -2.0, 10.0, 3.0])


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("mean", VALUES.mean()),
        ("std", VALUES.std()),
        ("min", -2.0),
        ("max", 10.0),
        ("sum", VALUES.sum()),
        ("nulls", 3.0),
    ],
)
def test_a_statistic_is_that_of_the_whole_column(facts: dict[str, Any], statistic: str, expected: float) -> None:
    """Over all parts and pieces, without the nulls."""
    assert objective.value(f"x.{statistic}", facts) == pytest.approx(expected, rel=1e-14)


def test_numbers_of_rows_with_a_shape_count_one_by_one(tmp_path: Path) -> None:
    """Also of a single .npy."""
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.int16).reshape(4, 3))
    facts = made(Npy(str(tmp_path / "x.npy")), NpySink(str(tmp_path / "y.npy")))
    assert objective.value("data.mean", facts) == 5.5


def test_a_number_of_the_report_is_taken_as_it_is(facts: dict[str, Any]) -> None:
    """And one that was not measured is no 0."""
    assert objective.value("rows", facts) == 8.0
    with pytest.raises(DataError, match="has not measured it"):
        objective.value("rows_per_second", {**facts, "rows_per_second": None})


def test_what_is_no_column_of_numbers_is_named(facts: dict[str, Any]) -> None:
    """With the columns that are there."""
    with pytest.raises(ConfigError, match="'y' is no column of the output; it has x, name"):
        objective.value("y.mean", facts)
    with pytest.raises(DTypeError, match="'name'"):
        objective.value("name.mean", facts)


def test_a_column_without_values_has_no_mean(tmp_path: Path) -> None:
    """NaN would be taken for a number."""
    pq.write_table(pa.table({"x": pa.nulls(2, pa.float64())}), tmp_path / "x.parquet")
    facts = made(Parquet(str(tmp_path / "x.parquet")), ParquetSink(str(tmp_path / "out")))
    assert objective.value("x.nulls", facts) == 2.0
    with pytest.raises(DataError, match="x.mean is nan"):
        objective.value("x.mean", facts)


@pytest.mark.parametrize("text", ["rows_per_second", "a.b.mean", "x.nulls"])
def test_what_may_be_an_objective(text: str) -> None:
    """Names of columns may hold dots."""
    objective.check(text)


@pytest.mark.parametrize("text", ["speed", "x.median", ".mean", "mean"])
def test_what_may_not(text: str) -> None:
    """The message lists what may."""
    with pytest.raises(ConfigError, match="expected one of rows_per_second, .* as in dep_delay.mean"):
        objective.check(text)
