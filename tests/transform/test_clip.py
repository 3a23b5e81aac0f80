"""Bounds."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.core import Tensors, Transform
from pipeline.errors import ConfigError
from pipeline.testing.transform import TransformContract
from pipeline.transform.clip import Clip
from tests.transform.sample import FLOATS, INTEGERS, columns


class TestClip(TransformContract):
    """Keeps the contract."""

    def make(self) -> Transform:
        return Clip(0.5, 50)

    def tensors(self) -> Tensors:
        return columns()


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_each_dtype_is_clipped_as_python_does(name: str) -> None:
    """Integers to the nearest integers within, up to the ends of the dtype."""
    dtype = getattr(torch, name)
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    values = [int(info.min), 0, 1, 2, 5, 6, 7, int(info.max)]
    low, high = (1.5, 6.5) if dtype.is_floating_point else (2, 6)
    found = Clip(1.5, 6.5)({"x": torch.tensor(values, dtype=dtype)})["x"]
    assert found.dtype == dtype
    assert found.tolist() == [min(max(value, low), high) for value in values]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(None, 2**63, [0, 5, 2**63]), (2**63 + 1, None, [2**63 + 1, 2**63 + 1, 2**64 - 1]), (-1, None, [0, 5, 2**64 - 1])],
)
def test_uint64_is_ordered_beyond_int64(low: int | None, high: int | None, found: list[int]) -> None:
    """torch itself compares no unsigned integers above 8 bits."""
    x = torch.tensor([0, 5, 2**64 - 1], dtype=torch.uint64)
    assert Clip(low, high)({"x": x})["x"].tolist() == found


def test_floats_keep_nan_and_lose_infinity() -> None:
    """A bound that the dtype cannot hold binds nothing."""
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.5])
    assert torch.equal(Clip(-1, 1)({"x": x})["x"].nan_to_num(7), torch.tensor([7, 1, -1, -0.5]))
    half = torch.tensor([math.inf, 1.0], dtype=torch.float16)
    assert torch.equal(Clip(max=1e300)({"x": half})["x"], half)
    assert Clip(max=2)({"x": torch.tensor([1.0, 8.0]).to(torch.float8_e5m2)})["x"].float().tolist() == [1, 2]


def test_a_bound_keeps_its_sign() -> None:
    """Zero too, whichever clip was there before."""
    x = torch.tensor([-5.0, 2.0])
    for low in (0.0, -0.0, 0.0):
        assert math.copysign(1, float(Clip(min=low)({"x": x})["x"][0])) == math.copysign(1, low)


def test_other_columns_pass() -> None:
    """Truth values and complex numbers have no order; columns that are not named stay."""
    tensors = columns()
    out = Clip(1, 2, columns=["int*"])(tensors)
    assert {name for name in tensors if out[name] is not tensors[name]} == {"int8", "int16", "int32", "int64"}
    assert Clip(1, 2)(tensors)["bool"] is tensors["bool"]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, None, "both null"),
        (2, 1, "transform.min must not be above transform.max; got 2 and 1"),
        (math.nan, 1, "must be numbers"),
    ],
)
def test_bounds_are_checked(low: float | None, high: float | None, message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        Clip(low, high)


@pytest.mark.parametrize(("low", "high"), [(300, None), (None, -1), (0.2, 0.8), (math.inf, None)])
def test_bounds_must_leave_a_value(low: float | None, high: float | None) -> None:
    """No uint8 lies between these."""
    with pytest.raises(ConfigError, match="leave nothing of column 'x', which is uint8"):
        Clip(low, high)({"x": torch.zeros(0, dtype=torch.uint8)})
