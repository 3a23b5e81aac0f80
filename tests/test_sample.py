"""Some rows of an input, taken from all over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.batching import rows_of
from pipeline.core import Columns, Split
from pipeline.sample import sample
from pipeline.source.npy import Npy
from tests.fakes import Rows, table


@dataclass
class Counting(Rows):
    """Counts the rows that are read."""

    read_rows: list[int] = field(default_factory=list)

    def read(self, split: Split) -> Iterator[Columns]:
        for chunk in super().read(split):
            self.read_rows.append(rows_of(chunk))
            yield chunk


def ids(source: Rows, rows: int, pieces: int, size: int = 1 << 30) -> list[int]:
    column = sample(source, rows, size, pieces).table()["id"]
    assert isinstance(column, pa.Array)
    return [int(i) for i in column.to_pylist()]


def test_rows_come_from_all_over_the_input() -> None:
    """The first ones of splits evenly apart, the first and the last split among them."""
    assert ids(Rows(table(1000), splits_of=10), 6, 3) == [0, 1, 490, 491, 990, 991]


def test_reading_stops_early() -> None:
    """Chunks beyond the sample are not asked for, nor are other splits."""
    source = Counting(table(1000), splits_of=500, chunk=10)
    assert len(ids(source, 10, 2)) == 10
    assert source.read_rows == [10, 10]


def test_what_short_splits_leave_goes_to_the_others() -> None:
    """The last of these splits has 5 rows."""
    assert len(ids(Rows(table(205), splits_of=100), 90, 3)) == 90


def test_bytes_bound_it_too_but_there_is_a_row_of_each_piece() -> None:
    """Rows may be large."""
    everything = sample(Rows(table(100)), 100, 1 << 30, 1)
    some = ids(Rows(table(100)), 100, 1, size=sum(s.bytes for s in everything.splits()) // 2)
    assert 30 < len(some) < 70
    assert ids(Rows(table(30), splits_of=10), 100, 3, size=1) == [0, 10, 20]


@dataclass
class Filtered(Rows):
    """Does not know how many rows there are."""

    def splits(self) -> list[Split]:
        return [replace(split, rows=None) for split in super().splits()]


def test_splits_of_unknown_length_are_counted_when_read() -> None:
    """So that a sink can be told."""
    drawn = sample(Filtered(table(250)), 60, 1 << 30, 3)
    assert [split.rows for split in drawn.splits()] == [20, 20, 20]
    assert drawn.rows == 60


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_input(rows: int) -> None:
    """There is a chunk all the same, which brings the types."""
    drawn = sample(Rows(table(rows)), 100, 1 << 30, 16)
    assert rows_of(drawn.table()) == drawn.rows == rows
    assert list(drawn.table()) == table().column_names


def test_one_long_file_is_cut_where_the_source_can(tmp_path: Path) -> None:
    """Else its head would stand for all of it."""
    np.save(tmp_path / "x.npy", np.arange(1000))
    column = sample(Npy(str(tmp_path / "x.npy")), 8, 1 << 30, 4).table()["data"]
    np.testing.assert_array_equal(column, [0, 1, 250, 251, 500, 501, 750, 751])
