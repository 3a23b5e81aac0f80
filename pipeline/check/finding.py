"""Finding: which rows of one batch break which rules, and what follows for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline import columns
from pipeline.check.aside import refused
from pipeline.check.rules import Rule
from pipeline.check.seen import Seen, keys
from pipeline.core import Array, Batch, Column, Columns, Findings, Task
from pipeline.errors import DataError

_SHOWN = 60
"""Characters of a value in a message."""


@dataclass
class Unique:
    """The values of the unique columns of one task, by label."""

    task: Task
    limit: int
    seen: dict[str, Seen] = field(default_factory=dict)

    def repeated(self, rule: Rule, column: Column, bad: Array | None) -> Array | None:
        """Rows whose value was there before, in a row that was not refused. To be asked once for each batch."""
        found, valid = keys(column, rule.column)
        good = np.ones(len(found), bool) if valid is None else valid
        rows = np.flatnonzero(good if bad is None else good & ~bad)
        mask = np.zeros(len(found), bool)
        mask[rows] = self.seen.setdefault(rule.label, Seen(self.limit, str(rule))).repeated(found[rows])
        return mask if mask.any() else None

    def keys(self) -> dict[str, Array]:
        """All of them, sorted."""
        return {label: seen.all() for label, seen in self.seen.items()}


@dataclass
class Finding:
    """Rows of a batch, as its rules see them.

    Attributes:
        batch: where the rows come from.
        rows: the rows.
        index: which rows of the batch they come from; None for all in order.
        masks: by label, the rows that break it; None if none does.
        bad: rows that are refused; None if none is.
        reasons: the rules by which they are.
    """

    batch: Batch
    rows: Columns
    index: Array | None = None
    masks: dict[str, Array | None] = field(default_factory=dict)
    bad: Array | None = None
    reasons: list[tuple[Rule, Array]] = field(default_factory=list)

    def ask(self, rules: Sequence[Rule], unique: Unique) -> None:
        """Find the rows that break these rules.

        Raises:
            DataError: one of them fails; the first such row is named.
        """
        for rule in rules:
            if rule.label not in self.masks:
                self.masks[rule.label] = self._broken(rule, unique)
        at_fault = [(r, mask) for r in rules if r.term.by_row and (mask := self.masks[r.label]) is not None]
        self._fail([(rule, mask) for rule, mask in at_fault if rule.action == "fail"])
        for rule, mask in at_fault:
            if rule.action == "quarantine":
                self.bad = mask if self.bad is None else self.bad | mask
                self.reasons.append((rule, mask))

    def _broken(self, rule: Rule, unique: Unique) -> Array | None:
        column = self.rows[rule.column]
        if rule.condition is None:
            return unique.repeated(rule, column, self.bad)
        return rule.condition.broken(column)

    def _fail(self, failed: Sequence[tuple[Rule, Array]]) -> None:
        if not failed:
            return
        rule, mask = min(failed, key=lambda pair: int(pair[1].argmax()))
        row = int(mask.argmax())
        raise DataError(
            f"row {self._place(row)}: column {rule.column!r} is {_text(self.rows[rule.column], row)}, which breaks "
            f"{rule.term} ({rule.check.place}), as {int(mask.sum()):,} of the {len(mask):,} rows of this batch do. "
            "Correct the input, or set action to quarantine or warn there"
        )

    def _place(self, row: int) -> int:
        return int(self.batch.rows_at(self.index)[row])

    @property
    def stay(self) -> Array | None:
        """Index of the rows that are not refused; None if all stay."""
        return None if self.bad is None else np.flatnonzero(~self.bad)

    def findings(self, unique: Unique) -> Findings:
        """Counts, first places, and what is refused."""
        broken = {
            label: (int(mask.sum()), self._first(int(mask.argmax())))
            for label, mask in self.masks.items()
            if mask is not None
        }
        return Findings(broken, self._refused(), unique.keys() if self.batch.last else {})

    def _first(self, row: int) -> str:
        return f"{self.batch.split.id}, row {self._place(row)}"

    def _refused(self) -> Columns:
        if self.bad is None:
            return {}
        index = np.flatnonzero(self.bad)
        places = self.batch.rows_at(self.index)[index]
        return refused(self.rows, index, self.batch.split, places, self._why(index))

    def _why(self, index: Array) -> Columns:
        """The first check that each row breaks, and all of them; a text is made once for each combination."""
        broken = np.stack([mask[index] for _, mask in self.reasons], axis=1)
        kinds, which = np.unique(broken, axis=0, return_inverse=True)
        texts = [
            [f"{r.column} {r.term}" for (r, _), hit in zip(self.reasons, kind, strict=True) if hit] for kind in kinds
        ]
        code = columns.integers(which.reshape(-1))
        first, all_ = [each[0] for each in texts], ["; ".join(f"breaks {text}" for text in each) for each in texts]
        return {"_check": columns.literals(first).take(code), "_message": columns.literals(all_).take(code)}


def _text(column: Column, row: int) -> str:
    """A value for a message."""
    try:
        text = str(column[row])
    except ValueError:  # nanoseconds, which Python's own types do not hold
        text = str(column.slice(row, 1).cast(pa.string())[0])  # type: ignore[union-attr]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
