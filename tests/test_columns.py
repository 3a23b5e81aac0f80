"""Arrow <-> NumPy: every storage type comes back as it went in, from any slice."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import columns
from pipeline.core import ArrayField
from pipeline.errors import DTypeError

FLOATS = [0.0, -0.0, float("inf"), float("-inf"), 5e-324, 1.5]


def _integers(type_: pa.DataType) -> st.SearchStrategy[int]:
    bits = type_.bit_width
    return (
        st.integers(0, 2**bits - 1)
        if pa.types.is_unsigned_integer(type_)
        else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


PLAIN: dict[pa.DataType, st.SearchStrategy[object]] = {
    **{
        t: _integers(t)
        for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    },
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.one_of(st.floats(allow_nan=False), st.sampled_from(FLOATS)),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "Europe/Paris"): st.integers(-(2**40), 2**40),
    pa.timestamp("ns"): st.integers(-(2**63), 2**63 - 1),
    pa.duration("s"): st.integers(-(2**40), 2**40),
    pa.date32(): st.integers(-(2**20), 2**20),
    pa.time32("ms"): st.integers(0, 86_399_999),
    pa.time64("ns"): st.integers(0, 86_399_999_999_999),
    pa.decimal32(6, 2): st.integers(-(10**6) + 1, 10**6 - 1).map(lambda i: Decimal(i).scaleb(-2)),
    pa.decimal64(15, 3): st.integers(-(10**15) + 1, 10**15 - 1).map(lambda i: Decimal(i).scaleb(-3)),
    pa.decimal128(18, 4): st.integers(-(10**18) + 1, 10**18 - 1).map(lambda i: Decimal(i).scaleb(-4)),
    pa.list_(pa.float32(), 3): st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
    pa.list_(pa.list_(pa.bool_(), 2), 2): st.lists(
        st.lists(st.booleans(), min_size=2, max_size=2), min_size=2, max_size=2
    ),
}


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array:
    """An Arrow array of a type that tensors hold, perhaps with nulls, perhaps a slice."""
    type_ = draw(st.sampled_from(list(PLAIN)))
    value = draw(st.sampled_from([PLAIN[type_], st.none() | PLAIN[type_]]))
    made = pa.array(draw(st.lists(value, max_size=40)), type_)
    start = draw(st.integers(0, len(made)))
    return made.slice(start, draw(st.integers(0, len(made) - start)))


@settings(max_examples=400, deadline=None)
@given(arrays())
def test_values_and_nulls_come_back_as_the_same_column(column: pa.Array) -> None:
    """storage -> restore is the identity for every type and slice, and what comes back is valid."""
    field = pa.field("x", column.type)
    values, valid = columns.values(column, "x")
    back = columns.restore(values, valid, field)
    back.validate(full=True)
    assert back.type == column.type
    assert back.equals(column)
    assert values.shape == (len(column), *columns.storage(field).shape)
    assert values.dtype == columns.storage(field).dtype


@pytest.mark.parametrize("offset", range(18))
def test_every_bit_offset_of_truth_values_and_nulls(offset: int) -> None:
    """Bitmaps start anywhere within a byte."""
    column = pa.array([None if i % 5 == 0 else i % 3 == 0 for i in range(60)]).slice(offset, 30)
    values, valid = columns.values(column, "x")
    assert valid is not None
    expected = column.to_pylist()
    assert valid.tolist() == [e is not None for e in expected]
    assert [v for v, ok in zip(values.tolist(), valid, strict=True) if ok] == [e for e in expected if e is not None]


@pytest.mark.parametrize("permutation", [[0, 1], [1, 0]])
def test_tensor_columns_keep_their_permutation_names_and_nulls(permutation: list[int]) -> None:
    """The tensor has the logical shape; the stored type comes back whole."""
    type_ = pa.fixed_shape_tensor(pa.int16(), [2, 3], dim_names=["a", "b"], permutation=permutation)
    stored = pa.array([list(range(6)), None, list(range(6, 12))], pa.list_(pa.int16(), 6))
    column = pa.ExtensionArray.from_storage(type_, stored).slice(1)
    values, valid = columns.values(column, "x")
    assert values.shape == ((2, 2, 3) if permutation == [0, 1] else (2, 3, 2))
    physical = np.arange(6, 12).reshape(2, 3)
    assert (values[1] == physical.transpose(permutation)).all()
    assert columns.restore(values, valid, pa.field("x", type_)).equals(column)


def test_nan_payloads_survive() -> None:
    """No value passes through a cast, so every bit of a NaN is kept."""
    bits = np.array([0x7FF8000000000001, 0xFFF0DEADBEEF0001, 0x7FF4000000000000], np.uint64)
    column = pa.array(bits.view(np.float64))
    values, valid = columns.values(column, "x")
    back = columns.restore(values, valid, pa.field("x", pa.float64()))
    assert np.frombuffer(back.buffers()[1], np.uint64).tolist() == bits.tolist()


@pytest.mark.parametrize(
    "type_", [pa.int64(), pa.float32(), pa.timestamp("us"), pa.date32(), pa.list_(pa.float32(), 4)]
)
def test_fixed_width_values_are_shared_both_ways(type_: pa.DataType) -> None:
    """The tensor side looks at Arrow's own memory, and the way back too."""
    flat = pa.list_(pa.float32(), 4) == type_
    column = pa.array([[1.0] * 4] * 10 if flat else list(range(10)), type_).slice(2, 5)
    buffer = column.values.buffers()[1] if flat else column.buffers()[1]
    values, valid = columns.values(column, "x")
    assert values.ctypes.data == buffer.address + 2 * columns.storage(pa.field("x", type_)).row_bytes
    back = columns.restore(values, valid, pa.field("x", type_))
    assert (back.values if flat else back).buffers()[1].address == values.ctypes.data


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.binary(),
        pa.list_(pa.int8()),
        pa.struct([("a", pa.int8())]),
        pa.dictionary(pa.int8(), pa.string()),
        pa.decimal128(30, 2),
        pa.list_(pa.string(), 2),
        pa.list_(pa.int8(), 0),
        pa.null(),
        pa.month_day_nano_interval(),
    ],
)
def test_types_that_tensors_cannot_hold_are_refused_by_name(type_: pa.DataType) -> None:
    """The message names the column and says that it can be carried."""
    with pytest.raises(DTypeError, match=r"column 'odd' is .*carried"):
        columns.storage(pa.field("odd", type_))


@pytest.mark.parametrize("code", ["O", "S3", "U2", "V4", "g", "G"])
def test_numpy_types_that_torch_lacks_are_refused_by_name(code: str) -> None:
    """No conversion by guess."""
    with pytest.raises(DTypeError, match="column 'odd'"):
        columns.storage(ArrayField("odd", np.dtype(code)))


def test_null_elements_inside_lists_are_refused() -> None:
    """null_count does not see them, and flatten() would shift rows."""
    column = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))
    with pytest.raises(DTypeError, match="null elements inside its lists .first in row 2"):
        columns.values(column, "x")


def test_elements_of_null_lists_do_not_count_as_nulls() -> None:
    """A null list may have null elements under it."""
    column = pa.array([[1, 2], None], pa.list_(pa.int64(), 2))
    values, valid = columns.values(column, "x")
    assert valid is not None
    assert (valid.tolist(), values[0].tolist()) == ([True, False], [1, 2])


def test_byte_order_is_swapped_in_and_out() -> None:
    """Big-endian arrays compute natively and are stored as they came."""
    column = np.array([1, -2, 3], ">i4")
    values, _ = columns.values(column, "x")
    assert values.dtype.isnative
    back = columns.restore(values, None, ArrayField("x", column.dtype))
    assert isinstance(back, np.ndarray)
    assert (back.dtype.str, back.tobytes()) == (">i4", column.tobytes())


def test_a_mask_is_never_dropped() -> None:
    """NumPy's masked arrays pass for plain ones nearly everywhere."""
    with pytest.raises(DTypeError, match="masked"):
        columns.values(np.ma.masked_array([1, 2], [True, False]), "x")


def test_nulls_have_no_place_in_a_numpy_file() -> None:
    """Neither on the way out of the transform nor for a carried column."""
    with pytest.raises(DTypeError, match="column 'x' holds 1 nulls.*fill"):
        columns.restore(np.arange(2), np.array([True, False]), ArrayField("x", np.dtype("i8")))
    with pytest.raises(DTypeError, match="column 'x' holds 1 nulls.*fill"):
        columns.to_array(pa.array([1, None]), "x")


@pytest.mark.parametrize("tensor", ["fixed_shape_tensor", "fixed_size_list"])
def test_arrays_with_a_row_shape_pass_through_arrow(tensor: columns.TensorType) -> None:
    """NumPy -> Arrow -> NumPy restores the array exactly."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    field = columns.arrow_field(ArrayField("x", array.dtype, (3, 4)), tensor)
    back = columns.to_array(columns.to_arrow(array, field), "x")
    assert back.shape == array.shape
    assert (back == array).all()


def test_datetimes_pass_through_arrow_with_nat_as_a_value() -> None:
    """NaT does not become null."""
    array = np.array(["2020-01-01", "NaT"], "M8[us]")
    made = columns.to_arrow(array, columns.arrow_field(ArrayField("x", array.dtype)))
    assert made.null_count == 0
    assert (columns.to_array(made, "x").view("i8") == array.view("i8")).all()


@pytest.mark.parametrize("dtype", ["c8", "M8[D]", "M8[10us]"])
def test_what_arrow_lacks_is_refused_by_name(dtype: str) -> None:
    """No silent change of unit or type on the way to Parquet."""
    with pytest.raises(DTypeError, match="column 'x'"):
        columns.arrow_field(ArrayField("x", np.dtype(dtype)))


def test_pieces_with_different_dictionaries_are_joined_by_value() -> None:
    """The same index means different words in different chunks."""
    one = pa.array(["a", "b"]).dictionary_encode()
    two = pa.array(["b", "c"]).dictionary_encode()
    joined = columns.concat([one, two])
    assert joined.to_pylist() == ["a", "b", "b", "c"]


def test_take_repeats_and_reorders_rows() -> None:
    """For Arrow and NumPy columns alike."""
    index = np.array([2, 0, 0])
    assert columns.take(pa.array(["a", None, "c"]), index).to_pylist() == ["c", "a", "a"]
    assert columns.take(np.array([10, 20, 30]), index).tolist() == [30, 10, 10]


@pytest.mark.parametrize("type_", [pa.string_view(), pa.list_(pa.string_view())])
@pytest.mark.parametrize("index", [[], [0], [2, 0, 0], [1, 2, 3], [3, 2, 0, 1, 1]])
def test_rows_of_types_that_arrow_cannot_take(type_: pa.DataType, index: list[int]) -> None:
    """Arrow has no kernel for views, alone or inside others."""
    words = ["a", None, "c", "d" * 20]
    column = pa.array(words if type_ == pa.string_view() else [[w] for w in words], type_)
    assert columns.take(column, np.array(index, np.int64)).to_pylist() == [column.to_pylist()[i] for i in index]


def test_a_decimal_that_is_wider_than_its_type_says_is_refused() -> None:
    """A damaged file could hold one; its low half alone would be another number. Under nulls anything may lie."""
    bits = pa.py_buffer(np.array([5, 0, 7, 1], "<i8"))
    with pytest.raises(DTypeError, match="column 'x' is decimal128.*more digits"):
        columns.values(pa.Array.from_buffers(pa.decimal128(10, 2), 2, [None, bits]), "x")
    valid = pa.py_buffer(b"\x01")
    values, _ = columns.values(pa.Array.from_buffers(pa.decimal128(10, 2), 2, [valid, bits]), "x")
    assert values[0] == 5


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("outer", ["plain", "struct", "list"])
def test_rows_of_slices_of_fixed_size_lists_of_such(depth: int, outer: str) -> None:
    """Arrow's own take returns other rows, and memory that is not the column's."""
    column: pa.Array = pa.array(np.arange(6 * 2**depth))
    for _ in range(depth):
        column = pa.FixedSizeListArray.from_arrays(column, 2)
    if outer == "struct":
        column = pa.StructArray.from_arrays([column], ["a"])
    if outer == "list":
        column = pa.ListArray.from_arrays(pa.array(range(7), pa.int32()), column)
    some = column.slice(2)
    assert columns.take(some, np.array([3, 0, 0])).to_pylist() == [some.to_pylist()[i] for i in (3, 0, 0)]


@pytest.mark.parametrize(
    ("type_", "limit"),
    [(pa.decimal64(5, 2), 99_999), (pa.decimal128(18, 0), 10**18 - 1), (pa.time64("us"), 86_399_999_999)],
)
@pytest.mark.parametrize("nested", [False, True])
def test_values_that_a_type_has_no_place_for_are_refused(type_: pa.DataType, limit: int, nested: bool) -> None:
    """Parquet would keep some of their digits; what lies under a null does not count."""
    field = pa.field("x", pa.list_(type_, 1) if nested else type_)
    values = np.array([[limit], [limit + 1]] if nested else [limit, limit + 1])
    columns.restore(values, np.array([True, False]), field).validate()
    with pytest.raises(DTypeError, match=f"column 'x' is .*{limit}.*{limit + 1} in row 1 of this batch"):
        columns.restore(values, None, field)


@pytest.mark.parametrize(
    "values",
    [[1, -(2**63), 2**63 - 1], [1.5, float("inf")], ["a", "", "\u00e9\x00"], [True], [None], [], [b"a"], [1, 2.5]],
)
def test_literals_are_those_of_pyarrow(values: list[Any]) -> None:
    """Their type too."""
    expected = pa.array(values)
    assert columns.literals(values).equals(expected)
    assert columns.literals(values, expected.type).equals(expected)


def test_literals_do_not_change_their_type() -> None:
    """As pyarrow does not."""
    with pytest.raises(pa.ArrowTypeError):
        columns.literals([1], pa.string())
    assert columns.literals([1, 2**63], pa.uint64()).to_pylist() == [1, 2**63]
