"""Fixed words for what may happen to values, and casts that say what they would lose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.policy import WORDS, Conversion, Policy, cast, conversion

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = ["f2", "f4", "f8"]


def _edges(dtype: str) -> st.SearchStrategy[Any]:
    """Values of a dtype, with those next to its limits and to the limits of exactness."""
    if dtype in INTEGERS:
        limit = np.iinfo(dtype)
        near = [limit.min, limit.max, 2**11 + 1, 2**24 + 1, 2**53 + 1, 2**63 - 1, -1, 0]
        return st.sampled_from([n for n in near if limit.min <= n <= limit.max]) | st.integers(limit.min, limit.max)
    width = int(dtype[1]) * 8
    return st.floats(width=width) | st.sampled_from([0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 2.0**10])  # type: ignore[arg-type]


def _is_kept(value: Any, dtype: np.dtype[Any]) -> bool:
    """Whether a value is one of a dtype, in exact arithmetic of Python."""
    if math.isnan(value):
        return dtype.kind == "f"
    if math.isinf(value):
        return dtype.kind == "f"
    if dtype.kind in "iu":
        limit = np.iinfo(dtype)
        return value == int(value) and limit.min <= int(value) <= limit.max
    with np.errstate(all="ignore"):
        made = float(np.asarray(value).astype(dtype))
    return not math.isinf(made) and made == (value if isinstance(value, float) else int(value)) and _same(made, value)


def _same(made: float, value: Any) -> bool:
    return not isinstance(value, int) or int(made) == value


@settings(max_examples=600, deadline=None)
@given(st.data(), st.sampled_from(INTEGERS + FLOATS), st.sampled_from(INTEGERS + FLOATS))
def test_an_exact_cast_finds_every_value_that_it_would_change(data: st.DataObject, before: str, after: str) -> None:
    """Checked against exact arithmetic: no value slips through, and none is refused without need."""
    value = data.draw(_edges(before))
    array = np.array([0, value], before)
    item = array[1].item()
    made, wrong = cast(array, np.dtype(after), "exact", None)
    assert (wrong == "") == _is_kept(item, np.dtype(after)), (item, wrong)
    assert made.dtype == np.dtype(after)


@pytest.mark.parametrize(
    ("values", "before", "after", "good"),
    [
        ([1.5, -3.0], "f8", "i1", True),
        ([300.0], "f8", "u1", False),
        ([math.nan], "f8", "i4", False),
        ([2**31], "i8", "i4", False),
        ([1e300], "f8", "f4", False),
        ([math.inf], "f8", "f4", True),
        ([2**64 - 1], "u8", "i8", False),
        ([-1], "i8", "u8", False),
    ],
)
def test_a_range_check_looks_at_limits_alone(values: list[float], before: str, after: str, good: bool) -> None:
    """Rounding passes; what lies outside the dtype does not."""
    _, wrong = cast(np.array(values, before), np.dtype(after), "range", None)
    assert (wrong == "") == good


def test_the_first_value_that_does_not_fit_is_named_and_nulls_are_not_looked_at() -> None:
    """With its row; rows that are null may hold anything."""
    array = np.array([1, 2**40, 2**50])
    assert "value 1099511627776 in row 1 of this batch is no int32" in cast(array, np.dtype("i4"), "exact", None)[1]
    valid = np.array([True, False, False])
    assert cast(array, np.dtype("i4"), "exact", valid)[1] == ""
    assert cast(array, np.dtype("i4"), "off", None)[1] == ""


@pytest.mark.parametrize("key", sorted(WORDS))
def test_a_word_that_a_key_does_not_know_is_refused_with_those_it_knows(key: str) -> None:
    """By the key's name in the configuration."""
    holder: Any = Conversion if key in Conversion.__dataclass_fields__ else Policy
    with pytest.raises(ConfigError, match=rf"conversion.{key} must be one of .*{WORDS[key][-1]}.*; got 'never'"):
        holder(**{key: "never"})


def test_yaml_reads_no_and_off_as_false_and_they_mean_what_was_written() -> None:
    """Also in exceptions for some columns."""
    keys = {"columns": {"x": {"cast": False}}, "cast": "False", "cast_check": False}
    made = conversion(keys)
    assert (made.policy.cast, made.policy.cast_check, made.of("x").cast) == ("no", "off", "no")


def test_exceptions_by_name_and_glob() -> None:
    """Later entries win."""
    made = Conversion(Policy(nulls="error"), {"x*": {"nulls": "mask"}, "x1": {"nulls": "fill"}})
    assert [made.of(name).nulls for name in ("y", "x2", "x1")] == ["error", "mask", "fill"]
    with pytest.raises(ConfigError, match=r"conversion.columns.x: unknown key 'nul'"):
        Conversion(columns={"x": {"nul": "mask"}})


@pytest.mark.parametrize(
    ("policy", "stored", "expected"),
    [
        (Policy(), "u2", "u2"),
        (Policy(unsigned="widen"), "u2", "i4"),
        (Policy(unsigned="widen"), "u8", "i8"),
        (Policy(unsigned="widen"), "u1", "u1"),
        (Policy(dtype="float32", cast="same_kind"), "f8", "f4"),
        (Policy(dtype="float64", cast="safe"), "i4", "f8"),
    ],
)
def test_the_dtype_of_the_tensor_follows_the_policy(policy: Policy, stored: str, expected: str) -> None:
    """Declared, or widened."""
    assert policy.tensor_dtype(np.dtype(stored), "x") == np.dtype(expected)


def test_a_cast_that_is_not_allowed_names_the_word_that_would_allow_it() -> None:
    """At plan time, before any row is read."""
    message = r"column 'x' needs a cast from float64, which conversion.cast=safe does not allow; same_kind would"
    with pytest.raises(ConfigError, match=message):
        Policy(dtype="float32", cast="safe").tensor_dtype(np.dtype("f8"), "x")
