"""Checks written in YAML: what must hold of columns, rows and schema, and what happens where it does not.

Here the words are read, before any column is known; `rules` brings them to the columns of an input or output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from math import isnan
from typing import Any

from pipeline.errors import ConfigError

ACTIONS = ("fail", "warn", "quarantine")
COUNTED = ("nulls", "nan", "inf")
"""Tests that count rows. At a limit of 0 each such row is at fault; at any other the run as a whole is."""

_SHARES = {"null_share": "nulls", "nan_share": "nan", "inf_share": "inf"}
_TESTS = (*COUNTED, *_SHARES, "min", "max", "allowed", "unique")
_SUBJECTS = ("column", "rows", "schema")
_KEYS = (*_SUBJECTS, *_TESTS, "action")


@dataclass(frozen=True)
class Limit:
    """How many rows may break a test, or which share of them; compared exactly."""

    min: float | None = None
    max: float | None = None
    share: bool = False

    def holds(self, count: int, rows: int) -> bool:
        """Whether `count` of `rows` rows are within the limit; the share of no rows is 0."""
        found = Fraction(count, rows or 1) if self.share else Fraction(count)
        low, high = (None if bound is None else Fraction(str(bound)) for bound in (self.min, self.max))
        return (low is None or low <= found) and (high is None or found <= high)

    def __str__(self) -> str:
        unit = " of the rows" if self.share else ""
        words = [("at least", self.min), ("at most", self.max)]
        return ", ".join(f"{word} {bound:,}{unit}" for word, bound in words if bound is not None)


NONE = Limit(max=0)


@dataclass(frozen=True)
class Term:
    """One thing that is asked of a column: its kind, what it compares with, and how many rows may break it."""

    kind: str
    limit: Limit = NONE
    low: Any = None
    high: Any = None
    allowed: tuple[Any, ...] = ()

    @property
    def by_row(self) -> bool:
        """Whether each row that breaks it is at fault, so that rows can be refused."""
        return self.limit == NONE

    def __str__(self) -> str:
        if self.kind == "range":
            bounds = [("min", self.low), ("max", self.high)]
            return ", ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
        return f"allowed {', '.join(map(str, self.allowed))}" if self.kind == "allowed" else self.kind


@dataclass(frozen=True)
class Check:
    """One entry of the list.

    Attributes:
        place: where it stands, such as ``checks.input[0]``.
        columns: names and globs that the tests are asked of.
        rows: limits of the number of rows, if it is about that.
        schema: name and type of every column, if it is about that.
    """

    place: str
    action: str
    columns: tuple[str, ...] = ()
    tests: tuple[Term, ...] = ()
    rows: Limit | None = None
    schema: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Checks:
    """All entries.

    Attributes:
        input: asked of the rows as they are read.
        output: asked of the rows as they would be written.
        unique_rows: values that one `unique` may have to remember, 8 or 16 bytes each.
    """

    input: tuple[Check, ...] = ()
    output: tuple[Check, ...] = ()
    unique_rows: int = 100_000_000

    @property
    def of_some_rows(self) -> Checks:
        """What can be asked of some rows of the input: not how many there are, and nothing of what comes out."""
        return Checks(tuple(check for check in self.input if check.columns), (), self.unique_rows)


def parse(raw: Mapping[str, Any]) -> Checks:
    """Checks as YAML has them.

    Raises:
        ConfigError: an entry is not of that form; the message starts with its place.
    """
    phases = {phase: _entries(raw.get(phase) or [], f"checks.{phase}") for phase in ("input", "output")}
    return Checks(**phases, unique_rows=raw.get("unique_rows", Checks.unique_rows))


def near(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known."""
    known = list(known)
    found = get_close_matches(str(name), known, 1)
    return f" - did you mean {found[0]!r}?" if found else f"; there are {', '.join(known)}"


def _entries(raw: object, place: str) -> tuple[Check, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise ConfigError(f"{place}: expected a list, as in [{{column: x, min: 0}}]; got {raw!r}")
    return tuple(_entry(entry, f"{place}[{i}]") for i, entry in enumerate(raw))


def _entry(raw: object, place: str) -> Check:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{place}: expected a mapping, as in {{column: x, min: 0}}; got {raw!r}")
    given = {str(key): value for key, value in raw.items() if value is not None}  # on a command line, nan is a number
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"{place}: unknown key {key!r}{near(key, _KEYS)}")
    action = given.pop("action", "fail")
    if action not in ACTIONS:
        raise ConfigError(f"{place}.action must be one of {', '.join(ACTIONS)}; got {action!r}{near(action, ACTIONS)}")
    subjects = [key for key in _SUBJECTS if key in given]
    if len(subjects) != 1:
        raise ConfigError(f"{place}: expected one of {', '.join(_SUBJECTS)}; got {', '.join(subjects) or 'none'}")
    made = _of_table(given, place, action) if subjects != ["column"] else _of_columns(given, place, action)
    if action == "quarantine":
        _refuse_quarantine(made)
    return made


def _of_table(given: Mapping[str, Any], place: str, action: str) -> Check:
    subject = "rows" if "rows" in given else "schema"
    for key in given.keys() - {subject}:
        raise ConfigError(f"{place}: {key!r} is a test of a column; give it an entry with column: NAME")
    if subject == "rows":
        if not isinstance(given["rows"], Mapping):
            raise ConfigError(f"{place}.rows: expected {{min: N, max: N}}; got {given['rows']!r}")
        return Check(place, action, rows=_limit(given["rows"], f"{place}.rows", share=False))
    schema = given["schema"]
    if not isinstance(schema, Mapping) or not all(isinstance(v, str) for v in schema.values()) or not schema:
        raise ConfigError(f"{place}.schema: expected {{column: type}} for every column; got {schema!r}")
    return Check(place, action, schema={str(name): type_ for name, type_ in schema.items()})


def _of_columns(given: Mapping[str, Any], place: str, action: str) -> Check:
    names = given["column"]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{place}.column: expected a name or a list of names; got {given['column']!r}")
    tests = tuple(_terms(given, place))
    if not tests:
        raise ConfigError(f"{place}: nothing is asked of {', '.join(names)}; tests are {', '.join(_TESTS)}")
    return Check(place, action, tuple(names), tests)


def _terms(given: Mapping[str, Any], place: str) -> Iterator[Term]:
    for kind in COUNTED:
        if kind in given:
            yield Term(kind, _limit(given[kind], f"{place}.{kind}", share=False))
    for key, kind in _SHARES.items():
        if key in given:
            yield Term(kind, _limit(given[key], f"{place}.{key}", share=True))
    if "min" in given or "max" in given:
        yield _range(given, place)
    if "allowed" in given:
        yield _allowed(given["allowed"], place)
    if "unique" in given:
        if given["unique"] is not True:
            raise ConfigError(f"{place}.unique: expected true; leave it out if values may repeat")
        yield Term("unique")


def _range(given: Mapping[str, Any], place: str) -> Term:
    low, high = given.get("min"), given.get("max")
    for key, bound in (("min", low), ("max", high)):
        if isinstance(bound, (bool, Mapping)) or (isinstance(bound, Sequence) and not isinstance(bound, str)):
            raise ConfigError(f"{place}.{key}: expected a number, or a date or time as text; got {bound!r}")
        if isinstance(bound, float) and isnan(bound):
            raise ConfigError(f"{place}.{key}: NaN bounds nothing; nan: 0 refuses NaN")
    return Term("range", low=low, high=high)


def _allowed(values: object, place: str) -> Term:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"{place}.allowed: expected a list of values; got {values!r}")
    if any(value is None or (isinstance(value, float) and isnan(value)) for value in values):
        raise ConfigError(f"{place}.allowed: nulls pass, NaN does not; test for them with nulls and nan")
    return Term("allowed", allowed=tuple(values))


def _limit(value: object, place: str, *, share: bool) -> Limit:
    """A limit: {min, max}, or a number for max alone."""
    bounds = value if isinstance(value, Mapping) else {"max": value}
    for key in bounds:
        if key not in ("min", "max"):
            raise ConfigError(f"{place}: unknown key {key!r}{near(key, ['min', 'max'])}")
    given: dict[str, Any] = {key: bound for key, bound in bounds.items() if bound is not None}
    kinds, form = ((int, float), "a share from 0 to 1") if share else ((int,), "a count of rows, 0 or more")
    for bound in given.values():
        if isinstance(bound, bool) or not isinstance(bound, kinds) or not 0 <= bound <= (1 if share else bound):
            raise ConfigError(f"{place}: expected {form}, or {{min: ..., max: ...}} of them; got {value!r}")
    if not given or given.get("min", 0) > given.get("max", given.get("min", 0)):
        raise ConfigError(f"{place}: no number lies within {value!r}")
    return Limit(given.get("min"), given.get("max"), share)


def _refuse_quarantine(check: Check) -> None:
    whole = "the schema" if check.schema else "the number of rows" if check.rows else ""
    for test in check.tests:
        if not test.by_row:
            whole = f"{test.kind} counted over the run"
    if whole:
        raise ConfigError(
            f"{check.place}: action quarantine takes single rows out, and {whole} is a fact of the whole run. Set "
            "action to fail or warn, or give that test an entry of its own"
        )
