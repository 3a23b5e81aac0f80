"""What a run would do, known before it starts: splits, tasks, batches, the way of each column, the output schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.columns import describe
from pipeline.core import Schema, Split, Task
from pipeline.layout import Exit, Layout
from pipeline.manifest import digest


@dataclass(frozen=True)
class Plan:
    """Facts of a run to come.

    Attributes:
        batch_rows: rows of a batch.
        in_flight: batches that may exist at once.
        names: what is at work, for people: source, transform, device, sink.
        fits: whether a pass over the data comes first.
        in_place: whether the transform writes into its input.
        auto: whether the rows of a batch are found by a trial at the start.
        trials: rows of a batch and rows in a second, once they were tried.
        checks: place in the configuration, what is asked, and the action.
    """

    names: Mapping[str, str]
    splits: tuple[Split, ...]
    layout: Layout
    exits: tuple[Exit, ...]
    stored: Schema
    batch_rows: int
    out_row_bytes: int
    in_flight: int
    single: bool
    fits: bool = False
    in_place: bool = False
    notes: tuple[str, ...] = field(default=())
    checks: tuple[tuple[str, str, str], ...] = ()
    auto: bool = False
    trials: tuple[tuple[int, float], ...] = ()

    @property
    def rows(self) -> int | None:
        """Rows of the input, or None if only reading tells."""
        counts = [split.rows for split in self.splits]
        return None if None in counts else sum(c for c in counts if c is not None)

    @property
    def batches(self) -> int | None:
        """Batches of the whole run; each split ends with a smaller one."""
        if self.rows is None:
            return None
        return sum(max(1, -(-(split.rows or 0) // self.batch_rows)) for split in self.splits)

    @property
    def batch_bytes(self) -> int:
        """Bytes of the tensors of one batch on their way in."""
        return self.batch_rows * self.layout.row_bytes

    @property
    def memory(self) -> int:
        """Estimate of the memory that batches in flight take, in bytes; carried columns by their share of the input."""
        rows = self.rows or 0
        read = sum(split.bytes for split in self.splits) // rows if rows else self.layout.row_bytes
        longest = max((split.rows or self.batch_rows for split in self.splits), default=0)
        flying = min(self.in_flight, self.batches or self.in_flight)
        return flying * min(self.batch_rows, longest) * (read + self.layout.row_bytes + self.out_row_bytes)

    def facts(self) -> dict[str, int | None]:
        """The plan in numbers, for machines; rows are those of the input."""
        numbers = {"rows": self.rows, "splits": len(self.splits), "batches": self.batches}
        return {**numbers, "batch_rows": self.batch_rows, "memory_bytes": self.memory}

    def text(self) -> str:
        """The plan for people."""
        rows = "unknown before reading (filter)" if self.rows is None else f"{self.rows:,}"
        size = human(sum(split.bytes for split in self.splits))
        parts = "one file" if self.single else f"{counted(len(self.splits), 'part')}"
        batches = "" if self.batches is None else f", {counted(self.batches, 'batch', 'batches')}"
        auto = "auto, found by a trial at the start of a run; without it " if self.auto else ""
        head = [
            ("source", f"{self.names['source']}: {rows} rows, {size} decoded, {counted(len(self.splits), 'split')}"),
            ("transform", self.names["transform"] + (", fitted by a pass over the data first" if self.fits else "")),
            ("device", self.names["device"]),
            ("batches", f"{auto}at most {self.batch_rows:,} rows, {human(self.batch_bytes)} of tensors{batches}"),
            ("nulls", _NULLS[self.layout.conversion.policy.nulls]),
            ("memory", f"about {human(self.memory)} for {counted(self.in_flight, 'batch', 'batches')} in flight"),
            ("sink", f"{self.names['sink']}: {parts}"),
            *(("note", note) for note in self.notes),
        ]
        lines = [f"{name:<10} {value}" for name, value in head]
        asked = ["", *table(["check", "asked", "action"], self.checks)] if self.checks else []
        ways = table(["input column", "stored as", "way"], self.ways())
        return "\n".join([*lines, "", *ways, "", *self._output(), *asked])

    def ways(self) -> list[tuple[str, str, str]]:
        """Name, type and way of each column of the input."""
        routes = {f.name: route for route in self.layout.routes for f in route.fields}
        rows = []
        for f in self.layout.schema.fields:
            if f.name in routes:
                route = routes[f.name]
                copy = route.copy or ("the transform writes in place" if self.layout.copy else "")
                into = f" {route.name!r}" if route.stacked else ""
                nulls = self.layout.conversion.of(f.name).nulls
                other = f"; nulls: {_NULLS[nulls]}" if nulls != self.layout.conversion.policy.nulls else ""
                way = f"tensor{into} {route.kind}, " + (f"one copy: {copy}" if copy else "memory shared") + other
            else:
                way = "carried untouched" if f.name in self.layout.carried else "left out (carry)"
            rows.append((f.name, describe(f), way))
        return rows

    def _output(self) -> list[str]:
        origin = {e.name: "carried" if e.tensor is None else "transform" for e in self.exits}
        rows = [(f.name, describe(f), origin[f.name]) for f in self.stored.fields]
        return table(["output column", "stored as", "from"], rows)


_NULLS = {
    "mask": "kept: values and validity travel apart (mask)",
    "error": "an error in tensor columns (error)",
    "fill": "filled with conversion.fill_value (fill)",
}


def tasks(
    splits: Sequence[Split], identity: Mapping[str, Any], learned: str, *, single: bool, moves: bool
) -> tuple[Task, ...]:
    """The work, in the order of the output. A key is taken per split, so that new files are processed alone.

    Args:
        splits: the input.
        identity: what decides the bytes of every part.
        learned: digest of the fitted state, or "".
        single: all splits go to one file.
        moves: the transform may change the number of rows, so that the rows of a part are not known.
    """
    base = digest({"identity": identity, "learned": learned})
    groups = [tuple(splits)] if single else [(split,) for split in splits]
    width = max(5, len(str(len(groups) - 1)))
    made = []
    for index, group in enumerate(groups):
        key = digest([base, [(split.id, split.version) for split in group]])[:32]
        counts = [split.rows for split in group]
        rows = None if moves or None in counts else sum(c for c in counts if c is not None)
        made.append(Task(index, key, "" if single else f"part-{index:0{width}d}-{key[:8]}", group, rows))
    return tuple(made)


def human(size: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]


def counted(n: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
