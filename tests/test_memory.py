"""Memory depends on the batch, not on the input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import ArrayField, Columns, Schema, Split

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
    from tests.fakes import run_rows, same

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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
