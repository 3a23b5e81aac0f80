"""Filter: which rows a source reads, written in YAML as lists of comparisons, run by Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import literals
from pipeline.errors import ConfigError

_COMPARE = {
    "==": pc.equal,
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_LISTS = ("in", "not in")
_NULLS = ("is", "is not")
_FORM = "[[column, op, value], ...] or a list of such lists"


@dataclass(frozen=True)
class Term:
    """One comparison of a column with a constant.

    As in SQL, a null compares with nothing: neither ``!=`` nor ``not in`` keeps it.
    """

    column: str
    op: str
    value: Any

    def __str__(self) -> str:
        return f"[{self.column}, {self.op}, {self.value}]"

    def mask(self, column: pa.Array) -> pa.BooleanArray:
        """True for the rows that pass."""
        if self.op in _NULLS:
            return column.is_null() if self.op == "is" else column.is_valid()
        if self.op in _LISTS:
            values = [constant(value, column.type) for value in self.value]
            found = pc.is_in(column, value_set=_listed(values))
            return found if self.op == "in" else pc.and_(pc.invert(found), column.is_valid())
        return _COMPARE[self.op](column, constant(self.value, column.type))


@dataclass(frozen=True)
class Filter:
    """Some clause holds, all terms of it: an OR of ANDs. No clause means no row, an empty clause means every row."""

    clauses: tuple[tuple[Term, ...], ...] = ((),)

    @property
    def always(self) -> bool:
        """Whether every row passes."""
        return () in self.clauses

    @property
    def never(self) -> bool:
        """Whether no row passes."""
        return not self.clauses

    @property
    def columns(self) -> list[str]:
        """The columns that must be known."""
        return list(dict.fromkeys(term.column for clause in self.clauses for term in clause))

    def check(self, schema: pa.Schema) -> None:
        """Try every comparison on no rows.

        Raises:
            ConfigError: a column is not there, or cannot be compared with the constant.
        """
        for term in (term for clause in self.clauses for term in clause):
            if term.column not in schema.names:
                names = ", ".join(map(repr, schema.names))
                raise ConfigError(f"source.filter: no column {term.column!r}; there are {names}")
            type_ = schema.field(term.column).type
            try:
                term.mask(pa.nulls(0, type_))
            except (pa.ArrowException, TypeError, ValueError) as e:
                raise ConfigError(f"source.filter: {term} does not fit the column, which is {type_}: {e}") from e

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """True for the rows that pass; null or False for the others. There must be a clause, and no empty one."""
        clauses = [
            reduce(pc.and_kleene, [term.mask(batch.column(term.column)) for term in clause]) for clause in self.clauses
        ]
        return reduce(pc.or_kleene, clauses)

    def rest(self, known: pa.RecordBatch) -> Filter:
        """What is left to ask of rows in which the columns of `known`, one row, have its values."""
        left = []
        for clause in self.clauses:
            settled = [term for term in clause if term.column in known.schema.names]
            if all(term.mask(known.column(term.column))[0].as_py() for term in settled):
                left.append(tuple(term for term in clause if term not in settled))
        return Filter(tuple(left))


def parse(value: object, key: str = "source.filter") -> Filter:
    """A filter as YAML has it; null lets every row pass.

    Raises:
        ConfigError: it is not of that form.
    """
    if value is None:
        return Filter()
    rows = _sequence(value, value, key)
    alternatives = [rows] if isinstance(_sequence(rows[0], value, key)[0], str) else rows
    return Filter(tuple(tuple(_term(t, key) for t in _sequence(clause, value, key)) for clause in alternatives))


def _sequence(part: object, whole: object, key: str) -> Sequence[Any]:
    if isinstance(part, str) or not isinstance(part, Sequence) or not part:
        raise ConfigError(f"{key} must be {_FORM}; got {whole!r}")
    return part


def _term(part: object, key: str) -> Term:
    parts = _sequence(part, part, key)
    if len(parts) != 3 or not isinstance(parts[0], str):
        raise ConfigError(f"{key}: a comparison is [column, op, value]; got {part!r}")
    column, op, value = parts
    known = (*_COMPARE, *_LISTS, *_NULLS)
    if op not in known:
        raise ConfigError(f"{key}: no operator {op!r} in {part!r}; there are {', '.join(map(repr, known))}")
    if (op in _NULLS) != (value is None):
        raise ConfigError(f"{key}: to compare with null, write [{column}, is, null] or [{column}, is not, null]")
    if op in _LISTS and (not isinstance(value, Sequence) or isinstance(value, str) or None in value):
        raise ConfigError(f"{key}: {op!r} takes a list of values without null; got {part!r}")
    return Term(column, op, tuple(value) if op in _LISTS else value)


def constant(value: Any, type_: pa.DataType) -> pa.Scalar:
    """The constant as a value of the column's type; a number that does not fit it (0.5, 2**40) compares as it is.

    A time without a zone is meant in the zone of the column.
    """
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    scalar = literals([value])[0]
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        try:
            return pc.assume_timezone(scalar.cast(pa.timestamp(type_.unit)), type_.tz)
        except pa.ArrowException:
            return scalar.cast(type_)
    try:
        return scalar.cast(type_)
    except pa.ArrowException:
        if isinstance(value, int | float) and (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
            return scalar
        raise


def _listed(values: Sequence[pa.Scalar]) -> pa.Array:
    if len({value.type for value in values}) == 1:
        return pa.concat_arrays([pa.repeat(value, 1) for value in values])
    return pa.array(values)
