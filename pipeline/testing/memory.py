"""The stage in memory: columns as a source, and what the stage makes of them without writing a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipeline.batching import rows_of
from pipeline.core import Columns, Device, Field, Schema, Sink, Split, Transform
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.plan import tasks
from pipeline.policy import Conversion, Policy
from pipeline.run import Options, Stage, prepare
from pipeline.sample import Kept


@dataclass(frozen=True)
class Memory:
    """Columns in memory as a source of one split, read in `pieces`."""

    fields: tuple[Field, ...]
    pieces: Sequence[Columns]
    path: str = field(default="memory", init=False)

    def schema(self) -> Schema:
        """The fields."""
        return Schema(self.fields)

    def splits(self) -> Sequence[Split]:
        """All rows."""
        return [Split("all", "1", sum(map(rows_of, self.pieces)))]

    def read(self, split: Split) -> Iterator[Columns]:  # noqa: ARG002  (there is one)
        """The pieces."""
        yield from self.pieces


def conversion(keys: Mapping[str, Any]) -> Conversion:
    """The keys of ``conversion`` in the configuration, those not given at their defaults."""
    own = {f.name for f in fields(Policy)}
    table = {key: value for key, value in keys.items() if key not in own}
    return Conversion(Policy(**{key: value for key, value in keys.items() if key in own}), **table)


def planned(
    source: Any,
    transform: Transform,
    sink: Sink,
    keys: Mapping[str, Any],
    *,
    device: Device | None = None,
    **options: Any,
) -> Stage:
    """The stage in one thread, on the CPU if not told otherwise, with nothing read yet; `keys`: of ``conversion``."""
    told = replace(Options(stream_depth=0, progress="none"), conversion=conversion(keys), **options)
    return prepare(source, transform, sink, Local(), device or Cpu(), told)


def through(
    source: Any, transform: Transform, sink: Sink, keys: Mapping[str, Any], *, typed: bool = False, **options: Any
) -> Columns:
    """All rows of the output: in the types of their own, or with `typed` in those that the sink stores."""
    kept = Kept(sink, typed=typed)
    work(planned(source, transform, kept, keys, **options))
    return kept.table()


def work(stage: Stage) -> None:
    """Send all rows through; the sink has them, and no manifest knows."""
    todo = tasks(stage.plan.splits, stage.identity, "", single=stage.sink.single, moves=stage.ways.moves)
    deque(stage.worker(stage.transform)(todo), maxlen=0)
