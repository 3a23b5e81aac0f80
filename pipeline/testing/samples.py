"""Random columns of any type, values down to the last bit: NaN payloads, -0.0, denormals, limits, odd text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import Array

_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_SPECIAL: dict[str, list[int]] = {
    "u2": [0x7E01, 0x7C01, 0xFE55, 0x8000, 0x0001, 0x7C00, 0xFC00],
    "u4": [0x7FC00123, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x00000001, 0x7F800000, 16777217],
    "u8": [0x7FF8000000000123, 0x7FF0000000000001, 2**64 - 1, 2**63, 1, 0x7FF0000000000000, 2**53 + 1, 2**63 - 1],
}
"""Bits that are quiet, signalling and negative NaN with payloads, -0.0, denormals, infinity and limits of integers."""


# ---- NumPy -----------------------------------------------------------------------------------------------------------


def array(dtype: np.dtype[Any], shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """Random bits of any dtype but objects; text is text, truth values are 0 and 1."""
    if dtype.kind in "UST":
        texts: list[Any] = [b"a", b"b\0c", b""] if dtype.kind == "S" else ["a", "é\U0001d11e", "", "x\0y"]
        return np.array(chance.choice(np.array(texts), shape)).astype(dtype)
    raw = np.frombuffer(chance.bytes(int(np.prod(shape)) * dtype.itemsize), np.uint8).copy()
    if dtype.kind == "b":
        raw %= 2
    made: Array = raw.view(dtype).reshape(shape) if raw.size else np.zeros(shape, dtype)
    if (special := _SPECIAL.get(f"u{dtype.itemsize}")) and made.size and dtype.kind in "iufmM":
        flat = made.reshape(-1).view(f"u{dtype.itemsize}")
        flat[: len(special)] = np.array(special, f"u{dtype.itemsize}")[: flat.size]
    return made


# ---- Arrow -----------------------------------------------------------------------------------------------------------


def column(type_: pa.DataType, rows: int, chance: np.random.Generator, share: float) -> pa.Array:
    """Random rows of a type, a share of them null."""
    present = chance.random(rows) >= share if share else None
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _storage(type_, rows, chance, share))
    if pa.types.is_null(type_):
        return pa.nulls(rows)
    if pa.types.is_dictionary(type_):
        codes = pa.array(chance.integers(0, 5, rows), mask=None if present is None else ~present)
        return pa.DictionaryArray.from_arrays(
            codes.cast(type_.index_type), words(type_.value_type, chance), ordered=type_.ordered
        )
    if pa.types.is_run_end_encoded(type_):
        ends = pa.array(sorted({rows // 3, rows // 2, rows} - {0}), type_.run_end_type)
        return pa.RunEndEncodedArray.from_arrays(ends, column(type_.value_type, len(ends), chance, share), type_)
    if pa.types.is_union(type_):
        return _union(type_, rows, chance)
    if pa.types.is_nested(type_):
        return _nested(type_, rows, chance, share, present)
    if (texts := _texts(type_, rows, chance)) is not None:
        return pa.array([t if present is None or present[i] else None for i, t in enumerate(texts)], type_)
    return pa.Array.from_buffers(type_, rows, [_bitmap(present), pa.py_buffer(_bits(type_, rows, chance))])


def words(type_: pa.DataType, chance: np.random.Generator) -> pa.Array:
    """Five different values for a dictionary."""
    values = chance.permutation(5)
    if type_ in (pa.string(), pa.large_string(), pa.string_view()):
        return pa.array([f"w{i}é" for i in values], type_)
    return pa.array(values).cast(type_)


def _bitmap(present: Any) -> pa.Buffer | None:
    return None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))


def _storage(type_: Any, rows: int, chance: np.random.Generator, share: float) -> pa.Array:
    if type_ == pa.json_():
        return pa.array([None if chance.random() < share else '{"a": 1}' for _ in range(rows)], pa.string())
    if not isinstance(type_, pa.FixedShapeTensorType):
        return column(type_.storage_type, rows, chance, share)
    return _nested(type_.storage_type, rows, chance, 0.0, chance.random(rows) >= share if share else None)


def _union(type_: pa.UnionType, rows: int, chance: np.random.Generator) -> pa.Array:
    kinds = pa.array(np.arange(rows) % type_.num_fields, pa.int8())
    children = [column(type_.field(i).type, rows, chance, 0.0) for i in range(type_.num_fields)]
    names = [type_.field(i).name for i in range(type_.num_fields)]
    if type_.mode == "dense":
        return pa.UnionArray.from_dense(kinds, pa.array(range(rows), pa.int32()), children, names)
    return pa.UnionArray.from_sparse(kinds, children, names)


def _nested(type_: pa.DataType, rows: int, chance: np.random.Generator, share: float, present: Any) -> pa.Array:
    bitmap = _bitmap(present)
    if pa.types.is_fixed_size_list(type_):
        child = column(type_.value_type, rows * type_.list_size, chance, share * bool(chance.integers(2)))
        return pa.Array.from_buffers(type_, rows, [bitmap], children=[child])
    if pa.types.is_struct(type_):
        children = [column(f.type, rows, chance, share if f.nullable else 0.0) for f in type_]
        return pa.Array.from_buffers(type_, rows, [bitmap], children=children)
    lengths = np.where(True if present is None else present, chance.integers(0, 4, rows), 0)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    inner = type_.field(0)
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        code = "i8" if pa.types.is_large_list_view(type_) else "i4"
        places = [pa.py_buffer(ends[:-1].astype(code)), pa.py_buffer(lengths.astype(code))]
        child = column(inner.type, int(ends[-1]), chance, share)
        return pa.Array.from_buffers(type_, rows, [bitmap, *places], children=[child])
    offsets = pa.py_buffer(ends.astype("i8" if pa.types.is_large_list(type_) else "i4"))
    if pa.types.is_map(type_):
        keys, items = (column(f.type, int(ends[-1]), chance, share * f.nullable) for f in inner.type)
        child = pa.StructArray.from_arrays([keys, items], fields=list(inner.type))
    else:
        child = column(inner.type, int(ends[-1]), chance, share)
    return pa.Array.from_buffers(type_, rows, [bitmap, offsets], children=[child])


def _texts(type_: pa.DataType, rows: int, chance: np.random.Generator) -> list[Any] | None:
    if pa.types.is_fixed_size_binary(type_) and not pa.types.is_decimal(type_):
        return [chance.bytes(type_.byte_width) for _ in range(rows)]
    if type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        return [chance.bytes(int(n)) for n in chance.integers(0, 20, rows)]
    if type_ in (pa.string(), pa.large_string(), pa.string_view()):
        return ["".join(chance.choice(list("ab\0é𝄞 ,"), int(n))) for n in chance.integers(0, 20, rows)]
    return None


def _bits(type_: pa.DataType, rows: int, chance: np.random.Generator) -> Array:
    """Any bits that are a value of a type of fixed width."""
    if pa.types.is_decimal(type_):
        return _decimals(type_, rows, chance)
    if pa.types.is_time(type_):
        return chance.integers(0, _DAY[type_.unit], rows).astype(f"i{type_.bit_width // 8}")
    if pa.types.is_date64(type_):
        return chance.integers(-10_000, 10_000, rows) * _DAY["ms"]
    if pa.types.is_boolean(type_):
        return np.frombuffer(chance.bytes(rows // 8 + 1), np.uint8)
    if type_.bit_width > 64:  # an interval
        return np.frombuffer(chance.bytes(rows * type_.bit_width // 8), np.uint8)
    unsigned = f"u{type_.bit_width // 8}"
    bits = np.frombuffer(chance.bytes(rows * type_.bit_width // 8), unsigned).copy()
    some = chance.random(rows) < 0.4
    bits[some] = chance.choice(np.array(_SPECIAL.get(unsigned, [0, 1, 0x80, 0xFF]), unsigned), int(some.sum()))
    return bits


def _decimals(type_: pa.DataType, rows: int, chance: np.random.Generator) -> Array:
    limit, size = 10**type_.precision - 1, type_.bit_width // 8
    digits = [int("".join(map(str, chance.integers(0, 10, type_.precision)))) for _ in range(rows)]
    whole = [limit if i % 5 == 0 else value for i, value in enumerate(digits)]
    raw = b"".join(((-1) ** int(chance.integers(2)) * value).to_bytes(size, "little", signed=True) for value in whole)
    return np.frombuffer(raw, np.uint8)
