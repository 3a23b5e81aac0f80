"""How two columns differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.difference import compare, same

NAN = np.array([0x7FF8000000000001, 0x7FF8000000000002], np.uint64).view(np.float64)


def nested(x: float) -> list[pa.Array]:
    """One float inside every kind of column that can hold it, second of three rows."""
    lists = [[1.0], [2.0, x], None]
    plain = pa.array([1.0, x, None])
    kinds, words = pa.array([0, 0, 0], pa.int8()), pa.array(["a", "b", "c"])
    return [
        pa.UnionArray.from_sparse(kinds, [plain, words]),
        pa.UnionArray.from_dense(kinds, pa.array([0, 1, 2], pa.int32()), [plain, words]),
        plain,
        pa.array([1.0, x, None], pa.float16()),
        pa.array(lists, pa.list_(pa.float64())),
        pa.array(lists, pa.large_list(pa.float32())),
        pa.array(lists, pa.list_view(pa.float32())),
        pa.array([[1.0, 2.0], [2.0, x], None], pa.list_(pa.float64(), 2)),
        pa.array([{"a": 1.0}, {"a": x}, None], pa.struct([("a", pa.float64())])),
        pa.array([[("k", 1.0)], [("k", x)], None], pa.map_(pa.string(), pa.float64())),
        plain.dictionary_encode(),
        pc.run_end_encode(plain),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), (2,)), pa.array([[1.0, 2.0], [2.0, x], None], pa.list_(pa.float32(), 2))
        ),
    ]


@pytest.mark.parametrize("kind", range(len(nested(0.0))))
def test_the_sign_of_a_zero_counts_wherever_it_is(kind: int) -> None:
    """Arrow calls -0.0 equal to 0.0, and NaN unequal to itself; bits are bits."""
    zero, again, minus, nan = (nested(x)[kind] for x in (0.0, 0.0, -0.0, math.nan))
    assert same(zero, again)
    assert same(nan, nested(math.nan)[kind])
    assert not same(zero, minus)
    assert compare(zero, minus).row == 1
    assert same(zero.slice(2), minus.slice(2))


@pytest.mark.parametrize("type_", [pa.list_(pa.list_(pa.uuid())), pa.large_list(pa.list_(pa.bool8(), 2))])
def test_columns_of_null_lists_are_the_same(type_: pa.DataType) -> None:
    """Whatever would be inside."""
    assert same(pa.nulls(2, type_), pa.nulls(2, type_))


def test_rows_of_slices_of_unions_are_those_of_the_slice() -> None:
    """Each row is of its own variant, and the slice begins anywhere."""
    one, other = pa.array([1.0, 2.0, 3.0, 4.0]), pa.array([5, 6, 7, 8])
    kinds = pa.array([0, 1, 0, 1], pa.int8())
    dense = pa.UnionArray.from_dense(kinds, pa.array([0, 0, 1, 1], pa.int32()), [one, other])
    sparse = pa.UnionArray.from_sparse(kinds, [one, other])
    for union in (dense, sparse):
        again = pa.concat_arrays([union.slice(1, 2), union.slice(0, 0)])
        assert same(union.slice(1, 2), again)
        assert not same(union.slice(1, 2), union.slice(0, 2))
        assert not same(union.slice(0, 1), union.slice(2, 1))


@pytest.mark.parametrize("arrow", [False, True])
def test_a_nan_within_the_tolerance_may_have_other_bits(arrow: bool) -> None:
    """The payload is a difference of bits and none of numbers."""
    one, other = (pa.array(x) if arrow else x for x in (NAN[:1], NAN[1:]))
    found = compare(one, other)
    assert (found.row, found.absolute, found.relative, found.within) == (0, 0.0, 0.0, True)
    assert "nan became nan" in found.what


def test_what_lies_under_a_null_does_not_count() -> None:
    """It is unspecified."""
    mask = np.array([False, True])
    assert same(pa.array(np.array([1, 2]), mask=mask), pa.array(np.array([1, 3]), mask=mask))
    assert not same(pa.array(np.array([1, 2]), mask=mask), pa.array(np.array([1, 2])))


def test_a_null_for_a_number_is_no_matter_of_tolerance() -> None:
    """Nor is an infinity."""
    for found in (pa.array([1.0, None]), pa.array([1.0, math.inf])):
        difference = compare(pa.array([1.0, 2.0]), found, atol=1e300, rtol=1e300)
        assert (difference.row, difference.absolute, difference.within) == (1, math.inf, False)


@pytest.mark.parametrize(
    ("expected", "found", "absolute", "relative", "within"),
    [
        ([1.0, 100.0], [1.0, 100.5], 0.5, 0.005, True),
        ([1.0, 100.0], [1.01, 100.0], 0.01, 0.01, True),
        ([1.0, 100.0], [1.02, 100.0], 0.02, 0.02, False),
        ([0.0], [0.001], 0.001, math.inf, False),
        ([math.inf], [math.inf], 0.0, 0.0, True),
        ([2 + 0j], [2 + 0.01j], 0.01, 0.005, True),
    ],
)
def test_distances_and_the_tolerance(
    expected: list[Any], found: list[Any], absolute: float, relative: float, within: bool
) -> None:
    """Within atol + rtol * |expected|, for each number."""
    difference = compare(np.array(expected), np.array(found), atol=1e-9, rtol=0.01)
    assert difference.absolute == pytest.approx(absolute)
    assert difference.relative == pytest.approx(relative)
    assert difference.within is within


def test_integers_are_exact_whatever_the_tolerance() -> None:
    """Their distance is, too, beyond what a float can tell apart."""
    found = compare(np.array([2**62, -(2**63)]), np.array([2**62 + 1, 2**63 - 1]), atol=9, rtol=9)
    assert (found.row, found.absolute, found.within) == (0, float(2**64 - 1), False)
    assert compare(np.array([2**62]), np.array([2**62 + 1])).absolute == 1.0


@pytest.mark.parametrize("row", [0, 1, 499, 500, 999])
def test_the_first_row_that_differs_is_found(row: int) -> None:
    """With what was there and what came."""
    words = [f"w{i % 7}" for i in range(1000)]
    other = [*words[:row], "x" * 100, *words[row + 1 :]]
    found = compare(pa.array(words), pa.array(other))
    assert (found.row, found.within, found.absolute) == (row, False, None)
    assert found.what == f"row {row}: {words[row]} became {'x' * 37}..."


def test_containers_may_differ_and_byte_order() -> None:
    """A NumPy column and an Arrow column with the same values, and another numbering of a dictionary."""
    assert same(np.array([1, 2], ">i4"), np.array([1, 2], "<i4"))
    assert same(np.array([1, 2], "M8[us]"), pa.array([1, 2], pa.timestamp("us")))
    assert not same(np.array([1, 2], np.int32), pa.array([1, 2], pa.int64()))
    assert not same(np.array([1.0, 0.0]), pa.array([1.0, None]))
    assert same(
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), ["a", "b"]),
        pa.DictionaryArray.from_arrays(pa.array([1, 0]), ["b", "a"]),
    )


def test_rows_that_are_missing_are_told() -> None:
    """Also of an otherwise equal column."""
    assert compare(np.arange(3), np.arange(2)).what == "3 rows became 2"


def test_padding_of_structured_rows_is_no_value() -> None:
    """Only the fields count."""
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one, other = np.zeros(2, dtype), np.zeros(2, dtype)
    one.view(np.uint8)[1] = 7
    assert same(one, other)
    other["b"][1] = -0.0
    assert not same(one, other)
