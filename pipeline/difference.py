"""How two columns differ: bit for bit, and in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columns
from pipeline.batching import cut
from pipeline.core import Array, Column
from pipeline.errors import DTypeError

_UNSIGNED = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}


@dataclass(frozen=True)
class Difference:
    """What two columns differ in.

    Attributes:
        row: the first row whose bits differ, or None if none do.
        absolute: largest difference of two numbers; inf where only one of them is finite, or null. None: no numbers.
        relative: largest difference in relation to the number that was expected.
        within: whether all differences are within the tolerance.
        what: the difference in words, with the values of `row`; "" if there is none.
    """

    row: int | None = None
    absolute: float | None = 0.0
    relative: float | None = 0.0
    within: bool = True
    what: str = ""


def compare(expected: Column, found: Column, atol: float = 0.0, rtol: float = 0.0) -> Difference:
    """The difference of two columns.

    Floating-point numbers are within the tolerance if ``|found - expected| <= atol + rtol * |expected|``; a NaN is
    within it where a NaN is expected, whatever its bits. All else must have the same bits. What lies under a null does
    not count.
    """
    if same(expected, found):
        return Difference()
    if len(expected) != len(found):
        what = f"{len(expected):,} rows became {len(found):,}"
        return Difference(min(len(expected), len(found)), None, None, within=False, what=what)
    row = _first(expected, found)
    what = f"row {row}: {_show(expected, row)} became {_show(found, row)}"
    numbers, others = _numbers(expected), _numbers(found)
    if numbers is None or others is None or numbers[0].shape != others[0].shape:
        return Difference(row, None, None, within=False, what=what)
    absolute, relative, within = _distance(*numbers, *others, atol, rtol)
    return Difference(row, absolute, relative, within, what)


def same(expected: Column, found: Column) -> bool:
    """Whether two columns hold the same rows bit for bit: also the payload of a NaN and the sign of a zero.

    A NumPy column and an Arrow column are the same if their values have the same bits and none is null. Byte order and
    how a dictionary numbers its values are not part of a row.
    """
    if len(expected) != len(found):
        return False
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        return _same_bytes(expected, found)
    if isinstance(expected, np.ndarray) or isinstance(found, np.ndarray):
        one, other = _numbers(expected), _numbers(found)
        if one is None or other is None or one[1] is not None or other[1] is not None:
            return False
        return _same_bytes(one[0], other[0])
    if expected.type != found.type:
        return False
    return all(a.equals(b) for a, b in zip(_leaves(expected), _leaves(found), strict=True))


def _same_bytes(expected: Array, found: Array) -> bool:
    if expected.dtype.names is not None:  # padding is no value
        alike = expected.dtype.names == found.dtype.names
        return alike and all(_same_bytes(expected[name], found[name]) for name in expected.dtype.names)
    expected, found = (a.astype(a.dtype.newbyteorder("="), copy=False) for a in (expected, found))
    return expected.dtype == found.dtype and expected.shape == found.shape and expected.tobytes() == found.tobytes()


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """Arrays without floating-point numbers that are all equal just if the columns have the same bits."""
    types, type_ = pa.types, column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _leaves(column.storage)
    elif types.is_dictionary(type_):
        yield from _leaves(column.dictionary_decode())
    elif types.is_run_end_encoded(type_):
        yield from _leaves(pc.run_end_decode(column))
    elif types.is_floating(type_):
        yield column.view(_UNSIGNED[type_.bit_width])
    elif types.is_map(type_):
        yield from _leaves(column.view(pa.list_(pa.struct([type_.key_field, type_.item_field]))))
    elif types.is_struct(type_):
        yield column.is_valid()
        for child in column.flatten():
            yield from _leaves(child)
    elif types.is_union(type_):
        yield from _variants(column)
    elif types.is_nested(type_):  # every kind of list
        yield column.is_valid()
        yield (lengths := pc.list_value_length(column))
        if pc.sum(lengths).as_py():  # pyarrow cannot make the elements of no lists of lists of an extension type
            yield from _leaves(column.flatten())
    else:
        yield column


def _variants(column: pa.UnionArray) -> Iterator[pa.Array]:
    """Which variant each row of a union is, and their values; pyarrow's own `type_codes` of a slice begin at row 0."""
    at = slice(column.offset, column.offset + len(column))
    codes = np.frombuffer(column.buffers()[1], np.int8)[at]
    yield pa.array(codes)
    for i, code in enumerate(column.type.type_codes):
        rows = np.flatnonzero(codes == code)
        if column.type.mode == "dense":
            rows = np.frombuffer(column.buffers()[2], np.int32)[at][rows].astype(np.int64)
        yield from _leaves(columns.take(column.field(i), rows))


def _first(expected: Column, found: Column) -> int:
    """The first row that differs, found by halving."""
    start, stop = 0, len(expected)
    while stop - start > 1:
        half = (start + stop) // 2
        left, right = (cut({"": column}, start, half)[""] for column in (expected, found))
        start, stop = (half, stop) if same(left, right) else (start, half)
    return start


def _show(column: Column, row: int) -> str:
    value = column[row] if isinstance(column, np.ndarray) else column[row].as_py()
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _numbers(column: Column) -> tuple[Array, Array | None] | None:
    """Values and validity, or None if they are no numbers, nor codes of a type that is one number."""
    if isinstance(column, pa.DictionaryArray):
        return None
    try:
        return columns.values(column, "")
    except DTypeError:
        return None


def _distance(
    expected: Array, valid: Array | None, found: Array, present: Array | None, atol: float, rtol: float
) -> tuple[float, float, bool]:
    """Largest absolute and relative difference, and whether all are within the tolerance."""
    rows = (-1, *[1] * (expected.ndim - 1))
    was, is_ = (np.ones(len(expected), bool) if v is None else v for v in (valid, present))
    with np.errstate(all="ignore"):
        apart = _apart(expected, found)
        apart = np.where((was & is_).reshape(rows), apart, np.where((was | is_).reshape(rows), np.inf, 0.0))
        size = np.abs(expected.astype(np.complex128 if expected.dtype.kind == "c" else np.float64))
        share = np.where(apart == 0, 0.0, apart / size)
        floats = expected.dtype.kind in "fc" and expected.dtype == found.dtype
        fits = apart <= (atol + rtol * size if floats else 0.0)
    fits = np.where(np.isfinite(apart), fits | (apart == 0), False)  # inf is no tolerance for inf
    return float(apart.max()), float(np.where(np.isnan(share), np.inf, share).max()), bool(fits.all())


def _apart(expected: Array, found: Array) -> Array:
    """``|found - expected|`` as float64; 0 for two NaN or two equal infinities, inf where only one is finite."""
    if expected.dtype.kind in "iub" and found.dtype == expected.dtype:
        low, high = np.minimum(expected, found), np.maximum(expected, found)
        return (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)  # exact, also across the sign
    wide = np.complex128 if "c" in expected.dtype.kind + found.dtype.kind else np.float64
    expected, found = expected.astype(wide), found.astype(wide)
    apart = np.abs(found - expected)
    alike = (expected == found) | (np.isnan(expected) & np.isnan(found))
    return np.where(alike, 0.0, np.where(np.isnan(apart), np.inf, apart))
