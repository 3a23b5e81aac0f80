"""Values met before. Each value has a key of 8 or 16 bytes, and equal values have equal keys.

A value of at most 8 bytes, or a decimal of 16, is its own key. Of longer ones the key is a hash of 128 bits: among
10**9 different values the chance that any two share a key is below 10**-20.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import columns
from pipeline.columns import describe
from pipeline.core import Array, ArrayField, Column, Field
from pipeline.errors import ConfigError, DataError, DTypeError

_HASH = 16
_WIDE = np.dtype(f"S{_HASH}")


class Seen:
    """Keys that were met, in sorted runs of which each is at least twice as long as the next.

    Args:
        limit: most keys to remember.
        name: the check, for the message when there are more.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._runs: list[Array] = []

    def repeated(self, keys: Array) -> Array:
        """Bool ``(rows,)``, True where a key was met before, here or in an earlier call. All are remembered."""
        if not len(keys):
            return np.zeros(0, bool)
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        known = np.zeros(len(keys), bool)
        known[1:] = ranked[1:] == ranked[:-1]
        for run in self._runs:
            known |= run[np.minimum(np.searchsorted(run, ranked), len(run) - 1)] == ranked
        self._remember(ranked[~known])
        mask = np.empty(len(keys), bool)
        mask[order] = known
        return mask

    def _remember(self, fresh: Array) -> None:
        if not len(fresh):
            return
        self._runs.append(fresh)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        _check_limit(sum(map(len, self._runs)), self._limit, self._name, self._runs[0].itemsize)

    def all(self) -> Array:
        """Every key once, sorted."""
        if not self._runs:
            return np.empty(0, np.uint64)
        return np.sort(np.concatenate(self._runs), kind="stable")


def _check_limit(count: int, limit: int, name: str, size: int) -> None:
    if count > limit:
        raise DataError(
            f"{name}: {count:,} values to remember are more than checks.unique_rows={limit} allows. Raise it if "
            f"there is memory for {size} bytes each"
        )


# ---- keys ------------------------------------------------------------------------------------------------------------


def check_keys(field: Field) -> None:
    """Refuse columns whose values have no key.

    Raises:
        ConfigError: lists, structs and other values inside values; complex numbers.
    """
    type_ = field if isinstance(field, ArrayField) else field.type
    if isinstance(type_, ArrayField):
        good = not type_.shape and type_.dtype.kind in "biufmMSU"
    else:
        type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
        good = _is_bytes(type_) or pa.types.is_decimal(type_) or _is_plain(field, type_)
    if not good:
        raise ConfigError(f"unique cannot be asked of {field.name!r}, which is {describe(field)}")


def _is_bytes(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    more = (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_a(type_) for is_a in (*kinds, *more))


def _is_plain(field: Any, type_: pa.DataType) -> bool:
    try:
        stored = columns.storage(field.with_type(type_))
    except DTypeError:
        return False
    return not stored.shape and stored.dtype.kind in "biuf"


def keys(column: Column, name: str) -> tuple[Array, Array | None]:
    """A key for each row, and bool ``(rows,)`` False for nulls, whose keys mean nothing (None: there are no nulls).

    -0.0 equals 0.0, and NaN equals NaN.
    """
    if isinstance(column, np.ndarray):
        return (_hashes(_texts(column)) if column.dtype.kind in "SU" else _plain(columns.values(column, name)[0])), None
    valid = columns.valid(column)
    if isinstance(column, pa.DictionaryArray):
        words = keys(column.dictionary, name)[0]
        codes = columns.values(column.indices, name)[0]
        return (words[codes if valid is None else np.where(valid, codes, 0)] if len(words) else _none(column)), valid
    if pa.types.is_decimal128(column.type):
        return _wide(column), valid
    if _is_bytes(column.type) or pa.types.is_decimal256(column.type):
        return _hashes(_bytes(column)), valid
    return _plain(columns.values(column, name)[0]), valid


def _none(column: Column) -> Array:
    return np.zeros(len(column), np.uint64)


def _plain(values: Array) -> Array:
    """Numbers by their bits, widened to 8 bytes."""
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)


def _wide(column: pa.Array) -> Array:
    """Decimals by their 16 bytes."""
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.empty(0, _WIDE)
    return np.frombuffer(data, _WIDE, count=column.offset + len(column))[column.offset :]


def _bytes(column: pa.Array) -> list[bytes]:
    if pa.types.is_decimal256(column.type):
        return [str(value).encode() for value in column.to_pylist()]
    if not (pa.types.is_binary_view(column.type) or pa.types.is_fixed_size_binary(column.type)):
        column = column.cast(pa.large_binary())
    return [value or b"" for value in column.to_pylist()]


def _texts(column: Array) -> list[bytes]:
    return [v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for v in column.tolist()]


def _hashes(values: list[bytes]) -> Array:
    return np.array([blake2b(value, digest_size=_HASH).digest() for value in values], _WIDE)


# ---- across parts ----------------------------------------------------------------------------------------------------


def across(files: Sequence[tuple[str, Path]], limit: int, name: str) -> tuple[int, str]:
    """Keys that more than one file holds, and the first pair of files that share one.

    Args:
        files: sorted keys of one part each as ``.npy``, with the name of what they come from.
        limit: most keys to hold in memory.
        name: the check, for messages.
    """
    loaded = [np.load(path, mmap_mode="r", allow_pickle=False) for _, path in files]
    sizes = [len(each) for each in loaded]
    _check_limit(sum(sizes), limit, name, 24)
    filled = [each for each in loaded if len(each)]  # the dtype of an empty one says nothing
    together = np.concatenate(filled) if filled else np.empty(0, np.uint64)
    order = np.argsort(together, kind="stable")
    ranked = together[order]
    twice = np.flatnonzero(ranked[1:] == ranked[:-1])
    if not len(twice):
        return 0, ""
    pair = order[twice[0] : twice[0] + 2]
    owners = np.searchsorted(np.cumsum(sizes), pair, side="right")
    return len(twice), " and ".join(files[int(owner)][0] for owner in owners)
