"""The conversion contract as a table: what becomes of every type, under which policy, with which copies and refusals.

The tests of `tests/test_contract.py` and the page `docs/conversion.md` are made from it. A line that is not true fails
a test, so the page cannot promise what the code does not do.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa

from pipeline.core import Array, ArrayField, Column, Field
from pipeline.policy import LOGICAL
from pipeline.testing import samples

ROWS = 19
"""Rows of a sample: more than two bytes of bits, and no multiple of a batch of 7."""

Make = Callable[[float], Column]
"""Makes a sample; its argument is the share of rows that are null."""

NO_TENSOR = "tensors hold numbers and truth values"
NO_TWIN = "torch has no such type"
RAGGED = "rows of different lengths make no dense tensor"
CANNOT_HOLD = "which Parquet cannot hold"
NPY_CANNOT_HOLD = "which a .npy file cannot hold"
GIVES_BACK = "which Parquet would give back as"


@dataclass(frozen=True)
class Row:
    """One line: a type under a policy.

    Attributes:
        type: a NumPy dtype, or an Arrow type.
        tensor: dtype and row shape that the transform sees; "" if no tensor holds the type, which is then carried.
        policy: keys of ``conversion`` that are not at their defaults, for this column.
        layout: what is special about the memory, the shape or the field.
        why: words of the error where a column without a tensor is chosen by name.
        named: whether it becomes a tensor only where it is chosen by name, and is carried otherwise.
        copy: why values are copied on the way in, as `action=plan` says it; "" if memory is shared.
        seen: whether the reason shows only in the memory, so that no plan can say it.
        copy_out: the same on the way out of the tensor into the column.
        copy_nulls: the same on the way out, where rows are null.
        back: dtype that comes back where it is not the one that came.
        stored: type under which the other kind of file holds it: .npy for an Arrow column, Parquet for a NumPy one; ""
            if it cannot.
        pairs: whether that takes ``sink.complex=pairs``.
        file: "" if files of its own kind give it back as it was, else the words of the refusal.
        held: whether no reader yields it, so that it comes from a source of one's own.
        shape: of a row of a NumPy sample.
        scalar: no axis of rows.
        metadata: of the Arrow field.
        make: the sample, if not random values of the type.
        group: the heading that the line stands under.
    """

    type: Any
    tensor: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    layout: str = ""
    why: str = ""
    named: bool = False
    copy: str = ""
    seen: bool = False
    copy_out: str = ""
    copy_nulls: str = ""
    back: str = ""
    stored: str = ""
    pairs: bool = False
    file: str = ""
    held: bool = False
    shape: tuple[int, ...] = ()
    scalar: bool = False
    metadata: Mapping[str, str] | None = None
    make: Make | None = None
    group: str = ""

    @property
    def arrow(self) -> bool:
        """Whether the column is an Arrow array."""
        return isinstance(self.type, pa.DataType)

    @property
    def source(self) -> str:
        """The type in the words of its library."""
        return short(self.type) if self.arrow else _numpy_name(self.type)

    @property
    def name(self) -> str:
        """What tells the line apart from all others."""
        policy = " ".join(f"{key}={value}" for key, value in self.policy.items())
        shape = f"{list(self.shape)}" if self.shape else ""
        library = "Arrow" if self.arrow else "NumPy"
        return " ".join(word for word in (library, self.source + shape, self.layout, policy) if word)

    def field(self, name: str) -> Field:
        """The column's type under a name."""
        if self.arrow:
            return pa.field(name, self.type, metadata=self.metadata)
        return ArrayField(name, np.dtype(self.type), self.shape, scalar=self.scalar)

    def sample(self, share: float = 0.0) -> Column:
        """Rows of the column; the same at every call."""
        if self.make is not None:
            return self.make(share)
        chance = np.random.default_rng(zlib.crc32(self.source.encode()))
        if self.arrow and self.tensor and pa.types.is_nested(self.type):
            return _lists(self.type, chance, share)
        if self.arrow:
            return samples.column(self.type, ROWS, chance, share)
        return samples.array(np.dtype(self.type), (1 if self.scalar else ROWS, *self.shape), chance)


def short(type_: pa.DataType) -> str:
    """An Arrow type without the words that all extension types begin with."""
    return re.sub(r"^extension<arrow\.(.*)>$", r"\1", str(type_))


def _numpy_name(type_: Any) -> str:
    dtype = np.dtype(type_)
    if dtype.names:
        return "structured"
    by_code = {"g": "longdouble", "G": "clongdouble", "S": "bytes_", "U": "str_", "O": "object", "V": "void"}
    name = dtype.name if dtype.name in LOGICAL or dtype.isbuiltin == 2 else by_code.get(dtype.char, dtype.name)
    return name if dtype.isnative else f"big-endian {name}"


def _metadata(tensor: str) -> Mapping[str, str]:
    """How a field declares what its values stand for."""
    return {"logical_dtype": tensor.partition("[")[0]}


# ---- samples ---------------------------------------------------------------------------------------------------------


def _chance() -> np.random.Generator:
    return np.random.default_rng(7)


def _below(type_: pa.DataType | str, limit: int) -> Make:
    """Whole numbers that another type can hold."""

    def make(share: float) -> Column:
        values = _chance().integers(0, limit, ROWS, np.uint64)
        if isinstance(type_, str):
            return values.astype(type_)
        mask = _chance().random(ROWS) < share if share else None
        return pa.array(values, mask=mask).cast(type_)

    return make


def _seconds(zone: str | None) -> Make:
    """Instants that are such in milliseconds too, as Parquet keeps them."""

    def make(share: float) -> Column:
        seconds = _below(pa.int64(), 2**53)(share)
        return seconds.view(pa.timestamp("s", zone))

    return make


def _numpy(code: str, shape: tuple[int, ...] = ()) -> Array:
    return samples.array(np.dtype(code), (ROWS, *shape), _chance())


def _reversed(_: float) -> Column:
    return _numpy("f4")[::-1]


def _stepped(_: float) -> Column:
    return samples.array(np.dtype("f4"), (2 * ROWS, 4), _chance())[::2, 1::2]


def _fortran(_: float) -> Column:
    return np.asfortranarray(_numpy("f4", (3,)))


def _transposed(_: float) -> Column:
    return _numpy("f4", (2, 3)).transpose(0, 2, 1)


def _repeated(_: float) -> Column:
    return np.broadcast_to(np.float32(1.5), (ROWS, 2))


def _unaligned(_: float) -> Column:
    return np.frombuffer(b"\0" + _numpy("f4").tobytes(), np.float32, offset=1)


def _packed(_: float) -> Column:
    return samples.array(np.dtype([("a", "i2"), ("b", "f4")]), (ROWS,), _chance())["b"]


def _read_only(_: float) -> Column:
    made = _numpy("f4")
    made.setflags(write=False)
    return made


def _ulonglong(_: float) -> Column:
    """What torch refuses although it equals uint64."""
    return np.frombuffer(bytearray(_numpy("u8").tobytes()), "Q")


def _odd_bools(_: float) -> Column:
    return (np.arange(ROWS) * 53 % 256).astype(np.uint8).view(bool)


def _objects(_: float) -> Column:
    return np.array([None, "a", 1] * ROWS, object)[:ROWS]


def _masked(_: float) -> Column:
    return np.ma.masked_array(_numpy("i4"), np.arange(ROWS) % 3 == 0)


def _lists(type_: pa.DataType, chance: np.random.Generator, share: float) -> Column:
    """Null lists, but no null elements, for which a tensor has no place."""
    whole = samples.column(type_, ROWS, chance, 0.0)
    bitmap = pa.py_buffer(np.packbits(chance.random(ROWS) >= share, bitorder="little")) if share else None
    return pa.Array.from_buffers(type_, ROWS, [bitmap, *_own_buffers(whole)[1:]], children=[whole.values])


def _own_buffers(column: pa.Array) -> list[pa.Buffer]:
    """Those of the lists, without those of their elements."""
    own: list[pa.Buffer] = column.buffers()[: 1 if pa.types.is_fixed_size_list(column.type) else 2]
    return own


# ---- the table -------------------------------------------------------------------------------------------------------


def _under(group: str, *rows: Row | Iterable[Row]) -> tuple[Row, ...]:
    """Lines under one heading."""
    flat = [row for one in rows for row in ([one] if isinstance(one, Row) else one)]
    return tuple(replace(row, group=group) for row in flat)


def _named(type_: pa.DataType | str, tensor: str, **facts: Any) -> Row:
    """Codes of something else: a tensor only where the column is chosen by name."""
    return Row(type_, tensor, named=True, **facts)


def _cast(type_: pa.DataType | str, tensor: str, policy: Mapping[str, Any], limit: int, stored: str) -> Row:
    """A declared cast, there and back."""
    name = str(np.dtype(type_)) if isinstance(type_, str) else stored
    copy, back = f"cast from {name}", "cast back, checked"
    return Row(type_, tensor, policy, stored=stored, make=_below(type_, limit), copy=copy, copy_out=back)


_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = {"float16": "halffloat", "float32": "float", "float64": "double"}
_WIDER = (("uint16", "int32", 2**16), ("uint32", "int64", 2**32), ("uint64", "int64", 2**63))
_UNITS = ("s", "ms", "us", "ns")
_UNSIGNED = {"u1": "uint8", "u2": "uint16"}
_LOGICAL = {name: {"logical_dtype": name} for name in LOGICAL}
_WIDEN = {"unsigned": "widen"}
_CODES: dict[str, Any] = {"policy": {"dictionary": "codes"}, "copy_nulls": "codes of nulls made 0"}
_NARROW = {"dtype": "float32", "cast": "same_kind"}
_ROUND = {"dtype": "float64", "cast": "safe"}
_JAGGED = {"ragged": "jagged"}
_BOOL: dict[str, Any] = {"copy": "bits unpacked", "copy_out": "bits packed"}
_DECIMAL: dict[str, Any] = {"copy": "128-bit decimals narrowed to 64, exactly", "copy_out": "widened again"}
_DECLARED = (
    (pa.uint16(), "bfloat16"),
    (pa.list_(pa.float32(), 2), "complex64"),
    (pa.fixed_shape_tensor(pa.float64(), [3, 2]), "complex128[3]"),
)
_PERMUTED = pa.fixed_shape_tensor(pa.float64(), [2, 3, 1], permutation=[2, 0, 1])
_VARIANTS = [pa.field("a", pa.int64()), pa.field("b", pa.float32())]

ARROW: tuple[Row, ...] = (
    *_under(
        "Arrow: numbers and truth values",
        [Row(pa.type_for_alias(name), name, stored=name) for name in (*_INTEGERS, *_FLOATS)],
        Row(pa.bool_(), "bool", stored="bool", **_BOOL),
        [_cast(pa.type_for_alias(name), wide, _WIDEN, limit, name) for name, wide, limit in _WIDER],
        _cast(pa.float64(), "float32", _NARROW, 2**24, "float64"),
        _cast(pa.int32(), "float64", _ROUND, 2**31, "int32"),
        [
            Row(pa.type_for_alias(_UNSIGNED[code]), name, _LOGICAL[name], stored=_UNSIGNED[code])
            for name, code in LOGICAL.items()
        ],
        [
            Row(type_, name, layout="as declared in the field", metadata=_metadata(name), stored=name)
            for type_, name in _DECLARED
        ],
    ),
    *_under(
        "Arrow: instants, durations, times and decimals",
        _named(pa.timestamp("s"), "int64", stored="datetime64[s]", make=_seconds(None)),
        [_named(pa.timestamp(unit), "int64", stored=f"datetime64[{unit}]") for unit in _UNITS[1:]],
        _named(pa.timestamp("s", "UTC"), "int64", make=_seconds("UTC")),
        [_named(pa.timestamp(unit, zone), "int64") for unit in _UNITS[1:] for zone in ("UTC", "+05:30")],
        [_named(pa.duration(unit), "int64", stored=f"timedelta64[{unit}]") for unit in _UNITS],
        _named(pa.date32(), "int32"),
        _named(pa.date64(), "int64"),
        _named(pa.time32("s"), "int32"),
        _named(pa.time32("ms"), "int32"),
        [_named(pa.time64(unit), "int64") for unit in ("us", "ns")],
        _named(pa.decimal32(9, 2), "int32"),
        _named(pa.decimal64(18, 4), "int64"),
        [_named(type_, "int64", **_DECIMAL) for type_ in (pa.decimal128(18, 18), pa.decimal128(7, 0))],
        _named(pa.decimal128(9, -2), "int64", file=CANNOT_HOLD, **_DECIMAL),
        [Row(type_, why=NO_TENSOR) for type_ in (pa.decimal128(19, 2), pa.decimal256(9, 2), pa.decimal256(76, 10))],
        Row(pa.month_day_nano_interval(), why=NO_TENSOR, file=CANNOT_HOLD),
    ),
    *_under(
        "Arrow: lists and tensors",
        Row(pa.list_(pa.float32(), 3), "float32[3]", stored="float32[3]"),
        Row(pa.list_(pa.list_(pa.int16(), 2), 3), "int16[3, 2]", stored="int16[3, 2]"),
        Row(pa.list_(pa.bool_(), 3), "bool[3]", stored="bool[3]", **_BOOL),
        Row(pa.list_(pa.uint16(), 3), "bfloat16[3]", _LOGICAL["bfloat16"], stored="uint16[3]"),
        _named(pa.list_(pa.timestamp("us"), 2), "int64[2]", stored="datetime64[us][2]"),
        Row(pa.fixed_shape_tensor(pa.float32(), [2, 3]), "float32[2, 3]", stored="float32[2, 3]"),
        Row(pa.fixed_shape_tensor(pa.bool_(), [2, 3]), "bool[2, 3]", stored="bool[2, 3]", **_BOOL),
        Row(pa.fixed_shape_tensor(pa.int32(), [2], dim_names=["a"]), "int32[2]", stored="int32[2]"),
        Row(_PERMUTED, "float64[1, 2, 3]", stored="float64[1, 2, 3]"),
        Row(pa.list_(pa.string(), 2), why=f"of its elements, {NO_TENSOR}"),
        Row(pa.list_(pa.float32(), 0), why="lists of width 0 have no elements", file="width 0"),
        [Row(type_, why=RAGGED) for type_ in (pa.list_(pa.int64()), pa.large_list(pa.float32()))],
        Row(pa.list_(pa.int64()), "int64[*]", _JAGGED),
        Row(pa.large_list(pa.bool_()), "bool[*]", _JAGGED, **_BOOL),
        Row(pa.list_(pa.list_(pa.float32(), 2)), "float32[*, 2]", _JAGGED),
        Row(pa.list_(pa.string()), why=f"of its elements, {NO_TENSOR}", policy=_JAGGED),
        [Row(type_, why=NO_TENSOR) for type_ in (pa.list_view(pa.int64()), pa.large_list_view(pa.int8()))],
    ),
    *_under(
        "Arrow: dictionaries",
        Row(pa.dictionary(pa.int32(), pa.string()), why=NO_TENSOR),
        Row(pa.dictionary(pa.int32(), pa.string(), ordered=True), why=NO_TENSOR),
        [_named(pa.dictionary(pa.type_for_alias(n), pa.string()), n, **_CODES) for n in _INTEGERS],
        _named(pa.dictionary(pa.int16(), pa.string(), ordered=True), "int16", **_CODES),
        [
            _named(pa.dictionary(pa.int8(), value), "int8", **_CODES, file=GIVES_BACK)
            for value in (pa.large_string(), pa.int64(), pa.float32())
        ],
    ),
    *_under(
        "Arrow: what is always carried",
        [Row(t, why=NO_TENSOR) for t in (pa.string(), pa.large_string(), pa.string_view())],
        [Row(t, why=NO_TENSOR) for t in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(5))],
        Row(pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), why=NO_TENSOR),
        Row(pa.map_(pa.string(), pa.float32()), why=NO_TENSOR),
        Row(pa.null(), why=NO_TENSOR),
        [Row(t, why=NO_TENSOR) for t in (pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.int32(), "kind", "vendor"))],
        Row(pa.run_end_encoded(pa.int32(), pa.int64()), why=NO_TENSOR, file=CANNOT_HOLD),
        [Row(t, why=NO_TENSOR, file=CANNOT_HOLD) for t in (pa.dense_union(_VARIANTS), pa.sparse_union(_VARIANTS))],
        Row(pa.struct([]), why=NO_TENSOR, file=CANNOT_HOLD),
    ),
)

_SWAP: dict[str, Any] = {"copy": "byte order swapped", "copy_out": "byte order swapped"}
_SWAPPED = [np.dtype(code).newbyteorder(">") for code in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8")]
_ALIAS = {**_FLOATS, **{name: name for name in ("bool", *_INTEGERS)}}
_LACKING = ("float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "int2", "int4", "uint2", "uint4")
_RECORD = np.dtype([("a", "<i2"), ("b", ">f8", (2,)), ("c", [("d", "S3")])])
_FST = "fixed_shape_tensor[value_type=float, shape=[{}]]"
_OWN: dict[str, Any] = {"held": True, "stored": "float"}
_ORDERED: dict[str, Any] = {"copy": "one copy in C order", "seen": True}

NUMPY: tuple[Row, ...] = (
    *_under(
        "NumPy: numbers and truth values",
        [Row(name, name, stored=stored) for name, stored in _ALIAS.items()],
        Row("bool", "bool", layout="any byte but 0 is true", stored="bool", held=True, make=_odd_bools),
        Row("complex64", "complex64", stored="fixed_size_list<item: float>[2]", pairs=True),
        Row("complex128", "complex128", stored="fixed_size_list<item: double>[2]", pairs=True),
        Row("Q", "uint64", layout="as numpy.ulonglong", stored="uint64", held=True, make=_ulonglong),
        [_cast(name, wide, _WIDEN, limit, name) for name, wide, limit in _WIDER],
        _cast("float64", "float32", _NARROW, 2**24, "double"),
        _cast("int32", "float64", _ROUND, 2**31, "int32"),
        [Row(dtype, dtype.name, stored=_ALIAS[dtype.name], **_SWAP) for dtype in _SWAPPED],
        Row(">c8", "complex64", stored="fixed_size_list<item: float>[2]", pairs=True, **_SWAP),
        Row(">i4", "int32", {"byteorder": "native"}, stored="int32", back="<i4", copy="byte order swapped"),
    ),
    *_under(
        "NumPy: bfloat16 and float8",
        [Row(code, name, _LOGICAL[name], stored=_UNSIGNED[code]) for name, code in LOGICAL.items()],
        Row("V2", "bfloat16", _LOGICAL["bfloat16"], layout="as numpy.save keeps it", stored="uint16"),
        Row("V1", "float8_e4m3fn", _LOGICAL["float8_e4m3fn"], layout="as numpy.save keeps it", stored="uint8"),
        [
            Row(getattr(ml_dtypes, name), name, layout="of ml_dtypes", stored=_UNSIGNED[code], held=True)
            for name, code in LOGICAL.items()
        ],
        [
            Row(getattr(ml_dtypes, name), why=NO_TWIN, layout="of ml_dtypes", held=True, file=NPY_CANNOT_HOLD)
            for name in _LACKING
        ],
    ),
    *_under(
        "NumPy: shapes and memory",
        Row("float32", "float32[2, 3]", stored=_FST.format("2,3"), shape=(2, 3)),
        Row("float32", "float32[3]", layout="Fortran order", stored=_FST.format(3), shape=(3,), make=_fortran),
        Row(
            "float32",
            "float32[3, 2]",
            layout="transposed",
            stored=_FST.format("3,2"),
            shape=(3, 2),
            make=_transposed,
            held=True,
        ),
        Row(
            "float32",
            "float32[2]",
            layout="every other value",
            stored=_FST.format(2),
            shape=(2,),
            make=_stepped,
            held=True,
        ),
        Row("float32", "float32[0]", layout="rows without values", shape=(0,)),
        Row("float32", "float32", layout="a single value (0-d)", stored="float", scalar=True),
        Row("float32", "float32", layout="read-only", make=_read_only, **_OWN),
        Row(
            *("float32", "float32[2]", {}, "one value repeated (stride 0)"),
            **{**_OWN, "stored": _FST.format(2), "shape": (2,), "make": _repeated},
            copy_out="one copy in C order",
        ),
        Row("float32", "float32", layout="negative stride", make=_reversed, **_OWN, **_ORDERED),
        Row("float32", "float32", layout="odd stride", make=_packed, **_OWN, **_ORDERED),
        Row("float32", "float32", layout="unaligned", make=_unaligned, **_OWN, **_ORDERED),
    ),
    *_under(
        "NumPy: instants and durations",
        [_named(f"M8[{unit}]", "int64", stored=f"timestamp[{unit}]") for unit in _UNITS],
        [_named(f"m8[{unit}]", "int64", stored=f"duration[{unit}]") for unit in _UNITS],
        [_named(code, "int64") for code in ("M8[D]", "M8[Y]", "M8[10us]", "m8[h]", "m8[ps]", "m8")],
        _named(">M8[us]", "int64", stored="timestamp[us]", **_SWAP),
    ),
    *_under(
        "NumPy: what is always carried",
        [Row(code, why=NO_TWIN) for code in ("longdouble", "clongdouble", "S3", "U2", "V5")],
        Row(_RECORD, why="it is structured"),
        Row(object, why="objects are Python pickles", held=True, make=_objects, file=NPY_CANNOT_HOLD),
    ),
)
