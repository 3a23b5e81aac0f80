"""`scripts/bench gpu`: what the device and the ways to it can do, and how much of that the stage uses."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from measure import data, page
from measure.ceiling import Ceilings, ceilings, timed
from measure.job import JOBS, Job, Nowhere, Tape, make
from measure.process import MIB
from pipeline.core import Arrays, Source, Transform, apply
from pipeline.device import available
from pipeline.device.cuda import Cuda, Runtime
from pipeline.engine.local import Local
from pipeline.run import Options, run

GB = 1e9
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
    found = ceilings(runtime(), arguments.copy_bytes, arguments.n, arguments.to)
    device = Cuda(runtime=runtime())
    results = [
        result(job, device, found, arguments)
        for job in (make(name, arguments.to, arguments.scale) for name in arguments.jobs)
    ]
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
"Read" is the source alone, for mapped arrays their bytes at the ceiling above; "up" and "down" are the bytes of the
batches at the ceilings; "compute" is the transform alone on a batch that stays on the device, times batches. "Stage"
writes nowhere, "to disk" writes the output with everything on. Seconds, medians. "Share" is the largest of the four
against the stage.

{results}

{verdicts}"""


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


def result(job: Job, device: Cuda, found: Ceilings, arguments: argparse.Namespace) -> Result:
    """Measure a job: once to count, then the steps alone and the stage, with and without a sink."""
    tape = Tape(job.transform)
    _stage(job, tape, device, arguments, disk=False)
    mapped = tape.bytes_in / found.read
    batches = tape.rows / max(1, len(next(iter(tape.first.values()))))
    return Result(
        job,
        tape.rows,
        tape.bytes_in,
        tape.bytes_out,
        read=mapped if job.mapped else timed(lambda: _drain(job.source()), arguments.n),
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

    one, many = timed(lambda: calls(1), 3), timed(lambda: calls(21), 3)
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
