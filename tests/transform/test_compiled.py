"""What is compiled gives the results of what is not, and is compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from pipeline import compiling
from pipeline.core import Tensors, Transform, concurrent, rowwise
from pipeline.errors import ConfigError, TransformError
from pipeline.testing.transform import TransformContract
from pipeline.transform.clip import Clip
from pipeline.transform.compiled import Compiled
from pipeline.transform.module import Module
from tests.fakes import Rows, run_rows, table
from tests.test_run import digests

ROOT = Path(__file__).resolve().parent.parent.parent


def ratio(tensors: Tensors) -> Tensors:
    """Some small steps."""
    return {**tensors, "ratio": (tensors["x"] * 2 - 1).tanh() / (tensors["n"].abs() + 1)}


class TestCompiled(TransformContract):
    """A function."""

    rtol = 1e-6

    def make(self) -> Transform:
        return Compiled(ratio, backend="aot_eager")

    def tensors(self) -> Tensors:
        return {"x": torch.linspace(-3, 3, 11), "n": torch.arange(11.0)}


class TestCompiledModule(TransformContract):
    """A module on a column."""

    rtol = 1e-5

    def make(self) -> Transform:
        torch.manual_seed(0)
        return Module(nn.Sequential(nn.Linear(3, 2), nn.GELU()), ["x"], ["y"], compile="aot_eager")

    def tensors(self) -> Tensors:
        return {"x": torch.linspace(-3, 3, 33).view(11, 3)}


def test_batches_of_all_sizes_are_compiled_once() -> None:
    """The last batch of a split too; those of no row or one are not."""
    counter: Any = CompileCounter()
    call = compiling.compiled(ratio, counter, "transform.backend")
    for rows in (0, 16, 16, 1, 7, 2, 100, 0):
        tensors = {"x": torch.rand(rows), "n": torch.rand(rows)}
        assert torch.equal(call(tensors)["ratio"], ratio(tensors)["ratio"])
    assert counter.frame_count == 1


def test_a_run_takes_it_and_the_key_of_its_parts_too(tmp_path: Path) -> None:
    """One thread calls it; what is compiled is other code, so that parts are made again."""
    made = Compiled(ratio, backend="aot_eager")
    options: dict[str, Any] = {"columns": ["x"], "carry": "none"}
    run_rows(Rows(table()), Compiled(doubled, "aot_eager"), tmp_path / "a", **options)
    run_rows(Rows(table()), doubled, tmp_path / "b", **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert not concurrent(made)
    assert not concurrent(Module(nn.Flatten().eval(), compile="eager"))
    assert concurrent(Module(nn.Flatten().eval()))


def doubled(tensors: Tensors) -> Tensors:
    return {"x": tensors["x"] * 2}


@dataclass
class Mixed:
    """Says that its rows depend on each other."""

    rowwise: bool = False

    def __call__(self, tensors: Tensors) -> Tensors:
        return tensors


def test_it_is_rowwise_as_its_step_is() -> None:
    """Or says nothing, as the step."""
    assert [rowwise(Compiled(step, "eager")) for step in (Mixed(), Mixed(rowwise=True), ratio)] == [False, True, None]
    assert [str(Compiled(step, "eager")) for step in (Mixed(), ratio)] == ["Mixed (compiled)", "ratio (compiled)"]
    assert str(Module(nn.Flatten(), autocast="bfloat16", compile=True)) == "Module (autocast bfloat16, compiled)"


def test_what_cannot_be_compiled_is_refused() -> None:
    """With the key, and what to do."""
    with pytest.raises(ConfigError, match=r"transform.step: Clip learns or takes validity masks"):
        Compiled(Clip(0), "eager")
    with pytest.raises(ConfigError, match=r"transform.backend must be true, false or one of .*inductor.*got 'tvn'"):
        Compiled(ratio, "tvn")
    with pytest.raises(ConfigError, match=r"transform.compile must be true, false or one of"):
        Module(nn.Flatten(), compile="tvn")


def refuses(graph: Any, examples: Any) -> Any:
    """A backend that makes nothing."""
    raise RuntimeError("planned")


def test_a_backend_that_fails_is_an_error_with_a_way_out() -> None:
    """Of the module too."""
    call = compiling.compiled(ratio, refuses, "transform.compile")
    with pytest.raises(TransformError, match=r"cannot be compiled: \w+: .*planned.*Set transform.compile=false"):
        call({"x": torch.ones(3), "n": torch.ones(3)})


def test_without_a_compiler_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before a row is read; other devices and backends do not need it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    made = Module(nn.Flatten(), compile=True)
    with pytest.raises(ConfigError, match=r"transform.compile=true needs a C\+\+ compiler.*transform.compile=false"):
        made.setup("cpu")
    Module(nn.Flatten(), compile="aot_eager").setup("cpu")


@pytest.mark.slow
def test_kernels_are_made_and_kept_for_the_next_run(tmp_path: Path) -> None:
    """In this process, for all sizes of batches; the results are those of the plain module."""
    np.save(tmp_path / "x.npy", np.linspace(-3, 3, 1000, dtype=np.float32).reshape(-1, 4))
    module = (
        "transform=module", "transform.module._target_=torch.nn.GELU", "source=npy", "sink=npy", "batch.rows=64",
        "+device=cpu", "log.progress=none", f"source.path={tmp_path / 'x.npy'}",
    )  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
    env = {**kept, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("true", "false"):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *module, f"transform.compile={name}", f"sink.path={name}.npy"],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("(compiled)" in done.stderr) == (name == "true")
    assert np.allclose(np.load(tmp_path / "true.npy"), np.load(tmp_path / "false.npy"), rtol=1e-5, atol=1e-6)
    assert list((tmp_path / "cache/tensor-etl-stage/torchinductor").rglob("*.so"))
