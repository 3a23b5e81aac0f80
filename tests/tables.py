"""Random tables of every type that Parquet keeps, drawn by Hypothesis; values down to the last bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.testing.samples import column

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
