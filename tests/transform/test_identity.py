"""The transform that changes nothing, and what a user may use instead of a built-in one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pipeline.core import Output, Tensors, Transform, apply
from pipeline.errors import TransformError
from pipeline.testing.transform import TransformContract
from pipeline.transform.identity import Identity
from tests.transform.sample import columns


class TestIdentity(TransformContract):
    """Keeps the contract."""

    def make(self) -> Transform:
        return Identity()

    def tensors(self) -> Tensors:
        return columns()


def doubled(tensors: Tensors, by: int = 2) -> Tensors:
    """A plain function."""
    return {name: tensor * by for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Above:
    """A plain dataclass that selects rows."""

    bound: float

    def __call__(self, tensors: Tensors) -> Output:
        rows = tensors["x"] > self.bound
        return Output({"x": tensors["x"][rows]}, rows=rows)


class Affine(nn.Module):
    """A module from columns to columns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"][:, None] * self.weight}


class Sum:
    """It remembers, which none may."""

    total = 0.0

    def __call__(self, tensors: Tensors) -> Tensors:
        self.total += float(tensors["x"].sum())
        return {"x": tensors["x"] + self.total}


def x() -> Tensor:
    return torch.arange(10, dtype=torch.float32)


class TestFunction(TransformContract):
    """A plain function keeps the contract."""

    def make(self) -> Transform:
        return doubled

    def tensors(self) -> Tensors:
        return {"x": x()}


class TestDataclass(TestFunction):
    """A dataclass that selects rows keeps the contract."""

    def make(self) -> Transform:
        return Above(3.0)


class TestModule(TestFunction):
    """A module keeps the contract."""

    def make(self) -> Transform:
        return Affine()


def test_nothing_is_copied() -> None:
    """The tensors that come out are those that went in."""
    tensors = columns()
    out = apply(Identity(), tensors, {"bool": torch.ones(23, dtype=torch.bool)}, 23)
    assert all(out.tensors[name] is tensor for name, tensor in tensors.items())
    assert list(out.validity) == ["bool"]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (lambda t: {"x": t["x"] - t["x"].mean()}, "test_the_size_of_batches_does_not_matter"),
        (lambda t: {"x": t["x"].double() if len(t["x"]) else t["x"]}, "test_no_rows_give_the_same_kinds_of_columns"),
        (Sum(), "test_the_same_input_gives_the_same_bits"),
    ],
)
def test_the_contract_finds_broken_transforms(broken: Transform, law: str) -> None:
    """One that depends on the batch, one whose dtype depends on the rows, one that remembers."""

    class Broken(TestFunction):
        def make(self) -> Transform:
            return broken

    with pytest.raises(AssertionError):
        getattr(Broken(), law)(*([3] if "size" in law else []))


def test_a_changed_number_of_rows_must_be_declared() -> None:
    """`apply` does not guess which rows were kept."""
    with pytest.raises(TransformError, match="column 'x' has 4 rows"):
        apply(lambda t: {"x": t["x"][:4]}, {"x": x()}, {}, 10)
