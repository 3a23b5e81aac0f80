"""Faults as data: where a process dies. Run as a program, it is a small stage that dies there."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import Part, Task


def die() -> None:
    """As with kill -9: no handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DieBeforeCommit:
    """An engine that dies when part `part` is published and not yet recorded."""

    part: int

    def map(self, worker: Callable[[Iterable[Task]], Iterator[Part]], tasks: Sequence[Task]) -> Iterator[Part]:
        for part in worker(tasks):
            if part.index == self.part:
                die()
            yield part


@dataclass(frozen=True)
class DieInBatch:
    """A transform that dies in its n-th batch; 0 for never."""

    call: int
    calls: list[int] = field(default_factory=list)

    def __call__(self, tensors: Any) -> Any:
        self.calls.append(1)
        if len(self.calls) == self.call:
            die()
        return tensors


def hang(tensors: Any) -> Any:
    """A transform that stops its process, for the parent to notice, and then never returns."""
    if len(next(iter(tensors.values()))):
        os.kill(os.getpid(), signal.SIGSTOP)
        threading.Event().wait()
    return tensors


def noisy(tensors: Any) -> Any:
    """A transform that prints to the standard streams by their numbers, as libraries in C do."""
    os.write(1, b"noise")
    os.write(2, b"noise")
    return tensors


def checked(out: Path, point: str = "", number: int = 0) -> None:
    """Run a stage that takes rows out, with one fault."""
    from pipeline.check.checks import parse
    from pipeline.engine.local import Local
    from tests.fakes import Rows, run_rows, table

    low = {"column": "word", "allowed": ["w0", "w1"], "action": "quarantine"}
    checks = parse({"input": [low, {"column": "id", "unique": True}]})
    engine = DieBeforeCommit(number) if point == "publish" else Local()
    transform = DieInBatch(number if point == "batch" else 0)
    run_rows(Rows(table(500)), transform, out, engine=engine, columns=["id", "x"], checks=checks)


def main(out: str, fmt: str, point: str, number: int) -> None:
    """Run the stage with one fault."""
    if fmt == "checked":
        checked(Path(out), point, number)
        return
    from pipeline.engine.local import Local
    from pipeline.sink.npz import Npz
    from pipeline.sink.parquet import Parquet
    from tests.fakes import Rows, run_rows, table

    sink = Parquet(out) if fmt == "parquet" else Npz(out)
    engine = DieBeforeCommit(number) if point == "publish" else Local()
    transform = DieInBatch(number if point == "batch" else 0)
    run_rows(Rows(table(500)), transform, Path(out), engine=engine, sink=sink, columns=["id", "x"], carry="none")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
