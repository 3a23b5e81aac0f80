"""Conditions on the values of one column: which rows break them.

Values are compared in the type in which they are stored. An integer is never compared as a float, a decimal never as a
binary fraction. Nulls break nothing but `Present`. NaN, and NaT in NumPy, lie within no range and are in no list.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline import columns
from pipeline.check.checks import Term
from pipeline.columns import describe
from pipeline.core import Array, ArrayField, Column, Field
from pipeline.errors import ConfigError, DTypeError

_NAT = -(2**63)


class Condition(Protocol):
    """What every value of a column must keep."""

    def broken(self, column: Column) -> Array | None:
        """Bool ``(rows,)``, True where a row breaks it; None if none does."""


def condition(term: Term, field: Field) -> Condition:
    """The condition that a term means for a column.

    Raises:
        ConfigError: it cannot be asked of the type of the column.
    """
    if term.kind == "nulls":
        return Present()
    if not isinstance(field, ArrayField) and pa.types.is_dictionary(field.type):
        return OfWords(condition(term, field.with_type(field.type.value_type)))
    made = _FORMS[term.kind](term, field)
    try:
        made.broken(_empty(field))
    except (pa.ArrowException, DTypeError) as e:
        raise ConfigError(f"{term.kind} cannot be asked of {field.name!r}, which is {describe(field)}: {e}") from e
    return made


def _empty(field: Field) -> Column:
    return np.empty((0, *field.shape), field.dtype) if isinstance(field, ArrayField) else pa.nulls(0, field.type)


# ---- kinds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Present:
    """There is a value."""

    def broken(self, column: Column) -> Array | None:
        """Rows that are null."""
        valid = None if isinstance(column, np.ndarray) else columns.valid(column)
        return None if valid is None else ~valid


@dataclass(frozen=True)
class OfWords:
    """A condition on the values of a dictionary column, each of which is looked at once."""

    then: Condition

    def broken(self, column: Column) -> Array | None:
        """Rows whose word breaks it."""
        assert isinstance(column, pa.DictionaryArray)
        words = self.then.broken(column.dictionary)
        if words is None:
            return None
        codes, valid = columns.values(column.indices, "")
        return _rows(words[np.where(valid, codes, 0)] if valid is not None else words[codes], valid)


@dataclass(frozen=True)
class NotNan:
    """No number is NaN. A row that has a shape breaks this by one of its numbers, here and below."""

    field: Field

    def broken(self, column: Column) -> Array | None:
        """Rows with NaN."""
        values, valid = _values(column, self.field)
        return _rows(np.isnan(values), valid)


@dataclass(frozen=True)
class NotInf:
    """No number is infinite."""

    field: Field

    def broken(self, column: Column) -> Array | None:
        """Rows with an infinity of either sign."""
        values, valid = _values(column, self.field)
        return _rows(np.isinf(values), valid)


@dataclass(frozen=True)
class Within:
    """Numbers lie within bounds of their own dtype; None is no bound."""

    field: Field
    low: Any
    high: Any

    def broken(self, column: Column) -> Array | None:
        """Rows outside, NaN among them."""
        values, valid = _values(column, self.field)
        if not values.size or self._spans(values):
            return None
        good = np.ones(values.shape, bool)
        if self.low is not None:
            np.greater_equal(values, self.low, out=good)
        if self.high is not None:
            np.logical_and(good, values <= self.high, out=good)
        return _rows(~good, valid)

    def _spans(self, values: Array) -> bool:
        """Whether all do, by two passes without a temporary array; a NaN makes the extremes NaN."""
        with np.errstate(invalid="ignore"):
            low = self.low is None or bool(values.min() >= self.low)
            return low and (self.high is None or bool(values.max() <= self.high))


@dataclass(frozen=True)
class WithinWide:
    """As `Within`, for decimals of more than 18 digits, in Arrow."""

    low: pa.Scalar | None
    high: pa.Scalar | None

    def broken(self, column: Column) -> Array | None:
        """Rows outside."""
        import pyarrow.compute as pc

        bad = [pc.less(column, self.low)] if self.low is not None else []
        bad += [pc.greater(column, self.high)] if self.high is not None else []
        outside = [columns.numbers(mask.fill_null(False)) for mask in bad]
        return _rows(np.logical_or.reduce(outside), None) if outside else None


@dataclass(frozen=True)
class OneOf:
    """Values are in a list, all of whose members are of their type."""

    allowed: Any

    def broken(self, column: Column) -> Array | None:
        """Rows with another value."""
        if isinstance(column, np.ndarray):
            return _rows(~np.isin(column, self.allowed), None)
        import pyarrow.compute as pc

        return _rows(~columns.numbers(pc.is_in(column, value_set=self.allowed)), columns.valid(column))


def _values(column: Column, field: Field) -> tuple[Array, Array | None]:
    return columns.values(column, field.name, pairs=columns.paired(field))


def _rows(broken: Array, valid: Array | None) -> Array | None:
    """One truth value for each row, and only where there is a value; None if none is True."""
    if not broken.any():
        return None
    broken = np.asarray(broken.reshape(len(broken), -1).any(axis=1))
    if valid is not None:
        broken &= valid
    return broken if broken.any() else None


# ---- from words ------------------------------------------------------------------------------------------------------


def _not_nan(term: Term, field: Field) -> Condition:
    _check_float(term, field)
    return NotNan(field)


def _not_inf(term: Term, field: Field) -> Condition:
    _check_float(term, field)
    return NotInf(field)


def _check_float(term: Term, field: Field) -> None:
    stored = _storage(term, field)
    if stored.dtype.kind not in "fc" or not stored.number:
        raise ConfigError(f"{field.name!r} is {describe(field)}, which has no {term.kind}")


def _storage(term: Term, field: Field) -> columns.Storage:
    try:
        stored = columns.storage(field)
    except DTypeError:
        stored = None
    if stored is None or stored.logical:
        other = "; `allowed` lists values" if term.kind == "range" else ""
        raise ConfigError(f"{term.kind} cannot be asked of {field.name!r}, which is {describe(field)}{other}")
    return stored


def _range(term: Term, field: Field) -> Condition:
    type_ = None if isinstance(field, ArrayField) else field.type
    if type_ is not None and pa.types.is_decimal(type_):
        return _decimal_range(term, field)
    stored = _storage(term, field)
    if stored.dtype.kind not in "iuf":
        raise ConfigError(f"{field.name!r} is {describe(field)}, which has no order; `allowed` lists values")
    low, high = (None if bound is None else _number(bound, field, stored) for bound in (term.low, term.high))
    _check_order(term, low, high)
    dtype = stored.dtype
    if dtype.kind == "f":
        return Within(field, _float(low, dtype, math.inf), _float(high, dtype, -math.inf))
    made = _integers(term, field, low, high, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if isinstance(field, ArrayField) and field.dtype.kind in "mM" and made[0] is None:
        made = (_NAT + 1, made[1])
    return Within(field, *(None if bound is None else dtype.type(bound) for bound in made))


def _check_order(term: Term, low: Any, high: Any) -> None:
    if low is not None and high is not None and low > high:
        raise ConfigError(f"no value lies within {term}")


def _integers(term: Term, field: Field, low: Any, high: Any, least: int, most: int) -> tuple[int | None, int | None]:
    """Bounds as integers, None where the type itself is narrower."""
    first = least if low is None or low == -math.inf else most + 1 if low == math.inf else math.ceil(low)
    last = most if high is None or high == math.inf else least - 1 if high == -math.inf else math.floor(high)
    if first > most or last < least or first > last:
        raise ConfigError(f"no value of {field.name!r}, which is {describe(field)}, lies within {term}")
    return (first if first > least else None), (last if last < most else None)


def _float(bound: Any, dtype: np.dtype[Any], away: float) -> Any:
    """A bound of a float column. A float is rounded to its type, as its values were; an integer is met exactly.

    Args:
        bound: the number as written.
        dtype: of the column.
        away: the direction in which the bound must lie if it cannot be met: up for a minimum.
    """
    if bound is None:
        return None
    with np.errstate(over="ignore"):
        try:
            made = dtype.type(bound)
        except OverflowError:  # an integer that no double holds
            made = dtype.type(math.inf if bound > 0 else -math.inf)
        if not isinstance(bound, int):
            return made
        inside = -math.inf if made > 0 else math.inf
        if np.isinf(made) and (made > 0) != (away > 0):
            return np.nextafter(made, dtype.type(inside))
        wrong = not np.isinf(made) and (Fraction(float(made)) < bound if away > 0 else Fraction(float(made)) > bound)
        return np.nextafter(made, dtype.type(away)) if wrong else made


def _decimal_range(term: Term, field: pa.Field) -> Condition:
    type_ = field.type
    low, high = (None if bound is None else _scaled(bound, field) for bound in (term.low, term.high))
    most = 10**type_.precision - 1
    bounds = _integers(term, field, low, high, -most, most)
    if isinstance(_narrow := _try_storage(field), columns.Storage):
        return Within(field, *(None if bound is None else _narrow.dtype.type(bound) for bound in bounds))
    return WithinWide(*(None if bound is None else pa.scalar(_exact(bound, type_.scale), type_) for bound in bounds))


def _try_storage(field: Field) -> columns.Storage | None:
    try:
        return columns.storage(field)
    except DTypeError:
        return None


def _scaled(bound: Any, field: Field) -> Any:
    if isinstance(bound, float) and math.isinf(bound):
        return bound
    try:
        return Fraction(str(bound)) * Fraction(10) ** field.type.scale  # type: ignore[union-attr]
    except ValueError as e:
        raise _misfit(bound, field, "a number") from e


def _exact(unscaled: int, scale: int) -> Decimal:
    """A decimal of any number of digits; arithmetic would round it to those of the context."""
    sign, digits, _ = Decimal(unscaled).as_tuple()
    return Decimal((sign, digits, -scale))


def _number(bound: Any, field: Field, stored: columns.Storage) -> Any:
    """A bound in the numbers that are stored: what is a date or a time there is written as text."""
    text = bound.isoformat() if hasattr(bound, "isoformat") else bound
    if not _temporal(field):
        if isinstance(text, (int, float)) and stored.number:
            return text
        raise _misfit(bound, field, "a number")
    return _moment(text, field)


def _temporal(field: Field) -> bool:
    if isinstance(field, ArrayField):
        return field.dtype.kind in "mM"
    return bool(pa.types.is_temporal(field.type))


def _moment(text: Any, field: Field) -> int:
    form = "a date or time as text, such as '2026-01-31' or '2026-01-31T08:00:00', no finer than the column"
    if isinstance(field, ArrayField):
        if field.dtype.kind == "m":
            return _ticks(text, field)
        try:
            with warnings.catch_warnings(action="error"):  # NumPy knows no time zones, and only warns
                moment = np.datetime64(text)
                stored = moment.astype(field.dtype)
        except (ValueError, TypeError, UserWarning, DeprecationWarning) as e:
            raise _misfit(text, field, form) from e
        if stored != moment or np.isnat(stored):
            raise _misfit(text, field, form)
        return int(stored.astype(np.int64))
    if pa.types.is_duration(field.type):
        return _ticks(text, field)
    try:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
        return int(_as_scalar(text, field.type).value)
    except (pa.ArrowException, ValueError, TypeError) as e:
        raise _misfit(text, field, form) from e


def _as_scalar(text: str, type_: pa.DataType) -> pa.Scalar:
    if pa.types.is_time(type_):
        return pa.scalar(time.fromisoformat(text), type_)
    from pipeline.filter import constant

    return constant(text, type_)


def _ticks(value: Any, field: Field) -> int:
    if isinstance(value, int):
        return value
    raise _misfit(value, field, "an integer in the unit of the column")


def _one_of(term: Term, field: Field) -> Condition:
    if isinstance(field, ArrayField):
        if field.dtype.kind == "M":
            return OneOf(np.array([_moment(value, field) for value in term.allowed]).astype(field.dtype))
        return OneOf(np.array([_member(value, field) for value in term.allowed], _member_dtype(field)))
    try:
        return OneOf(_arrow_members(term.allowed, field))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"allowed: {field.name!r} is {describe(field)}: {e}") from e


def _member_dtype(field: ArrayField) -> np.dtype[Any] | None:
    if field.shape or field.dtype.kind not in "biufUS":
        raise ConfigError(f"{field.name!r} is {field}, whose values cannot be listed")
    return None if field.dtype.kind in "US" else field.dtype


def _member(value: Any, field: ArrayField) -> Any:
    """A value as the column holds it; one that it cannot hold is a mistake."""
    kind = field.dtype.kind
    if kind == "S" and isinstance(value, str):
        return value.encode()
    fits: Any = {"b": bool, "i": int, "u": int, "f": (int, float), "U": str, "S": bytes}[kind]
    if not isinstance(value, fits) or (isinstance(value, bool) and kind != "b"):
        raise _misfit(value, field, "values of that type")
    if kind in "iu" and not np.iinfo(field.dtype).min <= value <= np.iinfo(field.dtype).max:
        raise _misfit(value, field, "values of that type")
    return value


def _arrow_members(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """The values in the type of the column, none of them changed; pyarrow refuses what does not fit."""
    type_ = field.type
    for value in values:
        whole = isinstance(value, int) or not pa.types.is_integer(type_)  # pyarrow would cut 0.5 down to 0
        if isinstance(value, bool) != pa.types.is_boolean(type_) or not whole:
            raise _misfit(value, field, "values of that type")
    if pa.types.is_temporal(type_):
        ticks = columns.literals([_moment(value, field) for value in values], pa.int64())
        return ticks.cast(pa.int32()).view(type_) if type_.bit_width == 32 else ticks.view(type_)
    if pa.types.is_decimal(type_):
        return pa.array([Decimal(str(value)) for value in values], type_)
    if pa.types.is_floating(type_):
        return columns.literals(np.array(values, np.float64).tolist()).cast(type_)
    return columns.literals(values, type_)


def _misfit(value: Any, field: Field, expected: str) -> ConfigError:
    return ConfigError(f"{value!r} does not fit column {field.name!r}, which is {describe(field)}; expected {expected}")


_FORMS = {"nan": _not_nan, "inf": _not_inf, "range": _range, "allowed": _one_of}
