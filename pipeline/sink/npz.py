"""Columns as the members of ``.npz``."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pipeline import columns as arrow
from pipeline.core import ArrayField, Columns, File, Schema, Task
from pipeline.errors import ConfigError, DTypeError, PipelineError
from pipeline.files import Publication, check_suffix, home, storage, write_all
from pipeline.npy import npy_header, raw

_SUFFIX = ".npz"
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip can hold; the time of the run would make equal data differ."""


@dataclass(frozen=True)
class Npz:
    """Writes each column as a member of one archive, as `numpy.savez` would, but with the same bytes every time.

    A zip takes one member after the other while rows come for all of them at once, so each column waits in an unnamed
    temporary file beside the output: memory does not grow, and the disk holds the data twice until the part is done.

    Args:
        path: ``name.npz`` for one file, else a folder with one part for each task.
        compressed: deflate the members: smaller, and several times slower to write.
        durability: ``rename`` leaves out the fsyncs: safe against a killed process, not against power loss.
        cached: False takes written files out of the page cache, once they are on disk.
    """

    columnar: ClassVar[bool] = False

    path: str
    compressed: bool = False
    durability: Literal["full", "rename"] = "full"
    cached: bool = True

    def __post_init__(self) -> None:
        check_suffix(self.path, _SUFFIX)
        if self.durability not in ("full", "rename"):
            raise ConfigError(f"sink.durability must be full or rename; got {self.durability!r}")

    @property
    def advice(self) -> str:
        """How to write quicker, see `pipeline.core.advice`."""
        if self.compressed:
            return "sink.compressed=false took an eightieth of the time"
        return "sink=npy took half the time for one column, since it writes rows once"

    @property
    def single(self) -> bool:
        """Whether all rows go to one file."""
        return Path(self.path).suffix == _SUFFIX

    def accept(self, schema: Schema) -> Schema:
        """The schema as stored: NumPy columns.

        Raises:
            DTypeError: there is no column, or a NumPy file cannot hold one; the message names it.
        """
        if not schema.fields:
            raise DTypeError("a .npz file needs at least one column; the output has none")
        fields = tuple(arrow.array_field(field) for field in schema.fields)
        for field in fields:
            npy_header(field, 0)
            if "\0" in field.name:
                raise DTypeError(f"column {field.name!r}: a member of a .npz file cannot have NUL in its name")
        return Schema(fields)

    def open(self, task: Task, schema: Schema) -> NpzWriter:
        """Start the archive of one task."""
        where = home(self.path, single=self.single)
        name = where.single or task.name + _SUFFIX
        publication = Publication(where, name, durable=self.durability == "full", cached=self.cached)
        return NpzWriter(publication, self.accept(schema).fields, task.rows, compressed=self.compressed)


class NpzWriter:
    """Columns that wait in temporary files until their number of rows is known."""

    def __init__(
        self, publication: Publication, fields: tuple[ArrayField, ...], rows: int | None, *, compressed: bool
    ) -> None:
        self._publication = publication
        self._fields = fields if rows is not None else tuple(replace(field, scalar=False) for field in fields)
        self._expected = rows
        self._method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        self._rows = 0
        self._spools: list[io.FileIO] = []
        try:
            with storage(publication.final):
                for _ in fields:
                    self._spools.append(tempfile.TemporaryFile(dir=publication.temp.parent, buffering=0))  # noqa: SIM115
        except BaseException:
            self.abort()
            raise

    def write(self, columns: Columns) -> None:
        """Append rows to every column."""
        names = tuple(field.name for field in self._fields)
        if tuple(columns) != names:
            raise PipelineError(f"expected columns {names}; got {tuple(columns)}")
        rows = {len(column) for column in columns.values()}
        if len(rows) != 1:
            raise PipelineError(
                f"columns of {sorted(rows)} rows cannot be written side by side, after row {self._rows}"
            )
        for field, spool in zip(self._fields, self._spools, strict=True):
            array = arrow.to_array(columns[field.name], field.name, pairs=field.dtype.kind == "c")
            if array.dtype != field.dtype or array.shape[1:] != field.shape:
                got = ArrayField(field.name, array.dtype, array.shape[1:])
                raise DTypeError(f"column {field.name!r} is declared {field}, but holds {got} after row {self._rows}")
            with storage(self._publication.final):
                write_all(spool, raw(array))
        self._rows += rows.pop()

    def close(self) -> tuple[File, ...]:
        """Put the members into the archive and publish."""
        if self._expected not in (None, self._rows):
            raise PipelineError(f"{self._publication.final}: expected {self._expected} rows; got {self._rows}")
        with storage(self._publication.final), zipfile.ZipFile(self._publication, "w") as archive:
            for field, spool in zip(self._fields, self._spools, strict=True):
                self._add(archive, npy_header(field, self._rows), field.name, spool)
        return (self._publication.publish(self._rows),)

    def _add(self, archive: zipfile.ZipFile, header: bytes, name: str, spool: io.FileIO) -> None:
        info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
        info.compress_type = self._method
        info.create_system = 3
        info.external_attr = 0o600 << 16
        info.file_size = len(header) + spool.tell()  # decides on zip64, so that it depends on the data alone
        spool.seek(0)
        with spool, archive.open(info, "w") as member:
            member.write(header)
            shutil.copyfileobj(spool, member, _CHUNK)

    def abort(self) -> None:
        """Remove the file under construction; the temporary files have no name and go with their descriptors."""
        for spool in self._spools:
            with suppress(OSError):
                spool.close()
        self._publication.abort()
