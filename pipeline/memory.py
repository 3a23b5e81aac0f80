"""Memory of the process, part by part, and whether it leaks."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pipeline.core import CountsMemory

PARTS = 20
"""Parts over which memory is watched."""

_BLOCK = 5
_LEAST, _SHARE = 32 << 20, 0.1


@dataclass
class Memory:
    """What the process that commits parts held after each of them, in bytes.

    Attributes:
        device: asked for its peak after each part, if it counts.
        resident: the resident set after the part.
        peak: the largest resident set of the process until then.
        device_peak: the most that tensors took on the device since the part before.
    """

    device: object = None
    resident: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    device_peak: list[int] = field(default_factory=list)

    def add(self) -> str:
        """Measure after a part; a warning if memory has begun to grow steadily, once in `PARTS` parts, else nothing.

        The process is given its first `PARTS` parts to grow: until then allocators keep more and more pages, to use
        them again.
        """
        self.resident.append(resident())
        self.peak.append(peak())
        if isinstance(self.device, CountsMemory):
            self.device_peak.append(self.device.peak_memory())
        if len(self.resident) % PARTS:
            return ""
        for what, held in (("the process", self.resident[PARTS:]), ("the device", self.device_peak)):
            if rise := growth(held[-PARTS:]):
                return (
                    f"memory of {what} has grown steadily: {rise / 1e6:,.0f} MB over the last {PARTS} parts. Does "
                    "the transform keep its tensors?"
                )
        return ""

    def facts(self) -> dict[str, list[int]]:
        """Numbers for the report, one for each part that was made, in the order of making."""
        device = {"device_peak_bytes": self.device_peak} if self.device_peak else {}
        return {"resident_bytes": self.resident, "peak_bytes": self.peak, **device}


def growth(held: Sequence[int]) -> int:
    """Bytes by which memory has grown over `PARTS` parts if it did so steadily, else 0.

    Steadily: of each five parts in turn the least is more than that of the five before, in all by 32 MiB and by a
    tenth. The least, since batches in flight come and go; in turn, since what is held once for all (buffers, compiled
    code) stops growing.
    """
    if len(held) < PARTS:
        return 0
    floors = [min(held[i : i + _BLOCK]) for i in range(0, PARTS, _BLOCK)]
    steady = all(a < b for a, b in pairwise(floors))
    rise = floors[-1] - floors[0]
    return rise if steady and rise >= max(_LEAST, _SHARE * floors[0]) else 0


def resident() -> int:
    """The resident set of this process, in bytes; its peak where the system does not tell (macOS)."""
    try:
        f = os.open("/proc/self/statm", os.O_RDONLY)  # after each part and batch: a file object takes six calls more
    except OSError:
        return peak()
    try:
        return int(os.read(f, 128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(f)


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
