"""What is written as an override is read back by Hydra as the same value."""

from __future__ import annotations

import datetime as dt
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st

from pipeline.override import literal, override

PARSER = OverridesParser.create()
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.text("\\\"'${}=,:[]() ~#%\t\nä")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.from_regex(r"[\w*?./@|%$\-()\[\]{}:=, \t\\]{1,12}", fullmatch=True)


def read(text: str) -> Any:
    """The value that Hydra takes from one override."""
    (parsed,) = PARSER.parse_overrides([text])
    assert not parsed.is_sweep_override()
    return plain(parsed._value)


def plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8))
def test_values_come_back(value: Any) -> None:
    """Numbers, text of any characters, and lists of them, with their types."""
    back = read(override("a.b", value))
    assert back == value
    assert type(back) is type(value)


@given(KEYS, SCALARS)
def test_mappings_come_back_or_are_refused(key: str, value: Any) -> None:
    """Hydra has no quotes for the key of a mapping; one that it would read as another key is an error."""
    with suppress(ValueError):
        text = override("conversion.columns", {key: value})
        assert read(text) == {key: value}


@pytest.mark.parametrize("key", ["x*", "arr_delay", "with space", "a=b", "a:b", "a,b", "{a}", "(a)", "a\\", "dep-1"])
def test_keys_that_columns_have_are_written(key: str) -> None:
    """Globs and names with spaces, as `conversion.columns` takes them."""
    assert read(override("conversion.columns", {key: {"nulls": "fill"}})) == {key: {"nulls": "fill"}}


@pytest.mark.parametrize("key", ["ä", "null", "NaN", "1", "a ", "'a'", "", 3])
def test_keys_that_hydra_cannot_read_are_named(key: Any) -> None:
    """A mapping with such a key belongs in a file."""
    with pytest.raises(ValueError, match="YAML"):
        override("conversion.columns", {key: 1})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.date(2026, 1, 31), "2026-01-31"),
        (dt.datetime(2026, 1, 31, 6, 30, tzinfo=dt.UTC), "2026-01-31T06:30:00+00:00"),
        (Path("/data/dt=2026-01-31/x, (1)'s.npy"), "/data/dt=2026-01-31/x, (1)'s.npy"),
        ("${date}", "${date}"),
    ],
)
def test_dates_and_paths_become_text(value: Any, text: str) -> None:
    """Dates in ISO form; an interpolation is left for Hydra."""
    assert read(override("date", value)) == text


def test_nan_is_a_number() -> None:
    """As `conversion.fill_value` may be."""
    assert math.isnan(read(override("conversion.fill_value", math.nan)))


def test_what_has_no_form_is_refused() -> None:
    """A set has no order, so it is no list."""
    with pytest.raises(TypeError, match="set"):
        literal({1})
