"""Casts and what they would lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Tensors, Transform, apply
from pipeline.errors import ConfigError, TransformError
from pipeline.testing.transform import TransformContract
from pipeline.transform.cast import Cast
from tests.transform.sample import INTEGERS, columns, numbers

NAN, INF = math.nan, math.inf
FLOATS = ("float16", "float32", "float64")


class TestCast(TransformContract):
    """Keeps the contract."""

    def make(self) -> Transform:
        return Cast("complex128")

    def tensors(self) -> Tensors:
        return columns()


class TestMapping(TestCast):
    """Keeps the contract with a dtype per column, some of which have to look at the values."""

    def make(self) -> Transform:
        return Cast({"*int*": "int8", "uint8": "uint64", "image": "int16", "float16": "float64", "bool": "uint8"})


def cast(values: Sequence[object], old: str, new: str, check: str = "exact") -> torch.Tensor:
    """A column under a new dtype."""
    x = torch.tensor(values, dtype=getattr(torch, old))
    return Cast(new, check=check)({"x": x})["x"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (2**63, "uint64", "int64"),
        (2**64 - 1, "uint64", "int64"),
        (-1, "int64", "uint64"),
        (-1, "int8", "uint16"),
        (300, "int16", "uint8"),
        (2**24 + 1, "int32", "float32"),
        (2**53 + 1, "int64", "float64"),
        (2**63 - 1, "int64", "float64"),
        (2**64 - 1, "uint64", "float64"),
        (-(2**63), "int64", "float16"),
        (2.0**63, "float64", "int64"),
        (2.0**64, "float64", "uint64"),
        (-1.0, "float32", "uint8"),
        (256.0, "float16", "uint8"),
        (NAN, "float32", "int32"),
        (INF, "float64", "int64"),
        (0.5, "float32", "int32"),
        (1e300, "float64", "float32"),
        (0.1, "float64", "float32"),
        (1e-50, "float64", "float32"),
        (2, "int64", "bool"),
        (NAN, "float32", "bool"),
        (1 + 1j, "complex64", "float32"),
        (1e300 + 0j, "complex128", "complex64"),
        (0.5 + 0j, "complex64", "int32"),
        (2**24 + 1, "int32", "complex64"),
    ],
)
def test_a_changed_value_is_an_error(value: object, old: str, new: str) -> None:
    """It names the column, the value, the row and the dtype."""
    with pytest.raises(TransformError, match=f"column 'x': .* in row 2 of this batch is no {new}"):
        cast([0, 1, value, value], old, new)


@pytest.mark.parametrize(
    ("values", "old", "new"),
    [
        ([2**63 - 1, -(2**63)], "int64", "int64"),
        ([2**63 - 1, 0], "uint64", "int64"),
        ([2**63 - 1, 0], "int64", "uint64"),
        ([-128, 127], "int64", "int8"),
        ([2**24, -(2**24)], "int64", "float32"),
        ([-(2**63), 2**62], "int64", "float64"),
        ([2.0**63, 0.0], "float64", "uint64"),
        ([-(2.0**63), 2.0**62], "float32", "int64"),
        ([NAN, INF, -INF, 0.5], "float64", "float16"),
        ([1 + 0j, 2], "complex128", "uint8"),
        ([1 + 2j, complex(NAN, INF)], "complex128", "complex64"),
        ([0, 1], "float16", "bool"),
        ([True, False], "bool", "float16"),
    ],
)
def test_values_that_survive_pass(values: list[complex], old: str, new: str) -> None:
    """NaN and infinity are values of every floating dtype."""
    found = cast(values, old, new)
    assert found.dtype == getattr(torch, new)
    assert all(map(equal, found.tolist(), values))


@pytest.mark.parametrize(
    ("values", "old", "new", "found"),
    [
        ([0.9, -0.9, 255.7], "float64", "uint8", [0, 0, 255]),
        ([0.1, INF], "float64", "float32", [np.float32(0.1), INF]),
        ([2**24 + 1], "int64", "float32", [2**24]),
        ([127.9], "float16", "int8", [127]),
    ],
)
def test_range_allows_rounding(values: list[object], old: str, new: str, found: list[float]) -> None:
    """Fractions are cut off and digits rounded."""
    assert cast(values, old, new, "range").tolist() == found


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [(256.0, "float32", "uint8"), (NAN, "float16", "int64"), (1e300, "float64", "float32"), (70000, "int32", "float16"),
     (300, "int16", "int8"), (2**63, "uint64", "int64"), (1j, "complex64", "float32"), (INF, "float32", "int8")],
)  # fmt: skip
def test_range_refuses_overflow(value: object, old: str, new: str) -> None:
    """What torch would wrap, saturate or drop."""
    with pytest.raises(TransformError, match="row 0.*set transform.check=off"):
        cast([value], old, new, "range")
    cast([value], old, new, "off")


@given(
    st.sampled_from([*INTEGERS, *FLOATS]),
    st.sampled_from([*INTEGERS, *FLOATS]),
    st.integers(-(2**64), 2**64),
    st.floats(),
)
@settings(max_examples=300, deadline=None)
def test_what_passes_is_equal_in_python(old: str, new: str, whole: int, real: float) -> None:
    """Exactly the values that are equal as Python numbers pass."""
    with np.errstate(all="ignore"):
        value = np.asarray(real if "float" in old else whole % 2**64).astype(old)
    try:
        found = Cast(new)({"x": torch.from_numpy(value.reshape(1))})["x"].numpy()
    except TransformError:
        assert not holds(new, value.item())
    else:
        assert found.dtype == new
        assert holds(new, value.item())
        assert equal(found.item(), value.item())


def holds(dtype: str, value: float) -> bool:
    """Whether a Python number is a value of the dtype; Python compares integers and floats exactly."""
    if "int" in dtype:
        return math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    with np.errstate(all="ignore"):
        return equal(np.asarray(value).astype(dtype).item(), value)


def equal(a: complex, b: complex) -> bool:
    """The same number, or both none."""
    return a == b or (a != a and b != b)


def test_nulls_are_not_looked_at() -> None:
    """Anything may lie under them."""
    x = torch.tensor([[1.0, 2.0], [0.5, NAN], [3.0, 4.0]])
    out = apply(Cast("int64"), {"x": x}, {"x": torch.tensor([True, False, True])}, 3)
    assert out.tensors["x"][[0, 2]].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(TransformError, match=r"0\.5 in row 1"):
        apply(Cast("int64"), {"x": x}, {"x": torch.tensor([True, True, False])}, 3)


def test_columns_are_chosen() -> None:
    """One dtype for some, or a dtype for each, of which the last that fits counts."""
    tensors = numbers()
    some = Cast("float64", columns=["int*"])(tensors)
    assert {name for name in tensors if some[name].dtype != tensors[name].dtype} == {"int8", "int16", "int32", "int64"}
    each = Cast({"int*": "float32", "int8": "float64"})(tensors)
    assert [each[name].dtype for name in ("int8", "int16")] == [torch.float64, torch.float32]


def test_arguments_are_checked() -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match="transform.dtype: no dtype is called 'int7' - did you mean 'int"):
        Cast({"x": "int7"})
    with pytest.raises(ConfigError, match="transform.check must be one of exact, range, off; got 'maybe'"):
        Cast("int8", check="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="leave transform.columns null"):
        Cast({"x": "int8"}, columns=["x"])
    with pytest.raises(ConfigError, match="transform.dtype: 'y' matches no tensor column"):
        Cast({"y": "int8"})({"x": torch.zeros(1)})
