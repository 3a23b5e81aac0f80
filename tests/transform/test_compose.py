"""Several transforms as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core import Fittable, Output, Tensors, Transform, Validity, apply
from pipeline.errors import ConfigError, DTypeError, TransformError
from pipeline.testing.transform import FittableContract, TransformContract, learned, ready
from pipeline.transform.cast import Cast
from pipeline.transform.clip import Clip
from pipeline.transform.compose import Compose
from pipeline.transform.identity import Identity
from pipeline.transform.select import Select
from pipeline.transform.standardize import Standardize
from tests.transform.sample import columns


@dataclass(frozen=True)
class Even:
    """Keeps the rows in which a column is even, by mask or by index, twice each if asked."""

    column: str
    times: int = 0

    def __call__(self, tensors: Tensors) -> Output:
        return self.with_validity(tensors, {})

    def with_validity(self, tensors: Tensors, validity: Validity) -> Output:
        rows = (tensors[self.column] % 2 == 0) & validity.get(self.column, torch.tensor(True))
        if self.times:
            rows = rows.nonzero().flatten().repeat_interleave(self.times)
        return Output({name: tensor[rows] for name, tensor in tensors.items()}, rows=rows)


class TestCompose(TransformContract):
    """Keeps the contract; rows are selected in two steps and columns renamed."""

    def make(self) -> Transform:
        return Compose([Even("int64"), Select(["*8", "float*"], rename={"int8": "x"}), Clip(1, 90), Even("x", times=2)])

    def tensors(self) -> Tensors:
        return columns()


class TestLearning(FittableContract):
    """Keeps the contract; two steps learn, each from what the one before returns."""

    fit_rtol, fit_atol = 1e-4, 1e-4

    def make(self) -> Transform:
        steps: dict[str, Transform] = {
            "select": Select(["int32", "float32", "matrix"]),
            "first": Standardize(),
            "clip": Clip(-1, 1),
            "second": Standardize(),
        }
        return Compose(steps)

    def tensors(self) -> Tensors:
        return columns()


def x(*values: float) -> Tensors:
    return {"x": torch.tensor(values)}


def test_steps_run_in_order() -> None:
    """A list and a mapping are the same; the names mean nothing."""
    steps: dict[str, Transform] = {"2": Clip(max=2), "1": lambda t: {"x": t["x"] * 10}}
    for given in (steps, list(steps.values())):
        assert apply(Compose(given), x(1, 5), {}, 2).tensors["x"].tolist() == [10, 20]


@pytest.mark.parametrize("times", [0, 1, 2])
def test_rows_are_those_of_the_input(times: int) -> None:
    """However many steps select or repeat them."""
    tensors = {"x": torch.arange(12), "y": torch.arange(12) // 2}
    validity = {"y": torch.arange(12) != 4}
    out = apply(Compose([Even("x", times), Clip(0, 9), Even("y", times)]), tensors, validity, 12)
    assert out.rows is not None
    assert out.rows.tolist() == [row for row in (0, 8) for _ in range(max(1, times**2))]
    assert torch.equal(out.tensors["y"], tensors["y"][out.rows])


def test_nulls_follow_new_names() -> None:
    """Through every step, with the stored type of the input column."""
    steps: list[Transform] = [Select(rename={"x": "y"}), Identity(), Select(rename={"y": "z"})]
    out = apply(Compose(steps), x(1, 2), {"x": torch.tensor([True, False])}, 2)
    assert (out.validity["z"].tolist(), out.like) == ([True, False], {"z": "x"})


def test_a_new_column_does_not_inherit_nulls_from_an_old_name() -> None:
    """`x` went in a step before, and another column has its name now."""
    tensors = {"x": torch.ones(2), "y": torch.ones(2)}
    steps: list[Transform] = [Select(["y"]), lambda t: Output({**t, "x": t["y"] + 1})]
    out = apply(Compose(steps, nulls="mask"), tensors, {"x": torch.tensor([True, False])}, 2)
    assert out.validity["x"].all()


def test_steps_that_take_no_masks_are_refused_nulls() -> None:
    """Unless the configuration says that they work column by column."""
    null = {"x": torch.tensor([True, False])}
    steps: dict[str, Transform] = {"clip": Clip(max=2), "mine": partial(torch_abs, by=2)}
    with pytest.raises(DTypeError, match=r"step 'mine' \(torch_abs\): column 'x' holds nulls .* transform.nulls=mask"):
        apply(Compose(steps), x(-1, 5), null, 2)
    out = apply(Compose(steps, nulls="mask"), x(-1, 5), null, 2)
    assert (out.tensors["x"][0].item(), out.validity["x"].tolist()) == (2, [True, False])


def torch_abs(tensors: Tensors, by: int) -> Tensors:
    return {name: tensor.abs() * by for name, tensor in tensors.items()}


def test_each_pass_fits_one_step() -> None:
    """On what the steps before return; the others are left alone."""
    tensors = x(0, 2, 4, 100)
    transform: Any = Compose({"clip": Clip(max=6), "first": Standardize(), "second": Standardize()})
    for passes, fitted in ((1, False), (2, True)):
        transform = transform.finish(learned(transform, [tensors]))
        assert transform.fitted is fitted, passes
    assert transform.steps["first"].mean == {"x": 3.0}
    assert transform.steps["second"].mean["x"] == pytest.approx(0, abs=1e-7)
    assert transform.steps["second"].std["x"] == pytest.approx(1)


def test_nulls_are_not_counted_by_a_later_step() -> None:
    """The masks reach it."""
    transform = Compose([Select(rename={"x": "y"}), Standardize()])
    done: Any = transform.finish(learned(transform, [x(1, 3, 50)], {"x": torch.tensor([True, True, False])}))
    assert done.steps[1].mean == {"y": 2.0}


def test_a_compose_without_learners_is_fitted() -> None:
    """It needs no pass over the data, and says so if it is given one."""
    transform = Compose([Clip(max=1)])
    assert isinstance(transform, Fittable)
    assert transform.fitted
    with pytest.raises(TransformError, match="nothing to learn"):
        transform.start()


@dataclass
class Prepared:
    """It notes the device."""

    devices: list[str] = field(default_factory=list)
    rowwise: bool = False

    def setup(self, device: str) -> None:
        self.devices.append(device)

    def __call__(self, tensors: Tensors) -> Tensors:
        return tensors


class Doubling(nn.Module):
    """A module of a user, from columns to columns."""

    def forward(self, tensors: Tensors) -> Tensors:
        return {name: tensor * 2 for name, tensor in tensors.items()}


def test_steps_are_prepared_for_the_device() -> None:
    """A module is put into evaluation mode, nested ones too."""
    mine, module = Prepared(), Doubling()
    Compose([mine, Compose([module])]).setup("cpu")
    assert mine.devices == ["cpu"]
    assert not module.training


@pytest.mark.parametrize(
    ("steps", "rowwise"),
    [
        ([Clip(max=1), Clip(min=0)], True),
        ([Clip(max=1), torch_abs], None),
        ([Prepared()], False),
        ([Compose([Prepared()])], False),
    ],
)
def test_it_is_rowwise_if_all_steps_are(steps: list[Transform], rowwise: bool | None) -> None:
    """A step that does not say counts as such."""
    assert Compose(steps).rowwise is rowwise


def raising(tensors: Tensors) -> Tensors:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        ({"a": Identity(), "b": raising}, TransformError, r"step 'b' \(raising\) raised ValueError: no"),
        ([lambda t: 3], TransformError, r"step '0' \(.*lambda.*\): the transform returned int"),
        ([Compose({"in": Cast("int8")})], TransformError, r"step '0' \(Compose\): step 'in' \(Cast\): column 'x': 0.5"),
        ({"s": Select(["y"])}, ConfigError, r"step 's' \(Select\): transform.columns: 'y' matches no"),
        ([Standardize(), Clip(max=1)], TransformError, r"step '0' \(Standardize\): Standardize is not fitted"),
    ],
)
def test_errors_name_the_step(steps: Mapping[str, Transform], error: type[Exception], message: str) -> None:
    """And keep their class."""
    with pytest.raises(error, match=message):
        apply(Compose(steps), x(0.5), {}, 1)


def test_running_out_of_memory_keeps_its_class() -> None:
    """The driver knows what to do about it."""

    def greedy(tensors: Tensors) -> Tensors:
        raise torch.OutOfMemoryError("all of it")

    with pytest.raises(torch.OutOfMemoryError):
        apply(Compose([greedy]), x(1), {}, 1)


def test_errors_of_a_pass_name_the_step() -> None:
    """Whether a step before fails or the one that learns."""
    with pytest.raises(TransformError, match=r"step '0' \(raising\)"):
        learned(Compose([raising, Standardize()]), [x(1)])
    transform = Compose({"s": Standardize()})
    with pytest.raises(Exception, match=r"step 's' \(Standardize\): column 'x' has no finite"):
        ready(transform, x(1, torch.inf))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "transform.steps is empty"),
        ({"a": 3}, "transform.steps.a is a int; expected a transform"),
        ([None], "transform.steps.0 is a NoneType"),
    ],
)
def test_steps_are_checked(steps: Any, message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        Compose(steps)
    with pytest.raises(ConfigError, match="transform.nulls must be error or mask; got 'fill'"):
        replace(Compose([Identity()]), nulls="fill")  # type: ignore[arg-type]
