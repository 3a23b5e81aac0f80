"""The worker turns tasks into durable parts: the flow of one batch, written once, and the fit pass.

    read -> upload -> compute -> download -> write

Each step is a lane (`stream`). Lanes run across splits and tasks, so that small files do not drain the flow. Where the
transform lets several threads call it, lanes are put together whose batches cost less than to hand them over: of short
parts all of them, each part in one thread; of a source that only copies, reading with computing. Batches keep their
order and never cross a split.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline import columns
from pipeline.batching import cut, rebatch, rows_of
from pipeline.check.inspection import Inspection, Inspector
from pipeline.core import (
    Array,
    Arrays,
    Batch,
    Column,
    Columns,
    Device,
    Fittable,
    KeepsWords,
    Output,
    Part,
    Schema,
    Selective,
    Sink,
    Source,
    Split,
    Staged,
    Task,
    Tensors,
    Transform,
    Validity,
    Writer,
    apply,
    rowwise,
)
from pipeline.errors import DTypeError, PipelineError, RetryError, TransformError
from pipeline.layout import ROWS, STARTS, VALID, Exit, Kind, Layout
from pipeline.policy import LOGICAL, cast
from pipeline.stream import Flow, Headstart
from pipeline.watchdog import Watchdog

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("pipeline")

FIT_ROWS = 65536
"""Rows of a batch in a fit pass: fixed, so that what is learned does not depend on how the run is batched."""

_FEW = 4
"""Batches of a part that is made in one thread."""


@dataclass(frozen=True)
class Ways:
    """How values leave the flow: decided by a run on zero rows.

    Attributes:
        kinds: what each output tensor column holds.
        exits: where each output column comes from.
        stored: schema as the sink keeps it.
        moves: whether the transform may change the number or order of rows.
        like: output columns that are input columns under another name.
    """

    kinds: dict[str, Kind]
    exits: tuple[Exit, ...]
    stored: Schema
    moves: bool
    like: dict[str, str]

    @cached_property
    def shown(self) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        """Dtype and row shape of each output tensor column, as `_check_kinds` finds them."""
        return {
            name: (kind.logical or kind.dtype.name, (*("*" for _ in range(kind.ragged)), *kind.shape))
            for name, kind in self.kinds.items()
        }


@dataclass
class Worker:
    """Turns tasks into parts.

    `readers` splits are decoded at once, `computers` batches transformed and `writers` parts encoded; or, if all parts
    are short, `whole` parts are made at once, each in one thread; or, if `mixed`, the threads that transform read too.
    `flow` collects what each lane did; `advance` is told the rows of each batch that has come back from the device;
    `look_in` and `look_out` are shown the arrays of each batch before and after the transform, `look_past` the columns
    that are carried: in their order, if `whole` is 0.
    """

    source: Source
    transform: Transform
    sink: Sink
    device: Device
    layout: Layout
    batch_rows: int
    flow: Flow
    seed: int = 0
    ways: Ways | None = None
    advance: Callable[[int], None] = field(default=lambda _: None)
    watch: Watchdog = field(default_factory=Watchdog)
    inspector: Inspector = field(default_factory=Inspector)
    readers: int = 1
    computers: int = 1
    writers: int = 1
    whole: int = 0
    mixed: bool = False
    look_in: Callable[[Arrays], None] = field(default=lambda _: None)
    look_out: Callable[[Arrays], None] = field(default=lambda _: None)
    look_past: Callable[[Columns], None] = field(default=lambda _: None)
    words: tuple[str, ...] = ()
    """Carried columns that the sink takes as words and codes, too."""
    head: Headstart[str, Columns] | None = None
    """Splits that are being read already, by id, with all columns that are wanted."""
    ceiling: int = 0
    """Rows that the device was found to have memory for; 0 if it was never full."""
    sown: Tensor | None = None
    """The state of torch's generator when the last task began."""

    # ---- parts

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Part]:
        """Parts of the tasks, in order."""
        if self.whole > 1 and isinstance(tasks, Sequence) and self._short(tasks):
            return self._whole(tasks)
        arrays = self.transformed(self.read(tasks, self.batch_rows, apart=not self.mixed))
        return self.flow.spread("write", self._write, arrays, self.writers, _task_of, taken=_arrays_bytes)

    def _short(self, tasks: Sequence[Task]) -> bool:
        """Whether parts are known to be a few batches each, of which those under way fit between two lanes."""
        rows, room = _FEW * self.batch_rows, self.flow.bytes // self.whole
        return len(tasks) > 1 and all(
            sum(rows + 1 if split.rows is None else split.rows for split in task.splits) <= rows and task.bytes <= room
            for task in tasks
        )

    def _whole(self, tasks: Iterable[Task]) -> Iterator[Part]:
        """Parts of the tasks, in order, each made in one thread."""

        def read(tasks: Iterator[Task]) -> Iterator[Batch]:
            return self._read(self.batch_rows)((task, split) for task in tasks for split in task.splits)

        def compute(pairs: Iterator[tuple[Batch, Staged]]) -> Iterator[tuple[Batch, Staged]]:
            return (made for pair in pairs for made in self._alone(pair))

        self._sow("")
        steps = (
            ("read", read),
            ("upload", self._upload),
            ("compute", compute),
            ("download", self._download),
            ("write", self._write),
        )
        return self.flow.along(steps, iter(tasks), self.whole)

    def transformed(self, batches: Iterator[Batch]) -> Generator[tuple[Batch, Arrays], None, None]:
        """The batches, each with what came back from the device."""
        # To hand over a batch takes longer than to download where nothing is copied; several computers are fed by a
        # thread that has nothing else to do, or each by itself.
        apart = not self.device.shares
        staged = self.flow.through("upload", self._upload, batches, _pair_bytes, apart=apart or self.computers == 1)
        return self.flow.through("download", self._download, self._computed(staged), _arrays_bytes, apart=apart)

    def read(self, tasks: Iterable[Task], rows: int, *, apart: bool = True) -> Generator[Batch, None, None]:
        """The input of the tasks, in batches of so many rows; in the thread of the lane after it if not `apart`."""
        pieces = ((task, split) for task in tasks for split in task.splits)
        if not apart:
            return self.flow.through("read", self._read(rows), pieces, apart=False)
        return self.flow.spread("read", self._read(rows), pieces, self.readers, lambda piece: piece, _batch_bytes)

    def _read(self, batch_rows: int) -> Callable[[Iterator[tuple[Task, Split]]], Iterator[Batch]]:
        def read(pieces: Iterator[tuple[Task, Split]]) -> Iterator[Batch]:
            for task, split in pieces:
                held: Batch | None = None
                first = 0
                for chunk in rebatch(self._chunks(split, batch_rows), batch_rows):
                    if held is not None:
                        yield held
                    held = Batch(task, split, first, rows_of(chunk), chunk, last=False)
                    first += held.rows
                if held is not None:
                    yield replace(held, last=split is task.splits[-1])

        return read

    def _chunks(self, split: Split, rows: int) -> Iterator[Columns]:
        if not isinstance(self.source, Selective):
            return self.source.read(split)
        needed = {*self.layout.needed, *self.inspector.needed(self.layout.schema)}
        wanted = [name for name in self.layout.schema.names if name in needed]
        early = None if self.head is None else self.head.take(split.id)
        if early is None:
            return read_wanted(self.source, split, wanted, rows, self.words)
        return ({name: chunk[name] for name in wanted} for chunk in early)

    def _upload(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Staged]]:
        inspector = copy(self.inspector)  # it knows which part it is at
        for read in batches:
            with _naming(read):
                batch = inspector.enter(read)
                arrays = self.layout.enter(batch.columns)
                self._check_shared(arrays)
            self.look_in(arrays)
            self.look_past(batch.columns)
            rest = {name: batch.columns[name] for name in (*self.layout.carried, *self.layout.worded)}
            nulls = {name: count for name in self.layout.used if (count := columns.nulls(batch.columns[name]))}
            yield replace(batch, columns=rest, nulls=nulls), self.device.upload(arrays)

    def _check_shared(self, arrays: Arrays) -> None:
        """Memory that is promised to be shared must be such that torch can."""
        from pipeline.tensors import shareable

        if self.layout.conversion.memory != "share" or not self.device.shares:
            return
        for name, array in arrays.items():
            if not shareable(array):
                raise DTypeError(
                    f"column {name!r} needs a copy (strides, alignment, or a read-only map of a file), which "
                    "conversion.memory=share forbids; use auto"
                )

    def _computed(self, pairs: Iterator[tuple[Batch, Staged]]) -> Iterator[tuple[Batch, Staged]]:
        if self.computers == 1:
            return self.flow.through("compute", self._compute, pairs, _pair_bytes)
        self._sow("")
        return self.flow.each("compute", self._alone, pairs, self.computers, _pair_bytes, apart=not self.mixed)

    def _alone(self, pair: tuple[Batch, Staged]) -> list[tuple[Batch, Staged]]:
        """One batch, while others are at work."""
        made = list(self._compute_one(pair))
        if self.drew():
            raise TransformError(
                "the transform draws random numbers, and which rows get which would hang on the order of threads; "
                "set stream.computers=1, or take its attribute concurrent away"
            )
        return made

    def _compute(self, pairs: Iterator[tuple[Batch, Staged]]) -> Iterator[tuple[Batch, Staged]]:
        task: Task | None = None
        for pair in pairs:
            if pair[0].task is not task:  # results depend on the part, not on which parts this process made before
                task = pair[0].task
                self._sow(task.key)
            made = self._compute_one(pair)
            del pair
            yield from made

    def _sow(self, key: str) -> None:
        import torch

        _sow(zlib.crc32(key.encode(), self.seed), self.device.name)
        self.sown = torch.default_generator.get_state()

    def drew(self) -> bool:
        """Whether the transform has drawn random numbers on the CPU since the last task began."""
        import torch

        return self.sown is not None and not torch.equal(torch.default_generator.get_state(), self.sown)

    def _compute_one(self, pair: tuple[Batch, Staged]) -> Iterator[tuple[Batch, Staged]]:
        batch, staged = pair
        with self.device.compute():
            waiting = [_Piece(batch, *_apart(self.device.ready(staged)))]
        del pair, staged
        while waiting:
            piece = waiting.pop()
            if self.ceiling and piece.batch.rows > self.ceiling:
                waiting += reversed(piece.halves())
                continue
            with _naming(piece.batch), self.watch.over(piece.batch.where):
                left = self._try(piece)
            if left is None:
                waiting.append(piece)
                continue
            yield piece.batch, left
            del piece, left

    def _try(self, piece: _Piece) -> Staged | None:
        """The output of a piece, or None if the device is too small for it and `ceiling` was lowered.

        What follows on a full device happens outside the except block, whose traceback keeps the tensors alive.
        """
        versions = {name: tensor._version for name, tensor in piece.tensors.items()}
        try:
            with self.device.compute():
                out = self._apply(piece.tensors, piece.validity, piece.batch)
                return self.device.leave(_together(out))
        except _DeviceFullError as e:
            full = str(e)
        rows = piece.batch.rows
        written = any(tensor._version != versions[name] for name, tensor in piece.tensors.items())
        if rows < 2 or written or rowwise(self.transform) is False:
            why = "it had written into its input" if written else "it is not row-wise" if rows > 1 else "it is one row"
            raise RetryError(f"{full} with {rows} rows, and the batch cannot be split: {why}. Lower batch.bytes")
        self.ceiling = -(-rows // 2)
        log.warning("%s with %d rows; going on with %d", full, rows, self.ceiling)
        return None

    def _apply(self, tensors: Tensors, validity: Validity, batch: Batch) -> Output:
        before = {name: tensor._version for name, tensor in tensors.items()} if self._guarded else {}
        with _transform_errors(), _grad(self.layout):
            out = apply(self.transform, seen(tensors, self.layout), validity, batch.rows)
        for name, version in before.items():
            if tensors[name]._version != version:
                raise TransformError(
                    f"the transform wrote into column {name!r}, whose memory it shares with the source. It did not "
                    "when it was tried on zero rows; set conversion.memory=copy"
                )
        out = _narrowed(_released(out, tensors, validity), self.layout)
        if self.ways is not None:
            _check_kinds(out, self.ways)
        return out

    @property
    def _guarded(self) -> bool:
        return self.device.shares and not self.layout.copy

    def _download(self, pairs: Iterator[tuple[Batch, Staged]]) -> Iterator[tuple[Batch, Arrays]]:
        for batch, staged in pairs:
            with _naming(batch), self.watch.over(batch.where, code=False):  # a device says here that it hangs
                arrays = self.device.download(staged)
            self.look_out(arrays)
            with self.flow.one:
                self.advance(batch.rows_read)
            yield batch, arrays
            del staged, arrays

    def _write(self, pairs: Iterator[tuple[Batch, Arrays]]) -> Iterator[Part]:
        assert self.ways is not None
        with ExitStack() as stack:
            tally: _Tally | None = None
            for batch, arrays in pairs:
                if tally is None:
                    writer = self.sink.open(batch.task, self.ways.stored)
                    stack.callback(writer.abort)
                    tally = _Tally(batch.task, writer, self.inspector.open(batch.task))
                    stack.callback(tally.inspection.abort)
                with _naming(batch):
                    index = _index(arrays.get(ROWS))
                    leaving = tally.inspection.leave(batch, self._restore(batch, arrays, index), index)
                    writer.write(leaving)
                tally.add(batch, leaving)
                if batch.last:
                    part = tally.close(moves=self.ways.moves)
                    stack.pop_all()
                    tally = None
                    yield part

    def _restore(self, batch: Batch, arrays: Arrays, index: Array | None) -> Columns:
        """Columns of the output, in the types that the sink stores."""
        assert self.ways is not None
        leaving: Columns = {}
        for exit_, stored in zip(self.ways.exits, self.ways.stored.fields, strict=True):
            if exit_.tensor is None:
                carried = batch.columns[exit_.name]
                leaving[exit_.name] = carried if index is None else columns.take(carried, index)
                continue
            array, valid = arrays[exit_.tensor], arrays.get(VALID + exit_.tensor)
            array = array if exit_.position is None else array[:, exit_.position]
            starts = arrays.get(STARTS + exit_.tensor)
            if exit_.stored is not None:
                array = _cast_back(array, exit_, None if starts is not None else valid, self.layout)
            words = None if exit_.words is None else columns.words(batch.columns[exit_.words])
            leaving[exit_.name] = columns.restore(array, valid, stored, words=words, starts=starts)
        return leaving

    # ---- fit

    def fit(self, transform: Fittable, tasks: Iterable[Task]) -> Tensors:
        """What one pass over the data teaches `transform`: states of splits, merged in their order."""
        staged = self.flow.through("upload", self._upload, self.read(tasks, FIT_ROWS), _pair_bytes)
        total = transform.start()
        for rows, learned in self.flow.through("learn", self._learn(transform), staged):
            total = learned
            self.advance(rows)
        return total

    def _learn(self, transform: Fittable) -> Callable[[Iterator[tuple[Batch, Staged]]], Iterator[tuple[int, Tensors]]]:
        """Rows of each batch, and what is known after it of the splits before its own; in the end of all."""

        def learn(pairs: Iterator[tuple[Batch, Staged]]) -> Iterator[tuple[int, Tensors]]:
            total = transform.start()
            part: Tensors | None = None
            split: Split | None = None
            for batch, handed in pairs:
                if batch.split is not split:
                    total = total if part is None else transform.merge(total, part)
                    split, part = batch.split, transform.start()
                assert part is not None
                watched = self.watch.over(f"fit: {batch.where}")
                with _naming(batch), watched, self.device.compute(), _transform_errors(), _grad(self.layout):
                    tensors, validity = _apart(self.device.ready(handed))
                    part = transform.update(part, seen(tensors, self.layout), validity)
                yield batch.rows_read, total
            yield 0, total if part is None else transform.merge(total, part)

        return learn


def read_wanted(
    source: Selective, split: Split, columns: Sequence[str], rows: int, words: Sequence[str]
) -> Iterator[Columns]:
    """These columns of a split, some of them perhaps as words and codes."""
    if words and isinstance(source, KeepsWords):
        return source.read_words(split, columns, rows, words)
    return source.read_only(split, columns, rows)


def _sow(seed: int, device: str) -> None:
    """Seed the generators that the device uses.

    `torch.manual_seed` seeds those of CUDA too: where it is not in use, that takes a millisecond and keeps a traceback.
    """
    import torch

    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class _DeviceFullError(RetryError):
    """The device is out of memory."""


@dataclass(frozen=True)
class _Piece:
    """A batch on the device, or part of one that was too large for it."""

    batch: Batch
    tensors: Tensors
    validity: Validity

    def halves(self) -> list[_Piece]:
        """Two pieces with half of the rows each, in order."""
        b, half = self.batch, -(-self.batch.rows // 2)
        places = (None, None) if b.places is None else (b.places[:half], b.places[half:])
        head = replace(b, rows=half, columns=cut(b.columns, 0, half), last=False, places=places[0])
        tail = replace(b, rows=b.rows - half, columns=cut(b.columns, half, b.rows), places=places[1])
        tail = replace(tail, first=int(b.rows_at(None)[half]), nulls={}, found=None)
        return [
            _Piece(
                batch,
                _between(self.tensors, start, stop),
                {name: valid[start:stop] for name, valid in self.validity.items()},
            )
            for batch, start, stop in ((head, 0, half), (tail, half, b.rows))
        ]


def _between(tensors: Tensors, start: int, stop: int) -> Tensors:
    """Some rows; of a jagged column the elements of some rows, and where they begin among these."""
    cut: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith(STARTS):
            cut[name] = tensor[start : stop + 1] - tensor[start]
        elif (starts := tensors.get(STARTS + name)) is not None:
            cut[name] = tensor[starts[start] : starts[stop]]
        else:
            cut[name] = tensor[start:stop]
    return cut


@dataclass
class _Tally:
    """A part under construction, and what it counts."""

    task: Task
    writer: Writer
    inspection: Inspection
    rows_in: int = 0
    rows_out: int = 0
    nulls_in: Counter[str] = field(default_factory=Counter)
    nulls_out: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Batch, leaving: Columns) -> None:
        self.rows_in += batch.rows
        self.rows_out += rows_of(leaving)
        self.nulls_in.update(batch.nulls)
        self.nulls_out.update({name: count for name, column in leaving.items() if (count := columns.nulls(column))})

    def close(self, *, moves: bool) -> Part:
        quarantined = self.inspection.quarantined
        rows_in = self.rows_in + quarantined.get("input", 0)
        if not moves and rows_in != self.rows_out + sum(quarantined.values()):
            raise PipelineError(f"of {rows_in} rows read, {self.rows_out} are written and {quarantined} in quarantine")
        side = self.inspection.close()
        files = self.writer.close()
        ids = tuple(split.id for split in self.task.splits)
        versions = tuple(split.version for split in self.task.splits)
        nulls_in, nulls_out = dict(sorted(self.nulls_in.items())), dict(sorted(self.nulls_out.items()))
        checks = self.inspection.checks
        return Part(
            self.task.key,
            self.task.index,
            ids,
            rows_in,
            self.rows_out,
            files,
            nulls_in,
            nulls_out,
            versions,
            checks,
            quarantined,
            side,
        )


def _released(out: Output, tensors: Tensors, validity: Validity) -> Output:
    """The output without memory that the transform keeps: what is filled for the next batch too is copied."""
    from pipeline.tensors import released

    rows = {} if out.rows is None else {ROWS: out.rows}
    made = {**out.tensors, **{VALID + name: valid for name, valid in out.validity.items()}, **rows}
    free = released(made, {**tensors, **{VALID + name: valid for name, valid in validity.items()}}, held=2)
    index = free.pop(ROWS, None)
    values, valid = _apart(free)
    return Output(values, index, valid, out.like)


def _apart(tensors: Tensors) -> tuple[Tensors, Validity]:
    """Values and validity, which travelled under one roof."""
    values = {name: tensor for name, tensor in tensors.items() if not name.startswith(VALID)}
    return values, {name.removeprefix(VALID): t for name, t in tensors.items() if name.startswith(VALID)}


def _together(out: Output) -> Tensors:
    """What goes to the host: values, their validity, where jagged rows begin, and the rows that were kept."""
    from pipeline.tensors import unjagged

    together: Tensors = {}
    for name, tensor in out.tensors.items():
        if tensor.is_nested:
            values, together[STARTS + name] = unjagged(tensor, name)
            together[name] = _bits(values)
        else:
            together[name] = _bits(tensor)
    together |= {VALID + name: valid for name, valid in out.validity.items()}
    return together if out.rows is None else {**together, ROWS: out.rows}


def _bits(tensor: Any) -> Any:
    """Values of a type that NumPy lacks as unsigned integers."""
    import torch

    unsigned = {"u1": torch.uint8, "u2": torch.uint16}
    bits = LOGICAL.get(_dtype_name(tensor))
    return tensor if bits is None else tensor.contiguous().view(unsigned[bits])


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def seen(tensors: Tensors, layout: Layout) -> Tensors:
    """Tensors as the transform sees them: bits as what they stand for, lists of any length as jagged tensors."""
    import torch

    from pipeline.tensors import jagged

    shown = {name: tensor for name, tensor in tensors.items() if not name.startswith(STARTS)}
    for route in layout.routes:
        if route.storage.logical:
            shown[route.name] = shown[route.name].view(getattr(torch, route.storage.logical))
        if route.storage.ragged:
            shown[route.name] = jagged(shown[route.name], tensors[STARTS + route.name])
    return shown


@contextmanager
def _grad(layout: Layout) -> Iterator[None]:
    """Without inference mode, in which torch makes no jagged tensor, if the transform gets some."""
    import torch

    with torch.inference_mode(not any(route.storage.ragged for route in layout.routes)), torch.no_grad():
        yield


def _narrowed(out: Output, layout: Layout) -> Output:
    """The output with bfloat16 and float8 widened to float32, if that is asked for and they did not come as such."""
    if layout.conversion.narrow_floats != "float32":
        return out
    came = {route.name: route.storage.logical for route in layout.routes}
    tensors = {
        name: t.float() if (now := _dtype_name(t)) in LOGICAL and came.get(out.like.get(name, name)) != now else t
        for name, t in out.tensors.items()
    }
    return replace(out, tensors=tensors)


def _cast_back(array: Array, exit_: Exit, valid: Array | None, layout: Layout) -> Array:
    """Values in the dtype in which the column is stored, which was left on the way in."""
    assert exit_.stored is not None
    made, wrong = cast(array, exit_.stored, layout.conversion.of(exit_.name).cast_check, valid)
    if wrong:
        raise DTypeError(
            f"column {exit_.name!r} is stored as {exit_.stored} and the transform returned {array.dtype} where "
            f"{wrong}. Return another dtype to store it as that, or set conversion.cast_check"
        )
    return made


def _index(rows: Array | None) -> Array | None:
    if rows is None:
        return None
    return rows.nonzero()[0] if rows.dtype == bool else rows


def _check_kinds(out: Output, ways: Ways) -> None:
    """Names and types are decided at plan time, and hold for every batch."""
    kinds = {name: (_dtype_name(t), _row_shape(t)) for name, t in out.tensors.items()}
    planned = ways.shown
    if kinds != planned:
        name = next(n for n in {**planned, **kinds} if planned.get(n) != kinds.get(n))
        raise TransformError(
            f"column {name!r}: the transform returned {kinds.get(name, 'nothing')}; on zero rows it returned "
            f"{planned.get(name, 'nothing')}. Names, dtypes and row shapes must not depend on the data"
        )
    if out.rows is not None and not ways.moves:
        raise TransformError(
            "the transform selected rows, which it did not on zero rows. Return Output(tensors, rows=...) for every "
            "batch"
        )


def _row_shape(tensor: Any) -> tuple[int | str, ...]:
    return ("*", *tensor.values().shape[1:]) if tensor.is_nested else tuple(tensor.shape[1:])


@contextmanager
def _naming(batch: Batch) -> Iterator[None]:
    """Errors of a batch say which rows of which file."""
    try:
        yield
    except PipelineError as e:
        raise type(e)(f"{batch.where}: {e}") from e.__cause__


@contextmanager
def _transform_errors() -> Iterator[None]:
    """Exceptions of the user's code become errors of the transform; the cause is kept for the traceback."""
    from torch import OutOfMemoryError

    try:
        yield
    except (PipelineError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OutOfMemoryError as e:
        raise _DeviceFullError(f"the device is out of memory: {_first_line(e)}") from e
    except Exception as e:
        raise TransformError(f"the transform raised {_told(e)}") from e


@contextmanager
def _trial() -> Iterator[None]:
    """Whose data hold rows would look in vain for the empty tensor of the message."""
    try:
        yield
    except TransformError as e:
        raise TransformError(f"on zero rows, which decide the types of the output: {e}") from e.__cause__


def _told(e: BaseException) -> str:
    return f"{type(e).__name__}: {_first_line(e)}".removesuffix(": ")


def _first_line(e: BaseException) -> str:
    return next(iter(str(e).splitlines()), "")


def taste(transform: Fittable, device: Device, layout: Layout) -> Transform:
    """What a transform that learns becomes on zero rows."""
    staged = device.upload(layout.empty())
    with device.compute(), _trial(), _transform_errors(), _grad(layout):
        return transform.finish(transform.update(transform.start(), seen(device.ready(staged), layout), {}))


def probe(transform: Transform, device: Device, layout: Layout) -> tuple[Output, dict[str, Kind], bool]:
    """Run the transform on zero rows.

    Returns:
        What it returned; what each column holds; whether it wrote into its input.
    """
    staged = device.upload(layout.empty())
    with device.compute(), _trial(), _transform_errors(), _grad(layout):
        tensors = device.ready(staged)
        before = {name: tensor._version for name, tensor in tensors.items() if not tensor.is_inference()}
        out = _narrowed(apply(transform, seen(tensors, layout), {}, 0), layout)
        wrote = any(tensors[name]._version != version for name, version in before.items())
        left = device.leave({name: t for name, t in _together(out).items() if name in out.tensors})
    arrays = device.download(left)
    names = {name: _dtype_name(t) for name, t in out.tensors.items()}
    logical = {name: found if found in LOGICAL else "" for name, found in names.items()}
    ragged = {name: tensor.is_nested for name, tensor in out.tensors.items()}
    return out, {n: Kind(a.dtype, a.shape[1:], logical[n], ragged[n]) for n, a in arrays.items()}, wrote


def _task_of(pair: tuple[Batch, Arrays]) -> Task:
    return pair[0].task


def chunk_bytes(chunk: Columns) -> int:
    """Bytes of some rows on the host."""
    return _column_bytes(chunk.values())


def _batch_bytes(batch: Batch) -> int:
    return chunk_bytes(batch.columns)


def _column_bytes(held: Iterable[Column]) -> int:
    return sum(columns.size(column) for column in held)


def _pair_bytes(pair: tuple[Batch, Staged]) -> int:
    return _batch_bytes(pair[0]) + sum(t.element_size() * t.numel() for t in pair[1].tensors.values())


def _arrays_bytes(pair: tuple[Batch, Arrays]) -> int:
    return _batch_bytes(pair[0]) + _column_bytes(pair[1].values())
