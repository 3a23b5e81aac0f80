"""What values look like: statistics and histograms of a few rows from all over the run. Kept only for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import numbers, size, take
from pipeline.core import Array, Arrays, Column, Columns
from pipeline.layout import ROWS, STARTS, VALID

BATCHES, ROWS_EACH = 64, 256
"""Batches that are kept at most, and rows of each: 128 KiB for a column of 8 bytes."""

COLUMNS = 60
_ELEMENTS = 1024
_BARS = 24


@dataclass(frozen=True)
class Look:
    """Statistics of the finite values that were seen of one column.

    Attributes:
        seen: values, those that are not finite included; nulls are not among them.
        odd: NaN and infinities.
        counts: of values in equal steps from `low` to `high`.
        of: what the numbers say of a carried column: ``value``, ``length`` (of words and lists), a unit of time since
            1970 as NumPy spells it, or nothing where there is nothing to say.
        different: how many different values of a carried column were seen; None where they were not told apart.
    """

    name: str
    seen: int
    odd: int
    low: float | None = None
    mean: float | None = None
    std: float | None = None
    high: float | None = None
    counts: Sequence[int] = ()
    of: str = "value"
    different: int | None = None


class Glimpse:
    """Rows of every n-th batch; n doubles whenever there are too many. Called in one thread, in the order of batches.

    Args:
        skip: columns whose bits stand for something else, so that their numbers say nothing.
    """

    def __init__(self, skip: frozenset[str] = frozenset()) -> None:
        self._skip = skip
        self._every = 1
        self._batches = 0
        self._kept: list[tuple[int, dict[str, Array]]] = []
        self.left_out = 0

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return sum(rows for rows, _ in self._kept)

    def add(self, arrays: Arrays) -> None:
        """Look at a batch: the arrays of its columns, with their validity."""
        if self._batches % self._every == 0:
            self._kept.append(self._taken(arrays))
        self._batches += 1
        if len(self._kept) > BATCHES:
            self._kept = self._kept[::2]
            self._every *= 2

    def _taken(self, arrays: Arrays) -> tuple[int, dict[str, Array]]:
        names = [n for n, a in arrays.items() if _plain(n, a) and n not in self._skip]
        self.left_out = max(0, len(names) - COLUMNS)
        return min(_rows(arrays), ROWS_EACH), {name: _some(name, arrays) for name in names[:COLUMNS]}

    def looks(self) -> dict[str, Look]:
        """What is known of each column, by name."""
        names = dict.fromkeys(name for _, kept in self._kept for name in kept)
        return {n: look(n, np.concatenate([kept[n] for _, kept in self._kept if n in kept])) for n in names}


# ---- carried columns -------------------------------------------------------------------------------------------------

_BYTES = 1 << 18
"""Bytes of a carried column that are looked at in a batch, about: words may be long."""


class Passing:
    """The same for columns that are carried: their values where they are numbers or times, else their lengths.

    Words themselves are not kept, only how many different ones there were: a page is passed on more easily than data.

    Args:
        names: the columns; those beyond the first are left out where there are too many.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names[:COLUMNS]
        self.left_out = len(names) - len(self._names)
        self._every = 1
        self._batches = 0
        self._kept: list[dict[str, _Seen]] = []

    def add(self, columns: Columns) -> None:
        """Look at a batch."""
        if self._batches % self._every == 0:
            self._kept.append({name: _seen(columns[name]) for name in self._names})
        self._batches += 1
        if len(self._kept) > BATCHES:
            self._kept = self._kept[::2]
            self._every *= 2

    def looks(self) -> dict[str, Look]:
        """What is known of each column, by name."""
        return {name: _told(name, [kept[name] for kept in self._kept]) for name in self._names if self._kept}


@dataclass(frozen=True)
class _Seen:
    """Some values of a carried column: numbers that stand for them, and hashes that tell them apart."""

    of: str
    numbers: Array
    hashes: Array | None = None


def _told(name: str, seen: Sequence[_Seen]) -> Look:
    found = look(name, np.concatenate([each.numbers for each in seen]))
    hashes = [each.hashes for each in seen if each.hashes is not None]
    return replace(found, of=seen[0].of, different=len(np.unique(np.concatenate(hashes))) if hashes else None)


def _seen(column: Column) -> _Seen:
    rows = len(column)
    most = min(ROWS_EACH, max(1, _BYTES * rows // max(1, size(column))))
    some = take(column, _spread(rows, most))
    if isinstance(some, np.ndarray):
        return _of_array(some)
    some = some.storage if isinstance(some, pa.ExtensionArray) else some
    some = some.drop_null()
    if pa.types.is_dictionary(some.type) or pa.types.is_run_end_encoded(some.type):
        some = some.cast(some.type.value_type)
    return _of_arrow(some)


_NOTHING = _Seen("", np.empty(0))


def _of_array(some: Array) -> _Seen:
    if some.dtype.kind in "biuf":
        flat = some.reshape(-1)
        picked = flat[_spread(flat.size, _ELEMENTS)].astype(np.float64)
        return _Seen("value", picked, picked.view(np.int64))
    if some.dtype.kind == "M":
        flat = some.reshape(-1)
        return _times(flat[~np.isnat(flat)].astype(np.int64), np.datetime_data(some.dtype)[0])
    if some.dtype.kind in "SU":
        return _words(some.reshape(-1).tolist())
    return _NOTHING


def _of_arrow(some: pa.Array) -> _Seen:
    type_ = some.type
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return _of_array(numbers(some))
    if pa.types.is_decimal(type_):
        return _of_array(numbers(some.cast(pa.float64())))
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        unit = "D" if pa.types.is_date32(type_) else getattr(type_, "unit", "ms")
        return _times(numbers(some), unit)
    if any(test(type_) for test in _WORDS):
        return _words(some.to_pylist())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _Seen("length", numbers(pc.list_value_length(some)).astype(np.float64))
    return _NOTHING


_WORDS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)


def _words(some: Sequence[str | bytes]) -> _Seen:
    return _Seen("length", np.array([len(word) for word in some], np.float64), np.array([*map(hash, some)], np.int64))


def _times(some: Array, unit: str) -> _Seen:
    return _Seen(unit, some.astype(np.float64), some.astype(np.int64))


# ---- some rows -------------------------------------------------------------------------------------------------------


def _rows(arrays: Arrays) -> int:
    """Rows of a batch; of a jagged column there is one start more than rows."""
    starts = [len(array) - 1 for name, array in arrays.items() if name.startswith(STARTS)]
    plain = [len(a) for n, a in arrays.items() if not n.startswith((VALID, STARTS, ROWS)) and STARTS + n not in arrays]
    return max([*starts, *plain], default=0)


def _plain(name: str, array: Array) -> bool:
    return not name.startswith((VALID, STARTS, ROWS)) and array.dtype.kind in "biuf"


def _some(name: str, arrays: Mapping[str, Array]) -> Array:
    """A copy of some values from all over the batch, in float64, without nulls."""
    array, valid = arrays[name], arrays.get(VALID + name)
    rows = _spread(len(array), ROWS_EACH)
    picked = array[rows]
    if valid is not None and len(valid) == len(array):
        picked = picked[valid[rows].astype(bool)]
    flat = picked.reshape(-1)
    return flat[_spread(flat.size, _ELEMENTS)].astype(np.float64)


def _spread(size: int, most: int) -> Array:
    return np.linspace(0, size - 1, most).astype(np.int64) if size > most else np.arange(size)


# ---- statistics ------------------------------------------------------------------------------------------------------


def look(name: str, found: Array) -> Look:
    """Statistics of values, in float64."""
    finite = found[np.isfinite(found)]
    odd = found.size - finite.size
    if not finite.size:
        return Look(name, found.size, odd)
    low, high = float(finite.min()), float(finite.max())
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(finite.mean()), float(finite.std())
    return Look(name, found.size, odd, low, mean, std, high, _counts(finite, low, high))


def _counts(finite: Array, low: float, high: float) -> list[int]:
    """Values in equal steps, or nothing where the range is none or no number."""
    if not (low < high and np.isfinite(high - low)):
        return []
    step = (high - low) / _BARS
    if not step or low + step == low or high - step == high:
        return []
    places = np.minimum(((finite - low) / step).astype(np.int64), _BARS - 1)
    return [int(n) for n in np.bincount(places, minlength=_BARS)]
