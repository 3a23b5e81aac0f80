"""Some rows of an input, taken from all over it, as a source; and a sink that keeps rows instead of writing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from pipeline import columns
from pipeline.batching import cut, join, rows_of
from pipeline.core import Columns, File, Schema, Sink, Source, Split, Task


@dataclass(frozen=True)
class Sample:
    """The first rows of some splits, kept in memory. A source whose splits have the ids of those they come from.

    Attributes:
        origin: the source whose schema and place it shares.
        chunks: rows by id of the split.
    """

    origin: Source
    pieces: tuple[Split, ...]
    chunks: dict[str, list[Columns]]

    @property
    def path(self) -> str:
        """Where the rows come from."""
        return str(getattr(self.origin, "path", ""))

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(split.rows or 0 for split in self.pieces)

    def schema(self) -> Schema:
        """That of the origin."""
        return self.origin.schema()

    def splits(self) -> Sequence[Split]:
        """The pieces, in the order of the input."""
        return self.pieces

    def read(self, split: Split) -> Iterator[Columns]:
        """The rows of a piece."""
        yield from self.chunks[split.id]

    def table(self) -> Columns:
        """All rows in order."""
        return join([chunk for split in self.pieces for chunk in self.chunks[split.id]])


def sample(source: Source, rows: int, size: int, pieces: int) -> Sample:
    """Read the first rows of some splits, evenly spread over the input, and stop reading there.

    Where a larger input has few splits and the source can cut it finer (`split_rows`), it does.

    Args:
        source: the input.
        rows: rows of all pieces together, at most.
        size: bytes of all pieces together, about, at most.
        pieces: splits to read from, at most.
    """
    source = _finer(source, rows, size, pieces)
    splits = list(source.splits())
    chosen = _spread([split for split in splits if split.rows != 0] or splits[:1], min(pieces, max(1, rows)))
    taken: dict[str, list[Columns]] = {}
    for left, split in enumerate(sorted(chosen, key=_known_first)):  # what short splits leave goes to the others
        share = len(chosen) - left
        with closing(_closable(source.read(split))) as chunks:
            taken[split.id] = list(_head(chunks, -(-rows // share), size // share))
        rows -= sum(map(rows_of, taken[split.id]))
        size -= sum(map(_bytes, taken[split.id]))
    counts = {id_: (sum(map(rows_of, chunks)), sum(map(_bytes, chunks))) for id_, chunks in taken.items()}
    cuts = [replace(split, rows=counts[split.id][0], bytes=counts[split.id][1]) for split in chosen]
    return Sample(source, tuple(cuts), taken)


def _finer(source: Source, rows: int, size: int, pieces: int) -> Source:
    splits = source.splits()
    counts = [split.rows for split in splits]
    total = sum(count or 0 for count in counts)
    can = is_dataclass(source) and "split_rows" in {f.name for f in fields(source)}
    whole = total <= rows and sum(split.bytes for split in splits) <= size
    if not can or None in counts or whole or len(splits) >= pieces or total < pieces:
        return source
    finer: Source = replace(source, split_rows=-(-total // pieces))  # type: ignore[type-var]
    return finer if len(finer.splits()) > len(splits) else source


def _spread(splits: Sequence[Split], pieces: int) -> list[Split]:
    """At most so many, evenly; the first and the last are among them if there are at least two."""
    if len(splits) <= pieces:
        return list(splits)
    last = max(1, pieces - 1)
    return [splits[i * (len(splits) - 1) // last] for i in range(pieces)]


def _known_first(split: Split) -> float:
    return float("inf") if split.rows is None else split.rows


def _closable(chunks: Iterator[Columns]) -> Any:
    """A generator, which can be told to stop, around any iterator."""
    yield from chunks


def _head(chunks: Iterable[Columns], rows: int, size: int) -> Iterator[Columns]:
    """The first rows, at most `rows` and about `size` bytes of them; at least one if there is one."""
    some = False
    for chunk in chunks:
        got = rows_of(chunk)
        each = max(1, _bytes(chunk) // max(1, got))
        fitting = min(got, rows, size // each if some else max(1, size // each))
        if some and not fitting:
            return
        yield cut(chunk, 0, fitting)
        some = some or fitting > 0
        rows, size = rows - fitting, size - fitting * each
        if got and (fitting < got or rows <= 0):
            return


def _bytes(chunk: Columns) -> int:
    return sum(columns.size(column) for column in chunk.values())


# ---- in place of a file ----------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """Keeps rows as they would be written by another sink, or in the types in which they come if there is none."""

    like: Sink
    typed: bool = True
    parts: dict[int, list[Columns]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """That of the other sink; nothing is written there."""
        return self.like.path

    @property
    def columnar(self) -> bool:
        """As the other sink."""
        return self.like.columnar

    @property
    def single(self) -> bool:
        """As the other sink."""
        return self.like.single

    def accept(self, schema: Schema) -> Schema:
        """The schema as the other sink would store it."""
        return self.like.accept(schema) if self.typed else schema

    def open(self, task: Task, schema: Schema) -> _KeptPart:  # noqa: ARG002
        """A part of its own: several are written at once."""
        return _KeptPart(self.parts.setdefault(task.index, []))

    def table(self) -> Columns:
        """All rows in order."""
        return join([chunk for index in sorted(self.parts) for chunk in self.parts[index]])


@dataclass(frozen=True)
class _KeptPart:
    """The rows of one part."""

    chunks: list[Columns]

    def write(self, columns: Columns) -> None:
        """Keep rows."""
        self.chunks.append(columns)

    def close(self) -> tuple[File, ...]:
        """There are no files."""
        return ()

    def abort(self) -> None:
        """Nothing is left behind."""
