"""Source npy: arrays in .npy files, one column."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from pipeline.buffers import Buffers
from pipeline.core import Array, ArrayField, Columns, Schema, Split
from pipeline.errors import ConfigError
from pipeline.source import (
    CHUNK_BYTES,
    Header,
    Listed,
    check_count,
    check_same,
    flat_columns,
    flat_fields,
    listed,
    read_header,
    reading,
)

_COPY_BYTES = 4 << 20


@dataclass(frozen=True)
class Npy:
    """Reads .npy files of one dtype and row shape as one column; the first axis is the rows.

    A structured array is one column too, which is only carried, or with `fields` a column for each of its fields.

    The input is listed once for each object: make a new one to see files that came later. Byte order stays as it is in
    the file; in Fortran order the rows come as strided views.

    Args:
        path: a file, a folder or a glob.
        column: name of the column.
        split_rows: rows of a split, that is of a part of the output; None makes every file one split.
        fields: read the fields of a structured array as columns; those of a field in a field are named ``outer.inner``.
        mmap: map the file instead of reading it. The map is private: writing to the rows does not change the file. But
            it shows what others write meanwhile, and the process dies of a file that they cut short.
    """

    decodes: ClassVar[bool] = False
    advice: ClassVar[str] = "source.mmap=true takes a third less for what is in memory, if nobody writes to the files"

    path: str
    column: str = "data"
    split_rows: int | None = None
    fields: bool = False
    mmap: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(f"source.column must be the name of the column; got {self.column!r}")
        check_count("source.split_rows", self.split_rows, optional=True)

    def schema(self) -> Schema:
        """One column, from the header of the first file; the others agree."""
        return self._survey[0]

    def splits(self) -> Sequence[Split]:
        """Row ranges of each file, in the order of the files' names."""
        return self._survey[1]

    @cached_property
    def _survey(self) -> tuple[Schema, tuple[Split, ...]]:
        found = [(file, self._header(file)) for file in listed(self.path, (".npy",))]
        first, header = found[0]
        expected = self._fields(first, header)
        for file, other in found[1:]:
            check_same(first, expected, file, self._fields(file, other))
        return Schema(tuple(expected)), tuple(split for file, other in found for split in self._cut(file, other))

    def _fields(self, file: Listed, header: Header) -> list[ArrayField]:
        if not self._cuts(header):
            return [header.field(self.column)]
        with reading(file.path, file.version):
            return flat_fields("", header.dtype, header.shape[1:])

    def _cuts(self, header: Header) -> bool:
        return self.fields and header.dtype.names is not None

    def _header(self, file: Listed) -> Header:
        with reading(file.path, file.version), Path(file.path).open("rb") as stream:
            header = read_header(stream)
            if header.end != file.size:
                raise ValueError(
                    f"its header says {header.dtype} of shape {header.shape}, which makes {header.end} bytes; the file "
                    f"has {file.size}. It is {'cut short' if file.size < header.end else 'longer than its array'}"
                )
        return header

    def _cut(self, file: Listed, header: Header) -> Iterator[Split]:
        step = self.split_rows or header.rows or 1
        for start in range(0, header.rows or 1, step):
            stop = min(start + step, header.rows)
            size = (stop - start) * header.row_bytes
            yield Split(f"{file.id}:{start}-{stop}", file.version, stop - start, size, file.path, start, stop)

    def read(self, split: Split) -> Iterator[Columns]:
        """The rows in chunks: maps of 64 MiB, or copies of 4 MiB."""
        return self.read_only(split, self.schema().names, 1)

    def read_only(self, split: Split, columns: Sequence[str], rows: int) -> Iterator[Columns]:
        """As `read`, with these columns alone, in chunks of a multiple of `rows`."""
        piece = f"rows={split.start}-{split.stop}"
        with reading(split.path, split.version, piece), Path(split.path).open("rb", buffering=0) as file:
            header = read_header(file)
            mapped = self.mmap and header.offset % header.dtype.alignment == 0
            step = rows * max(1, (CHUNK_BYTES if mapped else _COPY_BYTES) // max(1, rows * header.row_bytes))
            room = min(step, split.stop - split.start) * header.row_bytes
            for start in range(split.start, split.stop, step) or [split.start]:
                stop = min(start + step, split.stop)
                if not (size := (stop - start) * header.row_bytes):
                    array = np.zeros((stop - start, *header.shape[1:]), header.dtype)
                elif mapped:
                    array = _map_rows(file, header, start, stop)
                else:
                    array = _read_rows(file, header, start, stop, self._buffers.take(size, room))
                chunk = flat_columns("", array) if self._cuts(header) else {self.column: array}
                yield {name: chunk[name] for name in columns}

    @cached_property
    def _buffers(self) -> Buffers:
        return Buffers()


def _in_order(header: Header) -> bool:
    """Whether each row is one piece of the file."""
    return not header.fortran or header.row_items == 1


def _map_rows(file: BinaryIO, header: Header, start: int, stop: int) -> Array:
    if _in_order(header):
        data = _map(file, header.offset + start * header.row_bytes, (stop - start) * header.row_bytes)
        return data.view(header.dtype).reshape((stop - start, *header.shape[1:]))
    whole = _map(file, header.offset, header.rows * header.row_bytes).view(header.dtype)
    return whole.reshape(header.shape, order="F")[start:stop]


def _map(file: BinaryIO, offset: int, size: int) -> Array:
    """A private map: pages come from the page cache, a page that is written to becomes the writer's own.

    One map per chunk, so that no map is larger than memory (which the kernel may refuse) and pages go with the chunk.
    """
    skip = offset % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(file.fileno(), skip + size, access=mmap.ACCESS_COPY, offset=offset - skip)
    pages.madvise(mmap.MADV_WILLNEED)  # the disk works while earlier rows are computed on
    return np.frombuffer(pages, np.uint8, size, skip)


def _read_rows(file: BinaryIO, header: Header, start: int, stop: int, buffer: Array) -> Array:
    """Rows read into a buffer of their size, as they lie in the file."""
    shape = (stop - start, *header.shape[1:])
    if _in_order(header):
        _fill(buffer, file, header.offset + start * header.row_bytes)
        return buffer.view(header.dtype).reshape(shape)
    size, stride = (stop - start) * header.dtype.itemsize, header.rows * header.dtype.itemsize
    first = header.offset + start * header.dtype.itemsize
    for i in range(header.row_items):
        _fill(buffer[i * size : (i + 1) * size], file, first + i * stride)
    return buffer.view(header.dtype).reshape(shape, order="F")


def _fill(buffer: Array, file: BinaryIO, offset: int) -> None:
    """Read all of a buffer; never ``np.fromfile``, which can return uninitialised memory."""
    view, done = buffer.data, 0
    while done < len(view):
        got = os.preadv(file.fileno(), [view[done:]], offset + done)
        if not got:
            raise EOFError(f"expected {len(view)} bytes at offset {offset}, found {done}")
        done += got
