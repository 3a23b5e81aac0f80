"""`scripts/bench gpu`: what the device and the ways to it can do, and how much of that the stage uses."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import torch

from measure import data, page
from measure.contender import SCRIPTS
from measure.lap import warm
from measure.process import MIB
from measure.workload import WORKLOADS
from pipeline.core import Arrays, Columns, File, Output, Schema, Sink, Source, Task, Transform, apply
from pipeline.device import available
from pipeline.device.cuda import Cuda, Runtime
from pipeline.engine.local import Local
from pipeline.run import Options, run
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.parquet import Parquet
from pipeline.transform.identity import Identity
from pipeline.transform.module import Module

GB = 1e9
COPIES = 16  # queued before the host waits, so that it waits once
TARGET = 1.3  # times the larger of reading and the slower direction, for a job that changes nothing
IDLE = 0.1  # of the time that a device may wait where it has the most to do


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "The ceilings of a CUDA device and of the ways to it, and the share of them that the stage reaches."
    parser = commands.add_parser("gpu", help=words, description=words)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="which jobs; all unless given")
    parser.add_argument("--scale", type=float, default=1.0, help="rows, as a multiple of the full workload")
    parser.add_argument(
        "--to", type=Path, default=data.PLACE, metavar="DIR", help=f"where input lies; else {data.PLACE}"
    )
    parser.add_argument("--n", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--batch-bytes", type=int, default=32 * MIB, help="batch.bytes of the stage")
    parser.add_argument("--copy-bytes", type=int, default=64 * MIB, help="bytes of one copy when ceilings are measured")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables in their section of this page")
    parser.set_defaults(command=gpu)


def gpu(arguments: argparse.Namespace) -> None:
    """Measure, or say why there is nothing to measure."""
    if not available()[0].startswith("cuda"):
        built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
        why = "no CUDA device or driver was found" if built else "this torch build has no CUDA"
        print(f"scripts/bench gpu: {why}; nothing is measured and no page is written")
        return
    if min(arguments.n, arguments.batch_bytes, arguments.copy_bytes) < 1 or arguments.scale <= 0:
        sys.exit("scripts/bench: --n, --batch-bytes and --copy-bytes must be at least 1, --scale above 0")
    if arguments.write is not None:
        page.frame("gpu", arguments.write)
    name = torch.cuda.get_device_name(0)
    page.publish("gpu", measure(lambda: Runtime(0), name, arguments), arguments.write)


def measure(runtime: Callable[[], Runtime], name: str, arguments: argparse.Namespace) -> str:
    """The page, with whatever gives the device; a fake one gives figures that mean nothing."""
    found = ceilings(runtime(), arguments.copy_bytes, arguments.n)
    device = Cuda(runtime=runtime())
    results = [result(job, device, found, arguments) for job in _jobs(arguments)]
    return PAGE.format(
        n=arguments.n,
        scale=arguments.scale,
        device=name,
        machine=page.machine(),
        copy=f"{arguments.copy_bytes / MIB:g}",
        batch=f"{arguments.batch_bytes / MIB:g}",
        ceilings=page.table(("way", "GB/s"), [(way, f"{rate / GB:,.1f}") for way, rate in found.rows()]),
        results=page.table(HEADER, [each.row() for each in results], words=1),
        verdicts="\n".join(f"- {each.job.name}: {each.verdict()}" for each in results),
    )


PAGE = """\
Written by `scripts/bench gpu` ({n} rounds, scale {scale:g}) with {device}; host: {machine}.

Ceilings, medians: copies of {copy} MiB between pinned memory and the device, several queued; a copy within the device
counts its bytes once.

{ceilings}

The stage in this process, context and pinned memory there already, batches of {batch} MiB, input in the page cache.
"Read" is the source alone (for mapped arrays: a copy to pinned memory); "up" and "down" are the bytes of the batches at
the ceilings above; "compute" is the transform alone on a batch that stays on the device, times batches. "Stage" writes
nowhere, "to disk" writes the output with everything on. Seconds, medians. "Share" is the largest of the four against
the stage.

{results}

{verdicts}"""


# ---- ceilings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second."""

    host_copy: float
    up: float
    down: float
    both: float
    within: float

    def rows(self) -> list[tuple[str, float]]:
        """Each with its name."""
        return [
            ("host memory to pinned memory, one thread", self.host_copy),
            ("pinned memory to device", self.up),
            ("device to pinned memory", self.down),
            ("both at once, together", self.both),
            ("within the device", self.within),
        ]


def ceilings(runtime: Runtime, nbytes: int, repetitions: int) -> Ceilings:
    """Copies of so many bytes over every way, the median of some rounds after one that does not count."""
    going, coming, here = runtime.stream(), runtime.stream(), runtime.stream()
    host_in, host_out = runtime.pinned(nbytes), runtime.pinned(nbytes)
    device_in, device_out = runtime.empty(nbytes, going), runtime.empty(nbytes, going)
    runtime.record(going).synchronize()
    plain = torch.ones(nbytes, dtype=torch.uint8)

    def queue(*ways: tuple[torch.Tensor, torch.Tensor, object]) -> None:
        for _ in range(COPIES):
            for target, source, stream in ways:
                runtime.copy(target, source, stream)
        for _, _, stream in ways:
            runtime.record(stream).synchronize()

    up, down = (device_in, host_in, going), (host_out, device_out, coming)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "host_copy": (1, lambda: host_in.copy_(plain)),
        "up": (COPIES, lambda: queue(up)),
        "down": (COPIES, lambda: queue(down)),
        "both": (2 * COPIES, lambda: queue(up, down)),
        "within": (COPIES, lambda: queue((device_out, device_in, here))),
    }
    return Ceilings(**{name: count * nbytes / _median(call, repetitions) for name, (count, call) in calls.items()})


def _median(call: Callable[[], object], repetitions: int) -> float:
    taken = [_seconds(call) for _ in range(repetitions + 1)]
    return median(taken[1:])


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# ---- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Work for the stage: `source` makes a new source, since one lists its input once."""

    name: str
    source: Callable[[], Source]
    transform: Transform
    suffix: str
    columns: Sequence[str] | None = None
    mapped: bool = False

    def sink(self, path: Path) -> Sink:
        """Where its output goes, in a folder."""
        return NpySink(str(path / "out.npy")) if self.suffix == ".npy" else ParquetSink(str(path))


def _mapped(place: Path) -> Job:
    return Job("identity", lambda: Npy(str(place / "in"), mmap=True), Identity(), ".npy", mapped=True)


def _wide(place: Path) -> Job:
    return Job("W2", lambda: Npy(str(place / "in")), Module(_transforms().embedding(place)), ".npy")


def _embeddings(place: Path) -> Job:
    def unit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": _transforms().unit(tensors["x"])}

    return Job("W4", lambda: Parquet(str(place / "in")), unit, ".parquet", ["x"])


def _images(place: Path) -> Job:
    def shrink(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"data": _transforms().shrink(tensors["data"])}

    return Job("W5", lambda: Npy(str(place / "in")), shrink, ".npy")


def _transforms() -> ModuleType:
    """What all contenders do to the rows."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return import_module("transforms")


JOBS = {"identity": ("W2", _mapped), "W2": ("W2", _wide), "W4": ("W4", _embeddings), "W5": ("W5", _images)}


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    for name in arguments.jobs:
        workload, make = WORKLOADS[JOBS[name][0]], JOBS[name][1]
        place = workload.prepare(arguments.to, arguments.scale)
        warm(workload.input(place))
        yield make(place)


@dataclass(frozen=True)
class Nowhere:
    """A sink that drops what it is given, so that only the ways to the device and back are left."""

    path: str
    columnar: bool = True
    single: bool = False

    def accept(self, schema: Schema) -> Schema:
        return schema

    def open(self, task: Task, schema: Schema) -> Nothing:  # noqa: ARG002
        return Nothing()


class Nothing:
    """A part that is never written."""

    def write(self, columns: Columns) -> None:
        """Drop the rows."""

    def close(self) -> tuple[File, ...]:
        """No files."""
        return ()

    def abort(self) -> None:
        """Nothing to leave behind."""


# ---- results ---------------------------------------------------------------------------------------------------------

HEADER = ("job", "rows", "in MiB", "out MiB", "read", "up", "down", "compute", "stage", "share", "to disk")


@dataclass(frozen=True)
class Result:
    """Seconds of a job: of each step alone, and of all together."""

    job: Job
    rows: int
    bytes_in: int
    bytes_out: int
    read: float
    up: float
    down: float
    compute: float
    stage: float
    disk: float

    @property
    def largest(self) -> float:
        """Seconds that the slowest step takes alone, which no overlap can hide."""
        return max(self.read, self.up, self.down, self.compute)

    def row(self) -> Sequence[str]:
        """A line of the table."""
        seconds = [f"{value:.3f}" for value in (self.read, self.up, self.down, self.compute, self.stage)]
        sizes = [f"{value / MIB:,.0f}" for value in (self.bytes_in, self.bytes_out)]
        return (
            self.job.name,
            f"{self.rows:,}",
            *sizes,
            *seconds,
            f"{self.largest / self.stage:.0%}",
            f"{self.disk:.3f}",
        )

    def verdict(self) -> str:
        """Whether the stage is as near to its slowest step as it should be."""
        if self.compute == self.largest:
            idle = max(0.0, 1 - self.compute / self.stage)
            return (
                f"compute is the larger; the device waits {idle:.0%} of the time ({_reached(idle <= IDLE)} {IDLE:.0%})"
            )
        floor = max(self.read, self.up, self.down)
        ratio = self.stage / floor
        return f"{ratio:.2f}x the larger of reading and the slower direction ({_reached(ratio <= TARGET)} {TARGET:g}x)"


def _reached(good: bool) -> str:
    return "within" if good else "NOT within"


@dataclass
class Tape:
    """Counts what goes through a transform, and keeps the first batch that has rows."""

    transform: Transform
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first: Arrays = field(default_factory=dict)

    def __call__(self, tensors: dict[str, torch.Tensor]) -> Output:
        rows = len(next(iter(tensors.values())))
        out = apply(self.transform, tensors, {}, rows)
        self.rows += rows
        self.bytes_in += sum(tensor.nbytes for tensor in tensors.values())
        self.bytes_out += sum(tensor.nbytes for tensor in out.tensors.values())
        if rows and not self.first:
            self.first = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return out

    def setup(self, device: str) -> None:
        """As the transform that it stands for."""
        if hasattr(self.transform, "setup"):
            self.transform.setup(device)


def result(job: Job, device: Cuda, found: Ceilings, arguments: argparse.Namespace) -> Result:
    """Measure a job: once to count, then the steps alone and the stage, with and without a sink."""
    tape = Tape(job.transform)
    _stage(job, tape, device, arguments, disk=False)
    mapped = tape.bytes_in / found.host_copy
    batches = tape.rows / max(1, len(next(iter(tape.first.values()))))
    return Result(
        job,
        tape.rows,
        tape.bytes_in,
        tape.bytes_out,
        read=mapped if job.mapped else _median(lambda: _drain(job.source()), arguments.n),
        up=tape.bytes_in / found.up,
        down=tape.bytes_out / found.down,
        compute=batches * _alone(job.transform, device, tape.first),
        stage=_stages(job, device, arguments, disk=False),
        disk=_stages(job, device, arguments, disk=True),
    )


def _drain(source: Source) -> None:
    for split in source.splits():
        for _ in source.read(split):
            pass


def _alone(transform: Transform, device: Cuda, arrays: Arrays) -> float:
    """Seconds of the transform on a batch that is on the device: many calls less one, so that copies do not count."""

    def calls(count: int) -> None:
        staged = device.upload({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        with device.compute():
            tensors = device.ready(staged)
            for _ in range(count):
                out = apply(transform, tensors, {}, len(next(iter(tensors.values()))))
            left = device.leave({name: tensor[:1] for name, tensor in out.tensors.items()})
        device.download(left)

    one, many = _median(lambda: calls(1), 3), _median(lambda: calls(21), 3)
    return max(0.0, many - one) / 20


def _stages(job: Job, device: Cuda, arguments: argparse.Namespace, *, disk: bool) -> float:
    seconds = [_stage(job, job.transform, device, arguments, disk=disk) for _ in range(arguments.n + 1)]
    return median(seconds[1:])


def _stage(job: Job, transform: Transform, device: Cuda, arguments: argparse.Namespace, *, disk: bool) -> float:
    """Seconds of a run, as it reports them."""
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=arguments.to) as name, redirect_stderr(io.StringIO()):
        done = run(
            source=job.source(),
            transform=transform,
            sink=job.sink(Path(name) / "out") if disk else Nowhere(str(Path(name) / "out")),
            engine=Local(),
            device=device,
            options=Options(columns=job.columns, batch_bytes=arguments.batch_bytes, progress="none"),
        )
    return float(done["seconds"])
