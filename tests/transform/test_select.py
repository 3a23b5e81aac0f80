"""Keeping, dropping, renaming."""

from __future__ import annotations

import pytest
import torch

from pipeline.core import Tensors, Transform, apply
from pipeline.errors import ConfigError
from pipeline.testing.transform import TransformContract
from pipeline.transform.select import Select
from tests.transform.sample import columns


class TestSelect(TransformContract):
    """Keeps the contract."""

    def make(self) -> Transform:
        return Select(
            ["uint*", "float*", "bool"], drop=["*16"], rename={"bool": "flag", "float32": "float64", "float64": "f"}
        )

    def tensors(self) -> Tensors:
        return columns()


ABC = {name: torch.full((2,), i) for i, name in enumerate(["a", "b", "c", "d1"])}


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (Select(), "a b c d1"),
        (Select(["c", "?"]), "c a b"),
        (Select(drop=["?"]), "d1"),
        (Select(["a", "c"], ["c"]), "a"),
        (Select(rename={"a": "x"}), "x b c d1"),
        (Select(["a", "b"], rename={"a": "b", "b": "a"}), "b a"),
        (Select(drop=["b"], rename={"a": "b"}), "b c d1"),
    ],
)
def test_columns_stay_go_and_are_renamed(select: Select, names: str) -> None:
    """In this order; two may swap names, and one may take the name of one that goes."""
    assert list(select(ABC).tensors) == names.split()


def test_nulls_and_type_move_along() -> None:
    """Under the new name, and only there."""
    validity = {"a": torch.tensor([True, False]), "c": torch.tensor([False, True])}
    out = apply(Select(["a", "b", "c"], rename={"a": "b", "b": "a"}), ABC, validity, 2)
    assert out.like == {"b": "a", "a": "b"}
    assert {name: valid.tolist() for name, valid in out.validity.items()} == {"b": [True, False], "c": [False, True]}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (Select(["x"]), "transform.columns: 'x' matches no tensor column"),
        (Select(["a"], drop=["b"]), "transform.drop: 'b' matches no tensor column. There are: a"),
        (Select(rename={"d2": "x"}), "transform.rename: 'd2' is no tensor column that stays. There are: a, b, c, d1"),
        (Select(rename={"a": "b"}), "transform.rename gives 'a' the name 'b', which another column has"),
    ],
)
def test_unknown_and_double_names_are_errors(select: Select, message: str) -> None:
    """With what there is."""
    with pytest.raises(ConfigError, match=message):
        select(ABC)


def test_two_columns_cannot_get_one_name() -> None:
    """Which is known without data."""
    with pytest.raises(ConfigError, match="transform.rename gives the name 'x' to two columns"):
        Select(rename={"a": "x", "b": "x"})
