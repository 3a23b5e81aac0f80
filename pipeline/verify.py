"""Whether the stage keeps its promises on the user's own input: nothing lost, whatever the batch size and the device.

A sample goes through the flow of a run several times and the results are compared column by column. Rows are written
only to a temporary folder, to see what the format of the output makes of them.
"""

from __future__ import annotations

import copy
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columns
from pipeline.batching import join
from pipeline.check.checks import Checks
from pipeline.columns import describe
from pipeline.core import (
    ArrayField,
    Column,
    Columns,
    Device,
    Engine,
    Field,
    Fittable,
    Schema,
    Sink,
    Source,
    Tensors,
    Transform,
    rowwise,
)
from pipeline.difference import Difference, compare
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.layout import Exit, Layout
from pipeline.plan import counted
from pipeline.policy import Policy
from pipeline.run import Options, Stage, learn, learned, prepare, taught
from pipeline.sample import Kept, Sample, sample
from pipeline.verdict import AGAIN, Check, Limits, Verdict


def verify(
    *,
    source: Source,
    transform: Transform,
    sink: Sink,
    engine: Engine,
    device: Device,
    options: Options,
    limits: Limits | None = None,
    other: Device | None = None,
) -> Verdict:
    """Compare identity with the input, and the transform with itself in other circumstances.

    The transform runs on a fresh copy each time. One that learns is given what is kept beside the output if a run would
    use that, else it learns from the sample. It sees the rows that checks of the input let pass. `other` is a second
    device to compare with.
    """
    limits = limits or Limits()
    full = prepare(source, copy.deepcopy(transform), sink, engine, device, options)
    plan, kept = full.plan, learned(full) if _learns(full.transform) else None
    del full  # and its copy of the transform, which may be large
    drawn = sample(source, limits.rows, limits.bytes, limits.splits)
    identity, how = _identity(drawn, sink, engine, device, options)
    trial = _Trial(drawn, transform, sink, engine, options, limits)
    base = trial.stage(device, plan.batch_rows)
    states = kept or (learn(base)[1] if _learns(base.transform) else [])
    expected = _transformed(base, states)
    checks = [
        trial.check(AGAIN, base, expected, states, device, plan.batch_rows),
        _rebatched(trial, base, expected, states),
        *([] if other is None else [_elsewhere(trial, base, expected, states, other)]),
    ]
    learning = "kept beside the output" if kept else "learned from the sample for this check"
    head = {
        "source": plan.names["source"],
        "transform": plan.names["transform"] + (f", with what is {learning}" if states else ""),
        "device": device.name,
        "sample": _drawn(drawn, plan.rows),
        "batches": f"at most {counted(trial.batch(plan.batch_rows), 'row')}; a run has at most {plan.batch_rows:,}",
        "identity": how,
        "tolerance": f"verify.atol={limits.atol:g}, verify.rtol={limits.rtol:g} for floating-point numbers of the "
        "transform; none for all else",
    }
    return Verdict(head, drawn, limits, identity, checks, {f.name: describe(f) for f in base.ways.stored.fields})


def _drawn(drawn: Sample, rows: int | None) -> str:
    if drawn.rows == rows:
        return f"all {rows:,} rows"
    of = "" if rows is None else f" of {rows:,}"
    return f"{drawn.rows:,}{of} rows, the first ones of {counted(len(drawn.pieces), 'piece')} of the input"


# ---- the transform ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A transform that runs on the same rows again and again, each time on a fresh copy."""

    drawn: Sample
    transform: Transform
    sink: Sink
    engine: Engine
    options: Options
    limits: Limits

    def stage(self, device: Device, rows: int) -> Stage:
        """The stage with batches of so many rows, its output kept in memory."""
        options = replace(self.options, batch_rows=rows, checks=self.options.checks.of_some_rows)
        return prepare(self.drawn, copy.deepcopy(self.transform), Kept(self.sink), self.engine, device, options)

    def batch(self, rows: int) -> int:
        """Rows of the longest batch that the sample has where `rows` are allowed."""
        return min(rows, max(split.rows or 0 for split in self.drawn.pieces))

    def check(
        self, name: str, base: Stage, expected: Columns, states: Sequence[Tensors], device: Device, rows: int
    ) -> Check:
        """The output on that device and in those batches against the one expected."""
        found = _transformed(self.stage(device, rows), states)
        return Check(name, dict(_differences(base, expected, found, self.limits)))


def _rebatched(trial: _Trial, base: Stage, expected: Columns, states: Sequence[Tensors]) -> Check:
    name = "another batch size"
    if rowwise(trial.transform) is False:
        return Check(name, {}, "the transform says that it is not row-wise")
    usual = trial.batch(base.plan.batch_rows)
    rows = max(1, usual // 3) if usual > 1 else trial.batch(7)
    if rows == usual:
        return Check(name, {}, "the sample has no rows to batch in another way")
    return trial.check(f"{counted(rows, 'row')} a batch", base, expected, states, base.device, rows)


def _elsewhere(trial: _Trial, base: Stage, expected: Columns, states: Sequence[Tensors], device: Device) -> Check:
    """A device that cannot do what the transform asks for is no fault of the stage."""
    name = f"on {device.name}"
    try:
        return trial.check(name, base, expected, states, device, base.plan.batch_rows)
    except (PipelineError, RuntimeError) as e:
        return Check(name, {}, str(e))


def _learns(transform: Transform) -> bool:
    return isinstance(transform, Fittable) and not transform.fitted


def _transformed(stage: Stage, states: Sequence[Tensors]) -> Columns:
    """The output as the sink would be given it."""
    assert isinstance(stage.sink, Kept)
    _work(stage, taught(stage.transform, states, stage.device))
    return stage.sink.table()


def _work(stage: Stage, transform: Transform) -> None:
    deque(stage.worker(transform)(stage.tasks("")), maxlen=0)


def _differences(stage: Stage, expected: Columns, found: Columns, limits: Limits) -> Iterator[tuple[str, Difference]]:
    """Columns of the transform within the tolerance, carried ones bit for bit."""
    for exit_ in stage.ways.exits:
        one, other = expected[exit_.name], found[exit_.name]
        if exit_.tensor is None:
            yield exit_.name, compare(one, other)
            continue
        if logical := stage.ways.kinds[exit_.tensor].logical:
            one, other = _floats(one, logical), _floats(other, logical)
        yield exit_.name, compare(one, other, limits.atol, limits.rtol)


def _floats(column: Column, logical: str) -> Column:
    """bfloat16 and float8, which travel as bits, as float32. Rows that have a shape are NaN where they are null."""
    import torch

    from pipeline.tensors import to_array, to_tensor

    bits, valid = columns.values(column, logical)
    values = to_array(to_tensor(bits, logical, share=False).view(getattr(torch, logical)).float(), logical)
    if valid is not None and values.ndim == 1:
        return pa.array(values, mask=~valid)
    if valid is not None:
        values[~valid] = np.nan
    return values


# ---- identity --------------------------------------------------------------------------------------------------------


def _identity(drawn: Sample, sink: Sink, engine: Engine, device: Device, options: Options) -> tuple[Check, str]:
    """The input against itself after the flow, written and read again where that can be; and how it was done."""
    with tempfile.TemporaryDirectory(prefix="pipeline-verify-") as folder:
        try:
            return _written(drawn, _placed(sink, Path(folder)), engine, device, options)
        except (ConfigError, DataError) as e:  # the output of the transform may suit the sink where the input does not
            why = str(e)
    kept = Kept(sink, typed=False)
    stage = _flow(drawn, kept, engine, device, options)
    return _compared(stage, stage.ways.stored, kept.table(), ()), f"not written and read again: {why}"


def _written(drawn: Sample, sink: Sink, engine: Engine, device: Device, options: Options) -> tuple[Check, str]:
    stage = _flow(drawn, sink, engine, device, options)
    back = _back(sink, stage.ways.stored)
    rows = join([chunk for split in back.splits() for chunk in back.read(split)])
    check = _compared(stage, back.schema(), rows, tuple(getattr(sink, "partition_by", ())))
    return check, f"written to a temporary folder and read again as {type(back).__name__}"


def _flow(drawn: Sample, sink: Sink, engine: Engine, device: Device, options: Options) -> Stage:
    from pipeline.transform.identity import Identity

    stage = prepare(drawn, Identity(), sink, engine, device, replace(options, checks=Checks()))
    _work(stage, stage.transform)
    return stage


def _placed(sink: Sink, folder: Path) -> Sink:
    """The same sink with another path."""
    if not is_dataclass(sink) or "path" not in {f.name for f in fields(sink)}:
        raise ConfigError(f"{type(sink).__name__} is no dataclass with a path that could be another")
    place = folder / ("sample" + (Path(sink.path).suffix if sink.single else ""))
    moved: Sink = replace(sink, path=str(place))
    return moved


def _back(sink: Sink, stored: Schema) -> Source:
    """A source for what the sink wrote, by the suffix of its files."""
    from pipeline.source.npy import Npy
    from pipeline.source.npz import Npz
    from pipeline.source.parquet import Parquet

    place = Path(sink.path)
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    if suffixes == {".npy"}:
        return Npy(sink.path, column=stored.names[0])
    if suffixes == {".npz"}:
        return Npz(sink.path)
    if suffixes == {".parquet"}:
        keys = {name: str(stored[name].type) for name in getattr(sink, "partition_by", ())}  # type: ignore[union-attr]
        return Parquet(sink.path, partitions=keys or None)
    raise ConfigError(f"no source here reads {', '.join(sorted(suffixes)) or 'what'} {type(sink).__name__} wrote")


def _compared(stage: Stage, schema: Schema, found: Columns, keys: Sequence[str]) -> Check:
    """Each column of the input that travels, against the one of the output that holds it."""
    assert isinstance(stage.source, Sample)
    given = stage.source.table()
    if keys:
        given, found = _in_order(given, keys), _in_order(found, keys)
    layout = stage.plan.layout
    # The names of folders hold values, and nothing more about their type.
    schema = Schema(tuple(layout.schema[f.name] if f.name in keys else f for f in schema.fields), schema.metadata)
    compared = dict(pair for exit_ in stage.ways.exits for pair in _pairs(layout, exit_, schema, given, found))
    if any(not isinstance(f, ArrayField) for f in stage.ways.stored.fields):
        was, is_ = (dict(s.metadata or {}) for s in (layout.schema, schema))
        if was != is_:
            what = f"metadata of the table: {_keys(was)} became {_keys(is_)}"
            compared["(table)"] = Difference(None, None, None, within=False, what=what)
    return Check("identity", compared)


def _pairs(
    layout: Layout, exit_: Exit, schema: Schema, given: Columns, found: Columns
) -> Iterator[tuple[str, Difference]]:
    """The columns of the input that one column of the output holds, and what became of them."""
    name = exit_.name
    route = next((route for route in layout.routes if route.name == exit_.tensor), None)
    if route is not None and route.stacked and exit_.position is None:
        matrix = columns.values(found[name], name)[0] if name in found else None
        for i, f in enumerate(route.fields):
            whole = _filled(given[f.name], layout.conversion.of(f.name))
            yield f.name, _MISSING if matrix is None else _strict(compare(whole, matrix[:, i]))
    elif name not in found:
        yield name, _MISSING
    else:
        policy = Policy() if route is None else layout.conversion.of(name)  # nothing may happen to a carried column
        yield name, _lost(layout.schema[name], schema[name], given[name], found[name], policy)


_MISSING = Difference(0, None, None, within=False, what="the column is missing")


def _strict(difference: Difference) -> Difference:
    """No bit may differ, nor that of a NaN."""
    return replace(difference, within=not difference.what)


def _in_order(rows: Columns, keys: Sequence[str]) -> Columns:
    """Rows sorted by what the folders are named after; within a folder they keep their order."""
    by = {name: pa.array(rows[name]) if isinstance(rows[name], np.ndarray) else rows[name] for name in keys}
    index = pc.sort_indices(pa.table(by), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    return {name: columns.take(column, index) for name, column in rows.items()}


def _lost(field: Field, stored: Field, given: Column, found: Column, policy: Policy) -> Difference:
    """The difference of a column from what it was, in values and in type."""
    difference = compare(_filled(given, policy), found)
    changed = _change(field, stored, policy)
    if difference.row is None and changed:
        return Difference(None, within=False, what=changed)
    return _strict(difference)


def _filled(column: Column, policy: Policy) -> Column:
    """A column as conversion.nulls=fill declares it."""
    if policy.nulls != "fill" or not columns.nulls(column):
        return column
    if isinstance(column, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(column.indices.fill_null(int(policy.fill_value)), column.dictionary)
    values, valid = columns.values(column, "")
    assert valid is not None
    filled = np.array(values)
    filled[~valid] = policy.fill_value
    return filled


def _change(field: Field, stored: Field, policy: Policy) -> str:
    """What became of the type of a column, if its library has not changed; "" if nothing did."""
    if isinstance(field, ArrayField) and isinstance(stored, ArrayField):
        dtype = field.dtype.newbyteorder("=") if policy.byteorder == "native" else field.dtype
        same = (dtype, field.shape) == (stored.dtype, stored.shape)
        return "" if same else f"{field.dtype.str} {field.shape} became {stored.dtype.str} {stored.shape}"
    if isinstance(field, ArrayField) or isinstance(stored, ArrayField):
        return ""
    if field.type != stored.type or field.nullable != stored.nullable:
        return f"{field} became {stored}"
    was, is_ = (dict(f.metadata or {}) for f in (field, stored))
    return "" if was == is_ else f"metadata of the column: {_keys(was)} became {_keys(is_)}"


def _keys(metadata: Mapping[bytes, bytes]) -> str:
    return ", ".join(key.decode(errors="replace") for key in metadata) or "nothing"
