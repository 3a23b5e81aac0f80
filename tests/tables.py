"""Random tables of every type that Parquet keeps, drawn by Hypothesis; values down to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.core import Array

NUMBERS: dict[pa.DataType, str] = {
    **{getattr(pa, name)(): name for name in ("int8", "int16", "int32", "int64", "float16", "float32", "float64")},
    **{getattr(pa, name)(): name for name in ("uint8", "uint16", "uint32", "uint64")},
}
TIMES = [
    *(pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin", "+05:30")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.date32(), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
]
DECIMALS = [
    *(pa.decimal32(9, 2), pa.decimal64(18, 4), pa.decimal128(18, 18), pa.decimal128(7, 0)),
    *(pa.decimal128(38, 5), pa.decimal256(9, 2), pa.decimal256(76, 10)),
]
TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(5),
]
EXTENSIONS = [pa.uuid(), pa.json_(), pa.bool8()]
PLAIN = [*NUMBERS, pa.bool_(), *TIMES, *DECIMALS, *TEXTS, *EXTENSIONS, pa.null()]

_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_SPECIAL: dict[str, list[int]] = {
    "u2": [0x7E01, 0x7C01, 0xFE55, 0x8000, 0x0001, 0x7C00, 0xFC00],
    "u4": [0x7FC00123, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x00000001, 0x7F800000, 16777217],
    "u8": [0x7FF8000000000123, 0x7FF0000000000001, 2**64 - 1, 2**63, 1, 0x7FF0000000000000, 2**53 + 1, 2**63 - 1],
}
"""Bits that are quiet, signalling and negative NaN with payloads, -0.0, denormals, infinity and limits of integers."""


# ---- types -----------------------------------------------------------------------------------------------------------


def types() -> st.SearchStrategy[pa.DataType]:
    """Any type that Parquet gives back as it was."""
    plain = st.sampled_from(PLAIN)
    return st.one_of(plain, tensors(), dictionaries(), nested(plain))


def tensors() -> st.SearchStrategy[pa.DataType]:
    """Fixed-size lists, nested too, and tensors with a permutation and names of dimensions."""
    value = st.sampled_from([*NUMBERS, pa.bool_(), pa.timestamp("us"), pa.decimal64(18, 4)])
    width = st.integers(1, 3)
    lists = st.builds(pa.list_, value, width)
    return st.one_of(lists, st.builds(pa.list_, lists, width), _shaped())


@st.composite
def _shaped(draw: st.DrawFn) -> pa.DataType:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    order = draw(st.none() | st.permutations(range(len(shape))))
    names = draw(st.sampled_from([None, [f"d{i}" for i in range(len(shape))]]))
    value = draw(st.sampled_from(list(NUMBERS)))
    return pa.fixed_shape_tensor(value, shape, dim_names=names, permutation=order)


def dictionaries() -> st.SearchStrategy[pa.DataType]:
    """Words under every width of index, ordered or not."""
    index = st.sampled_from([pa.int8(), pa.int16(), pa.int32(), pa.int64()])
    return st.builds(pa.dictionary, index, st.sampled_from([pa.string(), pa.large_string()]), st.booleans())


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Lists, maps and structs, two deep."""
    return st.recursive(inner, _around, max_leaves=4).filter(pa.types.is_nested)


def _around(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    key = st.sampled_from([pa.string(), pa.int32()])
    fields = st.lists(st.tuples(inner, st.booleans()), min_size=1, max_size=3).map(
        lambda kinds: pa.struct([pa.field(f"f{i}", kind, null or _holey(kind)) for i, (kind, null) in enumerate(kinds)])
    )
    return st.one_of(
        st.builds(pa.list_, inner),
        st.builds(pa.large_list, inner),
        st.builds(pa.list_, inner, st.integers(1, 2)),
        st.builds(pa.map_, key, inner),
        fields,
    )


def _holey(kind: pa.DataType) -> bool:
    """Whether a field in a struct must be nullable: pyarrow cannot read back fixed-size lists there that are not."""
    return bool(kind == pa.null() or pa.types.is_fixed_size_list(kind))


# ---- values ----------------------------------------------------------------------------------------------------------


def column(type_: pa.DataType, rows: int, chance: np.random.Generator, share: float) -> pa.Array:
    """Random rows of a type, a share of them null."""
    present = chance.random(rows) >= share if share else None
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _storage(type_, rows, chance, share))
    if pa.types.is_null(type_):
        return pa.nulls(rows)
    if pa.types.is_dictionary(type_):
        words = pa.array([f"w{i}é" for i in chance.permutation(5)], type_.value_type)
        codes = pa.array(chance.integers(0, 5, rows), mask=None if present is None else ~present)
        return pa.DictionaryArray.from_arrays(codes.cast(type_.index_type), words, ordered=type_.ordered)
    if pa.types.is_nested(type_):
        return _nested(type_, rows, chance, share, present)
    if (texts := _texts(type_, rows, chance)) is not None:
        return pa.array([t if present is None or present[i] else None for i, t in enumerate(texts)], type_)
    bitmap = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(_bits(type_, rows, chance))])


def _storage(type_: Any, rows: int, chance: np.random.Generator, share: float) -> pa.Array:
    if type_ == pa.json_():
        return pa.array([None if chance.random() < share else '{"a": 1}' for _ in range(rows)], pa.string())
    if not isinstance(type_, pa.FixedShapeTensorType):
        return column(type_.storage_type, rows, chance, share)
    return _nested(type_.storage_type, rows, chance, 0.0, chance.random(rows) >= share if share else None)


def _nested(type_: pa.DataType, rows: int, chance: np.random.Generator, share: float, present: Any) -> pa.Array:
    bitmap = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    if pa.types.is_fixed_size_list(type_):
        child = column(type_.value_type, rows * type_.list_size, chance, share * bool(chance.integers(2)))
        return pa.Array.from_buffers(type_, rows, [bitmap], children=[child])
    if pa.types.is_struct(type_):
        children = [column(f.type, rows, chance, share if f.nullable else 0.0) for f in type_]
        return pa.Array.from_buffers(type_, rows, [bitmap], children=children)
    lengths = np.where(True if present is None else present, chance.integers(0, 4, rows), 0)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    offsets = pa.py_buffer(ends.astype("i8" if pa.types.is_large_list(type_) else "i4"))
    inner = type_.field(0)
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
    if pa.types.is_boolean(type_):
        return np.frombuffer(chance.bytes(rows // 8 + 1), np.uint8)
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


# ---- tables ----------------------------------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn, types: st.SearchStrategy[pa.DataType] = types(), most: int = 60) -> pa.Table:  # noqa: B008
    """A table of random columns: sliced and chunked, with metadata, with and without nulls."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(0, most))
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=2)))
    fields, chunked = [], []
    for i, type_ in enumerate(draw(st.lists(types, min_size=1, max_size=5))):
        nullable = pa.types.is_null(type_) or draw(st.booleans())
        share = draw(st.sampled_from([0.0, 0.3, 1.0])) if nullable else 0.0
        metadata = draw(st.sampled_from([None, {"unit": "m\xe9"}, {b"\xff": b"\x00"}]))
        fields.append(pa.field(f"c{i}.é", type_, nullable, metadata))
        before = draw(st.integers(0, 9))
        whole = column(type_, rows + before, chance, share).slice(before)
        pieces = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, rows], strict=True)]
        if pa.types.is_dictionary(type_) and not type_.ordered and rows:  # each row group its own words
            pieces = [_renamed(piece, chance) for piece in pieces]
        chunked.append(pa.chunked_array(pieces, type_))
    metadata = draw(st.sampled_from([None, {"made": "here", "né": "\0"}]))
    return pa.Table.from_arrays(chunked, schema=pa.schema(fields, metadata=metadata))


def _renamed(piece: pa.DictionaryArray, chance: np.random.Generator) -> pa.DictionaryArray:
    order = chance.permutation(len(piece.dictionary))
    words = piece.dictionary.take(pa.array(order))
    return pa.DictionaryArray.from_arrays(piece.indices, words, ordered=piece.type.ordered)
