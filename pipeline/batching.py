"""Batches of an exact number of rows, from chunks of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline import columns
from pipeline.core import Column, Columns


def rows_of(chunk: Columns) -> int:
    """Number of rows of a chunk; 0 if it has no columns."""
    return len(next(iter(chunk.values()))) if chunk else 0


def cut(chunk: Columns, start: int, stop: int) -> Columns:
    """Rows `start` to `stop`, without copying."""
    return {name: _slice(column, start, stop) for name, column in chunk.items()}


def _slice(column: Column, start: int, stop: int) -> Column:
    return column[start:stop] if isinstance(column, np.ndarray) else column.slice(start, stop - start)


def join(chunks: list[Columns]) -> Columns:
    """One chunk with the rows of all; a single chunk is returned as it is."""
    if len(chunks) == 1:
        return chunks[0]
    return {name: columns.concat([chunk[name] for chunk in chunks], name) for name in chunks[0]}


def rebatch(chunks: Iterable[Columns], rows: int) -> Iterator[Columns]:
    """Batches of exactly `rows` rows, the last one smaller; one batch of 0 rows if there are none.

    Slices share memory with the chunks; only batches that span chunks are copied.
    """
    waiting: deque[Columns] = deque()
    held = 0
    empty: Columns = {}
    some = False
    for chunk in chunks:
        empty = empty or cut(chunk, 0, 0)
        if not (got := rows_of(chunk)):
            continue
        waiting.append(chunk)
        held += got
        while held >= rows:
            yield _take(waiting, rows)
            held -= rows
            some = True
    if held:
        yield join(list(waiting))
    elif not some:
        yield empty


def _take(waiting: deque[Columns], rows: int) -> Columns:
    """Remove and return the first `rows` rows."""
    taken: list[Columns] = []
    while rows:
        chunk = waiting.popleft()
        got = rows_of(chunk)
        if got > rows:
            waiting.appendleft(cut(chunk, rows, got))
            chunk, got = cut(chunk, 0, rows), rows
        taken.append(chunk)
        rows -= got
    return join(taken)
