"""Which columns become tensors, which are carried, and what comes out: decided once, from schemas alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import columns
from pipeline.columns import Storage
from pipeline.core import Array, ArrayField, Arrays, Column, Columns, Field, Schema
from pipeline.errors import ConfigError, DTypeError, TransformError

VALID = "\0valid:"
"""Prefix of the arrays that hold the validity of a column on its way to the device and back."""

ROWS = "\0rows"
"""Name of the array that says which input rows the output rows come from."""

Selection = Sequence[str] | Mapping[str, Sequence[str]] | None
Fill = float | Mapping[str, float]

_BLOCK = 65536


@dataclass(frozen=True)
class Route:
    """The way of one tensor column: the table's column or columns behind it, and how it lies in memory."""

    name: str
    fields: tuple[Field, ...]
    storage: Storage
    stacked: bool = False


@dataclass(frozen=True)
class Exit:
    """One column of the output and where it comes from.

    Attributes:
        name: name in the output.
        tensor: the tensor column that holds it, or None if it is carried.
        position: its place along the last axis of a stacked tensor column, or None for the whole.
    """

    name: str
    tensor: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class Layout:
    """The way in: tensor columns, carried columns, and what happens to nulls.

    Attributes:
        nulls: ``error``, ``mask`` (values and validity travel apart) or ``fill``.
        fill: value for nulls under ``fill``: a number, or a number per column.
        copy: every tensor column gets memory of its own, because the transform writes in place.
    """

    schema: Schema
    routes: tuple[Route, ...]
    carried: tuple[str, ...]
    nulls: str = "mask"
    fill: Fill = 0.0
    copy: bool = False

    @property
    def tensors(self) -> dict[str, Route]:
        """Routes by name."""
        return {route.name: route for route in self.routes}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all tensor columns."""
        return sum(route.storage.row_bytes for route in self.routes)

    def empty(self) -> Arrays:
        """Tensor columns of 0 rows."""
        return {r.name: np.empty((0, *r.storage.shape), r.storage.dtype) for r in self.routes}

    def enter(self, chunk: Columns) -> Arrays:
        """Arrays of the tensor columns, with the validity of those that hold nulls under ``VALID + name``."""
        arrays: Arrays = {}
        for route in self.routes:
            if route.stacked:
                arrays[route.name] = _stack([self._plain(chunk[f.name], f.name, route) for f in route.fields])
                continue
            name = route.fields[0].name
            array, valid = columns.values(chunk[name], name)
            if valid is not None:
                array, valid = self._null(array, valid, name)
            if self.copy:
                array = np.array(array, order="C", copy=True)
            arrays[route.name] = array
            if valid is not None:
                arrays[VALID + route.name] = valid
        return arrays

    def _plain(self, column: Column, name: str, route: Route) -> Array:
        """Values of a column that must not hold nulls, because it becomes part of a matrix."""
        array, valid = columns.values(column, name)
        if valid is None:
            return array
        if self.nulls == "fill":
            return self._null(array, valid, name)[0]
        raise DTypeError(
            f"column {name!r}, stacked into {route.name!r}, has {int((~valid).sum())} nulls, for which a matrix has no "
            "place. Set conversion.nulls=fill, or select the column unstacked"
        )

    def _null(self, array: Array, valid: Array, name: str) -> tuple[Array, Array | None]:
        if self.nulls == "mask":
            return array, valid
        if self.nulls == "fill":
            return _filled(array, valid, name, self.fill), None
        first = int(np.flatnonzero(~valid)[0])
        raise DTypeError(
            f"column {name!r} has {int((~valid).sum())} nulls (first in row {first} of this batch) and the "
            "transform does not take validity masks. conversion.nulls=mask keeps them null if the transform works "
            "column by column (values under nulls are unspecified), conversion.nulls=fill puts conversion.fill_value "
            "in their place"
        )

    def exits(
        self, tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], like: Mapping[str, str], *, unstack: bool
    ) -> tuple[Schema, tuple[Exit, ...]]:
        """Schema of the output and where its columns come from.

        A column that keeps its dtype and row shape keeps its stored type and metadata. Order: as in the input, new
        columns last.

        Args:
            tensors: dtype and row shape of the transform's output columns.
            like: names of output columns that are input columns under another name.
            unstack: take stacked columns apart again where their shape allows.
        """
        origin = {name: like.get(name, name) for name in tensors}
        fields: list[Field] = []
        exits: list[Exit] = []
        placed: set[str] = set()
        first = {route.fields[0].name: route for route in self.routes}
        for field in self.schema.fields:
            if field.name in self.carried:
                fields.append(field)
                exits.append(Exit(field.name))
            for name in [n for n in tensors if field.name in first and origin[n] == first[field.name].name]:
                placed.add(name)
                _leave(fields, exits, name, first[field.name], *tensors[name], unstack=unstack)
        for name in [n for n in tensors if n not in placed]:
            fields.append(ArrayField(name, *tensors[name]))
            exits.append(Exit(name, name))
        names = [e.name for e in exits]
        for name in {n for n in names if names.count(n) > 1}:
            raise TransformError(
                f"the output would have two columns {name!r}. Give the transform's column another name, or leave the "
                "carried one out (carry=[...])"
            )
        return Schema(tuple(fields), self.schema.metadata), tuple(exits)


# ---- choosing --------------------------------------------------------------------------------------------------------


def layout(
    schema: Schema, select: Selection, carry: str | Sequence[str], nulls: str = "mask", fill: Fill = 0.0
) -> Layout:
    """Decide the way of every column.

    Args:
        schema: the input.
        select: tensor columns: None = every column of numbers or truth values; names and globs (a glob matches only
            columns that tensors can hold, a name must); or a mapping of a new name to the columns stacked under it.
        carry: which of the others travel along: ``all``, ``none``, or names and globs.
        nulls: ``error``, ``mask`` or ``fill``.
        fill: see `Layout`.

    Raises:
        ConfigError: a name that matches nothing.
        DTypeError: a column named that tensors cannot hold, or columns of different types stacked.
    """
    if isinstance(select, Mapping):
        routes = tuple(_stacked(schema, name, names) for name, names in select.items())
    else:
        names = None if select is None else _match(schema, select, "columns")
        chosen = [f for f in schema.fields if (_is_number(f) if names is None else f.name in names)]
        routes = tuple(Route(f.name, (f,), columns.storage(f)) for f in chosen)
    used = [f.name for route in routes for f in route.fields]
    for name in {n for n in used if used.count(n) > 1}:
        raise ConfigError(f"columns: {name!r} is stacked twice")
    rest = [name for name in schema.names if name not in used]
    if carry == "all":
        carried = tuple(rest)
    elif carry == "none":
        carried = ()
    else:
        wanted = _match(schema, [carry] if isinstance(carry, str) else carry, "carry")
        carried = tuple(name for name in rest if name in wanted)
    for route in routes:
        if route.stacked and route.name in carried:
            raise ConfigError(f"columns: {route.name!r} is the name of a carried column; give the stack another name")
    return Layout(schema, routes, carried, nulls, fill)


def _is_number(field: Field) -> bool:
    try:
        return columns.storage(field).number
    except DTypeError:
        return False


def _match(schema: Schema, patterns: Sequence[str], key: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        if pattern in schema:
            found.add(pattern)
            continue
        hits = [f.name for f in schema.fields if fnmatchcase(f.name, pattern) and (key == "carry" or _is_number(f))]
        if not hits:
            near = difflib.get_close_matches(pattern, schema.names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(schema.names)}"
            raise ConfigError(f"{key}: {pattern!r} matches no column; {hint}")
        found.update(hits)
    return found


def _stacked(schema: Schema, name: str, patterns: str | Sequence[str]) -> Route:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    names: list[str] = []
    for pattern in patterns:  # the order of the list is the order of the features
        hits = _match(schema, [pattern], f"columns.{name}")
        names += [n for n in schema.names if n in hits and n not in names]
    fields = tuple(schema[n] for n in names)
    if not fields:
        raise ConfigError(f"columns.{name} is empty; list the columns to stack")
    kinds = {f.name: columns.storage(f) for f in fields}
    one = kinds[names[0]]
    for column, kind in kinds.items():
        if kind.shape:
            raise DTypeError(
                f"columns.{name}: {column!r} has rows of shape {kind.shape}; only plain columns are stacked"
            )
        if kind.dtype != one.dtype:
            raise DTypeError(
                f"columns.{name}: {column!r} is {kind.dtype}, {names[0]!r} is {one.dtype}; columns of one type are "
                "stacked, never promoted"
            )
    return Route(
        name, fields, Storage(one.dtype, (len(fields),), "columns copied into one matrix", one.number), stacked=True
    )


# ---- values ----------------------------------------------------------------------------------------------------------


def _stack(arrays: list[Array]) -> Array:
    """``(rows, F)`` over columnar memory: whole columns are copied, which is over twice as fast as interleaving."""
    matrix = np.empty((len(arrays), len(arrays[0])), arrays[0].dtype)
    for row, array in zip(matrix, arrays, strict=True):
        row[:] = array
    return matrix.T


def _filled(array: Array, valid: Array, name: str, fill: Fill) -> Array:
    value = fill.get(name, 0) if isinstance(fill, Mapping) else fill
    with np.errstate(all="ignore"):
        exact = np.asarray(value).astype(array.dtype)
    if not np.array_equal(exact, np.asarray(value), equal_nan=array.dtype.kind in "fc"):
        raise DTypeError(f"conversion.fill_value {value} is no {array.dtype} and column {name!r} has nulls to fill")
    array = np.array(array, order="C", copy=True)
    array[~valid] = exact
    return array


def _leave(
    fields: list[Field],
    exits: list[Exit],
    name: str,
    route: Route,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    unstack: bool,
) -> None:
    if route.stacked and unstack and name == route.name and shape == route.storage.shape:
        for i, field in enumerate(route.fields):
            fields.append(_retyped(field, field.name, dtype, ()))
            exits.append(Exit(field.name, name, i))
        return
    stacked = ArrayField(name, dtype, shape)
    fields.append(stacked if route.stacked else _retyped(route.fields[0], name, dtype, shape))
    exits.append(Exit(name, name))


def _retyped(field: Field, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Field:
    """`field` under a name, with as much of its type as the new dtype and row shape allow."""
    kept = columns.storage(field)
    if isinstance(field, ArrayField):
        return ArrayField(name, field.dtype if dtype == kept.dtype else dtype, shape)
    if (dtype, shape) == (kept.dtype, kept.shape):
        return field.with_name(name)
    try:
        value = columns.arrow_field(ArrayField(name, dtype)).type
    except DTypeError:  # Arrow has no such type, but the sink may
        return ArrayField(name, dtype, shape)
    if shape == kept.shape:
        return pa.field(name, _revalued(field.type, value), field.nullable, field.metadata)
    return ArrayField(name, dtype, shape) if shape else pa.field(name, value, field.nullable, field.metadata)


def _revalued(type_: pa.DataType, value: pa.DataType) -> pa.DataType:
    if isinstance(type_, pa.FixedShapeTensorType):
        return pa.fixed_shape_tensor(value, type_.shape, type_.dim_names, type_.permutation)
    if pa.types.is_fixed_size_list(type_):
        inner = type_.value_field.with_type(_revalued(type_.value_type, value))
        return pa.list_(inner, type_.list_size)
    return value
