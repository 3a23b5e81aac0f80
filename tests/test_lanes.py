"""Several batches in the compute lane at once: the same bytes, and only where the transform says that it may be."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core import Tensors, Transform, concurrent
from pipeline.device.cpu import Cpu
from pipeline.errors import ConfigError, TransformError
from pipeline.transform.clip import Clip
from pipeline.transform.compose import Compose
from pipeline.transform.module import Module
from pipeline.transform.standardize import Standardize
from tests.fakes import Rows, run_rows, table
from tests.test_run import digests

ROOT = Path(__file__).resolve().parent.parent


def declared(function: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """A function that says that several threads may call it."""
    function.concurrent = True  # type: ignore[attr-defined]
    return function


def widened() -> Module:
    """A module whose result changes if a row meets other weights."""
    torch.manual_seed(0)
    return Module(nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3), nn.GELU()), ["x"], ["y"])


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "fitted": lambda: Compose([Standardize(["x"]), Clip(-1, 1, ["x"])]),
    "module": widened,
    "function": lambda: declared(lambda t: {"x": t["x"].flip(0)}),
}


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_bytes_do_not_depend_on_the_threads(tmp_path: Path, name: str, depth: int) -> None:
    """Order, values and what was learned; the key of a part does not either."""
    options: dict[str, Any] = {"columns": ["x"], "carry": ["id", "word"], "stream_depth": depth}
    run_rows(Rows(table(900)), TRANSFORMS[name](), tmp_path / "a", computers=1, **options)
    run_rows(Rows(table(900)), TRANSFORMS[name](), tmp_path / "b", computers=3, **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    again = run_rows(Rows(table(900)), TRANSFORMS[name](), tmp_path / "a", computers=2, **options)
    assert again["state"] == "nothing to do"


def test_two_threads_are_in_a_transform_that_allows_it(tmp_path: Path) -> None:
    """They meet there."""
    met = threading.Barrier(2)

    def meeting(tensors: Tensors) -> Tensors:
        if len(tensors["x"]):
            met.wait(timeout=10)
        return tensors

    run_rows(Rows(table(96), splits_of=96), declared(meeting), tmp_path / "a", columns=["x"], computers=2)


def test_one_thread_calls_what_says_nothing(tmp_path: Path) -> None:
    """By default, whatever cores there are; to ask for more is refused with the way out."""
    threads = set()

    def counting(tensors: Tensors) -> Tensors:
        threads.add(threading.get_ident())
        return tensors

    run_rows(Rows(table(900)), counting, tmp_path / "a", columns=["x"])
    assert len(threads - {threading.get_ident()}) == 1
    with pytest.raises(ConfigError, match=r"stream.computers=2: .*counting does not say that several threads may call"):
        run_rows(Rows(table()), counting, tmp_path / "b", columns=["x"], computers=2)
    with pytest.raises(ConfigError, match=r"stream.computers must be at least 1; got 0"):
        run_rows(Rows(table()), counting, tmp_path / "b", columns=["x"], computers=0)


class OneQueue(Cpu):
    """A device that wants to be asked by one thread, as CUDA does."""

    concurrent = False


def test_a_device_with_one_queue_is_asked_by_one_thread(tmp_path: Path) -> None:
    """Whatever the transform allows."""
    run_rows(Rows(table()), Clip(0, columns=["x"]), tmp_path / "a", columns=["x"], device=OneQueue())
    with pytest.raises(ConfigError, match=r"stream.computers=2: device=cpu has one queue of work; set stream.comp"):
        run_rows(Rows(table()), Clip(0), tmp_path / "b", columns=["x"], device=OneQueue(), computers=2)


def test_random_numbers_and_several_threads_do_not_go_together(tmp_path: Path) -> None:
    """Even where the transform says so: an error, and nothing is committed."""

    def noisy(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] + torch.rand(len(tensors["x"]))}

    with pytest.raises(TransformError, match=r"draws random numbers.*stream.computers=1"):
        run_rows(Rows(table()), declared(noisy), tmp_path / "a", columns=["x"], computers=2)
    assert digests(tmp_path / "a") == {}
    run_rows(Rows(table()), declared(noisy), tmp_path / "b", columns=["x"], computers=1)


class Counting(nn.Module):
    """Keeps something from call to call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def test_a_module_may_be_shared_if_all_of_it_is_torchs_own() -> None:
    """And is in evaluation mode, without hooks; code of users must say so itself."""
    assert not concurrent(Module(nn.Dropout()))  # as long as it is in training mode
    assert concurrent(Module(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()))
    assert not concurrent(Module(nn.Sequential(nn.Flatten(), Counting()).eval()))
    assert not concurrent(Module(nn.FractionalMaxPool2d(2, output_size=2).eval()))
    assert not concurrent(Module(nn.Embedding(2, 2, max_norm=1).eval()))
    hooked = nn.Linear(2, 2).eval()
    hooked.register_forward_hook(lambda *_: None)
    assert not concurrent(Module(hooked))
    assert concurrent(Compose([Clip(0), Module(nn.Flatten().eval())]))
    assert not concurrent(Compose([Clip(0), lambda t: t]))


def test_a_call_that_blocks_the_interpreter_is_ended_beside_others() -> None:
    """What returns meanwhile does not switch off the alarm of what does not."""
    code = """
import re, threading
from pipeline.watchdog import Watchdog
watchdog, inside = Watchdog(0.3, print, grace=0.2), threading.Event()
def short():
    with watchdog.over("a batch"):
        inside.set()
thread = threading.Thread(target=short)
with watchdog.over("another batch"):
    thread.start(), thread.join()
    re.match("(a+)+$", "a" * 60 + "b")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout" in done.stderr
