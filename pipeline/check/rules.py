"""Rules: the checks of a configuration, brought to the columns of one input and output, and judged when all is counted.

A rule about rows acts while they flow (`inspection`). A rule with another limit, and those about the whole table, are
judged from what the parts have recorded, those of earlier runs included; so another limit reads nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.check.checks import Check, Checks, Limit, Term, near
from pipeline.check.condition import Condition, condition
from pipeline.check.seen import across, check_keys
from pipeline.columns import describe
from pipeline.core import ArrayField, Field, Part, Schema
from pipeline.errors import ConfigError, DataError

PHASES = ("input", "output")


@dataclass(frozen=True)
class Rule:
    """One term of one check, asked of one column; `condition` is None for what asks whether values are unique."""

    phase: str
    check: Check
    column: str
    term: Term
    condition: Condition | None

    @property
    def label(self) -> str:
        """What is counted, whatever the limit and the action: the name under which parts record it."""
        return f"{self.phase}: {self.column} {self.term}"

    @property
    def action(self) -> str:
        """What happens where it is broken."""
        return self.check.action

    def __str__(self) -> str:
        limit = "" if self.term.by_row else f" {self.term.limit}"
        return f"{self.label}{limit} ({self.check.place})"


@dataclass(frozen=True)
class Outcome:
    """What became of one rule over all parts.

    Attributes:
        text: the rule.
        action: what happens where it does not hold.
        found: how many rows broke it, or how many there are if it is about that.
        of: rows that were asked; 0 if that says nothing.
        first: where the first of them is.
        held: whether that is allowed.
    """

    text: str
    action: str
    found: int
    of: int = 0
    first: str = ""
    held: bool = True
    unit: str = "rows"

    def __str__(self) -> str:
        of = f" of {self.of:,}" if self.of else ""
        return f"{self.text}: {self.found:,}{of} {self.unit}" + (f", first {self.first}" if self.first else "")

    def facts(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "check": self.text,
            "action": self.action,
            self.unit: self.found,
            "first": self.first,
            "held": self.held,
        }


@dataclass(frozen=True)
class Rules:
    """Everything that is asked of a run.

    Attributes:
        columns: rules by column, in the order of the configuration.
        tables: checks of the number of rows, with their phase.
        unlike: differences from a schema that only warns.
        unique_rows: see `pipeline.check.checks.Checks`.
    """

    columns: tuple[Rule, ...] = ()
    tables: tuple[tuple[str, Check], ...] = ()
    unlike: tuple[Outcome, ...] = ()
    unique_rows: int = Checks.unique_rows
    shown: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    def of(self, phase: str) -> tuple[Rule, ...]:
        """The rules of one phase."""
        return tuple(rule for rule in self.columns if rule.phase == phase)

    def refuses(self, phase: str) -> bool:
        """Whether rows may go to quarantine."""
        return any(rule.action == "quarantine" for rule in self.of(phase))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the bytes of the output: only rules that take rows out."""
        named = {phase: [rule.label for rule in self.of(phase) if rule.action == "quarantine"] for phase in PHASES}
        return {f"checks.{phase}.quarantine": labels for phase, labels in named.items() if labels}

    # ---- what parts have recorded

    def covers(self, part: Part) -> bool:
        """Whether a part was asked all this, and broke nothing that now fails; else it has to be made again."""
        for rule in self.columns:
            seen = part.checks.get(rule.label)
            if seen is None or (rule.action == "fail" and rule.term.by_row and seen["rows"]):
                return False
        return True

    def expect(self, rows: int | None) -> None:
        """Fail before any work if headers tell that the number of rows is wrong."""
        if rows is not None:
            wrong = [o for o in self._tables({"input": rows}) if o.action == "fail" and not o.held]
            _raise(wrong, "Correct the input or the limit")

    def outcomes(self, parts: Sequence[Part], root: Path) -> list[Outcome]:
        """What became of every rule.

        Args:
            parts: of the present input, made now or before.
            root: folder that the paths of their files start from.
        """
        read = sum(part.rows_in for part in parts)
        written = sum(part.rows_out for part in parts)
        rows = {"input": read, "output": written + sum(part.quarantined.get("output", 0) for part in parts)}
        found = [self._outcome(rule, parts, rows[rule.phase]) for rule in self.columns]
        found += [o for rule in self.columns if rule.condition is None for o in self._across(rule, parts, root)]
        return [*found, *self._tables({"input": read, "output": written}), *self.unlike]

    def _outcome(self, rule: Rule, parts: Sequence[Part], rows: int) -> Outcome:
        seen = [part.checks[rule.label] for part in parts]
        count = sum(each["rows"] for each in seen)
        first = next((each["first"] for each in seen if each["first"]), "")
        return Outcome(str(rule), rule.action, count, rows, first, rule.term.limit.holds(count, rows))

    def _across(self, rule: Rule, parts: Sequence[Part], root: Path) -> Iterator[Outcome]:
        """Values that more than one part holds, which no part can know."""
        files = [(part.splits[0], root / part.checks[rule.label]["keys"]) for part in parts]
        count, where = across(files, self.unique_rows, str(rule)) if len(files) > 1 else (0, "")
        if count:
            action = "warn" if rule.action == "quarantine" else rule.action
            yield Outcome(f"{rule}, across parts", action, count, 0, f"in {where}", held=False, unit="values")

    def _tables(self, rows: Mapping[str, int]) -> Iterator[Outcome]:
        for phase, check in self.tables:
            if phase in rows and check.rows is not None:
                held = check.rows.holds(rows[phase], rows[phase])
                text = f"{phase}: rows {check.rows} ({check.place})"
                yield Outcome(text, check.action, rows[phase], held=held)


def warnings(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those to warn of."""
    return [o for o in outcomes if o.action == "warn" and not o.held]


def judge(outcomes: Sequence[Outcome]) -> None:
    """Refuse a run for which a rule that fails does not hold.

    Raises:
        DataError: all such rules.
    """
    _raise(
        [o for o in outcomes if o.action == "fail" and not o.held],
        "The parts are kept, and this run does not declare the output complete. Correct the input, or the limit, which "
        "reads nothing again",
    )


def _raise(failed: Sequence[Outcome], way_out: str) -> None:
    if failed:
        raise DataError(f"{'; '.join(map(str, failed))}. {way_out}")


# ---- from checks -----------------------------------------------------------------------------------------------------


def bind(checks: Checks, given: Schema, stored: Schema) -> Rules:
    """The rules for an input and output of these schemas.

    Raises:
        ConfigError: a column is not there, or cannot be asked that.
        DataError: a schema is another than a check says.
    """
    phases = {"input": (checks.input, given), "output": (checks.output, stored)}
    found = {
        phase: [(c, list(_rules(phase, c, schema))) for c in entries] for phase, (entries, schema) in phases.items()
    }
    unlike = [o for phase, (entries, schema) in phases.items() for c in entries for o in _unlike(phase, c, schema)]
    _raise([o for o in unlike if o.action == "fail"], "Correct the input or the check")
    return Rules(
        tuple(rule for entries in found.values() for _, rules in entries for rule in rules),
        tuple((phase, check) for phase, entries in found.items() for check, _ in entries if check.rows),
        tuple(unlike),
        checks.unique_rows,
        tuple(line for entries in found.values() for check, rules in entries for line in _shown(check, rules)),
    )


def _rules(phase: str, check: Check, schema: Schema) -> Iterator[Rule]:
    for pattern in check.columns:
        for term in check.tests:
            yield from (Rule(phase, check, f.name, term, made) for f, made in _asked(check, pattern, term, schema))


def _asked(check: Check, pattern: str, term: Term, schema: Schema) -> list[tuple[Field, Condition | None]]:
    """The columns behind a name, or those behind a glob that can be asked."""
    if pattern in schema:
        try:
            return [(schema[pattern], _condition(term, schema[pattern]))]
        except ConfigError as e:
            raise ConfigError(f"{check.place}: {e}") from e
    found: list[tuple[Field, Condition | None]] = []
    for f in (f for f in schema.fields if fnmatchcase(f.name, pattern)):
        try:
            found.append((f, _condition(term, f)))
        except ConfigError:
            continue
    if not found:
        raise ConfigError(f"{check.place}.column: {pattern!r} matches no column{near(pattern, schema.names)}")
    return found


def _condition(term: Term, f: Field) -> Condition | None:
    if term.kind != "unique":
        return condition(term, f)
    check_keys(f)
    return None


def _unlike(phase: str, check: Check, schema: Schema) -> Iterator[Outcome]:
    if check.schema is None:
        return
    found = {f.name: describe(f) for f in schema.fields}
    wrong = [f"{n} is missing" for n in check.schema if n not in found]
    wrong += [f"{n} is not expected" for n in found if n not in check.schema]
    wrong += [
        f"{f.name} is {found[f.name]}, not {check.schema[f.name]}"
        for f in schema.fields
        if f.name in check.schema and not _is_type(f, check.schema[f.name])
    ]
    if wrong:
        text = f"{phase}: schema ({check.place}): {', '.join(wrong)}"
        yield Outcome(text, check.action, len(wrong), held=False, unit="differences")


def _is_type(f: Field, text: str) -> bool:
    """Whether a column is of a type in the words of `describe`, or in another word of Arrow for it."""
    if text == describe(f):
        return True
    try:
        return not isinstance(f, ArrayField) and bool(f.type == pa.type_for_alias(text))
    except ValueError:
        return False


def _shown(check: Check, rules: Sequence[Rule]) -> Iterator[tuple[str, str, str]]:
    """Lines of a plan."""
    limit: Limit | str | None = check.rows
    if limit is not None:
        yield check.place, f"rows {limit}", check.action
    if check.schema is not None:
        yield check.place, f"schema of {len(check.schema)} columns", check.action
    for rule in rules:
        allowed = "" if rule.term.by_row else f" {rule.term.limit}"
        yield check.place, f"{rule.column} {rule.term}{allowed}", check.action
