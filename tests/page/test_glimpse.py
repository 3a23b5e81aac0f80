"""A few values from all over a run."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.layout import STARTS, VALID
from pipeline.page.glimpse import BATCHES, COLUMNS, ROWS_EACH, Glimpse, look


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
