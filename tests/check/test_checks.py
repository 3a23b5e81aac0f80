"""Checks: from YAML to words, and each mistake in one line."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.check.checks import Limit, parse
from pipeline.errors import ConfigError


def test_an_entry_holds_several_tests_of_several_columns() -> None:
    """Left out, the action is to fail; a number is short for a maximum."""
    (check,) = parse({"input": [{"column": ["a", "b*"], "nan": 0, "null_share": 0.05, "min": 1, "unique": True}]}).input
    assert (check.place, check.action, check.columns) == ("checks.input[0]", "fail", ("a", "b*"))
    assert [str(term) for term in check.tests] == ["nan", "nulls", "min 1", "unique"]
    assert [term.by_row for term in check.tests] == [True, False, True, True]


def test_on_a_command_line_nan_and_inf_are_numbers() -> None:
    """Hydra's grammar reads these two keys as floats."""
    (check,) = parse({"input": [{"column": "x", float("nan"): 0, float("inf"): 0}]}).input
    assert [term.kind for term in check.tests] == ["nan", "inf"]


def test_a_text_may_look_like_a_number() -> None:
    """In a list of strings, nan is a word."""
    (check,) = parse({"input": [{"column": "x", "allowed": ["nan", "inf"]}]}).input
    assert check.tests[0].allowed == ("nan", "inf")


@pytest.mark.parametrize(
    ("limit", "holds"),
    [
        (Limit(max=0), [True, False, False, False]),
        (Limit(min=1, max=2), [False, True, True, False]),
        (Limit(max=0.1, share=True), [True, True, False, False]),
        (Limit(min=0.2, share=True), [False, False, True, True]),
    ],
)
def test_a_limit_is_compared_exactly(limit: Limit, holds: list[bool]) -> None:
    """A tenth of ten rows is one row, though no float is a tenth."""
    assert [limit.holds(count, 10) for count in range(4)] == holds


def test_no_rows_have_no_share() -> None:
    """An empty input breaks no maximum."""
    assert Limit(max=0.0, share=True).holds(0, 0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"column": "x", "mim": 0}, "checks.input[0]: unknown key 'mim' - did you mean 'min'?"),
        (
            {"column": "x", "min": 0, "action": "quarantin"},
            "checks.input[0].action must be one of fail, warn, quarantine",
        ),
        ({"min": 0}, "checks.input[0]: expected one of column, rows, schema; got none"),
        (
            {"column": "x", "rows": {"min": 1}},
            "checks.input[0]: expected one of column, rows, schema; got column, rows",
        ),
        ({"column": "x"}, "checks.input[0]: nothing is asked of x; tests are nulls, nan"),
        ({"column": 3, "min": 0}, "checks.input[0].column: expected a name or a list of names"),
        ({"column": [], "min": 0}, "checks.input[0].column: expected a name or a list of names"),
        ({"column": "x", "min": [0]}, "checks.input[0].min: expected a number, or a date or time as text; got [0]"),
        ({"column": "x", "min": True}, "checks.input[0].min: expected a number"),
        ({"column": "x", "max": float("nan")}, "checks.input[0].max: NaN bounds nothing; nan: 0 refuses NaN"),
        ({"column": "x", "allowed": "JFK"}, "checks.input[0].allowed: expected a list of values"),
        ({"column": "x", "allowed": ["a", None]}, "checks.input[0].allowed: nulls pass, NaN does not"),
        ({"column": "x", "allowed": [float("nan")]}, "checks.input[0].allowed: nulls pass, NaN does not"),
        ({"column": "x", "unique": False}, "checks.input[0].unique: expected true"),
        ({"column": "x", "nan": 0.5}, "checks.input[0].nan: expected a count of rows, 0 or more"),
        ({"column": "x", "nan": -1}, "checks.input[0].nan: expected a count of rows, 0 or more"),
        ({"column": "x", "null_share": 1.5}, "checks.input[0].null_share: expected a share from 0 to 1"),
        (
            {"column": "x", "null_share": {"mx": 1}},
            "checks.input[0].null_share: unknown key 'mx' - did you mean 'max'?",
        ),
        ({"rows": {"min": 2, "max": 1}}, "checks.input[0].rows: no number lies within"),
        ({"rows": {}}, "checks.input[0].rows: no number lies within {}"),
        ({"rows": 5}, "checks.input[0].rows: expected {min: N, max: N}; got 5"),
        ({"rows": {"min": 1}, "nan": 0}, "checks.input[0]: 'nan' is a test of a column; give it an entry"),
        ({"schema": ["x"]}, "checks.input[0].schema: expected {column: type} for every column"),
        (
            {"rows": {"min": 1}, "action": "quarantine"},
            "checks.input[0]: action quarantine takes single rows out, and the",
        ),
        (
            {"schema": {"x": "int64"}, "action": "quarantine"},
            "checks.input[0]: action quarantine takes single rows out",
        ),
        (
            {"column": "x", "min": 0, "null_share": 0.5, "action": "quarantine"},
            "checks.input[0]: action quarantine takes single rows out, and nulls counted over the run",
        ),
        ("x", "checks.input[0]: expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_place(entry: Any, words: str) -> None:
    """The message starts with what to correct."""
    with pytest.raises(ConfigError) as error:
        parse({"input": [entry]})
    assert str(error.value).startswith(words)


def test_the_list_is_a_list() -> None:
    """One entry without its brackets is refused, too."""
    with pytest.raises(ConfigError, match="checks.output: expected a list"):
        parse({"output": {"column": "x", "min": 0}})
