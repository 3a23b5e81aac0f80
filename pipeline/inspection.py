"""Inspection: checks at work in the flow, on the way in and on the way out, and what they add up to for one part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import columns
from pipeline.aside import Aside
from pipeline.batching import rows_of
from pipeline.core import Array, Batch, Columns, File, Findings, Task, Writer
from pipeline.finding import Finding, Unique
from pipeline.rules import PHASES, Rules


@dataclass
class Inspector:
    """Looks at every batch of a flow, twice.

    Rows that are refused leave their batch at once and travel beside it, so that the lane that writes the part writes
    them too. Each phase is asked in one thread, in the order of the batches.

    Attributes:
        aside: where refused rows and unique values go; None drops them.
    """

    rules: Rules = field(default_factory=Rules)
    aside: Aside | None = None
    _unique: dict[str, Unique] = field(default_factory=dict)

    def enter(self, batch: Batch) -> Batch:
        """The batch without the rows that checks of the input refuse."""
        if not self.rules.of("input"):
            return batch
        found, stay = self._look("input", batch, batch.columns, None)
        if stay is None:
            return replace(batch, found=found)
        places = batch.rows_at(stay)
        first = int(places[0]) if len(places) else batch.first
        kept = _taken(batch.columns, stay)
        return replace(batch, first=first, rows=len(stay), columns=kept, places=places, found=found)

    def leave(self, batch: Batch, rows: Columns, index: Array | None) -> tuple[Columns, Findings | None]:
        """The rows of the output without those that its checks refuse; `index` says which input rows they come from."""
        if not self.rules.of("output"):
            return rows, None
        found, stay = self._look("output", batch, rows, index)
        return rows if stay is None else _taken(rows, stay), found

    def _look(self, phase: str, batch: Batch, rows: Columns, index: Array | None) -> tuple[Findings, Array | None]:
        unique = self._unique.get(phase)
        if unique is None or unique.task is not batch.task:
            unique = self._unique[phase] = Unique(batch.task, self.rules.unique_rows)
        finding = Finding(batch, rows, index)
        finding.ask([rule for rule in self.rules.of(phase) if rule.condition is not None], unique)
        for rule in self.rules.of(phase):  # each of them asks only the rows that those before it let stay
            if rule.condition is None:
                finding.ask([rule], unique)
        return finding.findings(unique), finding.stay

    def open(self, task: Task) -> Inspection:
        """A record for the part of a task."""
        return Inspection(task, self.rules, self.aside)


def _taken(rows: Columns, index: Array) -> Columns:
    return {name: columns.take(column, index) for name, column in rows.items()}


class Inspection:
    """What checks found in one part, and the files that this leaves in the bookkeeping.

    Files are durable and visible after `close`; `abort` takes them back.
    """

    def __init__(self, task: Task, rules: Rules, aside: Aside | None) -> None:
        self.checks: dict[str, dict[str, Any]] = {r.label: {"rows": 0, "first": ""} for r in rules.columns}
        self.quarantined = {phase: 0 for phase in PHASES if rules.refuses(phase)}
        self._task = task
        self._aside = aside
        self._writers: dict[str, Writer] = {}
        self._keys: dict[str, Array] = {}
        self._undo = ExitStack()

    def add(self, phase: str, found: Findings | None) -> None:
        """Count what was found in a batch, and write the rows that were refused."""
        if found is None:
            return
        for label, (rows, first) in found.broken.items():
            seen = self.checks[label]
            self.checks[label] = {"rows": seen["rows"] + rows, "first": seen["first"] or first}
        self._keys |= found.keys
        if found.refused:
            self.quarantined[phase] += rows_of(found.refused)
            self._write(phase, found.refused)

    def _write(self, phase: str, rows: Columns) -> None:
        if self._aside is None:
            return
        if phase not in self._writers:
            self._writers[phase] = self._aside.quarantine(phase, self._task)
            self._undo.callback(self._writers[phase].abort)
        self._writers[phase].write(rows)

    def close(self) -> tuple[File, ...]:
        """Publish the files."""
        return () if self._aside is None else tuple(self._publish(self._aside))

    def _publish(self, aside: Aside) -> Iterator[File]:
        for writer in self._writers.values():
            for file in writer.close():
                self._undo.callback(aside.remove, file)  # the writer takes back only what it could not finish
                yield file
        for label, keys in self._keys.items():
            made = aside.keys(label, self._task, keys)
            self._undo.callback(made.retract)
            self.checks[label]["keys"] = made.name
            yield made.publish(len(keys))

    def abort(self) -> None:
        """Leave no file behind, published or not. Harmless when called twice."""
        self._undo.close()
