"""The driver: plan, take up what is done, fit, work, commit, report. It names no concrete class."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline import fit as fitted
from pipeline.calibration import best, calibrate
from pipeline.check.aside import Aside
from pipeline.check.checks import Checks
from pipeline.check.inspection import Inspector
from pipeline.check.rules import PHASES, Outcome, Rules, bind, judge, warnings
from pipeline.columns import array_field, describe
from pipeline.core import (
    Columns,
    Device,
    Engine,
    Fittable,
    KeepsWords,
    Part,
    Schema,
    Selective,
    Setup,
    Sink,
    Source,
    Split,
    StoresWords,
    Task,
    Tensors,
    Transform,
    advice,
    concurrent,
    decodes,
    rowwise,
    takes_validity,
    whole,
)
from pipeline.errors import ConfigError, DataError, DTypeError, InputError, OutputError, PipelineError
from pipeline.files import Home, home, lock, release_files, scratch, write_bytes, write_json
from pipeline.layout import Kind, Layout, Selection, layout
from pipeline.log import say
from pipeline.manifest import Manifest, differences, digest, few
from pipeline.memory import Memory
from pipeline.plan import Plan, counted, tasks
from pipeline.policy import Conversion
from pipeline.progress import progress
from pipeline.report import Report, quarantined, versions
from pipeline.stream import Flow, Headstart, Together
from pipeline.watchdog import Watchdog
from pipeline.worker import Ways, Worker, chunk_bytes, probe, read_wanted, taste

if TYPE_CHECKING:
    from pipeline.page.recorder import Recorder

log = logging.getLogger("pipeline")

_LANES = 5
_BATCH_BYTES = 4 << 20
_COPIED_AHEAD = 16 << 20
"""Bytes read while torch loads where that is quick: a start for the disk, in buffers that the flow uses anyway."""
_TRIED = tuple(1 << n for n in range(20, 27))  # batch.bytes=auto
_MAX_BATCH_ROWS = 1 << 20
_BETWEEN_COMMITS: float | None = 0.05
"""Seconds from one commit to the next, in which parts wait for each other: the disk has less to do for short ones."""
_MOST_LANES = 4  # where cores are many, other things become the limit, and each writer holds a row group


@dataclass(frozen=True)
class Options:
    """What a run is told beside its components; the keys of the configuration, flat.

    Attributes:
        columns, carry: see `pipeline.layout.layout`.
        batch_rows: rows of a batch; None = by `batch_bytes`.
        batch_bytes: bytes of the tensors of a batch; None = by a trial of several sizes at the start.
        readers, computers, writers: splits decoded, batches transformed, and parts encoded, at once; None = by the
            cores there are, and one batch if the transform does not say that it may be called by several threads.
        stream_depth: batches that may wait between two lanes; 0 = lanes in turn, in one thread.
        stream_bytes: bytes of all batches that wait between lanes.
        conversion: what may happen to values on their way into tensors and back.
        checks: what must hold of the rows that are read and written.
        restart: replace what the output holds.
        fit: when the input is no longer what the transform learned from: ``check`` refuses, ``keep`` applies what it
            learned to the new input.
        seed: of random numbers in the transform; combined with the key of each part.
        threads: intra-op threads of torch.
        lock: when another run writes this output: ``fail``, or ``wait`` for at most `lock_timeout` seconds.
        html: whether report.html is written too.
        batch_timeout: seconds that the transform may take for one batch; after them the process ends with 75, told
            to `last_words` before. None for no limit.
        every, progress: see `pipeline.progress.progress`; `verbose` shows the lanes too.
        config, command: for the report; `hide` takes secrets out of its other texts.
        identity: what of the configuration decides the bytes of the output, flat.
    """

    columns: Selection = None
    carry: str | Sequence[str] = "all"
    batch_rows: int | None = None
    batch_bytes: int | None = _BATCH_BYTES
    readers: int | None = None
    computers: int | None = None
    writers: int | None = None
    stream_depth: int = 2
    stream_bytes: int = 256 << 20
    conversion: Conversion = field(default_factory=Conversion)
    checks: Checks = field(default_factory=Checks)
    restart: bool = False
    fit: str = "check"
    seed: int = 0
    threads: int | None = None
    lock: str = "fail"
    lock_timeout: float | None = None
    batch_timeout: float | None = None
    html: bool = False
    last_words: Callable[[str], None] = lambda _: None
    every: float = 5.0
    progress: str = "auto"
    verbose: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    hide: Callable[[str], str] = str
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value, least in (
            ("batch.rows", self.batch_rows, 1),
            ("batch.bytes", self.batch_bytes, 1),
            ("stream.readers", self.readers, 1),
            ("stream.computers", self.computers, 1),
            ("stream.writers", self.writers, 1),
            ("stream.depth", self.stream_depth, 0),
            ("stream.bytes", self.stream_bytes, 1),
            ("run.threads", self.threads, 1),
            ("run.lock_timeout", self.lock_timeout, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{key} must be at least {least}; got {value}")
        if self.batch_timeout is not None and not self.batch_timeout > 0:
            raise ConfigError(f"run.batch_timeout must be more than 0 seconds; got {self.batch_timeout}")
        for key, word, known in (("fit", self.fit, ("check", "keep")), ("lock", self.lock, ("fail", "wait"))):
            if word not in known:
                raise ConfigError(f"run.{key} must be {' or '.join(known)}; got {word!r}")


Head: TypeAlias = Headstart[str, Columns]
"""Splits by id that are being read already."""


@dataclass(frozen=True)
class Stage:
    """Everything that is known before the first row is read: what a run, a plan and a check start from."""

    source: Source
    transform: Transform
    sink: Sink
    engine: Engine
    device: Device
    options: Options
    where: Home
    plan: Plan
    ways: Ways
    identity: Mapping[str, Any]
    rules: Rules
    aside: Aside

    def worker(
        self,
        transform: Transform,
        advance: Callable[[int], None] = lambda _: None,
        aside: Aside | None = None,
        recorder: Recorder | None = None,
        head: Head | None = None,
    ) -> Worker:
        """A worker for this transform; `advance` is told the rows of each batch, `aside` takes refused rows."""
        options = self.options
        flow = Flow(options.stream_depth, options.stream_bytes // _LANES)
        computers = _computers(transform, self.device, self.plan.layout, options)
        worker = Worker(
            self.source,
            transform,
            self.sink,
            self.device,
            self.plan.layout,
            self.plan.batch_rows,
            flow,
            options.seed,
            self.ways,
            advance,
            Watchdog(options.batch_timeout, self._leave) if options.batch_timeout else Watchdog(),
            Inspector(self.rules, aside),
            options.readers or max(1, min(_MOST_LANES, _cores() // 2)),
            computers,
            1 if self.sink.single else options.writers or min(_MOST_LANES, _cores()),
            0 if recorder else self._whole(computers),
            mixed=computers > 1 and self._mixed,
            words=_words(self.source, self.sink, self.plan.splits, self.plan.layout, options),
            head=head,
        )
        if recorder is not None:
            flow.timeline, worker.advance = recorder.timeline, recorder.through(advance)
            worker.look_in, worker.look_out = recorder.before.add, recorder.after.add
            worker.look_past = recorder.past.add
        return worker

    def _whole(self, computers: int) -> int:
        """Short parts to be made at once, each in one thread: one more than compute, since some wait for the disk.

        None where somebody has a say in what each lane may do, or where one part may have many files open.
        """
        options = self.options
        if options.readers or options.writers or computers == 1 or not options.stream_depth:
            return 0
        if self.sink.single or getattr(self.sink, "partition_by", False):
            return 0
        return options.computers or computers + 1

    @property
    def _mixed(self) -> bool:
        """Whether who computes reads too: where that is to copy, to hand a batch over takes longer than to read it.

        The thread that writes computes as well, so there is to be only one that does; nor has anybody a say in lanes.
        """
        free = not (self.options.readers or self.options.writers)
        return free and self.sink.single and self.device.shares and not decodes(self.source)

    def recorder(self, start: float) -> Recorder | None:
        """Listens to the lanes if report.html is asked for."""
        if not self.options.html:
            return None
        from pipeline.page.recorder import Recorder  # and what it draws with

        chosen = self.plan.layout
        bits_in = frozenset(route.name for route in chosen.routes if route.storage.logical)
        bits_out = frozenset(name for name, kind in self.ways.kinds.items() if kind.logical)
        return Recorder(start, bits_in, bits_out, chosen.carried)

    def tasks(self, learned: str) -> tuple[Task, ...]:
        """The work, in the order of the output; `learned` is the digest of the fitted state."""
        moves = self.ways.moves or any(map(self.rules.refuses, PHASES))
        return tasks(self.plan.splits, self.identity, learned, single=self.sink.single, moves=moves)

    def _leave(self, message: str) -> None:
        """Leave nothing behind when the process ends with a call that hangs."""
        release_files(self.where)
        self.options.last_words(message)


def plan(*, source: Source, transform: Transform, sink: Sink, engine: Engine, device: Device, options: Options) -> str:
    """What a run would do, for people. Writes nothing."""
    return prepare(source, transform, sink, engine, device, options).plan.text()


def head_start(source: Source, sink: Sink, options: Options) -> Head | None:
    """Begin to read what a run will read first, while the transform, and torch with it, are loading.

    Only splits of a batch or more, and only where they are sure to be wanted: no part is there yet. What is wrong with
    the input, `run` says in its turn.
    """
    others = options.checks != Checks() and options.carry != "all"  # columns that only checks look at
    if not options.stream_depth or not isinstance(source, Selective) or others:
        return None
    with suppress(PipelineError):
        if home(os.fspath(sink.path), single=sink.single).state.exists() and not options.restart:
            return None
        schema, splits = source.schema(), source.splits()
        size = options.batch_bytes or _BATCH_BYTES
        long = [split for split in splits if split.bytes >= size]
        if not long:  # to open short ones takes the interpreter's lock as often as an import gives it up
            return None
        chosen = layout(schema, options.columns, options.carry, options.conversion)
        rows = options.batch_rows or _batch_rows(chosen, splits, size)
        words = _words(source, sink, splits, chosen, options)
        chunks = ((split.id, read_wanted(source, split, chosen.needed, rows, words)) for split in long)
        budget = options.stream_bytes // _LANES
        dear = decodes(source)
        return Headstart(chunks, chunk_bytes, budget if dear else min(budget, _COPIED_AHEAD), brief=not dear)
    return None


def _words(source: Source, sink: Sink, splits: Sequence[Split], chosen: Layout, options: Options) -> tuple[str, ...]:
    """Carried columns that may go from file to file as words and codes: where nobody looks at them on the way.

    Not where a file is made of several splits, of which some may come so and others not.
    """
    if not isinstance(source, KeepsWords) or not isinstance(sink, StoresWords) or (sink.single and len(splits) > 1):
        return ()
    seen = options.html or options.checks != Checks()
    takes = () if seen else sink.words(chosen.schema)
    return tuple(name for name in chosen.carried if name in takes)


def run(
    *,
    source: Source,
    transform: Transform,
    sink: Sink,
    engine: Engine,
    device: Device,
    options: Options,
    head: Head | None = None,
) -> dict[str, Any]:
    """Bring the output up to date with the input and the configuration, and say what was done.

    `head` is what `head_start` began for the same source, sink and options.

    Returns:
        state (``done`` or ``nothing to do``), rows_in, rows, parts, parts_made, bytes, seconds, output, report, ...
    """
    start = time.perf_counter()
    if options.html:
        _check_drawn()
    stage = prepare(source, transform, sink, engine, device, options)
    _check_places(stage)
    durable = _durable(sink)
    with (
        lock(stage.where.state, wait=options.lock == "wait", timeout=options.lock_timeout) as waited,
        scratch(stage.where),
    ):
        if waited:  # the input may have changed meanwhile
            stage = prepare(source, transform, sink, engine, device, options)
        manifest = Manifest(stage.where, durable=durable)
        manifest.open(stage.identity, restart=options.restart)
        recorder = stage.recorder(start)
        transform, learned, fit_lanes = _fit(stage, head, recorder, started=bool(manifest.parts))
        stage.aside.sweep(manifest.parts)
        work = stage.tasks(learned)
        done = {key: part for key, part in manifest.done(work).items() if stage.rules.covers(part)}
        pending = [task for task in work if task.key not in done]
        if not pending and manifest.finished(work):
            outcomes = _found(stage, list(done.values()))
            judge(outcomes)
            return _nothing_to_do(stage, list(done.values()), outcomes, time.perf_counter() - start)
        if done:
            log.info("%d of %d parts are there already", len(done), len(work))
        for line in few(manifest.changed(pending)):
            log.info("the input changed since its part was made: %s", line)
        for part in manifest.vanished(work):
            log.warning("%s is no longer in the input; its part stays (run.restart=true drops it)", part.splits[0])
        manifest.withdraw()
        manifest.begin(pending, tuple(getattr(sink, "partition_by", ())))
        if stage.plan.auto:
            stage = _calibrated(stage, transform, pending)
        rows = None if stage.plan.rows is None else sum(s.rows or 0 for task in pending for s in task.splits)
        memory = Memory(device)
        with progress("rows", rows, options.progress, options.every) as shown:
            worker = stage.worker(transform, shown.advance, stage.aside, recorder, head)
            shown.lanes = worker.flow.lanes if options.verbose else ()
            between = _BETWEEN_COMMITS if options.stream_depth else None
            with Together(manifest.commit, between) as ready, _closing(engine.map(worker, pending)) as parts:
                for part in parts:
                    ready.add(part)
                    done[part.key] = part
                    if leak := memory.add():
                        log.warning(leak)
        made = [done[task.key] for task in work]
        outcomes = _found(stage, made)
        report = Report(
            stage.plan,
            made,
            len(pending),
            sum(done[task.key].rows_in for task in pending),
            time.perf_counter() - start,
            worker.flow.lanes,
            fit_lanes,
            os.fspath(sink.path),
            device.name,
            memory,
            outcomes,
            {"read": advice(source), "compute": advice(device), "write": advice(sink)},
        )
        try:
            judge(outcomes)
        except DataError as e:
            e.facts = _report(stage, report, recorder, error=str(e))
            raise
        manifest.finish(work, {"identity": dict(stage.identity), "schema": _schema_facts(stage)})
        return _report(stage, report, recorder)


@contextmanager
def _closing(parts: Iterator[Part]) -> Iterator[Iterator[Part]]:
    """End the lanes whatever ends the run, a signal or a failed commit too."""
    try:
        yield parts
    finally:
        if isinstance(parts, Generator):
            parts.close()


# ---- before the first row --------------------------------------------------------------------------------------------


def prepare(
    source: Source, transform: Transform, sink: Sink, engine: Engine, device: Device, options: Options
) -> Stage:
    """Decide everything that can be decided before a row is read. Writes nothing."""
    _set_threads(options.threads)
    _settle(transform, device)
    schema = source.schema()
    splits = tuple(source.splits())
    if not splits:
        raise InputError("the source has no splits; there is nothing to read")
    conversion = options.conversion.with_nulls("mask" if takes_validity(transform) else "error")
    chosen = layout(schema, options.columns, options.carry, conversion)
    fits = isinstance(transform, Fittable) and not transform.fitted
    with Watchdog(options.batch_timeout, options.last_words).over("the transform on zero rows"):
        out, kinds, in_place = probe(_dry(transform, device, chosen), device, chosen)
    _check_narrow(kinds, chosen, out.like)
    copies = device.shares and (conversion.memory == "copy" or (conversion.memory == "auto" and in_place))
    if in_place and device.shares and conversion.memory == "share":
        raise ConfigError("the transform writes in place, which conversion.memory=share forbids; use auto or copy")
    if device.shares and conversion.memory == "share":
        _check_shared(chosen)
    chosen = replace(chosen, copy=copies)
    unstack = sink.columnar if conversion.unstack is None else conversion.unstack
    leaving, exits = chosen.exits(kinds, out.like, unstack=unstack)
    stored = sink.accept(leaving)
    rules = bind(options.checks, schema, stored)
    size = options.batch_bytes or _BATCH_BYTES
    rows = options.batch_rows or _batch_rows(chosen, splits, size, worked=device.shares)  # in the cache of the CPU
    auto = options.batch_rows is None and options.batch_bytes is None
    if auto and rowwise(transform) is not True:
        raise ConfigError(
            f"batch.bytes=auto tries batches of several sizes, and {_name(transform)} does not say that its rows do "
            "not depend on each other (attribute rowwise, see README); give batch.bytes or batch.rows a number"
        )
    stage_plan = Plan(
        names={
            "source": f"{type(source).__name__} {getattr(source, 'path', '')}".strip(),
            "transform": _name(transform),
            "device": device.name,
            "sink": f"{type(sink).__name__} {sink.path}",
        },
        splits=splits,
        layout=chosen,
        exits=exits,
        stored=stored,
        batch_rows=rows,
        out_row_bytes=sum(kind.dtype.itemsize * math.prod(kind.shape) for kind in kinds.values()),
        in_flight=_in_flight(options, _computers(transform, device, chosen, options)),
        single=sink.single,
        fits=fits,
        in_place=in_place,
        checks=rules.shown,
        auto=auto,
    )
    rules.expect(stage_plan.rows)
    ways = Ways(kinds, exits, stored, out.rows is not None, dict(out.like))
    where = home(os.fspath(sink.path), single=sink.single)
    identity = {**_identity(options, stage_plan, transform), **rules.identity}
    return Stage(
        source,
        transform,
        sink,
        engine,
        device,
        options,
        where,
        stage_plan,
        ways,
        identity,
        rules,
        _aside(where, sink, rules, schema, stored),
    )


def _aside(where: Home, sink: Sink, rules: Rules, given: Schema, stored: Schema) -> Aside:
    """Where refused rows go, if their columns can be kept there."""
    schemas = {phase: schema for phase, schema in zip(PHASES, (given, stored), strict=True) if rules.refuses(phase)}
    aside = Aside(where, schemas, _durable(sink))
    aside.check()
    return aside


def _durable(sink: Sink) -> bool:
    """Whether what is written is fsynced."""
    return getattr(sink, "durability", "full") == "full"


def _in_flight(options: Options, computers: int) -> int:
    return _LANES * (options.stream_depth + 1) + computers - 1 if options.stream_depth else 1


def _computers(transform: Transform, device: Device, chosen: Layout, options: Options) -> int:
    """Threads that call the transform at once: more than one only where all that is involved is known to allow it."""
    alone = _why_alone(transform, device, chosen)
    if not alone:
        return options.computers or min(_MOST_LANES, _cores())
    if options.computers is not None and options.computers > 1:
        raise ConfigError(f"stream.computers={options.computers}: {alone}; set stream.computers=1")
    return 1


def _why_alone(transform: Transform, device: Device, chosen: Layout) -> str:
    """What wants one thread in the compute lane; empty if nothing does."""
    if not concurrent(device):
        return f"device={device.name} has one queue of work"
    if not concurrent(transform):
        return f"{_name(transform)} does not say that several threads may call it (attribute concurrent, see README)"
    if any(route.storage.ragged for route in chosen.routes):
        return "torch numbers the jagged tensors of a process without a lock"
    return ""


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_shared(chosen: Layout) -> None:
    """Refuse to promise shared memory for columns whose type needs a copy."""
    for route in chosen.routes:
        if route.copy:
            raise ConfigError(
                f"column {route.name!r} needs a copy ({route.copy}), which conversion.memory=share forbids; use auto"
            )


def _settle(transform: Transform, device: Device) -> None:
    """Give the transform its device, once."""
    from torch import nn

    if isinstance(transform, nn.Module):
        transform.to(device.name).eval()
    elif isinstance(transform, Setup):
        transform.setup(device.name)


def _set_threads(threads: int | None) -> None:
    """Lanes give the parallelism on a CPU; more intra-op threads spin against them."""
    import torch

    torch.set_num_threads(threads or 1)


def _dry(transform: Transform, device: Device, chosen: Layout) -> Transform:
    """The transform as if fitted on no rows, which is enough to see its output schema."""
    while isinstance(transform, Fittable) and not transform.fitted:
        transform = taste(transform, device, chosen)
        _settle(transform, device)
    return transform


def _batch_rows(chosen: Layout, splits: Sequence[Split], size: int, *, worked: bool = False) -> int:
    row_bytes = chosen.worked_bytes if worked else chosen.row_bytes
    if any(route.storage.ragged for route in chosen.routes):  # only the input knows how long lists are
        row_bytes = max(row_bytes, sum(s.bytes for s in splits) // max(1, sum(s.rows or 0 for s in splits)))
    if not row_bytes:
        return 65536
    rows = max(1, size // row_bytes)
    return min(_MAX_BATCH_ROWS, 1 << (rows.bit_length() - 1))  # a power of two, as sinks cut their rows


def _calibrated(stage: Stage, transform: Transform, pending: Sequence[Task]) -> Stage:
    """The stage with the size of batches that took the first rows through the quickest."""
    chosen = stage.plan.layout
    fits = [size for size in _TRIED if size <= stage.options.stream_bytes // _LANES]
    sizes = sorted({_batch_rows(chosen, stage.plan.splits, size) for size in fits or _TRIED[:1]})
    longest = max(split.rows or sizes[-1] for task in pending for split in task.splits)
    sizes = [
        rows for before, rows in zip([0, *sizes], sizes, strict=False) if before < longest
    ]  # none spans two splits
    trials = calibrate(lambda: stage.worker(transform), pending, sizes)
    rows = best(trials).rows
    told = ", ".join(f"{trial.rows:,}: {trial.per_second:,.0f}" for trial in trials)
    log.info("batch.bytes=auto: batches of %s rows (rows of a batch, and rows in a second: %s)", f"{rows:,}", told)
    tried = tuple((trial.rows, trial.per_second) for trial in trials)
    return replace(stage, plan=replace(stage.plan, batch_rows=rows, trials=tried))


def _name(transform: object) -> str:
    if type(transform).__str__ is not object.__str__:
        return str(transform)
    name = getattr(transform, "__qualname__", None) or getattr(getattr(transform, "func", None), "__qualname__", None)
    return str(name or type(transform).__name__)


def _check_narrow(kinds: Mapping[str, Kind], chosen: Layout, like: Mapping[str, str]) -> None:
    """Floats that no file format holds leave as such only where they came as such, or by declaration."""
    came = {route.name: route.kind.logical for route in chosen.routes}
    for name, kind in kinds.items():
        if (
            kind.logical
            and chosen.conversion.narrow_floats == "error"
            and came.get(like.get(name, name)) != kind.logical
        ):
            raise DTypeError(
                f"column {name!r}: the transform returned {kind.logical}, which NumPy and Arrow cannot hold. "
                "conversion.narrow_floats=float32 widens it, conversion.narrow_floats=bits keeps its bits as "
                f"{kind.dtype}"
            )


def _identity(options: Options, made: Plan, transform: Transform) -> Mapping[str, Any]:
    """What decides the bytes of a part, as flat keys that a message can name.

    The rows of a batch are among it where a row of the output depends on the rows beside it.
    """
    batch = {"batch.rows": made.batch_rows} if rowwise(transform) is False else {}
    libraries = {name: ".".join(text.split(".")[:2]) for name, text in versions().items() if name in _DECIDING}
    return {
        **options.identity,
        **batch,
        **{f"version.{name}": text for name, text in libraries.items()},
        **{f"input.{f.name}": describe(f) for f in made.layout.schema.fields},
        **{f"output.{f.name}": describe(f) for f in made.stored.fields},
    }


_DECIDING = ("torch", "numpy", "pyarrow", "tensor-etl-stage")


def _check_places(stage: Stage) -> None:
    """An output inside the input would be read as input by the next run, or replace it. Links lead nobody astray."""
    target = Path(os.path.realpath(stage.where.root / stage.where.single))
    folder = None if stage.where.single else target
    for split in stage.plan.splits:
        path = Path(os.path.realpath(split.path)) if split.path else None
        if path is not None and (path == target or folder in path.parents):
            raise ConfigError(f"sink.path={stage.sink.path!r} holds the input {split.path!r}; choose another sink.path")
    given = getattr(stage.source, "path", "")
    if given and Path(given).is_dir():
        within = Path(os.path.realpath(given))
        if within in target.parents or within == target:
            raise ConfigError(
                f"sink.path={stage.sink.path!r} lies inside source.path={given!r}, so that the next run would read it "
                "as input; choose another sink.path"
            )


# ---- learning --------------------------------------------------------------------------------------------------------


def _fit(
    stage: Stage, head: Head | None, recorder: Recorder | None, *, started: bool
) -> tuple[Transform, str, list[Any]]:
    """The transform to apply, the digest of what it learned, and the lanes of the passes."""
    transform = stage.transform
    if not isinstance(transform, Fittable) or transform.fitted:
        return transform, "", []
    key = _fit_key(stage)
    kept = None if stage.options.restart else fitted.load(stage.where)
    if kept is not None and kept.key != key and started and stage.options.fit == "check":
        told = "; ".join(few(list(differences(kept.inputs, _versions(stage)))))
        raise OutputError(
            f"{stage.sink.path!r} was made with what {_name(transform)} learned from another input: {told}. "
            "run.restart=true learns anew and replaces all parts, run.fit=keep applies what it learned to the new "
            "input, and another sink.path leaves this output as it is"
        )
    keeps = started and stage.options.fit == "keep"  # before the first part, the configuration may have been another
    lanes: list[Any] = []
    if kept is not None and (kept.key == key or keeps):
        states = kept.states
        current = taught(transform, states, stage.device)
    else:
        current, states, lanes = learn(stage, head, recorder)
        facts = {"transform": _name(transform), "rows": stage.plan.rows}
        fitted.save(stage.where, key, states, _versions(stage), facts)
    return current, digest([{name: _bits(t) for name, t in sorted(state.items())} for state in states]), lanes


def _versions(stage: Stage) -> dict[str, str]:
    """The version of each input file."""
    return {whole(split.id): split.version for split in stage.plan.splits}


def _fit_key(stage: Stage) -> str:
    return digest({"identity": stage.identity, "splits": [(s.id, s.version) for s in stage.plan.splits]})


def learned(stage: Stage) -> list[Tensors] | None:
    """What is kept beside the output, if a run would go on with it."""
    kept = None if stage.options.restart else fitted.load(stage.where)
    if kept is None or (kept.key != _fit_key(stage) and stage.options.fit != "keep"):
        return None
    return kept.states


def learn(
    stage: Stage, head: Head | None = None, recorder: Recorder | None = None
) -> tuple[Transform, list[Tensors], list[Any]]:
    """Let the transform learn from the input: what it became, its state after each pass, the lanes of the passes."""
    current = stage.transform
    states: list[Tensors] = []
    lanes: list[Any] = []
    while isinstance(current, Fittable) and not current.fitted:
        title = f"fit, pass {len(states) + 1}"
        phase = recorder.timeline.during("fit") if recorder else nullcontext()
        with phase, progress(title, stage.plan.rows, stage.options.progress, stage.options.every) as shown:
            worker = stage.worker(current, shown.advance, head=head)
            if recorder is not None:
                worker.flow.timeline, worker.advance = recorder.timeline, recorder.beside(shown.advance)
            shown.lanes = worker.flow.lanes if stage.options.verbose else ()
            worker.layout = replace(worker.layout, carried=())  # nothing is learned from what is carried
            states.append(worker.fit(current, stage.tasks("")))
        lanes += worker.flow.lanes
        current = taught(current, states[-1:], stage.device)
    return current, states, lanes


def taught(transform: Transform, states: Sequence[Tensors], device: Device) -> Transform:
    """The transform with what it learned."""
    for state in states:
        assert isinstance(transform, Fittable)
        transform = transform.finish(state)
        _settle(transform, device)
    return transform


def _bits(tensor: Any) -> list[Any]:
    return [str(tensor.dtype), list(tensor.shape), tensor.flatten().tolist().__repr__()]


# ---- after the last row ----------------------------------------------------------------------------------------------


def _schema_facts(stage: Stage) -> list[dict[str, Any]]:
    facts = []
    for f in stage.plan.stored.fields:
        fact: dict[str, Any] = {"name": f.name, "type": describe(f)}
        with suppress(PipelineError):
            fact["dtype"] = array_field(f).dtype.str
        facts.append(fact)
    return facts


def _report(stage: Stage, report: Report, recorder: Recorder | None = None, error: str = "") -> dict[str, Any]:
    path = stage.where.state / "report.json"
    options = stage.options
    facts = {
        "state": "failed" if error else "done",
        **({"error": options.hide(error), "code": DataError.code} if error else {}),
        **report.facts(),
        "output": options.hide(report.output),
        "columns": [f"{name}: {type_}: {way}" for name, type_, way in stage.plan.ways()],
        "versions": versions(),
        "command": list(options.command),
        "config": options.config,
    }
    with suppress(PipelineError):  # a report that cannot be written loses nothing of the output
        write_json(path, facts, durable=_durable(stage.sink))
    say(f"{facts['state']}: {stage.plan.names['transform']} on {stage.device.name}\n{report.text(os.fspath(path))}")
    if recorder is not None:
        _draw(stage, report, facts, recorder)
    keys = ("state", "rows_in", "rows", "quarantined", "warnings", "parts", "parts_made", "bytes", "seconds")
    return {
        **{key: facts[key] for key in (*keys, "rows_per_second", "bottleneck")},
        "output": report.output,
        "report": os.fspath(path),
    }


def _check_drawn() -> None:
    """Refuse what could be made but not shown."""
    from pipeline.page import document

    if missing := document.missing():
        raise ConfigError(
            f"run.html=true draws with {missing}, which is not installed: pip install 'tensor-etl-stage[report]'"
        )


def _draw(stage: Stage, report: Report, facts: Mapping[str, Any], recorder: Recorder) -> None:
    """Write report.html beside report.json. One that cannot be written loses nothing of the output."""
    from pipeline.page import document

    path = stage.where.state / "report.html"
    try:
        course, values = recorder.course(report.seconds), recorder.values()
        drawn = document.run(facts, stage.plan, report.parts, course, values, stage.options.hide)
        write_bytes(path, drawn.encode())
    except Exception as e:  # noqa: BLE001  (whatever goes wrong while drawing)
        log.warning("%s is not written: %s: %s", path, type(e).__name__, e)
    else:
        say(f"  page     {path}")


def _found(stage: Stage, parts: Sequence[Part]) -> list[Outcome]:
    """What became of all checks, with a line in the log for each that warns."""
    outcomes = stage.rules.outcomes(parts, stage.where.root)
    for outcome in warnings(outcomes):
        log.warning("check %s", outcome)
    return outcomes


def _nothing_to_do(stage: Stage, parts: Sequence[Part], outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    rows = sum(p.rows_out for p in parts)
    say(f"nothing to do: {stage.sink.path} is up to date ({counted(len(parts), 'part')}, {rows:,} rows)")
    return {
        "state": "nothing to do",
        "rows_in": sum(p.rows_in for p in parts),
        "rows": sum(p.rows_out for p in parts),
        "quarantined": quarantined(parts),
        "warnings": len(warnings(outcomes)),
        "parts": len(parts),
        "parts_made": 0,
        "bytes": sum(f.bytes for p in parts for f in p.files),
        "seconds": round(seconds, 3),
        "output": os.fspath(stage.sink.path),
        "report": os.fspath(stage.where.state / "report.json"),
    }
