"""The sources, and what they share: naming files, guarding a read, comparing files, the header of .npy data."""

from __future__ import annotations

import errno
import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as numpy_format

from pipeline import files
from pipeline.core import Array, ArrayField, Columns, Field
from pipeline.errors import ConfigError, DataError, InputError, PipelineError, StorageError

CHUNK_BYTES = 64 << 20
"""Size of a chunk where the source decides: large enough that few batches span two, small enough to wait in a lane."""

_PARSING = Lock()
"""NumPy parses headers by `ast`, which in CPython 3.11 fails now and then while another thread parses too: it measures
depth in one place for all threads."""

_HEADER_BYTES = 1 << 17
_MOST_EMPTY_ROWS = 1 << 31
_SHAPE = re.compile(r"'shape': \([^)]*\)")  # Python 2 wrote (3L, 4L)


# ---- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """One file of the input.

    Attributes:
        path: where it is, as the user wrote it.
        id: its path below the folder that the user named, with ``/``: the same wherever that folder is moved.
        version: size and modification time, taken before anything was read from it.
    """

    path: str
    id: str
    version: str

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self.version.partition(":")[0])


def listed(path: str, suffixes: tuple[str, ...]) -> list[Listed]:
    """The files behind a file name, a folder or a glob, in the order of their names."""
    found = files.find(path, suffixes)
    root = _root(Path(path))
    return [Listed(str(file), _id(file, root), files.version(file)) for file in found]


def _root(path: Path) -> Path:
    """The folder that names are relative to: what the user wrote, up to the first wildcard."""
    if path.is_dir():
        return path
    while not path.exists() and any(sign in str(path) for sign in "*?["):
        path = path.parent
    return path if path.is_dir() else path.parent


def _id(file: Path, root: Path) -> str:
    name = file.relative_to(root).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def reading(path: str, version: str, piece: str = "") -> Iterator[None]:
    """Make every error of a reader say which file, and refuse a file that changes before the block is left.

    Readers raise a dozen classes for damaged input, and hardly one of them names the file.

    Raises:
        InputError: the file is gone or may not be read.
        StorageError: the operating system failed to read it.
        DataError: it is damaged, or not what its header says.
    """
    _check_version(path, version)
    try:
        yield
    except PipelineError:
        raise
    except Exception as e:
        _check_version(path, version)
        where = f"file={path!r}{', ' if piece else ''}{piece}"
        if failed := _system_error(e):
            lost = isinstance(failed, FileNotFoundError | PermissionError)
            raise (InputError if lost else StorageError)(f"cannot read {where}: {failed.strerror or reason(e)}") from e
        raise DataError(f"cannot read {where}: {reason(e)}") from e
    _check_version(path, version)


def _system_error(e: BaseException | None) -> OSError | None:
    """What the operating system said, if it did: zipfile takes a file that it cannot read for one that is no zip."""
    while e is not None:
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):  # EINVAL: a damaged offset
            return e
        e = e.__cause__ or e.__context__
    return None


def _check_version(path: str, version: str) -> None:
    if (now := files.version(path)) != version:
        raise DataError(
            f"file={path!r} changed while it was read: size and mtime were {version}, now {now}. Run again when nobody "
            "writes to the input"
        )


def reason(e: BaseException) -> str:
    """First line of an error; its class too where the words alone say little."""
    line = next(iter(str(e).splitlines()), "")
    return line if line and isinstance(e, ValueError | OSError) else f"{type(e).__name__} {line}".rstrip()


# ---- types -----------------------------------------------------------------------------------------------------------


def check_count(key: str, value: object, *, optional: bool = False) -> None:
    """Refuse anything but an integer of at least 1 (or null) for a YAML key."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key} must be an integer of at least 1{' or null' if optional else ''}; got {value!r}")


def check_names(key: str, value: object) -> None:
    """Refuse anything but a list of different names (or null) for a YAML key."""
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key} must be a list of names or null; got {value!r}")
    if not value or len(set(value)) < len(value):
        raise ConfigError(f"{key} must name at least one column, and each once; got {list(value)}")


def check_same(first: Listed, expected: Sequence[Field], other: Listed, found: Sequence[Field]) -> None:
    """Refuse a file whose columns are not those of the first, by name, type and nullability; any order will do."""
    ours, theirs = {f.name: f for f in expected}, {f.name: f for f in found}
    for name in {**ours, **theirs}:
        if name in ours and name in theirs and ours[name] == theirs[name]:
            continue
        raise DataError(
            f"the files differ in column {name!r}: {_kind(ours.get(name))} in {first.path!r}, "
            f"{_kind(theirs.get(name))} in {other.path!r}. Give files of one kind in source.path"
        )


def _kind(field: Field | None) -> str:
    if field is None:
        return "absent"
    if isinstance(field, ArrayField):
        return "a single value (0-d)" if field.scalar else f"{field.dtype} with rows of shape {field.shape}"
    return f"{field.type}{'' if field.nullable else ' not null'}"


# ---- arrays ----------------------------------------------------------------------------------------------------------


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of .npy data say about the rest; `offset` is where that starts."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def rows(self) -> int:
        """Length of the first axis; a single value (0-d array) is one row."""
        return self.shape[0] if self.shape else 1

    def field(self, name: str) -> ArrayField:
        """The array as a column."""
        return ArrayField(name, self.dtype, self.shape[1:], scalar=not self.shape)

    @property
    def row_items(self) -> int:
        """Values in one row."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_items * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes of header and data together."""
        return self.offset + self.rows * self.row_bytes


def read_header(stream: Readable) -> Header:
    """Parse the header of .npy data, versions 1 to 3. Nothing is unpickled or evaluated.

    Raises:
        Exception: of many classes; see `reading`. ValueError for what no source can read.
    """
    head = io.BytesIO(stream.read(_HEADER_BYTES))
    version = numpy_format.read_magic(head)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the .npy format is not known; 1.0, 2.0 and 3.0 are")
    length = int.from_bytes(head.read(2 if version == (1, 0) else 4), "little")
    raw = head.read(length)
    if len(raw) < length:
        raise ValueError(f"its header should have {length} bytes; found {len(raw)} (at most {_HEADER_BYTES} are read)")
    text = _SHAPE.sub(lambda shape: shape[0].replace("L", ""), raw.decode("utf-8" if version == (3, 0) else "latin1"))
    plain = text.encode("ascii", "backslashreplace")  # NumPy has public readers for versions 1 and 2 only
    with _PARSING:
        shape, fortran, dtype = numpy_format.read_array_header_2_0(io.BytesIO(struct.pack("<I", len(plain)) + plain))
    _check_header(shape, dtype)
    return Header(dtype, shape, fortran, head.tell())


def _check_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise ValueError(
            "it holds Python objects, which are stored as pickles and never read. Save it with another dtype"
        )
    if dtype.subdtype is not None:
        raise ValueError(f"dtype {dtype} is an array itself; put its shape into that of the array")
    if not shape:
        return
    if min(shape) < 0:
        raise ValueError(f"shape {shape} has a negative length")
    if shape[0] > _MOST_EMPTY_ROWS and not math.prod(shape[1:]) * dtype.itemsize:
        raise ValueError(f"{shape[0]} rows of 0 bytes cannot be meant")


def flat_fields(prefix: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[ArrayField]:
    """The fields of a structured dtype as columns; a field in a field is called ``outer.inner``.

    Args:
        prefix: what stands before each name, such as ``member.``.
        dtype: structured.
        shape: of one row.

    Raises:
        ValueError: there are none, or two of one name.
    """
    found = [replace(field, name=prefix + field.name) for _, field in _leaves((), dtype, shape)]
    if not found or len({field.name for field in found}) < len(found):
        raise ValueError(f"dtype {dtype} has no fields, or two that would be columns of one name")
    return found


def flat_columns(prefix: str, array: Array) -> Columns:
    """The columns that `flat_fields` names, as views of a structured array."""
    columns: Columns = {}
    for path, field in _leaves((), array.dtype, array.shape[1:]):
        part = array
        for name in path:
            part = part[name]
        columns[prefix + field.name] = part
    return columns


def _leaves(
    path: tuple[str, ...], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], ArrayField]]:
    for name in dtype.names or ():
        inner, held, rows = (*path, name), dtype[name].base, shape + dtype[name].shape
        if held.names is None:
            yield inner, ArrayField(".".join(inner), held, rows)
        else:
            yield from _leaves(inner, held, rows)


def spans(start: int, stop: int, row_bytes: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of at most `size` bytes and a power of two rows; at least one run, perhaps of 0 rows."""
    rows = 1 << (max(1, size // max(1, row_bytes)).bit_length() - 1)
    yield from ((at, min(at + rows, stop)) for at in range(start, stop, rows))
    if start == stop:
        yield start, stop
