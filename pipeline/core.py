"""The waist: the facts that travel and the contracts that meet. It knows nobody.

A **source** names **splits** and reads them as **columns**. A **transform** maps tensors to tensors. A **sink** opens a
**writer** for each **task** and gets back the **files** of one **part**. A **device** moves arrays to tensors and back.
An **engine** decides where the worker runs. Nothing here imports NumPy or torch before there are rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, Union, runtime_checkable

from pipeline.errors import TransformError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Column: TypeAlias = Union[Array, "pa.Array"]
"""Rows of one column on the host: a NumPy array ``(rows, ...)``, or one Arrow array (never chunked)."""

Columns: TypeAlias = dict[str, Column]
Arrays: TypeAlias = dict[str, Array]
Tensors: TypeAlias = "dict[str, Tensor]"
Validity: TypeAlias = "dict[str, Tensor]"
"""For columns that hold nulls in this batch: bool ``(rows,)``, True where the row has a value (Arrow's sense)."""


# ---- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayField:
    """The type of a NumPy column: its dtype and the shape of one row. The Arrow counterpart is ``pa.Field``."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    logical: str = ""
    """What unsigned integers stand for where NumPy has no such type, such as bfloat16."""
    scalar: bool = False
    """Whether it is a single value without an axis of rows (a 0-d array), which travels as one row."""

    def __str__(self) -> str:
        shape = list(self.shape) if self.shape else " (0-d)" if self.scalar else ""
        return f"{self.logical or self.dtype.name}{shape}"


Field: TypeAlias = Union[ArrayField, "pa.Field"]


@dataclass(frozen=True)
class Schema:
    """Names and types of columns, in order, with the metadata of the table. Known before any row is read."""

    fields: tuple[Field, ...]
    metadata: Mapping[bytes, bytes] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(f.name for f in self.fields)

    @cached_property
    def _named(self) -> dict[object, Field]:
        return {f.name: f for f in reversed(self.fields)}  # looked up for each column of each batch

    def __getitem__(self, name: str) -> Field:
        return self._named[name]

    def __contains__(self, name: object) -> bool:
        return name in self._named


@dataclass(frozen=True)
class Split:
    """A piece of the input that can be read alone, and again.

    Attributes:
        id: stable name within the input, such as ``year=2013/flights.parquet:0-4``. Resuming depends on it. What ends
            in ``:start-stop`` is a piece of the file named before it: see `whole`.
        version: changes when the data behind the id changes (size and mtime, or an etag).
        rows: number of rows, or None if only reading tells (a filter).
        bytes: estimate of the decoded size.
        path: the file, for messages and for the source itself.
        start, stop: what the source needs to find the piece (row groups, rows, ...).
        extra: more facts for the source, e.g. values of partition columns. Plain data only.
    """

    id: str
    version: str
    rows: int | None = None
    bytes: int = 0
    path: str = ""
    start: int = 0
    stop: int = 0
    extra: tuple[tuple[str, str | None], ...] = ()


def whole(id_: str) -> str:
    """The file that a split is a piece of, by its id; the id itself if it names no piece.

    A file that grew has other pieces than before, and is the same file all the same.
    """
    return re.sub(r":\d+-\d+$", "", id_)


@dataclass(frozen=True)
class Task:
    """The work that makes one part: the splits it reads, in order, and the name of what it writes.

    Attributes:
        index: place in the order of the output.
        key: hex digest of what decides the bytes of the part: splits, versions, configuration, code, fitted state.
        name: file name of the part without suffix, such as ``part-00007-1f2e3d4c``; empty for a single-file output.
        rows: rows that the part will hold if that is known before the run, else None.
    """

    index: int
    key: str
    name: str
    splits: tuple[Split, ...]
    rows: int | None = None

    @property
    def bytes(self) -> int:
        """Estimate of the decoded input, for the sizing of row groups."""
        return sum(split.bytes for split in self.splits)


@dataclass(frozen=True)
class File:
    """A durable file of the output: path relative to the folder of the output, size, SHA-256 and rows."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Part:
    """The durable output of one task, ready to be committed."""

    key: str
    index: int
    splits: tuple[str, ...]
    rows_in: int
    rows_out: int
    files: tuple[File, ...]
    nulls_in: Mapping[str, int] = field(default_factory=dict)
    nulls_out: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    """Those of `splits`, in the same order: what a message about a changed input compares."""
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each check counted: rows, the first of them, and the file of keys if values must be unique."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Rows that checks of the input, or of the output, have taken out."""
    side: tuple[File, ...] = ()
    """Files in the bookkeeping that belong to this part."""


@dataclass(frozen=True)
class Findings:
    """What checks found in one batch.

    Attributes:
        broken: by condition, how many rows broke it and where the first of them is.
        refused: rows that go to quarantine, with their places; no columns if there are none.
        keys: at the end of a task, what its unique columns held.
    """

    broken: Mapping[str, tuple[int, str]]
    refused: Columns = field(default_factory=dict)
    keys: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Rows that travel together. Never crosses a split.

    Attributes:
        first: index of the first row within the split.
        columns: what is on the host: every column at first, later the carried ones.
        last: whether the task ends with this batch.
        nulls: nulls that arrived, for columns that hold any.
        places: index of each row within the split where checks took rows out; None if they are all there.
        found: what checks of the input found.
    """

    task: Task
    split: Split
    first: int
    rows: int
    columns: Columns
    last: bool
    nulls: Mapping[str, int] = field(default_factory=dict)
    places: Array | None = None
    found: Findings | None = None

    @property
    def where(self) -> str:
        """File and rows, for messages."""
        stop = self.first + self.rows if self.places is None or not self.rows else int(self.places[-1]) + 1
        return f"{self.split.path or self.split.id}, rows {self.first}-{stop} of split {self.split.id}"

    @property
    def rows_read(self) -> int:
        """Its rows, and those that checks of the input have taken out of it."""
        refused = self.found.refused if self.found is not None else {}
        return self.rows + (len(next(iter(refused.values()))) if refused else 0)

    def rows_at(self, index: Array | None) -> Array:
        """Places within the split of the rows at `index`; None for all."""
        import numpy as np

        places = np.arange(self.first, self.first + self.rows) if self.places is None else self.places
        return places if index is None else places[index]


# ---- contracts -------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """Rows that can be read piece by piece, and again."""

    def schema(self) -> Schema:
        """Names and types of every column that `read` yields, from headers alone: the same for 0 rows as for n."""

    def splits(self) -> Sequence[Split]:
        """Name every piece. Same input, same names, same order: resuming depends on it."""

    def read(self, split: Split) -> Iterator[Columns]:
        """Yield the rows of one split in chunks of any size; at least one chunk (perhaps of 0 rows).

        Every chunk has the columns of `schema`. Chunks may share memory that is read-only; they must not share memory
        that the source writes to again. May be called on another machine, and again after a failure; in several
        threads at once, each with a split of its own.
        """


@runtime_checkable
class Selective(Protocol):
    """A source that need not decode what nobody asks for. It may say how dear that is, see `decodes`."""

    def read_only(self, split: Split, columns: Sequence[str], rows: int) -> Iterator[Columns]:
        """As `read`, with these columns alone, in their order.

        Where the source decides the size of a chunk it makes it a multiple of `rows`, so that no batch spans two.
        """


@runtime_checkable
class KeepsWords(Protocol):
    """A source that can leave the words of a column as they are stored: few of them, and a code for each row."""

    def read_words(self, split: Split, columns: Sequence[str], rows: int, words: Sequence[str]) -> Iterator[Columns]:
        """As `read_only`. Of the columns in `words`, strings and binaries, any may come as dictionaries of int32.

        Which of them do depends on what is stored in the split alone; a column comes in one way in all its chunks.
        """


def decodes(source: Source) -> bool:
    """Whether to read is more than to copy, by the attribute ``decodes``; sources that say nothing do."""
    return getattr(source, "decodes", True) is not False


def advice(of: object) -> str:
    """One measured way to make the lane of a source, device or sink quicker, by the attribute ``advice``; or ""."""
    return str(getattr(of, "advice", ""))


class Writer(Protocol):
    """One part under construction. Nothing is visible under a final name before `close` returns."""

    def write(self, columns: Columns) -> None:
        """Append rows. The writer may keep the columns until `close`; the caller does not write to them again."""

    def close(self) -> tuple[File, ...]:
        """Make the part durable and visible, all of it or nothing. Called once, after the last `write`."""

    def abort(self) -> None:
        """Leave nothing behind. Called instead of `close`, or after it failed; harmless when called twice."""


class Sink(Protocol):
    """Where parts go. `path` is where the manifest lives too: same path, same result.

    Several parts may be open at once, each in a thread of its own.
    """

    @property
    def path(self) -> str:
        """The output: one file if it has the suffix of the format, else a folder."""

    @property
    def columnar(self) -> bool:
        """Whether the format keeps a table of columns, so that stacked columns are best taken apart again."""

    @property
    def single(self) -> bool:
        """Whether the whole output is one file, so that one task must hold all splits."""

    def accept(self, schema: Schema) -> Schema:
        """The schema as it will be stored. Raises DTypeError with the column's name for what cannot be."""

    def open(self, task: Task, schema: Schema) -> Writer:
        """Start a part. `schema` is what `accept` was given; every `write` has just those columns, in that order."""


@runtime_checkable
class StoresWords(Protocol):
    """A sink that can do with words and codes where strings or binaries are declared; it stores what is declared."""

    def words(self, schema: Schema) -> tuple[str, ...]:
        """Columns that `write` takes as dictionaries of int32, too; some chunks of a part may come as declared."""


class Device(Protocol):
    """Moves batches between host and device.

    `upload`, `compute` and `download` may run in three threads at once, and each of them in several if the device has
    an attribute ``concurrent`` that is true.
    """

    @property
    def name(self) -> str:
        """As torch spells it: cpu, cuda:0, mps."""

    @property
    def shares(self) -> bool:
        """Whether uploaded tensors share the memory of the arrays."""

    def upload(self, arrays: Arrays) -> Staged:
        """Start copying arrays to the device; they are the caller's again when this returns, unless shared (CPU)."""

    def compute(self) -> AbstractContextManager[None]:
        """The scope in which `ready`, the transform and `leave` run on one batch.

        Always in the same thread, unless the device has an attribute ``concurrent`` that is true.
        """

    def ready(self, staged: Staged) -> Tensors:
        """The tensors, safe to use in the compute scope."""

    def leave(self, tensors: Tensors) -> Staged:
        """Mark tensors as finished at this point of the compute scope, to be handed to `download`."""

    def download(self, staged: Staged) -> Arrays:
        """Host arrays whose bytes have arrived and which no later batch overwrites."""


@runtime_checkable
class CountsMemory(Protocol):
    """A device that knows how much of its memory tensors take."""

    def peak_memory(self) -> int:
        """The most bytes that they took at once since the last call."""


@dataclass(frozen=True)
class Staged:
    """Tensors on their way, with whatever the device needs to know when they have arrived."""

    tensors: Tensors
    token: Any = None


class Engine(Protocol):
    """Decides where and when the worker runs."""

    def map(self, worker: Callable[[Iterable[Task]], Iterator[Part]], tasks: Sequence[Task]) -> Iterator[Part]:
        """Parts of all tasks, in any order; each exactly once."""


# ---- transforms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """What a transform returns when it has more to say than its tensors.

    Attributes:
        tensors: the columns of the output, each ``(rows_out, ...)``.
        rows: which input rows the output rows come from, if not all in order: bool ``(rows_in,)`` to keep a subset, or
            int64 ``(rows_out,)`` indices to reorder or repeat. Carried columns follow it.
        validity: for output columns that hold nulls, bool ``(rows_out,)``. A column that is not named here takes the
            nulls of the input column of the same name, moved along with `rows`.
        like: for output columns that are an input column under a new name, that input column: they take its stored
            type, its metadata and its nulls.
    """

    tensors: Tensors
    rows: Tensor | None = None
    validity: Validity = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)


Transform: TypeAlias = Callable[["Tensors"], "Tensors | Output"]
"""Any callable from named tensors to named tensors: a function, a frozen dataclass, an ``nn.Module``.

It may add, drop, replace and reshape columns. If it changes the number of rows it returns an `Output` with `rows`.
It may write in place: its input is its own. It must not keep its input beyond the call: later lanes still read it.
Memory that it returns and keeps, such as a buffer for results, is copied.
"""


@runtime_checkable
class TakesValidity(Protocol):
    """A transform that knows about nulls. The others see unspecified values under nulls."""

    def with_validity(self, tensors: Tensors, validity: Validity) -> Tensors | Output:
        """As the plain call. `validity` has an entry for each input column that holds nulls in this batch."""


def takes_validity(transform: Transform) -> TypeGuard[TakesValidity]:
    """Whether it is one. Asked for each batch, and the check of a protocol takes longer than a step of few rows."""
    return getattr(transform, "with_validity", None) is not None


@runtime_checkable
class Setup(Protocol):
    """A transform that prepares itself once for a device, e.g. moves weights."""

    def setup(self, device: str) -> None:
        """Called once in each process, before the first batch and before the run on zero rows."""


@runtime_checkable
class Fittable(Protocol):
    """A transform that learns from a pass over the data before it can be applied.

    ``state = merge(update(...update(start(), b0)...), ...)`` over the batches of a split and the splits in order, then
    ``finish(state)`` is the transform to use. It may be Fittable and unfitted again (a compose with two fits): the
    driver makes another pass. State is a flat dict of CPU tensors, float64 where it accumulates, so that safetensors
    can keep it. Batches of a fit pass do not depend on ``batch.rows``, so neither does the state.
    """

    @property
    def fitted(self) -> bool:
        """Whether no further pass is needed."""

    def start(self) -> Tensors:
        """State before any data."""

    def update(self, state: Tensors, tensors: Tensors, validity: Validity) -> Tensors:
        """State after one more batch. Null rows are never counted."""

    def merge(self, first: Tensors, second: Tensors) -> Tensors:
        """State of the concatenation of what the two have seen."""

    def finish(self, state: Tensors) -> Transform:
        """The transform with what it learned. Raises DataError where the data do not allow it."""


def rowwise(transform: Transform) -> bool | None:
    """Whether a row of the output depends on the same row of the input alone, by the attribute ``rowwise``.

    A function says so by ``f.rowwise = False`` after its definition. None if nothing is said.
    """
    declared = getattr(transform, "rowwise", getattr(getattr(transform, "func", None), "rowwise", None))
    return None if declared is None else bool(declared)


def concurrent(part: Transform | Device) -> bool:
    """Whether several threads may call it at once, by the attribute ``concurrent``.

    A transform says with it that what it returns depends on the batch alone: no random numbers, and nothing that it
    writes to and reads again, be it an attribute of its own, a buffer of a module or a global. A function says so by
    ``f.concurrent = True`` after its definition. What says nothing is called by one thread.
    """
    return getattr(part, "concurrent", getattr(getattr(part, "func", None), "concurrent", False)) is True


def apply(transform: Transform, tensors: Tensors, validity: Validity, rows: int) -> Output:
    """Run a transform on one batch of `rows` rows and check what it returns.

    Returns an `Output` in which every tensor is strided or jagged and has the right number of rows, and `validity` is
    complete: nulls follow columns of the same name and the rows that were kept.

    Raises:
        TransformError: the contract was broken; the message names the column. Exceptions of the transform pass through.
    """
    if takes_validity(transform):
        returned: object = transform.with_validity(tensors, validity)
    else:
        returned = transform(tensors)
    out = returned if isinstance(returned, Output) else Output(_mapping(returned))
    rows_out = _rows_out(out.rows, rows)
    for name, tensor in _mapping(out.tensors).items():
        _check_tensor(name, tensor, rows, rows_out, moved=out.rows is not None)
    origin = {name: out.like.get(name, name) for name in out.tensors.keys() - out.validity.keys()}
    inherited = {
        name: validity[old] if out.rows is None else validity[old][out.rows.to(validity[old].device)]
        for name, old in origin.items()
        if old in validity
    }
    if validity and not takes_validity(transform) and not isinstance(returned, Output):
        for name in out.tensors.keys() - tensors.keys():
            raise TransformError(
                f"the transform added column {name!r} while {', '.join(map(repr, validity))} hold nulls in this batch; "
                "whether the new rows are null is not known. Return Output(tensors, validity=...), or set "
                "conversion.nulls=fill"
            )
    for name, valid in out.validity.items():
        if name not in out.tensors:
            raise TransformError(f"validity is given for {name!r}, which is no column of the output")
        if tuple(valid.shape) != (rows_out,) or str(valid.dtype) != "torch.bool":
            raise TransformError(
                f"validity of {name!r} must be bool ({rows_out},); it is {valid.dtype} {tuple(valid.shape)}"
            )
    return Output(dict(out.tensors), out.rows, {**inherited, **out.validity}, dict(out.like))


def _mapping(returned: object) -> Tensors:
    if isinstance(returned, Mapping):
        return dict(returned)
    raise TransformError(
        f"the transform returned {type(returned).__name__}; expected a dict of column name to tensor, or an Output"
    )


def _rows_out(index: Tensor | None, rows: int) -> int:
    if index is None:
        return rows
    if str(index.dtype) == "torch.bool" and tuple(index.shape) == (rows,):
        return int(index.sum())
    if str(index.dtype) == "torch.int64" and index.dim() == 1:
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
            raise TransformError(f"Output.rows holds indices outside 0..{rows - 1}")
        return len(index)
    raise TransformError(
        f"Output.rows must be bool ({rows},) or int64 (rows_out,); it is {index.dtype} {tuple(index.shape)}"
    )


def _check_tensor(name: object, tensor: object, rows: int, rows_out: int, *, moved: bool) -> None:
    import torch

    if not isinstance(name, str):
        raise TransformError(f"column names are strings; the transform returned {name!r}")
    if not isinstance(tensor, torch.Tensor):
        raise TransformError(f"column {name!r}: the transform returned {type(tensor).__name__}, not a tensor")
    if tensor.is_nested and tensor.layout != torch.jagged:
        raise TransformError(f"column {name!r}: the transform returned a nested tensor that is not torch.jagged")
    if (tensor.layout != torch.strided and not tensor.is_nested) or tensor.is_quantized or tensor.is_meta:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout)
        kind = "meta" if tensor.is_meta else kind
        raise TransformError(f"column {name!r}: the transform returned a {kind} tensor; return a dense one")
    if tensor.dim() == 0:
        raise TransformError(f"column {name!r}: the transform returned a 0-d tensor; expected {rows_out} rows")
    if tensor.shape[0] != rows_out:
        hint = (
            "Output.rows selects"
            if moved
            else "a transform that changes the number of rows returns Output(tensors, rows=...); the input has"
        )
        raise TransformError(f"column {name!r} has {tensor.shape[0]} rows; {hint} {rows_out if moved else rows}")
