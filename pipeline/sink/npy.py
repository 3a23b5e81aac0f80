"""One column as ``.npy``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pipeline import columns as arrow
from pipeline.core import ArrayField, Columns, File, Schema, Task
from pipeline.errors import ConfigError, DTypeError, PipelineError
from pipeline.files import Publication, check_suffix, home
from pipeline.npy import npy_header, raw

_SUFFIX = ".npy"


@dataclass(frozen=True)
class Npy:
    """Writes the only column of a table as arrays, byte for byte as `numpy.save` would.

    Rows are streamed, so memory does not grow with the file. The dtype keeps its byte order.

    Args:
        path: ``name.npy`` for one file, else a folder with one part for each task.
        durability: ``rename`` leaves out the fsyncs: safe against a killed process, not against power loss.
        cached: False takes written files out of the page cache, once they are on disk.
    """

    columnar: ClassVar[bool] = False
    advice: ClassVar[str] = "sink.cached=false took a third of the time for 2 GB; who reads next waits for the disk"

    path: str
    durability: Literal["full", "rename"] = "full"
    cached: bool = True

    def __post_init__(self) -> None:
        check_suffix(self.path, _SUFFIX)
        if self.durability not in ("full", "rename"):
            raise ConfigError(f"sink.durability must be full or rename; got {self.durability!r}")

    @property
    def single(self) -> bool:
        """Whether all rows go to one file."""
        return Path(self.path).suffix == _SUFFIX

    def accept(self, schema: Schema) -> Schema:
        """The schema as stored: one NumPy column.

        Raises:
            DTypeError: there is not just one column, or a NumPy file cannot hold it.
        """
        if len(schema.fields) != 1:
            raise DTypeError(
                f"a .npy file holds one column; the output has {len(schema.fields)}: "
                f"{', '.join(map(repr, schema.names)) or 'none'}. Stack them (columns={{features: [a, b]}}), "
                "leave out those that are only carried (carry=none), or write several (sink=npz or sink=parquet)"
            )
        field = arrow.array_field(schema.fields[0])
        npy_header(field, 0)
        return Schema((field,))

    def open(self, task: Task, schema: Schema) -> NpyWriter:
        """Start the array of one task."""
        where = home(self.path, single=self.single)
        name = where.single or task.name + _SUFFIX
        durable, draft = self.durability == "full", task.rows is None
        publication = Publication(where, name, durable=durable, draft=draft, cached=self.cached)
        return NpyWriter(publication, self.accept(schema).fields[0], task.rows)


class NpyWriter:
    """An array that grows along its first axis.

    Args:
        publication: the file; aborted if not even the header can be written.
        field: the column.
        rows: how many rows will come, if that is known.
    """

    def __init__(self, publication: Publication, field: ArrayField, rows: int | None) -> None:
        self._publication = publication
        self._field = field if rows is not None else replace(field, scalar=False)
        self._expected = rows
        self._rows = 0
        try:
            publication.write(npy_header(field, rows or 0))
        except BaseException:
            publication.abort()
            raise

    def write(self, columns: Columns) -> None:
        """Append rows."""
        field = self._field
        if tuple(columns) != (field.name,):
            raise PipelineError(f"expected column {field.name!r}; got {', '.join(map(repr, columns)) or 'none'}")
        array = arrow.to_array(columns[field.name], field.name, pairs=field.dtype.kind == "c")
        if array.dtype != field.dtype or array.shape[1:] != field.shape:
            got = ArrayField(field.name, array.dtype, array.shape[1:])
            raise DTypeError(f"column {field.name!r} is declared {field}, but holds {got} after row {self._rows}")
        self._publication.write(raw(array))
        self._rows += len(array)

    def close(self) -> tuple[File, ...]:
        """Count the rows into the header and publish."""
        if self._expected is None:
            self._publication.rewrite(0, npy_header(self._field, self._rows))
        elif self._rows != self._expected:
            raise PipelineError(f"{self._publication.final}: expected {self._expected} rows; got {self._rows}")
        return (self._publication.publish(self._rows),)

    def abort(self) -> None:
        """Remove the file under construction."""
        self._publication.abort()
