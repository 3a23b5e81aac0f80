"""How large batches should be: a short trial of several sizes on the first rows. Results do not depend on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from pipeline.batching import cut
from pipeline.core import Batch, Task
from pipeline.errors import ConfigError
from pipeline.worker import Worker

log = logging.getLogger("pipeline")

SECONDS = 1.0
"""For all trials; each size gets one batch at least."""

_NEAR = 0.97
"""Of two sizes this near to each other the smaller one is taken: it needs less memory."""


@dataclass(frozen=True)
class Trial:
    """Batches of so many rows, and the rows that came back in a second."""

    rows: int
    per_second: float


def calibrate(start: Callable[[], Worker], tasks: Sequence[Task], sizes: Sequence[int]) -> tuple[Trial, ...]:
    """Send the first rows through upload, compute and download in batches of each of `sizes`, the smallest first.

    Nothing is written, and no row is counted. What takes longer, the first calls and a compiler, is not timed.

    Args:
        start: makes a worker for one trial; checks remember rows, so that each trial needs its own.
        tasks: what will be done.
        sizes: rows of a batch.

    Raises:
        ConfigError: the transform draws random numbers.
    """
    sample = _sample(start(), tasks, max(sizes))
    end = time.perf_counter() + SECONDS
    trials: list[Trial] = []
    for rows in sizes:
        pieces = list(_pieces(sample, rows))
        if not trials:
            _timed(start(), pieces[:1], 0.0)
            end = time.perf_counter() + SECONDS
        worker = start()
        per_second = _timed(worker, pieces, SECONDS / len(sizes))
        _check_drawn(worker)
        if worker.ceiling:  # the device had no memory for them
            break
        trials.append(Trial(rows, per_second))
        if time.perf_counter() > end:
            break
    return tuple(trials) or (Trial(min(sizes), 0.0),)


def best(trials: Sequence[Trial]) -> Trial:
    """The smallest of those that are about as quick as the quickest."""
    most = max(trial.per_second for trial in trials)
    return next(trial for trial in trials if trial.per_second >= _NEAR * most)


def _sample(worker: Worker, tasks: Sequence[Task], rows: int) -> list[Batch]:
    """The first two batches of the largest size, or more of splits that are shorter."""
    sample: list[Batch] = []
    with closing(worker.read(tasks, rows)) as batches:
        for batch in batches:
            sample.append(batch)
            if sum(b.rows for b in sample) >= 2 * rows:
                break
    return [batch for batch in sample if batch.rows] or sample[:1]


def _pieces(sample: Iterable[Batch], rows: int) -> Iterator[Batch]:
    for batch in sample:
        for at in range(0, max(1, batch.rows), rows):
            stop = min(at + rows, batch.rows)
            columns = cut(batch.columns, at, stop)
            yield replace(batch, first=batch.first + at, rows=stop - at, columns=columns, last=False)


def _timed(worker: Worker, batches: Iterable[Batch], seconds: float) -> float:
    """Rows that came back in a second, of those that did until the time was over."""
    begin = now = time.perf_counter()
    done = 0
    with closing(worker.transformed(iter(batches))) as results:
        for batch, _ in results:
            done, now = done + batch.rows, time.perf_counter()
            if now - begin > seconds:
                break
    return done / max(now - begin, 1e-9)


def _check_drawn(worker: Worker) -> None:
    if worker.drew():
        raise ConfigError(
            "batch.bytes=auto: the transform draws random numbers, and which rows get which hangs on the size of "
            "batches. Give batch.bytes or batch.rows a number"
        )
