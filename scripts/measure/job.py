"""Work for the stage within this process, on any device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from measure.contender import SCRIPTS
from measure.lap import warm
from measure.workload import WORKLOADS
from pipeline.core import Arrays, Columns, File, Output, Schema, Sink, Source, Task, Transform, apply
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.parquet import Parquet
from pipeline.transform.identity import Identity
from pipeline.transform.module import Module


@dataclass(frozen=True)
class Job:
    """Work for the stage: `source` makes a new source, since one lists its input once."""

    name: str
    source: Callable[[], Source]
    transform: Transform
    suffix: str
    columns: Sequence[str] | None = None
    mapped: bool = False

    def sink(self, path: Path) -> Sink:
        """Where its output goes, in a folder."""
        return NpySink(str(path / "out.npy")) if self.suffix == ".npy" else ParquetSink(str(path))


def _mapped(place: Path) -> Job:
    return Job("identity", lambda: Npy(str(place / "in"), mmap=True), Identity(), ".npy", mapped=True)


def _wide(place: Path) -> Job:
    return Job("W2", lambda: Npy(str(place / "in")), Module(_transforms().embedding(place)), ".npy")


def _embeddings(place: Path) -> Job:
    def unit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": _transforms().unit(tensors["x"])}

    return Job("W4", lambda: Parquet(str(place / "in")), unit, ".parquet", ["x"])


def _images(place: Path) -> Job:
    def shrink(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"data": _transforms().shrink(tensors["data"])}

    return Job("W5", lambda: Npy(str(place / "in")), shrink, ".npy")


def _transforms() -> ModuleType:
    """What all contenders do to the rows."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return import_module("transforms")


JOBS: dict[str, tuple[str, Callable[[Path], Job]]] = {
    "identity": ("W2", _mapped),
    "W2": ("W2", _wide),
    "W4": ("W4", _embeddings),
    "W5": ("W5", _images),
}


def make(name: str, under: Path, scale: float) -> Job:
    """A job of `JOBS`, its input made and in the page cache."""
    workload, make = WORKLOADS[JOBS[name][0]], JOBS[name][1]
    place = workload.prepare(under, scale)
    warm(workload.input(place))
    return make(place)


@dataclass(frozen=True)
class Nowhere:
    """A sink that drops what it is given, so that only the ways to the device and back are left."""

    path: str
    columnar: bool = True
    single: bool = False

    def accept(self, schema: Schema) -> Schema:
        return schema

    def open(self, task: Task, schema: Schema) -> Nothing:  # noqa: ARG002
        return Nothing()


class Nothing:
    """A part that is never written."""

    def write(self, columns: Columns) -> None:
        """Drop the rows."""

    def close(self) -> tuple[File, ...]:
        """No files."""
        return ()

    def abort(self) -> None:
        """Nothing to leave behind."""


@dataclass
class Tape:
    """Counts what goes through a transform, and keeps the first batch that has rows."""

    transform: Transform
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first: Arrays = field(default_factory=dict)

    def __call__(self, tensors: dict[str, torch.Tensor]) -> Output:
        rows = len(next(iter(tensors.values())))
        out = apply(self.transform, tensors, {}, rows)
        self.rows += rows
        self.bytes_in += sum(tensor.nbytes for tensor in tensors.values())
        self.bytes_out += sum(tensor.nbytes for tensor in out.tensors.values())
        if rows and not self.first:
            self.first = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return out

    def setup(self, device: str) -> None:
        """As the transform that it stands for."""
        if hasattr(self.transform, "setup"):
            self.transform.setup(device)
