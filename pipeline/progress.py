"""How far a run is: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import ConfigError

log = logging.getLogger("pipeline")
Advance = Callable[[int], None]


@contextmanager
def progress(title: str, rows: int | None, mode: str = "auto", every: float = 5.0) -> Iterator[Advance]:
    """Show progress while the block runs; call the value with the number of rows just done.

    Args:
        title: what is under way.
        rows: rows in all, or None if unknown.
        mode: ``auto`` (bar on a terminal, else lines), ``bar``, ``lines`` or ``none``.
        every: seconds between lines.
    """
    if mode not in ("auto", "bar", "lines", "none"):
        raise ConfigError(f"log.progress must be auto, bar, lines or none; got {mode!r}")
    if mode == "none":
        yield lambda _: None
    elif mode == "bar" or (mode == "auto" and sys.stderr is not None and sys.stderr.isatty()):
        with _bar(title, rows) as advance:
            yield advance
    else:
        yield _lines(title, rows, every)


def _lines(title: str, rows: int | None, every: float) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(some: int) -> None:
        nonlocal done, last
        done += some
        now = time.monotonic()
        if now - last < every:
            return
        last = now
        share = f" of {rows:,} ({done / rows:.0%})" if rows else ""
        rate = done / (now - start)
        left = f", about {(rows - done) / rate:.0f} s left" if rows else ""
        log.info("%s: %s rows%s, %s rows/s%s", title, f"{done:,}", share, f"{rate:,.0f}", left)

    return advance


@contextmanager
def _bar(title: str, rows: int | None) -> Iterator[Advance]:
    from rich.console import Console
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
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=rows)
        yield lambda some: bar.advance(task, some)
