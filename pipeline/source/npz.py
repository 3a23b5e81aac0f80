"""Source npz: archives of arrays, one column per member, read as a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, ClassVar
from zipfile import ZipFile, ZipInfo

import numpy as np

from pipeline.core import Array, ArrayField, Columns, Schema, Split
from pipeline.source import (
    CHUNK_BYTES,
    Header,
    check_count,
    check_names,
    check_same,
    flat_columns,
    flat_fields,
    listed,
    read_header,
    reading,
    reason,
    spans,
)

_MOST_MEMBERS = 10_000
_ENCRYPTED = 0x1
_PIECE = 1 << 20


@dataclass(frozen=True)
class Npz:
    """Reads .npz archives: the members are columns of equal length, and each archive is one split.

    All members advance together, chunk by chunk, so that memory does not grow with the archive; only members in Fortran
    order are read whole, as their rows lie scattered. Checksums are verified; names never become paths. The input is
    listed once for each object.

    Args:
        path: a file, a folder or a glob.
        members: columns to read, in this order; None reads all, in the order of the first archive.
        max_bytes: refuse archives that unpack to more.
        fields: read the fields of a structured member as columns, named ``member.field``; else it is one column, which
            is only carried.
    """

    advice: ClassVar[str] = "archives by numpy.savez are read six times as fast as those by savez_compressed"

    path: str
    members: Sequence[str] | None = None
    max_bytes: int = 64 << 30
    fields: bool = False

    def __post_init__(self) -> None:
        check_names("source.members", self.members)
        check_count("source.max_bytes", self.max_bytes)

    def schema(self) -> Schema:
        """One column per member, from the headers in the first archive; the others agree."""
        return self._survey[0]

    def splits(self) -> Sequence[Split]:
        """One for each archive, in the order of their names."""
        return self._survey[1]

    @cached_property
    def _survey(self) -> tuple[Schema, tuple[Split, ...]]:
        found, splits = [], []
        for file in listed(self.path, (".npz",)):
            with reading(file.path, file.version), ZipFile(file.path) as archive:
                members = self._members(archive)
                columns = self._fields(members)
            found.append((file, columns))
            check_same(*found[0], file, columns)
            rows, row_bytes = _measure(members)
            splits.append(Split(f"{file.id}:0-{rows}", file.version, rows, rows * row_bytes, file.path, 0, rows))
        return Schema(tuple(found[0][1])), tuple(splits)

    def _fields(self, members: Mapping[str, _Member]) -> list[ArrayField]:
        """The columns of the members, in their order."""
        found: list[ArrayField] = []
        for name, member in members.items():
            header = member.header
            cut = self._cuts(member)
            found += flat_fields(f"{name}.", header.dtype, header.shape[1:]) if cut else [header.field(name)]
        names = Counter(field.name for field in found)
        if twin := next((name for name, count in names.items() if count > 1), None):
            raise ValueError(f"a member and a field of another are both called {twin!r}; choose in source.members")
        return found

    def _cuts(self, member: _Member) -> bool:
        return self.fields and member.header.dtype.names is not None

    def _members(self, archive: ZipFile) -> dict[str, _Member]:
        """The members that are columns, checked against each other and against the limits."""
        infos = archive.infolist()
        if len(infos) > _MOST_MEMBERS:
            raise ValueError(f"{len(infos)} members; at most {_MOST_MEMBERS} are read")
        chosen = {name: _Member(name, archive, info) for name, info in _choose(infos, self.members).items()}
        if (total := sum(member.info.file_size for member in chosen.values())) > self.max_bytes:
            raise ValueError(f"unpacks to {total} bytes; source.max_bytes allows {self.max_bytes}")
        first = next(iter(chosen.values()))
        for member in chosen.values():
            if member.header.rows != first.header.rows:
                raise ValueError(
                    f"member {first.name!r} has {first.header.rows} rows and member {member.name!r} has "
                    f"{member.header.rows}; columns have equal length. Choose in source.members"
                )
        return chosen

    def read(self, split: Split) -> Iterator[Columns]:
        """The rows in chunks of at most 64 MiB over all columns."""
        expected = self.schema().names
        with reading(split.path, split.version), ZipFile(split.path) as archive, ExitStack() as stack:
            members = self._members(archive)
            streams = {name: member.open(stack) for name, member in members.items()}
            rows, row_bytes = _measure(members)
            for start, stop in spans(0, rows, row_bytes, CHUNK_BYTES):
                chunk: Columns = {}
                for name, stream in streams.items():
                    array = members[name].take(stream, start, stop)
                    chunk |= flat_columns(f"{name}.", array) if self._cuts(members[name]) else {name: array}
                yield {name: chunk[name] for name in expected}
            for name, stream in streams.items():
                members[name].finish(stream)


def _measure(members: Mapping[str, _Member]) -> tuple[int, int]:
    """Rows, and bytes of a row over all columns."""
    headers = [member.header for member in members.values()]
    return headers[0].rows, sum(header.row_bytes for header in headers)


def _choose(infos: Sequence[ZipInfo], wanted: Sequence[str] | None) -> dict[str, ZipInfo]:
    """Entries of the archive by column name, in the order of the columns."""
    arrays = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
    other = [info.filename for info in infos if not info.filename.endswith(".npy")]
    if wanted is None and other:
        raise ValueError(f"member {other[0]!r} is no .npy array. Name the members to read in source.members")
    if not arrays:
        raise ValueError("it holds no .npy arrays")
    for name in arrays if wanted is None else wanted:
        if name not in arrays:
            raise ValueError(f"no member {name!r} (source.members); there are {', '.join(map(repr, arrays))}")
    chosen = {name: arrays[name] for name in (arrays if wanted is None else wanted)}
    counts = Counter(info.filename for info in infos)
    for name, info in chosen.items():
        if counts[info.filename] > 1:
            raise ValueError(f"{counts[info.filename]} members are called {name!r}")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"member {name!r} is encrypted")
    return chosen


class _Member:
    """One array of an archive, read from front to back."""

    def __init__(self, name: str, archive: ZipFile, info: ZipInfo) -> None:
        self.name = name
        self.info = info
        self._archive = archive
        self._whole: Array | None = None
        with self._naming(), archive.open(info) as stream:
            self.header: Header = read_header(stream)
            if self.header.end != info.file_size:
                raise ValueError(
                    f"its header says {self.header.dtype} of shape {self.header.shape}, which makes {self.header.end} "
                    f"bytes; it has {info.file_size}"
                )

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # the disk, not the member
            raise
        except Exception as e:
            raise ValueError(f"member {self.name!r}: {reason(e)}") from e

    def open(self, stack: ExitStack) -> IO[bytes]:
        """A stream at the first value. Not the header's own: seeking back in a member turns its checksum off."""
        with self._naming():
            stream = stack.enter_context(self._archive.open(self.info))
            stream.read(self.header.offset)
            return stream

    def take(self, stream: IO[bytes], start: int, stop: int) -> Array:
        """The next rows."""
        header = self.header
        with self._naming():
            if header.fortran and header.row_items > 1:
                if self._whole is None:
                    self._whole = _bytes(stream, header.rows * header.row_bytes)
                return _array(self._whole, header, header.shape, "F")[start:stop]
            return _array(_bytes(stream, (stop - start) * header.row_bytes), header, (stop - start, *header.shape[1:]))

    def finish(self, stream: IO[bytes]) -> None:
        """Read the end, which is where the checksum of the member is compared."""
        with self._naming():
            stream.read(1)


def _array(data: Array, header: Header, shape: tuple[int, ...], order: str = "C") -> Array:
    if not len(data):
        return np.zeros(shape, header.dtype)
    return data.view(header.dtype).reshape(shape, order="F" if order == "F" else "C")


def _bytes(stream: IO[bytes], size: int) -> Array:
    buffer = np.empty(size, np.uint8)
    view, done = buffer.data, 0
    while done < size:
        piece = stream.read(min(_PIECE, size - done))
        if not piece:
            raise EOFError(f"expected {size} bytes, found {done}")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return buffer
