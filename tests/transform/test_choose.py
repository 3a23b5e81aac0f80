"""Columns and dtypes by name."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import ConfigError, DTypeError
from pipeline.transform import choose, dtype_of, is_number

COLUMNS = {
    "b": torch.zeros(1),
    "a1": torch.zeros(1),
    "a2": torch.zeros(1, dtype=torch.bool),
    "a[1]": torch.zeros(1, dtype=torch.int8),
}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (None, ["b", "a1", "a[1]"]),
        (["a*", "b"], ["a1", "a[1]", "b"]),
        (["b", "?", "b"], ["b"]),
        (["a[1]"], ["a[1]"]),
        ([], []),
        ("a1", ["a1"]),
    ],
)
def test_columns_come_in_the_order_of_the_patterns(patterns: list[str] | None, chosen: list[str]) -> None:
    """Each once; a name is a name before it is a glob; a glob passes by what does not fit."""
    assert choose(COLUMNS, patterns, fits=is_number, kind="numbers") == chosen


def test_a_name_that_matches_nothing_is_an_error() -> None:
    """With the nearest name and all there are."""
    with pytest.raises(ConfigError, match="transform.columns: 'dealy' matches no tensor column - did you mean 'delay'"):
        choose({**COLUMNS, "delay": torch.zeros(1)}, ["dealy"])
    with pytest.raises(ConfigError, match="transform.drop: 'z\\*' matches no tensor column. There are: none"):
        choose({}, ["z*"], "transform.drop")


def test_a_named_column_must_fit() -> None:
    """A glob would pass it by."""
    with pytest.raises(DTypeError, match="column 'a2' is bool; expected numbers"):
        choose(COLUMNS, ["a2"], fits=is_number, kind="numbers")


@pytest.mark.parametrize("name", ["float", "int", "object", "flaot32"])
def test_only_dtypes_that_mean_one_thing_have_a_name(name: str) -> None:
    """`float` is 32 bits in torch and 64 in NumPy."""
    assert dtype_of("float32", "transform.dtype") == torch.float32
    with pytest.raises(ConfigError, match=f"transform.dtype: no dtype is called '{name}'.*There are: bool, int8"):
        dtype_of(name, "transform.dtype")
