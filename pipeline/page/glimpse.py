"""What values look like: statistics and histograms of a few rows from all over the run. Kept only for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core import Array, Arrays
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
    """

    name: str
    seen: int
    odd: int
    low: float | None = None
    mean: float | None = None
    std: float | None = None
    high: float | None = None
    counts: Sequence[int] = ()


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


def look(name: str, values: Array) -> Look:
    """Statistics of values, in float64."""
    finite = values[np.isfinite(values)]
    odd = values.size - finite.size
    if not finite.size:
        return Look(name, values.size, odd)
    low, high = float(finite.min()), float(finite.max())
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(finite.mean()), float(finite.std())
    return Look(name, values.size, odd, low, mean, std, high, _counts(finite, low, high))


def _counts(finite: Array, low: float, high: float) -> list[int]:
    """Values in equal steps, or nothing where the range is none or no number."""
    if not (low < high and np.isfinite(high - low)):
        return []
    step = (high - low) / _BARS
    if not step or low + step == low or high - step == high:
        return []
    places = np.minimum(((finite - low) / step).astype(np.int64), _BARS - 1)
    return [int(n) for n in np.bincount(places, minlength=_BARS)]
