"""Arrow <-> NumPy, one column at a time. With `tensors` the only place where values change their container.

A tensor column is looked at through its **storage**: the plain NumPy dtype and row shape that hold its bits (a
timestamp is int64, a decimal64 is its unscaled int64, a fixed-size list of 3 floats is float32 with row shape (3,)).
Values and nulls travel apart: nulls are a bool array, True where the row has a value. What lies under a null is
unspecified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeGuard

import numpy as np
import pyarrow as pa

from pipeline.core import Array, ArrayField, Column, Field
from pipeline.errors import DTypeError
from pipeline.policy import COMPLEX, LOGICAL, Policy

TensorType = Literal["fixed_shape_tensor", "fixed_size_list"]
ComplexType = Literal["error", "pairs"]

_NUMBERS: dict[pa.DataType, str] = {
    pa.int8(): "i1",
    pa.int16(): "i2",
    pa.int32(): "i4",
    pa.int64(): "i8",
    pa.uint8(): "u1",
    pa.uint16(): "u2",
    pa.uint32(): "u4",
    pa.uint64(): "u8",
    pa.float16(): "f2",
    pa.float32(): "f4",
    pa.float64(): "f8",
}
_ARROW = {np.dtype(code): type_ for type_, code in _NUMBERS.items()} | {np.dtype(bool): pa.bool_()}
_TENSOR_KINDS = "biufc"
_DATETIME_UNITS = ("s", "ms", "us", "ns")
_MOST_ELEMENTS = 2**31 - 1
_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_USER_DEFINED = 2
"""`numpy.dtype.isbuiltin` of dtypes that other packages add: that of float8_e5m2 says it is a float as any other."""


_STORED = {pa.date64(): pa.date32(), pa.time32("s"): pa.time32("ms")}

LOGICAL_KEY = b"logical_dtype"
"""Key of the field metadata that says what integers, or pairs of floats, stand for."""

DEFAULT = Policy()


@dataclass(frozen=True)
class Storage:
    """How the bits of a column lie in a NumPy array.

    Attributes:
        dtype: native-endian dtype, one that torch has.
        shape: shape of one row.
        copy: why one copy is needed on the way, or "" if the memory is shared.
        number: whether the values are numbers or truth values, not codes of something else (a date, a decimal).
        logical: what unsigned integers stand for where NumPy has no such type, such as bfloat16; else "".
        ragged: whether a row is a list of any length; dtype and shape are those of its elements, which lie one row
            after the other, and `offsets` says where each begins.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    copy: str = ""
    number: bool = True
    logical: str = ""
    ragged: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one element where rows are lists of any length."""
        return self.dtype.itemsize * math.prod(self.shape)


# ---- what a column is ------------------------------------------------------------------------------------------------


def storage(field: Field, policy: Policy = DEFAULT) -> Storage:
    """How a column would lie in a tensor, from its type alone.

    Raises:
        DTypeError: no tensor can hold it; the message names the column, and why.
    """
    logical = policy.logical_dtype or declared(field)
    found: Storage | str
    if paired(field):
        found = _complex_storage(field.type, logical)
    elif logical:
        found = _logical_storage(field, logical)
    elif isinstance(field, ArrayField):
        found = _numpy_storage(field)
    elif policy.dictionary == "codes" and pa.types.is_dictionary(field.type):
        found = replace(_codes(field.type), number=False)
    elif policy.ragged == "jagged" and _is_list(field.type):
        found = _element_storage(field.type.value_type)
        found = found if isinstance(found, str) else replace(found, ragged=True)
    else:
        found = _arrow_storage(field.type)
    if isinstance(found, str):
        raise DTypeError(
            f"column {field.name!r} is {describe(field)}: {found}. Leave it out of `columns`: it is then carried along "
            "untouched"
        )
    return found


def declared(field: Field) -> str:
    """What a field says that its integers, or pairs of floats, stand for; Arrow fields say it in their metadata."""
    if isinstance(field, ArrayField):
        return field.logical or (field.dtype.name if field.dtype.name in LOGICAL else "")
    if not field.metadata:
        return ""
    logical = field.metadata.get(LOGICAL_KEY, b"").decode(errors="replace")
    return logical if logical in LOGICAL or logical in COMPLEX else ""


def paired(field: Field) -> TypeGuard[pa.Field]:
    """Whether an Arrow column holds complex numbers: floats whose last axis is the real and the imaginary part."""
    return not isinstance(field, ArrayField) and declared(field) in COMPLEX


def _complex_storage(type_: pa.DataType, logical: str) -> Storage | str:
    plain = _arrow_storage(type_)
    if isinstance(plain, str) or plain.dtype != COMPLEX.get(logical) or plain.shape[-1:] != (2,):
        return f"{logical} is kept as pairs of {np.dtype(COMPLEX[logical]).name}"
    return replace(plain, dtype=np.dtype(logical), shape=plain.shape[:-1])


def _logical_storage(field: Field, logical: str) -> Storage | str:
    """Unsigned integers, dtypes of ml_dtypes or the void bytes that `numpy.save` makes of them, by what they mean."""
    bits = np.dtype(LOGICAL[logical])
    if isinstance(field, ArrayField) and (field.dtype.name == logical or field.dtype == np.dtype(f"V{bits.itemsize}")):
        return Storage(bits, field.shape, logical=logical)
    plain = _numpy_storage(field) if isinstance(field, ArrayField) else _arrow_storage(field.type)
    if isinstance(plain, str) or plain.dtype != bits:
        return f"{logical} is kept as {bits.name}"
    return replace(plain, logical=logical)


def _codes(type_: pa.DictionaryType) -> Storage:
    """The indices of a dictionary column."""
    return Storage(np.dtype(_NUMBERS[type_.index_type]))


def describe(field: Field) -> str:
    """The type of a column in the words of its library."""
    return str(field) if isinstance(field, ArrayField) else str(field.type)


def _numpy_storage(field: ArrayField) -> Storage | str:
    dtype = field.dtype
    if dtype.kind in "mM":
        return Storage(np.dtype("i8"), field.shape, _swap(dtype), number=False)
    if dtype.kind == "O":
        return "objects are Python pickles, which are never read"
    if dtype.names:
        return "it is structured. source.fields=true reads its fields as columns"
    if dtype.kind not in _TENSOR_KINDS or dtype.isbuiltin == _USER_DEFINED or dtype.itemsize > _widest(dtype):
        return "torch has no such type"
    return Storage(dtype.newbyteorder("="), field.shape, _swap(dtype))


def _widest(dtype: np.dtype[Any]) -> int:
    return 16 if dtype.kind == "c" else 8


def _swap(dtype: np.dtype[Any]) -> str:
    return "" if dtype.isnative else "byte order swapped"


@lru_cache(maxsize=256)
def _arrow_storage(type_: pa.DataType) -> Storage | str:
    if type_ in _NUMBERS:
        return Storage(np.dtype(_NUMBERS[type_]))
    if pa.types.is_boolean(type_):
        return Storage(np.dtype(bool), copy="bits unpacked")
    if pa.types.is_timestamp(type_) or pa.types.is_duration(type_) or pa.types.is_time64(type_):
        return Storage(np.dtype("i8"), number=False)
    if pa.types.is_date64(type_) or pa.types.is_decimal64(type_):
        return Storage(np.dtype("i8"), number=False)
    if pa.types.is_date32(type_) or pa.types.is_time32(type_) or pa.types.is_decimal32(type_):
        return Storage(np.dtype("i4"), number=False)
    if pa.types.is_decimal128(type_) and type_.precision <= 18:
        return Storage(np.dtype("i8"), copy="128-bit decimals narrowed to 64, exactly", number=False)
    if isinstance(type_, pa.FixedShapeTensorType):
        inner = _arrow_storage(type_.value_type)
        return inner if isinstance(inner, str) else _nest(inner, _logical_shape(type_))
    if pa.types.is_fixed_size_list(type_):
        inner = _element_storage(type_.value_type)
        if isinstance(inner, str):
            return inner
        return _nest(inner, (type_.list_size,)) if type_.list_size else "lists of width 0 have no elements"
    if _is_list(type_):
        return "rows of different lengths make no dense tensor. conversion.ragged=jagged makes a jagged one"
    return "tensors hold numbers and truth values"


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def _element_storage(type_: pa.DataType) -> Storage | str:
    inner = _arrow_storage(type_)
    return f"of its elements, {inner}" if isinstance(inner, str) else inner


def _nest(inner: Storage, shape: tuple[int, ...]) -> Storage:
    return Storage(inner.dtype, shape + inner.shape, inner.copy, inner.number)


def _logical_shape(type_: pa.FixedShapeTensorType) -> tuple[int, ...]:
    order = type_.permutation or range(len(type_.shape))
    return tuple(type_.shape[i] for i in order)


# ---- column -> storage -----------------------------------------------------------------------------------------------


def nulls(column: Column) -> int:
    """Number of null rows."""
    return 0 if isinstance(column, np.ndarray) else int(column.null_count)


def values(column: Column, name: str, *, pairs: bool = False) -> tuple[Array, Array | None]:
    """Values ``(rows, ...)`` as native-endian storage, and bool ``(rows,)`` True where not null (None: no nulls).

    Shares memory where the type allows, else copies once. The array may be read-only. With `pairs` the last axis of
    an Arrow column is the real and the imaginary part (see `paired`).

    Raises:
        DTypeError: no tensor can hold the column, or its lists have null elements.
    """
    if isinstance(column, np.ndarray):
        return _native(column, name), None
    return _joined(_flat(column, name)) if pairs else _flat(column, name), valid(column)


def offsets(column: pa.Array) -> Array:
    """Where the lists of a column begin and end among the elements that `values` gives, int64 ``(rows + 1,)``."""
    found = _own_offsets(column)
    starts: Array = found - found[0]
    return starts


def _own_offsets(column: pa.Array) -> Array:
    """The same, counted from the first element of the memory behind the column."""
    code = "i8" if pa.types.is_large_list(column.type) else "i4"
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.zeros(len(column) + 1, np.int64)
    return np.frombuffer(data, code, count=column.offset + len(column) + 1)[column.offset :].astype(np.int64)


def _joined(pairs: Array) -> Array:
    """Complex numbers from ``(..., 2)`` floats, in the same memory if the pairs are contiguous."""
    pairs = np.ascontiguousarray(pairs)
    return pairs.view(np.result_type(pairs.dtype, np.complex64)).reshape(pairs.shape[:-1])


def _parted(array: Array) -> Array:
    """``(..., 2)`` floats from complex numbers, in the same memory if they are contiguous."""
    array = np.ascontiguousarray(array)
    return array.view(array.real.dtype).reshape(*array.shape, 2)


def _native(column: Array, name: str) -> Array:
    if type(column) is not np.ndarray and isinstance(column, np.ma.MaskedArray):  # to name it imports numpy.ma
        raise DTypeError(f"column {name!r} is a masked array; yield a pyarrow array with nulls instead")
    if _is_bits(column.dtype):
        return column.view(f"u{column.dtype.itemsize}")
    dtype = storage(ArrayField(name, column.dtype, column.shape[1:])).dtype
    if not column.dtype.isnative:
        column = column.astype(column.dtype.newbyteorder("="))
    return column.view(dtype) if column.dtype.kind in "mM" else column


def _is_bits(dtype: np.dtype[Any]) -> bool:
    """Whether values are of a type that NumPy lacks: one of ml_dtypes, or the void bytes that they are saved as."""
    return (dtype.kind == "V" and dtype.names is None) or dtype.name in LOGICAL


def valid(column: pa.Array) -> Array | None:
    """Bool ``(rows,)``, True where not null; None if no row is null."""
    if not column.null_count:
        return None
    if isinstance(column, pa.ExtensionArray):
        return valid(column.storage)
    bitmap = column.buffers()[0]
    if bitmap is None:  # null, union and run-end encoded types keep their nulls elsewhere
        return numbers(column.is_valid())
    return _bits(bitmap, column.offset, len(column))


def _bits(buffer: pa.Buffer, offset: int, rows: int) -> Array:
    """Unpack a bitmap; ten times faster than pyarrow's own conversion."""
    first, skip = divmod(offset, 8)
    packed = np.frombuffer(buffer, np.uint8)[first : first + (skip + rows + 7) // 8]
    return np.unpackbits(packed, bitorder="little", count=skip + rows)[skip:].view(bool)


def _flat(column: pa.Array, name: str) -> Array:
    type_ = column.type
    if isinstance(column, pa.DictionaryArray):
        return _flat(column.indices, name)
    if isinstance(column, pa.ExtensionArray):
        if not isinstance(type_, pa.FixedShapeTensorType):
            raise DTypeError(f"column {name!r} is {type_}: tensors hold numbers and truth values")
        physical = _flat(column.storage, name).reshape(len(column), *type_.shape, *_inner_shape(type_))
        order = type_.permutation or range(len(type_.shape))
        return physical.transpose(0, *(i + 1 for i in order), *range(len(type_.shape) + 1, physical.ndim))
    if pa.types.is_fixed_size_list(type_):
        width = type_.list_size
        elements = column.values.slice(column.offset * width, len(column) * width)
        _check_elements(column, elements, width, name)
        inner = _flat(elements, name)
        return inner.reshape(len(column), width, *inner.shape[1:])
    if _is_list(type_):
        at = _own_offsets(column)
        elements = column.values.slice(at[0], at[-1] - at[0])
        _check_ragged(column, elements, at - at[0], name)
        return _flat(elements, name)
    if pa.types.is_boolean(type_):
        data = column.buffers()[1]
        return _bits(data, column.offset, len(column)) if data is not None and len(column) else np.zeros(0, bool)
    if pa.types.is_decimal128(type_):
        return _low_half(column, name)
    found = _arrow_storage(type_)
    dtype = storage(pa.field(name, type_)).dtype if isinstance(found, str) else found.dtype
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.zeros(0, dtype)
    return np.frombuffer(data, dtype, count=column.offset + len(column))[column.offset :]


def _low_half(column: pa.Array, name: str) -> Array:
    """The unscaled values of 128-bit decimals of at most 18 digits; four times faster than pyarrow's cast."""
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.zeros(0, np.int64)
    halves = np.frombuffer(data, "<i8", count=2 * (column.offset + len(column))).reshape(-1, 2)[column.offset :]
    low = halves[:, 0].copy()
    wide = halves[:, 1] != low >> 63
    if wide.any() and ((present := valid(column)) is None or (wide & present).any()):
        raise DTypeError(f"column {name!r} is {column.type} and holds values of more digits; its file is damaged")
    return low


def _inner_shape(type_: pa.FixedShapeTensorType) -> tuple[int, ...]:
    inner = _arrow_storage(type_.value_type)
    return inner.shape if isinstance(inner, Storage) else ()


def _check_elements(column: pa.Array, elements: pa.Array, width: int, name: str) -> None:
    """Null elements inside lists have no place in a mask of rows; those inside null lists do not count."""
    present = valid(elements)
    if present is not None:
        whole: Any = present.reshape(len(column), width).all(axis=1)
        _refuse_holes(column, whole, name)


def _check_ragged(column: pa.Array, elements: pa.Array, at: Array, name: str) -> None:
    """The same for lists of any length, of which the row `i` holds the elements ``at[i]`` to ``at[i + 1]``."""
    present = valid(elements)
    if present is not None:
        holes: Array = np.concatenate([[0], np.cumsum(~present)])
        whole: Any = holes[at[1:]] == holes[at[:-1]]
        _refuse_holes(column, whole, name)


def _refuse_holes(column: pa.Array, whole: Array, name: str) -> None:
    outer = valid(column)
    bad = np.flatnonzero(~whole if outer is None else ~whole & outer)
    if len(bad):
        raise DTypeError(
            f"column {name!r} has null elements inside its lists (first in row {bad[0]} of this batch, "
            f"{len(bad)} rows); a tensor has no place for them. Leave the column out of `columns`: "
            "it is then carried along untouched"
        )


# ---- storage -> column -----------------------------------------------------------------------------------------------


def restore(
    array: Array,
    present: Array | None,
    field: Field,
    *,
    words: pa.Array | None = None,
    starts: Array | None = None,
) -> Column:
    """The column of type `field` that has these storage values and nulls. Shares memory where the type allows.

    Args:
        array: ``(rows, ...)`` of the dtype and row shape of ``storage(field)``.
        present: bool ``(rows,)``, True where not null; None for no nulls.
        field: the type wanted.
        words: the dictionary that `array` indexes, if the field is a dictionary column.
        starts: where the list of each row begins among the elements in `array`, and where the last one ends, int64
            ``(rows + 1,)``; if rows are lists of any length.

    Raises:
        DTypeError: nulls or values for which `field` has no place, indices outside the dictionary, or lists that are
            no pieces of the elements.
    """
    if present is not None and present.all():
        present = None
    if isinstance(field, ArrayField):
        if present is not None:
            raise DTypeError(_no_nulls(field.name, int((~present).sum())))
        if field.dtype.kind in "mM" or _is_bits(field.dtype):
            array = array.view(field.dtype.newbyteorder("="))
        return array.astype(field.dtype, copy=False)
    if present is not None and not field.nullable:
        raise DTypeError(
            f"column {field.name!r} is declared without nulls and would hold {int((~present).sum())} of them"
        )
    if words is not None:
        return _worded(array, present, field, words)
    if array.dtype.kind == "c":
        array = _parted(array)
    made = _arrow(array, present, field.type) if starts is None else _lists(array, starts, present, field)
    if present is not None and starts is not None:
        present = np.repeat(present, np.diff(starts))
    _check_limits(array, present, field)
    return made


def _check_limits(array: Array, present: Array | None, field: pa.Field) -> None:
    """Times of day and decimals have fewer values than the integers behind them; Parquet cuts the digits of others."""
    if (limit := _limit(field.type)) is None:
        return
    rows = array if present is None else array[present]
    if not rows.size or limit[0] <= int(rows.min()) <= int(rows.max()) <= limit[1]:
        return
    bad = (array < limit[0]) | (array > limit[1])
    if present is not None:
        bad &= present.reshape(-1, *[1] * (array.ndim - 1))
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    raise DTypeError(
        f"column {field.name!r} is {field.type}, whose values lie in {limit[0]}..{limit[1]} as integers; "
        f"{array[first]} in row {first[0]} of this batch does not. Return another dtype to store other numbers"
    )


@lru_cache(maxsize=256)
def _limit(type_: pa.DataType) -> tuple[int, int] | None:
    """The least and the largest integer that stands for a value, if not all do."""
    type_ = getattr(type_, "storage_type", type_)
    if pa.types.is_fixed_size_list(type_) or _is_list(type_):
        return _limit(type_.value_type)
    if pa.types.is_time(type_):
        return 0, _DAY[type_.unit] - 1
    if pa.types.is_decimal(type_):
        return -(10**type_.precision) + 1, 10**type_.precision - 1
    return None


def _lists(array: Array, starts: Array, present: Array | None, field: pa.Field) -> pa.Array:
    if starts[0] != 0 or starts[-1] != len(array) or (np.diff(starts) < 0).any():
        raise DTypeError(f"column {field.name!r}: the offsets of the jagged tensor do not fit its {len(array)} values")
    wide = pa.types.is_large_list(field.type)
    if not wide and len(array) > _MOST_ELEMENTS:
        raise DTypeError(
            f"column {field.name!r} is {field.type} and holds {len(array)} elements in one batch, of at most "
            f"{_MOST_ELEMENTS}. Lower batch.rows"
        )
    begin = pa.py_buffer(starts.astype("i8" if wide else "i4"))
    elements = _arrow(array, None, field.type.value_type)
    return pa.Array.from_buffers(
        field.type, len(starts) - 1, [_bitmap(present), begin], children=[elements], null_count=-1
    )


def _bitmap(present: Array | None) -> pa.Buffer | None:
    return None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))


def _worded(array: Array, present: Array | None, field: pa.Field, words: pa.Array) -> pa.Array:
    seen = array if present is None else array[present]
    if len(seen) and not 0 <= int(seen.min()) <= int(seen.max()) < len(words):
        raise DTypeError(
            f"column {field.name!r}: the transform returned codes {seen.min()}..{seen.max()}; the dictionary has "
            f"{len(words)} words. Give codes that are no longer such under another name"
        )
    if present is not None:
        array = np.where(present, array, 0).astype(array.dtype)
    codes = _arrow(array, present, field.type.index_type)
    return pa.DictionaryArray.from_arrays(codes, words, ordered=field.type.ordered)


def _no_nulls(name: str, count: int) -> str:
    return (
        f"column {name!r} holds {count} nulls, for which a NumPy file has no place. Set conversion.nulls=fill and "
        "conversion.fill_value, or write Parquet (sink=parquet)"
    )


def _arrow(array: Array, present: Array | None, type_: pa.DataType) -> pa.Array:
    rows = len(array)
    bitmap = _bitmap(present)
    if isinstance(type_, pa.FixedShapeTensorType):
        order = type_.permutation or list(range(len(type_.shape)))
        back = np.argsort(order)
        physical = array.transpose(0, *(i + 1 for i in back), *range(len(order) + 1, array.ndim))
        flat = physical.reshape(rows, math.prod(type_.shape), *array.shape[len(order) + 1 :])
        return pa.ExtensionArray.from_storage(type_, _arrow(flat, present, type_.storage_type))
    if pa.types.is_fixed_size_list(type_):
        elements = array.reshape(rows * type_.list_size, *array.shape[2:])
        return pa.Array.from_buffers(type_, rows, [bitmap], children=[_arrow(elements, None, type_.value_type)])
    if pa.types.is_boolean(type_):
        data = np.packbits(np.ascontiguousarray(array), bitorder="little")
        return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(data)])
    if pa.types.is_decimal128(type_):
        halves = np.empty((rows, 2), "<i8")
        halves[:, 0] = array
        np.right_shift(array, 63, out=halves[:, 1])
        return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(halves)])
    return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(np.ascontiguousarray(array))])


# ---- between the formats ---------------------------------------------------------------------------------------------


def arrow_field(field: Field, tensor: TensorType = "fixed_shape_tensor", complex_: ComplexType = "error") -> pa.Field:
    """How a column is stored in Arrow. Rows of a NumPy column that have a shape become `tensor`.

    Complex numbers become pairs of floats, named in the metadata of the field, if `complex_` says so.

    Raises:
        DTypeError: Arrow has no such type.
    """
    if not isinstance(field, ArrayField):
        return field
    value, shape, logical = _arrow_value(field), field.shape, declared(field)
    if field.dtype.kind == "c":
        if complex_ == "error":
            raise DTypeError(
                f"column {field.name!r} is {describe(field)}, which Arrow and Parquet cannot hold. sink.complex=pairs "
                "stores real and imaginary parts side by side; .npy and .npz hold complex numbers as they are"
            )
        shape, logical = (*shape, 2), field.dtype.name
    metadata = {LOGICAL_KEY: logical.encode()} if logical else None
    if not shape:
        return pa.field(field.name, value, metadata=metadata)
    if math.prod(shape) == 0:
        raise DTypeError(f"column {field.name!r} has rows of shape {field.shape}, which hold no values; drop it")
    if tensor == "fixed_shape_tensor" and field.shape:
        return pa.field(field.name, pa.fixed_shape_tensor(value, shape), metadata=metadata)
    for width in reversed(shape):
        value = pa.list_(value, width)
    return pa.field(field.name, value, metadata=metadata)


def _arrow_value(field: ArrayField) -> pa.DataType:
    dtype = field.dtype if field.dtype.kind == "T" else field.dtype.newbyteorder("=")
    if logical := declared(field):
        dtype = np.dtype(LOGICAL[logical])
    if dtype.name in COMPLEX:
        dtype = np.dtype(COMPLEX[dtype.name])
    if dtype in _ARROW:
        return _ARROW[dtype]
    if dtype.kind in "mM" and np.datetime_data(dtype) in {(unit, 1) for unit in _DATETIME_UNITS}:
        unit = np.datetime_data(dtype)[0]
        return pa.timestamp(unit) if dtype.kind == "M" else pa.duration(unit)
    way = "read its fields as columns (source.fields=true)" if dtype.names else "convert it (transform=cast)"
    raise DTypeError(
        f"column {field.name!r} is {describe(field)}, which Arrow and Parquet cannot hold. Write .npy or .npz, or {way}"
    )


ARROW_KEY = b"arrow_type"
"""Key of the field metadata that says which Arrow type a column had that Parquet has no type for."""


def parquet_field(field: pa.Field) -> pa.Field:
    """How Parquet stores a column.

    Times of seconds become milliseconds and dates of milliseconds days, named as what they were in the metadata of the
    field. All other types stay.
    """
    stored = _STORED.get(field.type)
    if pa.types.is_timestamp(field.type) and field.type.unit == "s":
        stored = pa.timestamp("ms", field.type.tz)
    if stored is None:
        return field
    return field.with_type(stored).with_metadata({**(field.metadata or {}), ARROW_KEY: str(field.type).encode()})


def parquet_origin(field: pa.Field) -> pa.Field:
    """The column that `parquet_field` stored so; any other field as it is."""
    if ARROW_KEY not in (field.metadata or {}):
        return field
    origins = [*_STORED, pa.timestamp("s", getattr(field.type, "tz", None))]
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != ARROW_KEY}
    for origin in origins:
        candidate = field.with_type(origin).with_metadata(metadata or None)
        if parquet_field(candidate).equals(field, check_metadata=True):
            return candidate
    return field


def recast(column: pa.Array, field: pa.Field) -> pa.Array:
    """The same values as ``field.type``, to store them in Parquet or back from it.

    Raises:
        DTypeError: it has no place for a value; the message names the column.
    """
    if column.type == field.type:
        return column
    try:
        made = column.cast(field.type)
        if made.cast(column.type).equals(column):
            return made
        why = f"not every value is a {field.type}"
    except pa.ArrowInvalid as e:
        why = str(e)
    raise DTypeError(f"column {field.name!r} is {column.type} and has to become {field.type} in Parquet or back: {why}")


def to_arrow(column: Column, field: pa.Field) -> pa.Array:
    """A column as an array of exactly ``field.type``; NaN and NaT stay values."""
    if not isinstance(column, np.ndarray):
        return column if column.type == field.type else column.cast(field.type)
    return restore(_native(column, field.name), None, field)


def array_field(field: Field) -> ArrayField:
    """How a column is stored in a NumPy file.

    Raises:
        DTypeError: there is no such dtype; the message names the column.
    """
    if isinstance(field, ArrayField):
        return replace(field, dtype=np.dtype(LOGICAL[name])) if (name := field.dtype.name) in LOGICAL else field
    if paired(field):
        pairs = storage(field)
        return ArrayField(field.name, pairs.dtype, pairs.shape)
    element, datetime = field.type, None
    while pa.types.is_fixed_size_list(element) or isinstance(element, pa.FixedShapeTensorType):
        element = element.value_type
    if pa.types.is_timestamp(element) and element.tz is None:
        datetime = np.dtype(f"M8[{element.unit}]")
    elif pa.types.is_duration(element):
        datetime = np.dtype(f"m8[{element.unit}]")
    found = _arrow_storage(field.type)
    if isinstance(found, str) or not (found.number or datetime):
        raise DTypeError(
            f"column {field.name!r} is {field.type}, which a NumPy file cannot hold without loss. Leave it out with "
            "carry=none (or a list of the columns to carry), or write Parquet (sink=parquet)"
        )
    return ArrayField(field.name, datetime or found.dtype, found.shape, declared(field))


def to_array(column: Column, name: str, *, pairs: bool = False) -> Array:
    """A column as a NumPy array ``(rows, ...)`` of the dtype that `array_field` names; see `values` for `pairs`.

    Raises:
        DTypeError: it holds nulls, or there is no such dtype.
    """
    if isinstance(column, np.ndarray):
        return column.view(LOGICAL[column.dtype.name]) if column.dtype.name in LOGICAL else column
    field = array_field(pa.field(name, column.type))
    if column.null_count:
        raise DTypeError(_no_nulls(name, column.null_count))
    array = _flat(column, name)
    if pairs:
        return _joined(array)
    return array.view(field.dtype) if field.dtype.kind in "mM" else array


WORDS = (pa.string(), pa.binary())
"""Types whose columns may travel as words and codes."""


def codes(type_: pa.DataType) -> pa.DataType:
    """The type of a column of `WORDS` that does."""
    return pa.dictionary(pa.int32(), type_)


def words(column: Column) -> pa.Array:
    """The dictionary of a dictionary column."""
    assert isinstance(column, pa.DictionaryArray)
    return column.dictionary


# ---- rows ------------------------------------------------------------------------------------------------------------


def take(column: Column, index: Array) -> Column:
    """The rows at int64 `index`, in that order."""
    if isinstance(column, np.ndarray):
        return column[index]
    try:
        return _rebased(column).take(integers(index))
    except pa.ArrowNotImplementedError:  # views and run-end encoded arrays, also inside others
        starts = np.flatnonzero(np.diff(index, prepend=index[:1] - 2) != 1)
        lengths = np.diff(starts, append=len(index))
        runs = [column.slice(int(index[start]), int(n)) for start, n in zip(starts, lengths, strict=True)]
        return pa.concat_arrays(runs) if runs else column.slice(0, 0)


def _rebased(column: pa.Array) -> pa.Array:
    """The same rows at the beginning of their memory, if pyarrow would not find them elsewhere.

    Of slices of fixed-size lists of fixed-size lists, `pyarrow.Array.take` and `filter` return other rows and even
    memory behind the last one (seen in 26.0.1).
    """
    return pa.concat_arrays([column, column.slice(0, 0)]) if _holds_fixed_lists_of_such(column.type) else column


def _holds_fixed_lists_of_such(type_: pa.DataType) -> bool:
    type_ = getattr(type_, "storage_type", type_)
    inner = [type_.field(i).type for i in range(type_.num_fields)]
    within = [getattr(each, "storage_type", each) for each in inner]
    fixed = pa.types.is_fixed_size_list
    return (fixed(type_) and fixed(within[0])) or any(map(_holds_fixed_lists_of_such, inner))


def concat(pieces: list[Column], name: str = "") -> Column:
    """Rows of several pieces of one column, as one. One piece is returned as it is.

    Raises:
        DTypeError: if `name` is given and the type has no room for all: its dictionary, or its offsets.
    """
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces, dtype=pieces[0].dtype)  # without dtype, big-endian becomes native
    try:
        return _one(pa.chunked_array(pieces))
    except pa.ArrowInvalid as e:
        if not name:
            raise
        raise DTypeError(
            f"column {name!r} is {pieces[0].type}, which cannot hold in one batch the rows of several pieces: {e} "
            "Lower batch.rows, leave the column out with carry, or give a wider type"
        ) from e


def _one(joined: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(joined.type):
        joined = joined.unify_dictionaries()
    return joined.combine_chunks() if joined.num_chunks != 1 else joined.chunk(0)


def size(column: Column) -> int:
    """Bytes that the rows of a column take."""
    return int(column.nbytes)


# ---- without pandas, which pyarrow imports, 0.2 s, for most ways from and to Python and NumPy ------------------------


def numbers(column: pa.Array) -> Array:
    """Values of a column of numbers or truth values without nulls, as `pyarrow.Array.to_numpy` gives them."""
    return _flat(column, "")


def integers(array: Array) -> pa.Array:
    """The array as int64, as `pyarrow.array` gives it."""
    return _arrow(array.astype(np.int64, copy=False), None, pa.int64())


_NATURAL: dict[type | None, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string()}


def literals(values: Sequence[Any], type_: pa.DataType | None = None) -> pa.Array:
    """As `pyarrow.array`; without pandas if all are integers, floats or texts of the type that these have there."""
    kinds = {type(value) for value in values}
    if type_ not in (None, _NATURAL.get(next(iter(kinds), None))):
        return pa.array(values, type_)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return _arrow(np.array(values, np.int64), None, pa.int64())
    if kinds == {float}:
        return _arrow(np.array(values, np.float64), None, pa.float64())
    if kinds == {str}:
        texts = [value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])
    return pa.array(values, type_)
