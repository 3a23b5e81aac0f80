"""Which columns become tensors, which are carried, and what comes out: decided once, from schemas alone."""

from __future__ import annotations

import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pyarrow as pa

from pipeline import columns
from pipeline.columns import Storage
from pipeline.core import Array, ArrayField, Arrays, Column, Columns, Field, Schema
from pipeline.errors import ConfigError, DTypeError, TransformError
from pipeline.policy import Conversion, Policy, cast

VALID = "\0valid:"
"""Prefix of the arrays that hold the validity of a column on its way to the device and back."""

STARTS = "\0starts:"
"""Prefix of the arrays that say where the rows of a jagged column begin among its elements."""

ROWS = "\0rows"
"""Name of the array that says which input rows the output rows come from."""

Selection = Sequence[str] | Mapping[str, Sequence[str]] | None

_BLOCK = 65536
"""Rows that are interleaved at a time: a block of 8 float32 columns (2 MiB) stays in the cache."""


class Kind(NamedTuple):
    """What a tensor column holds: dtype on the host, shape of one row, and what unsigned integers stand for.

    Rows of a `ragged` column are lists of any length; the shape is that of one element.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    logical: str = ""
    ragged: bool = False

    def __str__(self) -> str:
        shape = ", ".join([*("*" for _ in range(self.ragged)), *map(str, self.shape)])
        return (self.logical or self.dtype.name) + (f"[{shape}]" if shape else "")

    def field(self, name: str) -> Field:
        """A column of it that is none of the input's."""
        if not self.ragged:
            return ArrayField(name, self.dtype, self.shape, self.logical)
        element = columns.arrow_field(ArrayField(name, self.dtype, self.shape), "fixed_size_list")
        return pa.field(name, pa.list_(element.type))


@dataclass(frozen=True)
class Route:
    """The way of one tensor column.

    Attributes:
        fields: the table's column or columns behind it.
        storage: how they lie in memory as they are stored.
        dtype: of the tensor; another than the storage's if a cast is declared.
    """

    name: str
    fields: tuple[Field, ...]
    storage: Storage
    dtype: np.dtype[Any]
    stacked: bool = False

    @property
    def kind(self) -> Kind:
        """What the transform sees."""
        return Kind(self.dtype, self.storage.shape, self.storage.logical, self.storage.ragged)

    @property
    def copy(self) -> str:
        """Why values are copied on the way in, or "" if memory is shared."""
        return self.storage.copy or (f"cast from {self.storage.dtype}" if self.dtype != self.storage.dtype else "")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the tensor, as far as its type tells."""
        return self.dtype.itemsize * math.prod(self.storage.shape)

    @property
    def worked_bytes(self) -> int:
        """The same of what a transform makes of it on the way: of pixels floats, which take twice as much at least."""
        return max(2, self.dtype.itemsize) * math.prod(self.storage.shape)


@dataclass(frozen=True)
class Exit:
    """One column of the output and where it comes from.

    Attributes:
        name: name in the output.
        tensor: the tensor column that holds it, or None if it is carried.
        position: its place along the last axis of a stacked tensor column, or None for the whole.
        stored: dtype to cast back to, if a cast was declared on the way in.
        words: the dictionary column whose words the values index, or None.
    """

    name: str
    tensor: str | None = None
    position: int | None = None
    stored: np.dtype[Any] | None = None
    words: str | None = None


@dataclass(frozen=True)
class Layout:
    """The way in: tensor columns, carried columns, and what may happen to values.

    Attributes:
        copy: every tensor column gets memory of its own, because the transform writes in place.
    """

    schema: Schema
    routes: tuple[Route, ...]
    carried: tuple[str, ...]
    conversion: Conversion = field(default_factory=Conversion)
    copy: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all tensor columns."""
        return sum(route.row_bytes for route in self.routes)

    @property
    def worked_bytes(self) -> int:
        """Bytes of one row of all tensor columns, each element as long as a float at least."""
        return sum(route.worked_bytes for route in self.routes)

    @property
    def used(self) -> tuple[str, ...]:
        """Columns of the input that travel, as tensors or carried."""
        return (*(f.name for route in self.routes for f in route.fields), *self.carried)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns to read, in the order of the input: one at least, since something has to count the rows."""
        used = frozenset(self.used)
        return tuple(name for name in self.schema.names if name in used) or self.schema.names[:1]

    @property
    def worded(self) -> tuple[str, ...]:
        """Dictionary columns whose indices the transform sees; their words stay on the host."""
        return tuple(f.name for route in self.routes for f in route.fields if _is_dictionary(f))

    def empty(self) -> Arrays:
        """Tensor columns of 0 rows."""
        values = {route.name: np.empty((0, *route.storage.shape), route.dtype) for route in self.routes}
        return values | {STARTS + route.name: np.zeros(1, np.int64) for route in self.routes if route.storage.ragged}

    def enter(self, chunk: Columns) -> Arrays:
        """Arrays of the tensor columns.

        Beside them the validity of those that hold nulls under ``VALID + name``, and the starts of jagged ones under
        ``STARTS + name``.
        """
        arrays: Arrays = {}
        for route in self.routes:
            if route.stacked:
                parts = [self._plain(chunk[f.name], f.name, route) for f in route.fields]
                arrays[route.name] = _stack(parts) if self.conversion.layout == "columnar" else _interleave(parts)
                continue
            name = route.fields[0].name
            array, valid = self._values(chunk[name], name, route)
            if self.copy and not route.copy:
                array = np.array(array, order="C", copy=True)
            arrays[route.name] = array
            if valid is not None:
                arrays[VALID + route.name] = valid
            if route.storage.ragged:
                arrays[STARTS + route.name] = columns.offsets(chunk[name])
        return arrays

    def _values(self, column: Column, name: str, route: Route) -> tuple[Array, Array | None]:
        array, valid = columns.values(column, name, pairs=columns.paired(self.schema[name]))
        policy = self.conversion.of(name)
        if valid is not None:
            array, valid = _null(array, valid, name, policy)
        if array.dtype == route.dtype:
            return array, valid
        made, wrong = cast(array, route.dtype, policy.cast_check, None if route.storage.ragged else valid)
        if wrong:
            raise DTypeError(f"column {name!r}: {wrong}. Choose another conversion.dtype, or conversion.cast_check")
        return made, valid

    def _plain(self, column: Column, name: str, route: Route) -> Array:
        """Values of a column that must not hold nulls, because it becomes part of a matrix."""
        if (count := columns.nulls(column)) and self.conversion.of(name).nulls != "fill":
            raise DTypeError(
                f"column {name!r}, stacked into {route.name!r}, has {count} nulls, for which a matrix has no place. "
                "Set conversion.nulls=fill, or select the column unstacked"
            )
        return self._values(column, name, route)[0]

    def exits(
        self, tensors: Mapping[str, Kind], like: Mapping[str, str], *, unstack: bool
    ) -> tuple[Schema, tuple[Exit, ...]]:
        """Schema of the output and where its columns come from.

        A column that keeps its kind keeps its stored type and metadata. Order: as in the input, new columns last.

        Args:
            tensors: the transform's output columns.
            like: names of output columns that are input columns under another name.
            unstack: take stacked columns apart again where their shape allows.
        """
        left: list[tuple[Field, Exit]] = []
        rest = dict(tensors)
        heirs: defaultdict[str, list[str]] = defaultdict(list)
        for name in tensors:
            heirs[like.get(name, name)].append(name)
        first = {route.fields[0].name: route for route in self.routes}
        carried = {*self.carried}
        for f in self.schema.fields:
            if f.name in carried:
                left.append((f, Exit(f.name)))
            if f.name in first:
                route = first[f.name]
                for name in heirs[route.name]:
                    left += self._leave(name, route, rest.pop(name), unstack=unstack)
        left += [(kind.field(name), Exit(name, name)) for name, kind in rest.items()]
        for name in _repeated(exit_.name for _, exit_ in left):
            raise TransformError(
                f"the output would have two columns {name!r}. Give the transform's column another name, or leave the "
                "carried one out (carry=[...])"
            )
        return Schema(tuple(f for f, _ in left), self.schema.metadata), tuple(exit_ for _, exit_ in left)

    def _leave(self, name: str, route: Route, kind: Kind, *, unstack: bool) -> list[tuple[Field, Exit]]:
        """What becomes of a tensor column that holds values of `route`."""
        if route.stacked and not (unstack and name == route.name and kind.shape == route.storage.shape):
            return [(kind.field(name), Exit(name, name))]
        if route.stacked:
            one = kind._replace(shape=())
            return [self._back(f, f.name, name, i, route, one) for i, f in enumerate(route.fields)]
        source = route.fields[0]
        if _is_dictionary(source) and kind != route.kind:
            return [(kind.field(name), Exit(name, name))]
        return [self._back(source, name, name, None, route, kind)]

    def _back(
        self, source: Field, name: str, tensor: str, position: int | None, route: Route, kind: Kind
    ) -> tuple[Field, Exit]:
        """The field for values of `source`, and the cast back to its stored dtype if one was declared on the way in."""
        policy = self.conversion.of(source.name)
        stored = columns.storage(source, policy).dtype
        back = stored if kind.dtype == route.dtype != stored else None
        if _is_dictionary(source):
            return source.with_name(name), Exit(name, tensor, position, back, source.name)
        kept = kind if back is None else kind._replace(dtype=back)
        return _retyped(source, name, kept, policy), Exit(name, tensor, position, back)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


# ---- choosing --------------------------------------------------------------------------------------------------------


def layout(
    schema: Schema, select: Selection, carry: str | Sequence[str], conversion: Conversion | None = None
) -> Layout:
    """Decide the way of every column.

    Args:
        schema: the input.
        select: tensor columns: None = every column of numbers or truth values; names and globs (a glob matches only
            columns that tensors can hold, a name must); or a mapping of a new name to the columns stacked under it.
        carry: which of the others travel along: ``all``, ``none``, or names and globs.
        conversion: what may happen to values.

    Raises:
        ConfigError: a name that matches nothing.
        DTypeError: a column named that tensors cannot hold, or columns of different types stacked.
    """
    conversion = conversion or Conversion()
    _match(schema, list(conversion.columns), "conversion.columns", conversion)
    if isinstance(select, Mapping):
        routes = [route for name, names in select.items() for route in _stacked(schema, name, names, conversion)]
    elif select is None:
        routes = [_route(f, conversion.of(f.name)) for f in schema.fields if _is_number(f, conversion)]
    else:
        names = _match(schema, select, "columns", conversion)
        routes = [_route(f, conversion.of(f.name)) for f in schema.fields if f.name in names and _wanted(f, conversion)]
    used = [f.name for route in routes for f in route.fields]
    for name in _repeated(used):
        raise ConfigError(f"columns: {name!r} is stacked twice")
    carried = _carried(schema, used, [] if select is None else list(select), carry, conversion)
    for route in routes:
        if route.stacked and route.name in carried:
            raise ConfigError(f"columns: {route.name!r} is the name of a carried column; give the stack another name")
    return Layout(schema, tuple(routes), carried, conversion)


def _route(f: Field, policy: Policy) -> Route:
    stored = columns.storage(f, policy)
    if policy.nulls == "fill" and (what := _unfillable(f, stored)):
        raise ConfigError(f"conversion.nulls=fill has no value for {what} of column {f.name!r}; set mask for it")
    if policy.logical_dtype and policy.dtype:
        raise ConfigError(
            f"column {f.name!r}: conversion.logical_dtype={policy.logical_dtype} says what its bits are; leave "
            "conversion.dtype out for it, and convert in the transform"
        )
    return Route(f.name, (f,), stored, stored.dtype if stored.logical else policy.tensor_dtype(stored.dtype, f.name))


def _unfillable(f: Field, stored: Storage) -> str:
    """Values that stand for something else than a number, so that no number can be put among them; "" for others."""
    if stored.ragged:
        return "the lists"
    if stored.logical:
        return f"the {stored.logical} bits"
    if _is_dictionary(f):
        return "the words"
    return "" if isinstance(f, ArrayField) or not pa.types.is_decimal(f.type) else "the unscaled decimals"


def _wanted(f: Field, conversion: Conversion) -> bool:
    """Whether a column chosen by name becomes a tensor; one that cannot may be passed through or dropped."""
    return conversion.of(f.name).unsupported == "error" or _fits(f, conversion)


def _fits(f: Field, conversion: Conversion) -> bool:
    try:
        columns.storage(f, conversion.of(f.name))
    except DTypeError:
        return False
    return True


def _is_number(f: Field, conversion: Conversion) -> bool:
    return _fits(f, conversion) and columns.storage(f, conversion.of(f.name)).number


def _is_dictionary(f: Field) -> TypeGuard[pa.Field]:
    return not isinstance(f, ArrayField) and bool(pa.types.is_dictionary(f.type))


def _carried(
    schema: Schema, used: Sequence[str], chosen: Sequence[str], carry: str | Sequence[str], conversion: Conversion
) -> tuple[str, ...]:
    taken = {*used}
    rest = [name for name in schema.names if name not in taken]
    rest = [name for name in rest if not (name in chosen and conversion.of(name).unsupported == "drop")]
    if carry == "all":
        return tuple(rest)
    if carry == "none":
        return ()
    wanted = _match(schema, [carry] if isinstance(carry, str) else carry, "carry", conversion)
    return tuple(name for name in rest if name in wanted)


def _match(schema: Schema, patterns: Sequence[str], key: str, conversion: Conversion) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        if pattern in schema:
            found.add(pattern)
            continue
        some = [f for f in schema.fields if fnmatchcase(f.name, pattern)]
        hits = [f.name for f in some if key in ("carry", "conversion.columns") or _is_number(f, conversion)]
        if not hits:
            near = difflib.get_close_matches(pattern, schema.names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(schema.names)}"
            raise ConfigError(f"{key}: {pattern!r} matches no column; {hint}")
        found.update(hits)
    return found


def _stacked(schema: Schema, name: str, patterns: str | Sequence[str], conversion: Conversion) -> list[Route]:
    """The matrix of the columns under a name, or one for each of their dtypes."""
    names: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:  # their order is the order of the features
        hits = _match(schema, [pattern], f"columns.{name}", conversion)
        names += [n for n in schema.names if n in hits and n not in names]
    if not names:
        raise ConfigError(f"columns.{name} is empty; list the columns to stack")
    groups: dict[np.dtype[Any], list[Route]] = {}
    for route in [_route(schema[n], conversion.of(n)) for n in names]:
        if route.storage.shape or route.storage.logical or route.storage.ragged:
            raise DTypeError(f"columns.{name}: {route.name!r} is {route.kind}; only plain columns are stacked")
        groups.setdefault(route.dtype, []).append(route)
    if len(groups) > 1 and conversion.mixed_dtypes == "error":
        one, other = [group[0] for group in groups.values()][:2]
        raise DTypeError(
            f"columns.{name}: {other.name!r} is {other.dtype}, {one.name!r} is {one.dtype}; columns of one type are "
            "stacked, never promoted. conversion.mixed_dtypes=group makes a matrix of each type"
        )
    return [_matrix(name if len(groups) == 1 else f"{name}.{dtype}", group) for dtype, group in groups.items()]


def _matrix(name: str, group: Sequence[Route]) -> Route:
    kinds = {route.storage.dtype for route in group}
    stored = next(iter(kinds)) if len(kinds) == 1 else group[0].dtype
    made = Storage(stored, (len(group),), "columns copied into one matrix", group[0].storage.number)
    return Route(name, tuple(route.fields[0] for route in group), made, group[0].dtype, stacked=True)


# ---- values ----------------------------------------------------------------------------------------------------------


def _stack(arrays: list[Array]) -> Array:
    """``(rows, F)`` over columnar memory: whole columns are copied, which is over twice as fast as interleaving."""
    matrix = np.empty((len(arrays), len(arrays[0])), arrays[0].dtype)
    for row, array in zip(matrix, arrays, strict=True):
        row[:] = array
    return matrix.T


def _interleave(arrays: list[Array]) -> Array:
    """``(rows, F)`` row by row, in blocks that stay in the cache."""
    matrix = np.empty((len(arrays[0]), len(arrays)), arrays[0].dtype)
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        np.stack([array[start:stop] for array in arrays], axis=1, out=matrix[start:stop])
    return matrix


def _null(array: Array, valid: Array, name: str, policy: Policy) -> tuple[Array, Array | None]:
    if policy.nulls in ("mask", "auto"):
        return array, valid
    if policy.nulls == "fill":
        return _filled(array, valid, name, policy.fill_value), None
    first = int(np.flatnonzero(~valid)[0])
    raise DTypeError(
        f"column {name!r} has {int((~valid).sum())} nulls (first in row {first} of this batch) and the transform does "
        "not take validity masks. conversion.nulls=mask keeps them null if the transform works column by column "
        "(values under nulls are unspecified), conversion.nulls=fill puts conversion.fill_value in their place"
    )


def _filled(array: Array, valid: Array, name: str, value: float) -> Array:
    with np.errstate(all="ignore"):
        exact = np.asarray(value).astype(array.dtype)
    if not np.array_equal(exact, np.asarray(value), equal_nan=array.dtype.kind in "fc"):
        raise DTypeError(f"conversion.fill_value {value} is no {array.dtype} and column {name!r} has nulls to fill")
    array = np.array(array, order="K", copy=True)  # a permuted tensor need not be put in order on the way back
    array[~valid] = exact
    return array


def _retyped(f: Field, name: str, kind: Kind, policy: Policy) -> Field:
    """`f` under a name, with as much of its type as the new kind allows."""
    kept = columns.storage(f, policy)
    if kind.ragged != kept.ragged:
        return kind.field(name)
    if isinstance(f, ArrayField):
        dtype = f.dtype if (kind.dtype, kind.logical) == (kept.dtype, kept.logical) else kind.dtype
        dtype = dtype.newbyteorder("=") if policy.byteorder == "native" else dtype
        return ArrayField(name, dtype, kind.shape, kind.logical, scalar=f.scalar and not kind.shape)
    if kind == (kept.dtype, kept.shape, kept.logical, kept.ragged):
        return f.with_name(name)
    fresh = kind.field(name)
    try:
        value = columns.arrow_field(ArrayField(name, kind.dtype)).type
    except DTypeError:  # Arrow has no such type, but the sink may
        return fresh
    if kind.logical or kept.logical or columns.paired(f):
        return fresh
    if kind.shape == kept.shape:
        return pa.field(name, _revalued(f.type, value), f.nullable, f.metadata)
    return fresh if kind.shape else pa.field(name, value, f.nullable, f.metadata)


def _revalued(type_: pa.DataType, value: pa.DataType) -> pa.DataType:
    if isinstance(type_, pa.FixedShapeTensorType):
        return pa.fixed_shape_tensor(value, type_.shape, type_.dim_names, type_.permutation)
    if pa.types.is_fixed_size_list(type_):
        inner = type_.value_field.with_type(_revalued(type_.value_type, value))
        return pa.list_(inner, type_.list_size)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        inner = type_.value_field.with_type(_revalued(type_.value_type, value))
        return pa.list_(inner) if pa.types.is_list(type_) else pa.large_list(inner)
    return value
