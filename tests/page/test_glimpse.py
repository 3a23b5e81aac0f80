"""A few values from all over a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.layout import STARTS, VALID
from pipeline.page.glimpse import BATCHES, COLUMNS, ROWS_EACH, Glimpse, Look, Passing, look


def test_it_is_bounded_and_from_all_over() -> None:
    """However many batches come: the first and a late one are among what is kept."""
    glimpse = Glimpse()
    for n in range(1000):
        glimpse.add({"x": np.full(2000, float(n))})
    found = glimpse.looks()["x"]
    assert BATCHES * ROWS_EACH / 4 < found.seen == glimpse.rows <= BATCHES * ROWS_EACH
    assert found.low == 0
    assert found.high is not None
    assert found.high > 900


def test_statistics_are_those_of_values_that_are_there() -> None:
    """Nulls are left out, NaN and infinities counted apart."""
    glimpse = Glimpse()
    values = np.array([1.0, 2.0, 99.0, np.nan, np.inf])
    glimpse.add({"x": values, VALID + "x": np.array([True, True, False, True, True])})
    found = glimpse.looks()["x"]
    assert (found.seen, found.odd, found.low, found.mean, found.high) == (4, 2, 1.0, 1.5, 2.0)
    assert sum(found.counts) == 2


def test_what_is_kept_is_a_copy() -> None:
    """The transform may write into the batch afterwards."""
    glimpse, batch = Glimpse(), np.ones(10)
    glimpse.add({"x": batch})
    batch[:] = 7
    assert glimpse.looks()["x"].high == 1


def test_matrices_lists_and_bits() -> None:
    """Elements of all positions count; rows of jagged columns are those of their starts; bits are no numbers."""
    glimpse = Glimpse(frozenset({"bits"}))
    lists = {"list": np.arange(50.0), STARTS + "list": np.array([0, 10, 50])}
    glimpse.add({"matrix": np.tile(np.arange(64.0), (2, 1)), "bits": np.zeros(2, np.uint16), **lists})
    looks = glimpse.looks()
    assert (set(looks), glimpse.rows) == ({"matrix", "list"}, 2)
    assert (looks["matrix"].low, looks["matrix"].high, looks["list"].seen) == (0, 63, 50)


def test_many_columns_are_not_all_looked_at() -> None:
    """And how many are not is known."""
    glimpse = Glimpse()
    glimpse.add({f"c{n}": np.zeros(3, bool) for n in range(COLUMNS + 5)})
    assert (len(glimpse.looks()), glimpse.left_out) == (COLUMNS, 5)


@pytest.mark.parametrize(
    "values",
    [[], [np.nan], [3.0, 3.0], [-1.7e308, 1.7e308], [0.0, 5e-324], [1e16, 1e16 + 2]],
    ids=["none", "nan", "one", "wide", "tiny", "close"],
)
def test_ranges_without_steps_have_no_histogram(values: list[float]) -> None:
    """Nothing is divided by what floating point takes for zero."""
    assert not look("x", np.array(values)).counts


# ---- carried columns -------------------------------------------------------------------------------------------------


def passed(column: Any) -> Look:
    passing = Passing(["x"])
    passing.add({"x": column})
    return passing.looks()["x"]


DAY = np.datetime64("2026-01-31")


@pytest.mark.parametrize(
    ("column", "of", "low", "high", "different"),
    [
        (pa.array([3, None, 5, 3], pa.uint64()), "value", 3, 5, 2),
        (pa.array([True, False, None]), "value", 0, 1, 2),
        (pa.array(["1.25", None], pa.string()).cast(pa.decimal128(5, 2)), "value", 1.25, 1.25, 1),
        (pa.array(["a", "bbb", None, "a"]), "length", 1, 3, 2),
        (pa.array([b"a", b"bb"], pa.binary_view()), "length", 1, 2, 2),
        (pa.array(["a", "bbb", "a"]).dictionary_encode(), "length", 1, 3, 2),
        (pa.array([[1], [], None, [1, 2]]), "length", 0, 2, None),
        (pa.array([20484, None, 20485], pa.date32()), "D", 20484, 20485, 2),
        (pa.array([7, None], pa.timestamp("us", "UTC")), "us", 7, 7, 1),
        (pa.array([{"a": 1}, None]), "", None, None, None),
        (pa.nulls(3), "", None, None, None),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "value", 1, 3, 4),
        (np.array([DAY, "NaT"], "M8[D]"), "D", 20484, 20484, 1),
        (np.array(["a", "bb"]), "length", 1, 2, 2),
        (np.zeros(2, [("a", "i4")]), "", None, None, None),
        (pa.nulls(0, pa.string()), "length", None, None, 0),
    ],
    ids=str,
)
def test_carried_columns_are_told_by_value_length_or_time(
    column: Any, of: str, low: float | None, high: float | None, different: int | None
) -> None:
    """Whatever else they hold is no number; nulls are left out."""
    found = passed(column)
    assert (found.of, found.low, found.high, found.different) == (of, low, high, different)


def test_long_words_are_not_copied_by_the_hundred() -> None:
    """What is looked at of a batch is bounded in bytes too."""
    assert passed(pa.array(["x" * 1_000_000] * 300)).seen == 1
    assert passed(pa.array(["x"] * 3000)).seen == ROWS_EACH


def test_carried_columns_are_looked_at_from_all_over() -> None:
    """However many batches and columns there are."""
    passing = Passing([f"c{n}" for n in range(COLUMNS + 2)])
    for n in range(300):
        passing.add(dict.fromkeys((f"c{n}" for n in range(COLUMNS + 2)), pa.array([n])))
    found = passing.looks()["c0"]
    assert BATCHES / 4 < found.seen <= BATCHES
    assert (found.low, passing.left_out, len(passing.looks())) == (0, 2, COLUMNS)
    assert found.high is not None
    assert found.high > 200
