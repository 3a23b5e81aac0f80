"""Any module on a column."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core import Tensors, Transform, apply
from pipeline.errors import ConfigError, DTypeError, InputError, PipelineError, TransformError
from pipeline.testing.transform import TransformContract
from pipeline.transform.module import Module


def linear(seed: int = 0) -> nn.Module:
    """Random weights, the same on every call, and a layer that only evaluation mode makes deterministic."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))


class Both(nn.Module):
    """Two arguments, two results."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a - b


def images(rows: int = 11) -> Tensors:
    pixels = torch.arange(rows * 6).reshape(rows, 2, 3).to(torch.uint8)
    return {"image": pixels, "label": torch.arange(rows), "x": torch.arange(rows) * 0.5}


class TestModule(TransformContract):
    """Keeps the contract, up to the rounding of matrix products."""

    rtol, atol = 1e-5, 1e-5

    def make(self) -> Transform:
        return Module(linear(), ["image"], ["logits"], dtype="float32")

    def tensors(self) -> Tensors:
        return images()


class TestSeveral(TransformContract):
    """Keeps the contract with two arguments, of which one is replaced."""

    def make(self) -> Transform:
        return Module(Both(), ["label", "x"], ["x", "difference"])

    def tensors(self) -> Tensors:
        return images()


class TestEmbedding(TransformContract):
    """Keeps the contract where an arbitrary number under a null would be no index."""

    def make(self) -> Transform:
        torch.manual_seed(0)
        return Module(nn.Embedding(11, 3), ["label"], ["vector"], keep=False)

    def tensors(self) -> Tensors:
        return images()


def test_the_only_column_is_replaced_by_default() -> None:
    """Whatever its name."""
    out = apply(Module(nn.Flatten()), {"image": images()["image"]}, {}, 11)
    assert {name: list(t.shape) for name, t in out.tensors.items()} == {"image": [11, 6]}


@pytest.mark.parametrize(("keep", "names"), [(True, ["image", "label", "x", "y"]), (False, ["y"])])
def test_other_columns_stay_or_go(keep: bool, names: list[str]) -> None:
    """As configured; the inputs are among them."""
    assert list(apply(Module(nn.Flatten(), ["image"], ["y"], keep=keep), images(), {}, 11).tensors) == names


def test_a_row_is_null_if_an_input_is() -> None:
    """And an output without nulls does not get them from the column that it replaces."""
    valid = {"label": torch.arange(11) != 1, "x": torch.arange(11) != 2}
    both = apply(Module(Both(), ["label", "x"], ["x", "y"]), images(), valid, 11)
    assert {name: (~v).nonzero().flatten().tolist() for name, v in both.validity.items()} == {
        "x": [1, 2],
        "y": [1, 2],
        "label": [1],
    }
    assert apply(Module(nn.Flatten(), ["image"], ["x"]), images(), valid, 11).validity["x"].all()


def test_a_module_that_mixes_rows_is_refused_nulls() -> None:
    """A null would spread to all of them."""
    mixing = Module(nn.Softmax(dim=0), ["x"], ["x"], rowwise=False)
    with pytest.raises(DTypeError, match="column 'x' holds nulls, and all rows of a module that is not row-wise"):
        apply(mixing, images(), {"x": torch.arange(11) != 1}, 11)
    assert apply(mixing, images(), {"label": torch.arange(11) != 1}, 11).tensors["x"].sum() == pytest.approx(1)


def test_results_need_no_gradient() -> None:
    """Outside inference mode too."""
    module = Module(linear(), ["image"], dtype="float32")
    module.setup("cpu")
    assert not module(images()).tensors["image"].requires_grad


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    """All of them, and nothing else of it."""
    path = str(tmp_path / "w.safetensors")
    save_file(linear(seed=1).state_dict(), path)
    with_weights = Module(linear(seed=0), weights=path, dtype="float32")
    with_weights.setup("cpu")
    expected = linear(seed=1).eval()(images()["image"].float())
    assert torch.equal(with_weights({"image": images()["image"]}).tensors["image"], expected)


def test_narrow_weights_are_widened_and_tied_ones_found(tmp_path: Path) -> None:
    """Neither loses anything."""
    path = str(tmp_path / "w.safetensors")
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    save_file({"0.weight": torch.full((2, 2), 0.5, dtype=torch.bfloat16)}, path)
    Module(nn.Sequential(first, second), weights=path).setup("cpu")
    assert second.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.weight": None}, "does not fit Sequential; missing: 1.weight; unknown: none"),
        ({"2.weight": torch.zeros(1)}, "missing: none; unknown: 2.weight"),
        ({"1.weight": torch.zeros(4, 5)}, r"1.weight is \[4, 5\], expected \[4, 6\]"),
        ({"1.weight": torch.zeros(4, 6, dtype=torch.float64)}, "1.weight is float64, which does not go into float32"),
    ],
)
def test_weights_of_another_module_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    """With what differs; nothing is left at random and nothing rounded."""
    path = str(tmp_path / "w.safetensors")
    changed = {**linear().state_dict(), **change}
    save_file({name: t for name, t in changed.items() if t is not None}, path)
    with pytest.raises(ConfigError, match=message):
        Module(linear(), weights=path).setup("cpu")


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    """A pickle could run anything."""
    path = tmp_path / "w.pt"
    torch.save(linear().state_dict(), path)
    with pytest.raises(InputError, match="w.pt' is no safetensors file .*; pickled weights are not read"):
        Module(linear(), weights=str(path)).setup("cpu")
    with pytest.raises(InputError, match="transform.weights: there is no file 'nowhere'"):
        Module(linear(), weights="nowhere").setup("cpu")


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Module(nn.Flatten()), ConfigError, "transform.inputs: name what the module takes, of image, label, x"),
        (
            Module(nn.Flatten(), ["imge"]),
            ConfigError,
            "transform.inputs: 'imge' is no tensor column - did you mean 'image'",
        ),
        (Module(linear(), ["image"]), TransformError, r"Sequential raised RuntimeError: .*'image': uint8\[11, 2, 3\]"),
        (Module(Both(), ["x", "x"], ["y"]), TransformError, "Both returned 2 tensors; transform.outputs names y"),
        (Module(nn.LSTM(3, 1), ["image"], dtype="float32"), TransformError, "LSTM returned tuple; expected a tensor"),
        (Module(nn.Flatten(0), ["image"]), TransformError, "column 'image' has 66 rows"),
    ],
)
def test_what_does_not_fit_is_named(module: Module, error: type[PipelineError], message: str) -> None:
    """Columns, dtypes, shapes."""
    with pytest.raises(error, match=f"(?s){message}"):
        apply(module, images(), {}, 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": torch.relu}, "transform.module must be an nn.Module; got builtin_function_or_method"),
        ({"inputs": []}, "transform.inputs is empty"),
        ({"inputs": ["a", "b"]}, "transform.outputs: name what"),
        ({"outputs": ["a", "a"]}, "transform.outputs must be different names"),
        ({"outputs": []}, "transform.outputs must be different names"),
        ({"dtype": "double"}, "transform.dtype: no dtype is called 'double'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        Module(**{"module": nn.ReLU(), **arguments})  # type: ignore[arg-type]


def test_autocast_computes_in_fewer_digits_and_returns_the_usual_dtype() -> None:
    """The result differs from that of float32 by the digits of bfloat16, and its type does not, for no rows either."""
    plain, narrow = (Module(linear().eval(), ["image"], ["y"], dtype="float32", autocast=a) for a in (None, "bfloat16"))
    with torch.inference_mode():
        expected, found = (m(images()).tensors["y"] for m in (plain, narrow))
        assert narrow(images(0)).tensors["y"].dtype == torch.float32
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1.0)
