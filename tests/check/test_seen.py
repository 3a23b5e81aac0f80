"""Values met before: found in any order of batches, for every type that has keys."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.check.seen import Seen, across, check_keys, keys
from pipeline.core import ArrayField, Column
from pipeline.errors import ConfigError, DataError


def repeated(columns: list[Column], limit: int = 1000) -> list[int]:
    """Rows whose value was there before, counted through all pieces; nulls are left out."""
    seen, found, start = Seen(limit, "c unique"), [], 0
    for column in columns:
        made, valid = keys(column, "c")
        rows = np.arange(len(column)) if valid is None else np.flatnonzero(valid)
        found += [int(start + row) for row in rows[seen.repeated(made[rows])]]
        start += len(column)
    return found


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 2, None, 1], pa.int8()),
        pa.array([1.5, None, 2, None, 1.5]),
        pa.array([0.0, None, 2, None, -0.0], pa.float32()),
        pa.array([float("nan"), None, 2, None, float("nan")]),
        pa.array(["a" * 40, None, "b", None, "a" * 40]),
        pa.array(["a" * 40, None, "b", None, "a" * 40], pa.large_string()),
        pa.array(["a" * 40, None, "b", None, "a" * 40], pa.string_view()),
        pa.array([b"\0", None, b"\0\0", None, b"\0"], pa.binary()),
        pa.array([b"ab", None, b"cd", None, b"ab"], pa.binary(2)),
        pa.array(["a", None, "b", None, "a"]).dictionary_encode(),
        pa.array([None, None, None, None, None, "a", "a"]).dictionary_encode().slice(2, 5).filter(
            pa.array([True, False, False, True, True])
        ),
        pa.array([Decimal(1), None, Decimal(2), None, Decimal(1)], pa.decimal128(38, 0)),
        pa.array([Decimal(1), None, Decimal(2), None, Decimal(1)], pa.decimal256(60, 3)),
        pa.array([1, None, 2, None, 1], pa.timestamp("ns")),
        pa.array([True, None, False, None, True]),
    ],
)  # fmt: skip
def test_values_that_were_there_before_are_found(column: pa.Array) -> None:
    """In one piece, in slices, and row by row; nulls are never repeated."""
    plain = column.to_pylist()
    last = [len(plain) - 1]
    assert repeated([column]) == last
    assert repeated([column.slice(i, 1) for i in range(len(column))]) == last
    assert repeated([column.slice(0, 2), column.slice(2)]) == last


@pytest.mark.parametrize("values", [["ä", "b", "ä"], [b"a", b"b", b"a"], [1, 2, 1], [True, False, True]])
def test_numpy_columns_have_keys_too(values: list[Any]) -> None:
    """Texts and numbers."""
    assert repeated([np.array(values)]) == [2]
    assert repeated([np.array(["2013", "2014", "2013"], "M8[Y]")]) == [2]


def test_a_dictionary_of_no_words_repeats_nothing() -> None:
    """Only nulls, then a word."""
    empty = pa.array([None, None], pa.string()).dictionary_encode()
    assert repeated([empty, pa.array(["a", "a"]).dictionary_encode()]) == [3]


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 50))
def test_the_first_of_equal_values_stays_whatever_the_batches(values: list[int], size: int) -> None:
    """As a set in Python would find them."""
    met: set[int] = set()
    expected = [i for i, v in enumerate(values) if v in met or met.add(v)]  # type: ignore[func-returns-value]
    pieces = [np.array(values[i : i + size], np.int64) for i in range(0, len(values), size)]
    assert repeated(list(pieces)) == expected


def test_what_is_remembered_has_a_limit() -> None:
    """The message names the key to raise and the memory that takes."""
    assert repeated([np.arange(10)], limit=10) == []
    with pytest.raises(DataError, match=r"11 values .* checks.unique_rows=10 .* 8 bytes each"):
        repeated([np.arange(11)], limit=10)


def test_keys_that_two_files_share_are_counted(tmp_path: Path) -> None:
    """With the two files that share the first of them."""
    for name, values in (("a", [1, 5]), ("b", []), ("c", [2, 5, 7]), ("d", [7])):
        np.save(tmp_path / f"{name}.npy", np.array(values, np.uint64))
    files = [(name, tmp_path / f"{name}.npy") for name in "abcd"]
    assert across(files[:2], 9, "c") == (0, "")
    assert across(files, 9, "c") == (2, "a and c")
    with pytest.raises(DataError, match="6 values to remember"):
        across(files, 5, "c")


@pytest.mark.parametrize("type_", [pa.list_(pa.int8()), pa.struct({"a": pa.int8()}), pa.list_(pa.int8(), 2)])
def test_values_inside_values_have_no_key(type_: pa.DataType) -> None:
    """Refused before any row is read."""
    with pytest.raises(ConfigError, match="unique cannot be asked of 'c'"):
        check_keys(pa.field("c", type_))
    with pytest.raises(ConfigError, match="unique cannot be asked of 'c'"):
        check_keys(ArrayField("c", np.dtype("f4"), (2,)))
