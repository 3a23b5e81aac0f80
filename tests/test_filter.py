"""Filters: from YAML to rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline import filter as filters
from pipeline.errors import ConfigError

BATCH = pa.record_batch(
    {
        "n": pa.array([1, None, 3, 4], pa.int8()),
        "s": pa.array(["a", "b", None, "a"]),
        "d": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "x": pa.array([0.5, 1.0, float("nan"), 2.0], pa.float32()),
        "t": pa.array(["2013-01-01T05:00Z", "2013-01-02T00:00Z", None, "2013-02-01T00:00Z"]).cast(
            pa.timestamp("us", "America/New_York")
        ),
        "day": pa.array(["2013-01-01", "2013-01-02", None, "2013-02-01"]).cast(pa.date32()),
    }
)


def rows(value: object) -> list[int]:
    """The rows that pass."""
    asked = filters.parse(value)
    asked.check(BATCH.schema)
    return [i for i, passes in enumerate(asked.mask(BATCH).to_pylist()) if passes]


@pytest.mark.parametrize(
    ("term", "passes"),
    [
        (["n", "==", 1], [0]),
        (["n", "=", 1], [0]),
        (["n", "!=", 1], [2, 3]),
        (["n", ">", 0.5], [0, 2, 3]),
        (["n", "<", 600], [0, 2, 3]),
        (["n", "<=", "3"], [0, 2]),
        (["n", "in", [1, 4]], [0, 3]),
        (["n", "not in", [1]], [2, 3]),
        (["n", "is", None], [1]),
        (["n", "is not", None], [0, 2, 3]),
        (["s", "==", "a"], [0, 3]),
        (["s", "not in", ["a"]], [1]),
        (["d", "==", "a"], [0, 3]),
        (["d", "in", ["a", "c"]], [0, 3]),
        (["x", "==", 0.5], [0]),
        (["x", ">=", 1], [1, 3]),
        (["t", ">=", "2013-01-01 00:00"], [0, 1, 3]),
        (["t", ">", "2013-01-01T05:00:00Z"], [1, 3]),
        (["day", "<", "2013-02-01"], [0, 1]),
    ],
)
def test_a_comparison_keeps_the_rows_it_says(term: list[Any], passes: list[int]) -> None:
    """Constants are brought to the type of the column; nulls compare with nothing."""
    assert rows([term]) == passes


def test_a_list_is_and_and_a_list_of_lists_is_or() -> None:
    """As in YAML."""
    assert rows([["s", "==", "a"], ["n", ">", 1]]) == [3]
    assert rows([[["s", "==", "b"]], [["n", ">", 1], ["x", ">", 1]]]) == [1, 3]


def test_no_filter_lets_every_row_pass() -> None:
    """Null in YAML."""
    assert filters.parse(None).always


def test_what_is_known_is_asked_once() -> None:
    """Columns that are the same for all rows of a file settle comparisons before it is opened."""
    known = pa.record_batch({"year": [2013], "land": pa.array([None], pa.string())})
    asked = filters.parse([[["year", "==", 2013], ["n", ">", 1]], [["year", ">", 2013]], [["land", "!=", "x"]]])
    assert asked.rest(known) == filters.parse([["n", ">", 1]])
    assert filters.parse([["year", "<", 2013], ["n", ">", 1]]).rest(known).never
    assert filters.parse([[["land", "is", None]], [["n", ">", 1]]]).rest(known).always


@pytest.mark.parametrize(
    "value",
    [
        "n > 1",
        [],
        ["n", ">", 1],
        [["n", ">"]],
        [["n", "~", 1]],
        [["n", "==", None]],
        [["n", "is", 3]],
        [["n", "in", 1]],
        [["n", "in", [1, None]]],
        [[]],
        [[["n", ">", 1], []]],
        {"n": 1},
    ],
    ids=str,
)
def test_what_is_no_filter_is_refused(value: object) -> None:
    """The message names the key."""
    with pytest.raises(ConfigError, match=r"source\.filter"):
        filters.parse(value)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (["absent", ">", 1], "no column 'absent'; there are 'n', 's'"),
        (["n", ">", "many"], "does not fit the column, which is int8"),
        (["t", ">", "yesterday"], "does not fit the column, which is timestamp"),
        (["day", "in", [3.5]], "does not fit the column, which is date32"),
    ],
)
def test_what_does_not_fit_the_table_is_refused(term: list[Any], message: str) -> None:
    """Known before any row is read."""
    with pytest.raises(ConfigError, match=message):
        filters.parse([term]).check(BATCH.schema)
