"""Mean 0 and standard deviation 1, given or learned."""

from __future__ import annotations

import logging
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Array, Fittable, Tensors, Transform
from pipeline.errors import ConfigError, DataError, DTypeError, TransformError
from pipeline.testing.transform import FittableContract, TransformContract, learned, ready, run
from pipeline.transform.standardize import Over, Standardize
from tests.transform.sample import FLOATS, INTEGERS, columns


class TestFitted(FittableContract):
    """Keeps the contract when it learns."""

    fit_rtol, fit_atol = 0.02, 1e-3  # a bfloat16 has eight bits

    def make(self) -> Transform:
        return Standardize()

    def tensors(self) -> Tensors:
        return columns()


class TestOverAll(TestFitted):
    """Keeps the contract with one mean for a whole column."""

    def make(self) -> Transform:
        return Standardize(["image", "matrix"], over="all", dtype="float64")


class TestGiven(TransformContract):
    """Keeps the contract with constants."""

    def make(self) -> Transform:
        means, deviations = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        return Standardize(["image", "int32"], {"image": means, "int32": 3}, {"image": deviations, "int32": 0.5})

    def tensors(self) -> Tensors:
        return columns()


def standardized(x: torch.Tensor, over: Over = "rows", valid: torch.Tensor | None = None) -> torch.Tensor:
    """One column after a pass over it."""
    transform = Standardize(over=over)
    state = learned(transform, [{"x": x}], {} if valid is None else {"x": valid})
    return transform.finish(state)({"x": x})["x"]


def reference(x: torch.Tensor, over: Over = "rows") -> Array:
    """The same by NumPy in float64."""
    wide = x.double().numpy()
    axis = 0 if over == "rows" else None
    scale = np.nanstd(wide, axis)
    return np.asarray((wide - np.nanmean(wide, axis)) / np.where(scale == 0, 1, scale))


@pytest.mark.parametrize("over", ["rows", "all"])
@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS, "image", "matrix"])
def test_it_computes_what_numpy_does_in_float64(name: str, over: Over) -> None:
    """Up to the rounding of the output; floats keep their dtype, integers become float32."""
    x = columns(1000)[name]
    found = standardized(x, over)
    assert found.dtype == (x.dtype if x.is_floating_point() else torch.float32)
    eps = torch.finfo(found.dtype).eps
    np.testing.assert_allclose(found.double().numpy(), reference(x, over), rtol=2 * eps, atol=2 * eps)


def test_a_large_mean_costs_no_digits() -> None:
    """Float32 cannot hold the mean of seconds since 1970, of which a deviation of minutes would show the lack."""
    x = (1.7e9 + torch.randn(5000, dtype=torch.float64) * 1000).float()
    np.testing.assert_allclose(standardized(x).numpy(), reference(x), rtol=0, atol=1e-6)
    whole = x.long() + 3
    np.testing.assert_allclose(standardized(whole).numpy(), reference(whole), rtol=0, atol=1e-6)


def test_nulls_and_nan_are_not_counted() -> None:
    """What they hide is as if it were not there; NaN stays NaN."""
    x = torch.tensor([1.0, 2.0, 1e30, math.nan, 6.0])
    valid = torch.tensor([True, True, False, True, True])
    found = standardized(x, valid=valid)
    assert torch.allclose(found[[0, 1, 4]].double(), torch.from_numpy(reference(x[[0, 1, 4]])))
    assert found[3].isnan()


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3, 1e-300])
def test_a_constant_column_is_only_centred(value: float) -> None:
    """Though the rounding of its mean leaves a deviation, however many batches there are."""
    transform = Standardize()
    x = torch.full((1000,), value, dtype=torch.float64)
    done = transform.finish(learned(transform, [{"x": x[i:]} for i in range(0, 1000, 7)]))
    assert done.std == {"x": 1.0}
    assert float(done({"x": x})["x"].abs().max()) <= abs(value) * 1e-15


def test_a_long_narrow_column_is_no_constant() -> None:
    """Its deviation is a billionth of its mean, which is real, and the count is large."""
    state = {"x/rows": 1e9, "x/count": 1e9, "x/mean": 1.7e9, "x/m2": 1e9 * 80.0**2}
    done = Standardize().finish({name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()})
    assert done.std == {"x": pytest.approx(80)}


@given(st.lists(st.integers(0, 30), max_size=6), st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_batches_merge_to_the_statistics_of_all(sizes: list[int], mean: float, deviation: float) -> None:
    """Empty ones too, to about the last digits of float64."""
    rng = np.random.default_rng(len(sizes))
    batches = [rng.normal(mean, deviation, size) for size in sizes]
    whole = np.concatenate([*batches, rng.normal(mean, deviation, 5)])
    transform = Standardize()
    state = learned(transform, [{"x": torch.from_numpy(b)} for b in [*batches, whole[-5:]]])
    done = transform.finish(state)
    assert done.mean is not None
    assert done.std is not None
    assert done.mean["x"] == pytest.approx(whole.mean(), rel=1e-13, abs=1e-13 * deviation)
    assert done.std["x"] == pytest.approx(whole.std(), rel=1e-7)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e200])
def test_a_column_without_finite_statistics_is_an_error(value: float) -> None:
    """It is named."""
    with pytest.raises(DataError, match="column 'x' has no finite mean and standard deviation"):
        standardized(torch.tensor([1.0, value, 2.0], dtype=torch.float64))


def test_a_column_of_nulls_is_left_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It has no mean. No rows at all are no reason to warn: the plan is made from none."""
    with caplog.at_level(logging.WARNING):
        assert standardized(torch.tensor([5.0, 6.0]), valid=torch.tensor([False, False])).tolist() == [5, 6]
    assert caplog.messages == ["column 'x' has nothing but nulls and NaN, at least in one place of its rows"]
    caplog.clear()
    standardized(torch.zeros(0))
    assert caplog.messages == []


def test_state_is_float64_on_the_cpu() -> None:
    """Whatever the column is."""
    state = learned(Standardize(["float16", "image"]), [columns()])
    assert {t.dtype for t in state.values()} == {torch.float64}
    assert list(state["image/mean"].shape) == [2, 3]


def test_booleans_and_complex_numbers_pass() -> None:
    """By default; by name they are an error."""
    tensors = columns()
    out = run(ready(Standardize(), tensors), tensors).tensors
    assert torch.equal(out["bool"], tensors["bool"])
    assert torch.equal(out["complex64"], tensors["complex64"])
    with pytest.raises(DTypeError, match="column 'bool' is bool; expected integers or floating-point numbers"):
        Standardize(["bool"]).update({}, tensors, {})


def test_constants_need_no_pass() -> None:
    """They are the whole configuration, in the shape of a row or as one number."""
    given_ = Standardize(["x"], {"x": [1.0, 2.0]}, {"x": 0.5})
    assert isinstance(given_, Fittable)
    assert given_.fitted
    assert given_({"x": torch.tensor([[2, 2]])})["x"].tolist() == [[2, 0]]


def test_tensors_made_ready_do_not_travel() -> None:
    """A pickle holds what was learned and equals the original, used or not."""
    used = ready(Standardize(), columns())
    fresh = pickle.dumps(used)
    used(columns())
    assert len(pickle.dumps(used)) == len(fresh)
    assert pickle.loads(fresh) == used


def test_columns_that_were_not_seen_are_an_error() -> None:
    """Silence would leave them as they are."""
    with pytest.raises(ConfigError, match="column 'y' has no mean and std; there are for: x. Name the columns"):
        Standardize(None, {"x": 1}, {"x": 1})({"x": torch.zeros(3), "y": torch.zeros(3)})
    with pytest.raises(TransformError, match="Standardize is not fitted"):
        Standardize()({"x": torch.zeros(3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"over": "columns"}, "transform.over must be rows or all; got 'columns'"),
        ({"dtype": "int8"}, "transform.dtype must be a floating dtype; got int8"),
        ({"mean": {"x": 1}}, "given together"),
        ({"mean": {"x": 1}, "std": {"y": 1}}, "only one has x, y"),
        ({"mean": {"x": 1}, "std": {"x": 0}}, "transform.std.x finite and above 0"),
        ({"mean": {"x": [1, math.nan]}, "std": {"x": 1}}, "transform.mean.x must be finite"),
        ({"mean": {"x": "one"}, "std": {"x": 1}}, "transform.mean.x must be a number or nested lists"),
        ({"mean": {"x": [[1], [1, 2]]}, "std": {"x": 1}}, "transform.mean.x must be a number or nested lists"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        Standardize(**arguments)  # type: ignore[arg-type]


def test_the_shape_of_constants_is_checked() -> None:
    """Broadcasting would hide a mistake."""
    with pytest.raises(ConfigError, match=r"transform.mean.x has shape \[1\]; a row of the column has \[3\]"):
        Standardize(None, {"x": [1]}, {"x": 1})({"x": torch.zeros(2, 3)})
