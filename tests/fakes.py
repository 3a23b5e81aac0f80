"""Small stand-ins for a user's own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import Columns, Schema, Split, Transform
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.policy import Conversion, Policy
from pipeline.run import Options, run
from pipeline.sink.parquet import Parquet


@dataclass
class Rows:
    """A table in memory, cut into splits; `version` of a split changes when somebody says so."""

    table: pa.Table
    splits_of: int = 100
    versions: dict[int, str] = field(default_factory=dict)
    chunk: int = 37

    def schema(self) -> Schema:
        return Schema(tuple(self.table.schema), self.table.schema.metadata)

    def splits(self) -> list[Split]:
        starts = range(0, max(1, len(self.table)), self.splits_of)
        size = [min(self.splits_of, len(self.table) - s) for s in starts]
        return [
            Split(f"rows-{s}", self.versions.get(i, "1"), n, n * 8, start=s, stop=s + n)
            for i, (s, n) in enumerate(zip(starts, size, strict=True))
        ]

    def read(self, split: Split) -> Iterator[Columns]:
        rows = self.table.slice(split.start, split.stop - split.start).combine_chunks()
        for batch in rows.to_batches(max_chunksize=self.chunk) or [pa.RecordBatch.from_pylist([], self.table.schema)]:
            yield dict(zip(batch.schema.names, batch.columns, strict=True))


def table(rows: int = 250) -> pa.Table:
    """Numbers, nulls, words, lists."""
    x = np.arange(rows, dtype=np.float32)
    columns = {
        "id": pa.array(np.arange(rows)),
        "x": pa.array(x),
        "n": pa.array([None if i % 7 == 3 else i * 0.5 for i in range(rows)], pa.float64()),
        "word": pa.array([f"w{i % 5}" for i in range(rows)], pa.string()),
        "list": pa.array([[i] * (i % 3) for i in range(rows)], pa.list_(pa.int64())),
    }
    return pa.table(columns, metadata={"made": "here"})


def run_rows(
    source: Any,
    transform: Transform,
    out: Path,
    *,
    engine: Any = None,
    sink: Any = None,
    device: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a stage with a fake source; Parquet out, progress off."""
    return run(
        source=source,
        transform=transform,
        sink=sink or Parquet(str(out)),
        engine=engine or Local(),
        device=device or Cpu(),
        options=replace(Options(batch_rows=16, progress="none"), conversion=conversion(options), **options),
    )


def conversion(given: dict[str, Any]) -> Conversion:
    """The conversion that these keywords ask for, which are taken out of `given`."""
    policy = {f.name: given.pop(f.name) for f in fields(Policy) if f.name in given}
    table = {f.name: given.pop(f.name) for f in fields(Conversion) if f.name in given and f.name != "columns"}
    per_column = given.pop("per_column", {})
    return Conversion(Policy(**policy), per_column, **table)


@dataclass(frozen=True)
class FailAt:
    """A fault as data: raises at the n-th call, else does as `then` does."""

    then: Transform
    call: int
    calls: list[int] = field(default_factory=list)

    def __call__(self, tensors: Any) -> Any:
        self.calls.append(1)
        if len(self.calls) == self.call:
            raise ValueError("planned fault")
        return self.then(tensors)


def same(tensors: Any) -> Any:
    """A plain function that changes nothing."""
    return tensors


Function = Callable[[Any], Any]
