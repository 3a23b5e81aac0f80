"""Conditions: which rows break them, for every kind of column."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.check.checks import Term
from pipeline.check.condition import condition
from pipeline.columns import arrow_field
from pipeline.core import ArrayField, Column
from pipeline.errors import ConfigError

NAN, INF = float("nan"), float("inf")
BIG = 2**53 + 1


def field_of(column: Column) -> Any:
    if isinstance(column, np.ndarray):
        return ArrayField("c", column.dtype, column.shape[1:])
    return pa.field("c", column.type)


def broken(column: Column, term: Term) -> list[int]:
    """The rows that break it."""
    mask = condition(term, field_of(column)).broken(column)
    assert mask is None or (mask.dtype == bool and mask.any())
    return [] if mask is None else [int(i) for i in np.flatnonzero(mask)]


def within(low: Any = None, high: Any = None) -> Term:
    return Term("range", low=low, high=high)


def one_of(*values: Any) -> Term:
    return Term("allowed", allowed=values)


@pytest.mark.parametrize(
    ("column", "term", "rows"),
    [
        (pa.array([1, None, 3]), Term("nulls"), [1]),
        (pa.array(["a", None]), Term("nulls"), [1]),
        (pa.array([[1], None]), Term("nulls"), [1]),
        (np.array([NAN]), Term("nulls"), []),
        (np.array([NAN, 1.0, INF], "f2"), Term("nan"), [0]),
        (pa.array([NAN, None, 1.0, -INF], pa.float32()), Term("nan"), [0]),
        (pa.array([NAN, None, 1.0, -INF], pa.float32()), Term("inf"), [3]),
        (np.array([[1, 2], [NAN, 3]]), Term("nan"), [1]),
        (np.array([1j, complex(INF, 0)]), Term("inf"), [1]),
        (pa.array([[1.0, INF], None], pa.list_(pa.float64(), 2)), Term("inf"), [0]),
        (pa.array([-1, 0, None, 5, 6], pa.int8()), within(0, 5), [0, 4]),
        (pa.array([NAN, None, 0.5, INF], pa.float32()), within(0, 1), [0, 3]),
        (pa.array([NAN, None, 0.5, INF], pa.float32()), within(high=INF), [0]),
        (np.array([[1, 2], [3, 9]]), within(high=5), [1]),
        (np.array([3, 300], ">i2"), within(high=255.5), [1]),
        (np.array([0.1, 0.2], "f4"), within(0.1, 0.1), [1]),
        (pa.array([Decimal("1.10"), Decimal("1.11"), None], pa.decimal128(5, 2)), within(high=1.1), [1]),
        (pa.array([Decimal("1.10"), Decimal("1.11"), None], pa.decimal128(38, 2)), within(high="1.105"), [1]),
        (pa.array([Decimal("1.10"), Decimal("-1.11")], pa.decimal256(60, 2)), within(low=-1), [1]),
        (pa.array(["2013-01-01", "2013-02-01", None]).cast(pa.date32()), within(high="2013-01-31"), [1]),
        (pa.array(["2013-01-01", "2013-02-01"]).cast(pa.timestamp("ns")), within("2013-01-01T00:00:01"), [0]),
        (pa.array([0, 10**9], pa.timestamp("s", "UTC")), within("2001-09-09T01:46:40Z"), [0]),
        (pa.array([0, 10**9], pa.timestamp("s", "America/New_York")), within("2001-09-08 21:46:40"), [0]),
        (pa.array([0, 3600], pa.time32("s")), within(high="00:30:00"), [1]),
        (pa.array([5, 6], pa.duration("s")), within(high=5), [1]),
        (np.array(["2013-01-01", "2013-02-01", "NaT"], "M8[D]"), within(high="2013-01-31"), [1, 2]),
        (np.array([1, 2], "m8[s]"), within(high=1), [1]),
        (pa.array(["a", "b", None, "c"]), one_of("a", "b"), [3]),
        (pa.array(["a", "b", None, "c"]).dictionary_encode(), one_of("a", "b"), [3]),
        (pa.array([5, None, 7]).dictionary_encode(), within(high=5), [2]),
        (pa.array(["a", "c"], pa.large_string()), one_of("a"), [1]),
        (pa.array([1, 2, None], pa.uint8()), one_of(1), [1]),
        (pa.array([True, False]), one_of(True), [1]),
        (pa.array([0.1, 0.2], pa.float32()), one_of(0.1), [1]),
        (pa.array([Decimal("0.10"), Decimal("0.20")], pa.decimal128(4, 2)), one_of(0.1), [1]),
        (pa.array(["2013-01-01", "2013-02-01"]).cast(pa.date32()), one_of("2013-02-01"), [0]),
        (pa.array([0, 1], pa.timestamp("ns")), one_of("1970-01-01"), [1]),
        (np.array([1, 2], ">i4"), one_of(1), [1]),
        (np.array(["a", "b"]), one_of("a"), [1]),
        (np.array([b"a", b"b"]), one_of("a"), [1]),
        (np.array([0.1, NAN], "f4"), one_of(0.1), [1]),
        (np.array(["2013-01-01", "NaT"], "M8[D]"), one_of("2013-01-01"), [1]),
    ],
)
def test_the_rows_that_break_a_condition(column: Column, term: Term, rows: list[int]) -> None:
    """Nulls break nothing but `nulls`; NaN and NaT lie in no range."""
    assert broken(column, term) == rows


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), np.dtype("i8"), np.dtype("u8")])
def test_large_integers_are_compared_as_integers(kind: Any) -> None:
    """As doubles, 2**53 and 2**53 + 1 would be the same."""
    column = np.array([2**53, BIG], kind) if isinstance(kind, np.dtype) else pa.array([2**53, BIG], kind)
    assert broken(column, within(low=BIG)) == [0]
    assert broken(column, within(high=2**53)) == [1]
    assert broken(column, one_of(BIG)) == [0]


def test_large_members_are_compared_as_they_are() -> None:
    """Beside small ones, which alone would be int64."""
    assert broken(pa.array([1, 2**63 + 1, 2], pa.uint64()), one_of(1, 2**63 + 1)) == [2]


def test_integers_bound_floats_exactly() -> None:
    """A double next to a bound that no double is."""
    column = np.array([2.0**53, 2.0**53 + 2])
    assert broken(column, within(low=BIG)) == [0]
    assert broken(column, within(high=BIG)) == [1]
    assert broken(np.array([1e308, INF, -INF]), within(low=-(10**400), high=10**400)) == [1, 2]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.integers(-(2**64), 2**64), st.integers(0, 2**64))
def test_ranges_of_integers_agree_with_python(values: list[int], low: int, width: int) -> None:
    """Bounds far outside the type, too."""
    high = low + width
    try:
        found = broken(pa.array(values, pa.int64()), within(low, high))
    except ConfigError:
        assert high < -(2**63) or low >= 2**63
        return
    assert found == [i for i, v in enumerate(values) if not low <= v <= high]


@given(st.lists(st.floats(width=32), max_size=20), st.integers(-(2**30), 2**30), st.integers(0, 2**30))
def test_ranges_of_floats_agree_with_python(values: list[float], low: int, width: int) -> None:
    """Integers that float32 cannot hold are met from the right side."""
    found = broken(np.array(values, np.float32), within(low, low + width))
    assert found == [i for i, v in enumerate(values) if not low <= v <= low + width]


@pytest.mark.parametrize(
    ("column", "term", "words"),
    [
        (pa.array(["a"]), within(0), "range cannot be asked of 'c', which is string; `allowed` lists values"),
        (pa.array([True]), within(0), "'c' is bool, which has no order"),
        (pa.array([[1]]), Term("nan"), "nan cannot be asked of 'c'"),
        (pa.array([1]), Term("nan"), "'c' is int64, which has no nan"),
        (np.array([1]), Term("inf"), "'c' is int64, which has no inf"),
        (pa.array([1], pa.int8()), within(300), "no value of 'c', which is int8, lies within min 300"),
        (pa.array([1]), within(2, 1), "no value lies within min 2, max 1"),
        (pa.array([1]), within("a"), "'a' does not fit column 'c', which is int64; expected a number"),
        (pa.array([0], pa.date32()), within(3), "3 does not fit column 'c', which is date32[day]; expected a date"),
        (pa.array([0], pa.date32()), within("tomorrow"), "'tomorrow' does not fit column 'c'"),
        (pa.array([0], pa.timestamp("s")), within("2013-01-01T00:00:00.5"), "'2013-01-01T00:00:00.5' does not fit"),
        (np.array([0], "M8[D]"), within("2013-01-01T01"), "'2013-01-01T01' does not fit column 'c'"),
        (np.array([0], "M8[s]"), within("2013-01-01T01:00Z"), "'2013-01-01T01:00Z' does not fit column 'c'"),
        (pa.array([0], pa.duration("s")), within("1 h"), "'1 h' does not fit column 'c'"),
        (pa.array([Decimal("1.5")]), within("x"), "'x' does not fit column 'c'"),
        (pa.array([1]), one_of("a"), "'a' does not fit column 'c'"),
        (pa.array([1]), one_of(0.5), "0.5 does not fit column 'c', which is int64"),
        (pa.array([1]), one_of(True), "True does not fit column 'c'"),
        (np.array([1], "i1"), one_of(300), "300 does not fit column 'c'"),
        (np.array([1], "i1"), one_of("a"), "'a' does not fit column 'c'"),
        (np.zeros((1, 2)), one_of(1.0), "'c' is float64[2], whose values cannot be listed"),
        (pa.array([[1]]), one_of(1), "allowed: 'c' is list"),
        (pa.array([1], pa.uint64()), one_of(1, 2**64), "allowed: 'c' is uint64"),
        (pa.array(["a"]), one_of(2**63), "allowed: 'c' is string"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_row(column: Column, term: Term, words: str) -> None:
    """The message names the column and its type."""
    with pytest.raises(ConfigError) as error:
        condition(term, field_of(column))
    assert str(error.value).startswith(words)


@given(st.lists(st.one_of(st.none(), st.floats(width=32)), max_size=30), st.integers(0, 5), st.integers(0, 30))
def test_a_slice_is_asked_like_its_rows(values: list[float | None], start: int, size: int) -> None:
    """Offsets of Arrow arrays and their bitmaps."""
    column = pa.array(values, pa.float32()).slice(start, size)
    alone = pa.array(column.to_pylist(), pa.float32())
    for term in (Term("nulls"), Term("nan"), Term("inf"), within(-1, 1)):
        assert broken(column, term) == broken(alone, term)


def test_bfloat16_is_held_as_bits_and_not_asked() -> None:
    """Its unsigned integers have another order than the numbers."""
    bits = arrow_field(ArrayField("c", np.dtype("u2"), (), "bfloat16"))
    with pytest.raises(ConfigError, match="range cannot be asked of 'c'"):
        condition(within(0), bits)
