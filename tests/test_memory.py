"""Memory depends on the batch, not on the input."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core import ArrayField, Columns, Schema, Split
from pipeline.device.cpu import Cpu
from pipeline.memory import Memory, growth
from tests.fakes import Rows, run_rows, same, table

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Made:
    """Rows of 64 floats, made as they are read."""

    rows: int

    def schema(self) -> Schema:
        return Schema((ArrayField("data", np.dtype("f4"), (64,)),))

    def splits(self) -> list[Split]:
        return [Split("all", "1", self.rows, self.rows * 256)]

    def read(self, split: Split) -> Iterator[Columns]:
        for start in range(0, self.rows, 4096):
            yield {"data": np.full((min(4096, self.rows - start), 64), start, np.float32)}


def main(out: str, rows: int) -> None:
    """Run the stage over made rows and print the peak of this process in kB."""
    import resource

    from pipeline.sink.npy import Npy
    from pipeline.sink.parquet import Parquet

    sink = Npy(out) if out.endswith(".npy") else Parquet(out, row_group_bytes=4 << 20)
    run_rows(Made(rows), same, Path(out), sink=sink, batch_rows=4096)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")


def peak(out: Path, rows: int) -> int:
    """Peak memory in bytes of a process that runs `main`."""
    argv = [sys.executable, "-m", "tests.test_memory", str(out), str(rows)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) * 1024


@pytest.mark.parametrize("name", ["out.npy", "out.parquet"])
def test_peak_memory_stays_when_the_input_grows_tenfold(tmp_path: Path, name: str) -> None:
    """200 MB of rows take no more than 20 MB of rows, give or take the allocators' slack."""
    small = peak(tmp_path / f"a-{name}", 80_000)
    large = peak(tmp_path / f"b-{name}", 800_000)
    assert large - small < 50 << 20


MB = 1_000_000


@pytest.mark.parametrize(
    ("held", "grown"),
    [
        ([i * 5 * MB for i in range(20)], 75 * MB),
        ([1000 * MB + i * 5 * MB for i in range(20)], 0),
        ([i * MB for i in range(20)], 0),
        ([100 * MB + min(i, 8) * 50 * MB for i in range(20)], 0),
        ([100 * MB + (i % 5) * 50 * MB for i in range(20)], 0),
        ([i * 5 * MB + (i % 3) * 40 * MB for i in range(20)], 75 * MB),
        ([i * 50 * MB for i in range(19)], 0),
    ],
    ids=["grows", "less than a tenth", "little", "settles", "comes and goes", "grows beneath", "too few parts"],
)
def test_memory_that_grows_steadily_is_told_from_memory_that_is_used(held: list[int], grown: int) -> None:
    """The least of each five parts counts, since batches in flight come and go."""
    assert growth(held) == grown


@dataclass
class Keeps:
    """A device whose transform keeps 2 MB more in each part."""

    parts: int = 0

    def peak_memory(self) -> int:
        self.parts += 1
        return self.parts * 4 * MB


def test_a_leak_is_told_once_in_twenty_parts() -> None:
    """With the amount and the place; the report has every part."""
    memory = Memory(Keeps())
    told = [memory.add() for _ in range(45)]
    assert [i for i, words in enumerate(told) if words] == [19, 39]
    assert told[19].startswith("memory of the device has grown steadily: 60 MB over the last 20 parts")
    facts = memory.facts()
    assert [len(each) for each in facts.values()] == [45, 45, 45]
    assert min(facts["resident_bytes"]) > 10 * MB
    assert facts["peak_bytes"] == sorted(facts["peak_bytes"])


def test_the_first_parts_of_a_process_may_grow() -> None:
    """Pages that an allocator keeps for later are no leak; what grows after them is."""
    grows = [i * 5 * MB for i in range(19)]
    assert Memory(resident=grows.copy()).add() == ""
    told = Memory(resident=[0] * 20 + grows).add()
    assert told.startswith("memory of the process has grown steadily: 75 MB over the last 20 parts")


def leak(out: str) -> None:
    """Run a stage of 40 parts whose transform keeps 4 MB of each."""
    kept: list[Any] = []

    def keeps(tensors: Any) -> Any:
        kept.append(torch.ones(MB))
        return tensors

    logging.basicConfig()
    run_rows(Rows(table(4000)), keeps, Path(out), columns=["x"], carry="none", batch_rows=100, stream_depth=0)


class Leaky(Cpu):
    """A device that holds more after each part."""

    held = 0

    def peak_memory(self) -> int:
        Leaky.held += 4 * MB
        return Leaky.held


def test_a_run_warns_of_a_leak(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the part at which it is known; the report has all parts."""
    run_rows(Rows(table(400), splits_of=20), same, tmp_path, columns=["x"], carry="none", device=Leaky())
    assert "memory of the device has grown steadily: 60 MB" in caplog.text
    facts = json.loads((tmp_path / "_pipeline/report.json").read_text())["memory"]
    assert [len(each) for each in facts.values()] == [20, 20, 20]


@pytest.mark.slow
def test_a_transform_that_keeps_its_tensors_is_warned_of(tmp_path: Path) -> None:
    """Seen from the resident set alone, within forty parts of a real run, in a process that did nothing before."""
    argv = [sys.executable, "-c", "import sys; from tests.test_memory import leak; leak(sys.argv[1])", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "memory of the process has grown steadily: " in done.stderr


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
