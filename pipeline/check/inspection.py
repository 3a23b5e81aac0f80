"""Inspection: checks at work in the flow, on the way in and on the way out, and what they add up to for one part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import columns
from pipeline.batching import rows_of
from pipeline.check.aside import Aside
from pipeline.check.finding import Finding, Unique
from pipeline.check.rules import PHASES, Rule, Rules
from pipeline.core import Array, Batch, Columns, File, Findings, Schema, Task, Writer


@dataclass
class Inspector:
    """Looks at every batch of a flow on its way in, in their order, and opens a record for each part.

    Rows that are refused leave their batch at once and travel beside it, so that the lane that writes the part writes
    them too.

    Attributes:
        aside: where refused rows and unique values go; None drops them.
    """

    rules: Rules = field(default_factory=Rules)
    aside: Aside | None = None
    _unique: Unique | None = None

    def needed(self, schema: Schema) -> tuple[str, ...]:
        """Columns that checks of the input look at; all, if whole rows are put aside."""
        if self.aside is not None and self.rules.refuses("input"):
            return schema.names
        return tuple(rule.column for rule in self.rules.of("input"))

    def enter(self, batch: Batch) -> Batch:
        """The batch without the rows that checks of the input refuse."""
        rules = self.rules.of("input")
        if not rules:
            return batch
        if self._unique is None or self._unique.task is not batch.task:
            self._unique = Unique(batch.task, self.rules.unique_rows)
        found, stay = _look(rules, self._unique, batch, batch.columns, None)
        if stay is None:
            return replace(batch, found=found)
        places = batch.rows_at(stay)
        first = int(places[0]) if len(places) else batch.first
        kept = _taken(batch.columns, stay)
        return replace(batch, first=first, rows=len(stay), columns=kept, places=places, found=found)

    def open(self, task: Task) -> Inspection:
        """A record for the part of a task."""
        return Inspection(task, self.rules, self.aside)


def _look(
    rules: Sequence[Rule], unique: Unique, batch: Batch, rows: Columns, index: Array | None
) -> tuple[Findings, Array | None]:
    """What the rules find, and the index of the rows that stay; None if all do."""
    finding = Finding(batch, rows, index)
    finding.ask([rule for rule in rules if rule.condition is not None], unique)
    for rule in rules:  # each of these asks only the rows that those before it let stay
        if rule.condition is None:
            finding.ask([rule], unique)
    return finding.findings(unique), finding.stay


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
        self._rules = rules.of("output")
        self._unique = Unique(task, rules.unique_rows)
        self._aside = aside
        self._writers: dict[str, Writer] = {}
        self._keys: dict[str, Array] = {}
        self._undo = ExitStack()

    def leave(self, batch: Batch, rows: Columns, index: Array | None) -> Columns:
        """The rows of the output without those that its checks refuse; what was found on both ways is counted.

        Args:
            batch: what was read.
            rows: the output.
            index: which rows of the batch they come from; None for all in order.
        """
        if batch.found is not None:
            self._add("input", batch.found)
        if not self._rules:
            return rows
        found, stay = _look(self._rules, self._unique, batch, rows, index)
        self._add("output", found)
        return rows if stay is None else _taken(rows, stay)

    def _add(self, phase: str, found: Findings) -> None:
        for label, (count, first) in found.broken.items():
            seen = self.checks[label]
            self.checks[label] = {"rows": seen["rows"] + count, "first": seen["first"] or first}
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
