"""What a device and the ways to it can do, whoever asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO

import torch

from pipeline.device.cuda import Runtime

COPIES = 16  # queued before the host waits, so that it waits once


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second."""

    read: float
    up: float
    down: float
    both: float
    within: float

    def rows(self) -> list[tuple[str, float]]:
        """Each with its name."""
        return [
            ("page cache to pinned memory, one thread", self.read),
            ("pinned memory to device", self.up),
            ("device to pinned memory", self.down),
            ("both at once, together", self.both),
            ("within the device", self.within),
        ]


def ceilings(runtime: Runtime, nbytes: int, repetitions: int, under: Path) -> Ceilings:
    """Copies of so many bytes over every way, the median of some rounds after one that does not count."""
    with TemporaryFile(dir=under) as file:
        file.write(bytes(nbytes))
        return _ceilings(runtime, nbytes, repetitions, file)


def _ceilings(runtime: Runtime, nbytes: int, repetitions: int, file: IO[bytes]) -> Ceilings:
    going, coming, here = runtime.stream(), runtime.stream(), runtime.stream()
    host_in, host_out = runtime.pinned(nbytes), runtime.pinned(nbytes)
    device_in, device_out = runtime.empty(nbytes, going), runtime.empty(nbytes, going)
    runtime.record(going).synchronize()

    def read() -> None:
        file.seek(0)
        file.readinto(host_in.numpy().data)  # type: ignore[attr-defined]

    def queue(*ways: tuple[torch.Tensor, torch.Tensor, object]) -> None:
        for _ in range(COPIES):
            for target, source, stream in ways:
                runtime.copy(target, source, stream)
        for _, _, stream in ways:
            runtime.record(stream).synchronize()

    up, down = (device_in, host_in, going), (host_out, device_out, coming)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "read": (1, read),
        "up": (COPIES, lambda: queue(up)),
        "down": (COPIES, lambda: queue(down)),
        "both": (2 * COPIES, lambda: queue(up, down)),
        "within": (COPIES, lambda: queue((device_out, device_in, here))),
    }
    return Ceilings(**{name: count * nbytes / timed(call, repetitions) for name, (count, call) in calls.items()})


def timed(call: Callable[[], object], repetitions: int) -> float:
    """Seconds of a call, the median of some after one that does not count."""
    taken = [_once(call) for _ in range(repetitions + 1)]
    return median(taken[1:])


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
