"""What happened when in a run, in a bounded number of bins: lanes, rows, memory. Kept only for a page that shows it."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

BINS = 200
"""Bins of a strip, at most; there are at least half as many once a run takes a second."""

_WIDTH = 0.01


class Strip:
    """A number over time. When time runs past the last bin, neighbours are joined and bins are twice as wide.

    Args:
        join: how numbers of one bin come together: added, or the largest of them.
    """

    def __init__(self, join: Callable[[float, float], float] = operator.add) -> None:
        self.width = _WIDTH
        self._join = join
        self._cells = [0.0] * BINS

    def add(self, begin: float, end: float, amount: float) -> None:
        """Spread an amount evenly over the time from `begin` to `end`, in seconds since the start."""
        begin = max(0.0, begin)
        while end >= self.width * BINS:
            self._fold()
        first, last = int(begin / self.width), int(end / self.width)
        if first == last:
            self._cells[last] = self._join(self._cells[last], amount)
            return
        edges = [begin, *(i * self.width for i in range(first + 1, last + 1)), end]
        for i, (a, b) in enumerate(pairwise(edges), first):
            self._cells[i] = self._join(self._cells[i], amount * (b - a) / (end - begin))

    def _fold(self) -> None:
        joined = [self._join(a, b) for a, b in zip(self._cells[::2], self._cells[1::2], strict=True)]
        self._cells = joined + [0.0] * (BINS - len(joined))
        self.width *= 2

    def cells(self, width: float, seconds: float) -> list[float]:
        """Numbers of bins of this width, which is its own or twice that, four times, ..., until `seconds`."""
        while self.width < width:
            self._fold()
        return self._cells[: min(BINS, int(seconds / width) + 1)]


@dataclass
class Track:
    """Seconds of one lane over time, summed over its threads."""

    start: float
    threads: int
    inside: Strip = field(default_factory=Strip)
    starved: Strip = field(default_factory=Strip)
    blocked: Strip = field(default_factory=Strip)

    def add(self, strip: Strip, seconds: float) -> None:
        """Count seconds that end now."""
        end = time.perf_counter() - self.start
        strip.add(end - seconds, end, seconds)


@dataclass(frozen=True)
class Shares:
    """What the threads of a lane did in each bin, as shares of their time; the rest they had nothing to do."""

    lane: str
    threads: int
    busy: Sequence[float]
    starved: Sequence[float]
    blocked: Sequence[float]


@dataclass(frozen=True)
class Course:
    """A finished run over time.

    Attributes:
        width: seconds of a bin.
        rows: rows that came back from the device, for each second; those of a batch since the one before it.
        resident: the resident set in bytes, the largest of each bin; 0 where it was not looked at.
    """

    width: float
    lanes: Sequence[Shares]
    rows: Sequence[float]
    resident: Sequence[float]


class Timeline:
    """Takes down what lanes do as they do it; `resident` says what memory is in use."""

    def __init__(self, resident: Callable[[], int], start: float | None = None) -> None:
        self.start = time.perf_counter() if start is None else start
        self._tracks: dict[str, Track] = {}
        self._rows = Strip()
        self._resident = Strip(max)
        self._memory = resident
        self._last = 0.0
        self._phase = ""

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Lanes that begin meanwhile have the name of this phase before their own; one that begins again goes on."""
        self._phase = f"{phase}: "
        try:
            yield
        finally:
            self._phase = ""

    def track(self, lane: str, threads: int) -> Track:
        """Where a lane counts its seconds, under a lock of its own; the lanes begin now."""
        self._last = time.perf_counter() - self.start
        return self._tracks.setdefault(self._phase + lane, Track(self.start, threads))

    def look(self) -> None:
        """Take down the memory in use; always in the same thread."""
        now = time.perf_counter() - self.start
        self._resident.add(now, now, self._memory())

    def advance(self, rows: int) -> None:
        """Count rows that came back just now; always in the same thread."""
        now = time.perf_counter() - self.start
        self._rows.add(self._last, now, rows)
        self._last = now
        self.look()

    def course(self, seconds: float) -> Course:
        """All of it in bins of one width, until `seconds` after the start. When the lanes have ended."""
        strips = [s for track in self._tracks.values() for s in (track.inside, track.starved, track.blocked)]
        width = max(strip.width for strip in (*strips, self._rows, self._resident))
        lanes = [_shares(name, track, width, seconds) for name, track in self._tracks.items()]
        rows = [n / width for n in self._rows.cells(width, seconds)]
        return Course(width, lanes, rows, self._resident.cells(width, seconds))


def _shares(lane: str, track: Track, width: float, seconds: float) -> Shares:
    """Time inside a lane holds the waiting for its input."""
    whole = width * track.threads
    inside, starved, blocked = (
        [cell / whole for cell in strip.cells(width, seconds)] for strip in (track.inside, track.starved, track.blocked)
    )
    busy = [max(0.0, a - b) for a, b in zip(inside, starved, strict=True)]
    return Shares(lane, track.threads, busy, starved, blocked)
