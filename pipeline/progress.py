"""How far a run is: a bar on a terminal, a log line every few seconds elsewhere, and its lanes if asked."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.plan import table
from pipeline.stream import Lane

log = logging.getLogger("pipeline")
Advance = Callable[[int], None]


@dataclass
class Shown:
    """What is on show while something is under way.

    Attributes:
        advance: to be called with the number of rows just done.
        lanes: at work; each has a line of its own.
    """

    advance: Advance = field(default=lambda _: None)
    lanes: Sequence[Lane] = ()
    start: float = field(default_factory=time.monotonic)

    def words(self) -> list[tuple[str, ...]]:
        """Of each lane: what share of the time of its threads it was at work or waited, and how many items it made."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        return [
            (
                f"{lane.name} ({lane.width})" if lane.width > 1 else lane.name,
                *(f"{min(1.0, s / lane.width / seconds):.0%}" for s in (lane.busy, lane.starved, lane.blocked)),
                f"{lane.items:,}",
            )
            for lane in tuple(self.lanes)
        ]


_WORDS = ("lane", "at work", "waiting for input", "waiting for room", "items")


@contextmanager
def progress(title: str, rows: int | None, mode: str = "auto", every: float = 5.0) -> Iterator[Shown]:
    """Show progress while the block runs.

    Args:
        title: what is under way.
        rows: rows in all, or None if unknown.
        mode: ``auto`` (bar on a terminal, else lines), ``bar``, ``lines`` or ``none``.
        every: seconds between lines.
    """
    if mode not in ("auto", "bar", "lines", "none"):
        raise ConfigError(f"log.progress must be auto, bar, lines or none; got {mode!r}")
    shown = Shown()
    if mode == "bar" or (mode == "auto" and sys.stderr is not None and sys.stderr.isatty()):
        with _bar(title, rows, shown):
            yield shown
        return
    if mode != "none":
        shown.advance = _lines(title, rows, every, shown)
    yield shown


def _lines(title: str, rows: int | None, every: float, shown: Shown) -> Advance:
    last = shown.start
    done = 0

    def advance(some: int) -> None:
        nonlocal done, last
        done += some
        now = time.monotonic()
        if now - last < every:
            return
        last = now
        share = f" of {rows:,} ({done / rows:.0%})" if rows else ""
        rate = done / (now - shown.start)
        left = f", about {(rows - done) / rate:.0f} s left" if rows else ""
        log.info("%s: %s rows%s, %s rows/s%s", title, f"{done:,}", share, f"{rate:,.0f}", left)
        for line in table(_WORDS, shown.words())[not shown.lanes :]:
            log.info("  %s", line)

    return advance


@contextmanager
def _bar(title: str, rows: int | None, shown: Shown) -> Iterator[None]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    parts = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*parts)
    task = bar.add_task(title, total=rows)
    shown.advance = lambda some: bar.advance(task, some)
    with Live(Group(bar, _Lanes(shown)), console=Console(stderr=True), transient=True):
        yield


@dataclass(frozen=True)
class _Lanes:
    """A table of the lanes, drawn anew whenever the terminal is."""

    shown: Shown

    def __rich__(self) -> Any:
        from rich.table import Table

        if not self.shown.lanes:
            return ""
        drawn = Table(*_WORDS, box=None, pad_edge=False, header_style="dim")
        for column in drawn.columns[1:]:
            column.justify = "right"
        for words in self.shown.words():
            drawn.add_row(*words)
        return drawn
