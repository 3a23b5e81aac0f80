"""Aside: files in the bookkeeping of the output that belong to a part: rows that checks refused, and unique values.

    _pipeline/quarantine/input/part-00000-1f2e3d4c.parquet     rows as they were read
    _pipeline/quarantine/output/part-00000-1f2e3d4c.parquet    rows as they would have been written
    _pipeline/unique/part-00000-1f2e3d4c.5e6f7a8b.npy          keys of one column (see `seen`)

A refused row keeps all its columns and gets four more: the split and the row it comes from, the first check that it
breaks, and a message that names all of them. Dictionary columns are kept as plain values: which words a batch without
refused rows brought along must not be seen in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline import columns
from pipeline.columns import arrow_field
from pipeline.core import Array, ArrayField, Column, Columns, File, Part, Schema, Split, Task, Writer
from pipeline.errors import ConfigError, DTypeError
from pipeline.files import Home, Publication, storage
from pipeline.npy import npy_header, raw

if TYPE_CHECKING:
    from pipeline.sink.parquet import Parquet

_OWN = tuple(
    pa.field(name, type_, nullable=False)
    for name, type_ in (
        ("_split", pa.string()),
        ("_row", pa.int64()),
        ("_check", pa.string()),
        ("_message", pa.string()),
    )
)
_FOLDERS = ("quarantine", "unique")


@dataclass(frozen=True)
class Aside:
    """Where these files go.

    Args:
        where: the output.
        schemas: by phase, the columns of the rows that its checks may refuse.
        durable: False leaves out the fsyncs.
    """

    where: Home
    schemas: Mapping[str, Schema]
    durable: bool = True

    def check(self) -> None:
        """Refuse columns that a quarantine cannot hold, before any row is read.

        Raises:
            ConfigError: a name that it needs for itself, or a type that Parquet does not have.
        """
        for phase, schema in self.schemas.items():
            for own in _OWN:
                if own.name in schema:
                    raise ConfigError(
                        f"checks.{phase}: quarantine adds a column {own.name!r}, and there is one already. Leave it "
                        "out with source.columns, or choose another action"
                    )
            try:
                self._sink.accept(_stored(schema))
            except DTypeError as e:
                raise ConfigError(f"checks.{phase}: quarantine is written as Parquet: {e}") from e

    @property
    def _sink(self) -> Parquet:
        from pipeline.sink.parquet import Parquet  # loads what a run from .npy to .npy does not need

        durability = "full" if self.durable else "rename"
        return Parquet("quarantine", complex="pairs", row_group_rows=65536, durability=durability)  # type: ignore[arg-type]

    def quarantine(self, phase: str, task: Task) -> Writer:
        """Start the file of the rows that a part leaves out."""
        name = self._name(f"quarantine/{phase}", task, ".parquet")
        return self._sink.place(replace(task, rows=None), _stored(self.schemas[phase]), self.where, name)

    def keys(self, label: str, task: Task, keys: Array) -> Publication:
        """The keys of a column, written and not yet published."""
        name = self._name("unique", task, f".{sha256(label.encode()).hexdigest()[:8]}.npy")
        made = Publication(self.where, name, durable=self.durable)
        try:
            made.write(npy_header(ArrayField(label, keys.dtype), len(keys)))
            made.write(raw(keys))
        except BaseException:
            made.abort()
            raise
        return made

    def _name(self, folder: str, task: Task, suffix: str) -> str:
        stem = task.name or f"{Path(self.where.single).stem}-{task.key[:8]}"
        return (self.where.state / folder / f"{stem}{suffix}").relative_to(self.where.root).as_posix()

    def remove(self, file: File) -> None:
        """Take back a file whose part failed."""
        (self.where.root / file.path).unlink(missing_ok=True)

    def sweep(self, parts: Iterable[Part]) -> None:
        """Remove files that belong to no part: those of a killed run, or of an output that is made anew."""
        listed = {self.where.root / file.path for part in parts for file in part.side}
        with storage(self.where.state):
            for folder in _FOLDERS:
                for file in (self.where.state / folder).rglob("*.*"):
                    if file not in listed and file.is_file():
                        file.unlink()


def _stored(schema: Schema) -> Schema:
    fields = [arrow_field(f, complex_="pairs") for f in schema.fields]
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in fields]
    return Schema((*plain, *_OWN), schema.metadata)


def refused(rows: Columns, index: Array, split: Split, places: Array, why: Columns) -> Columns:
    """The rows at `index` as they are kept.

    Args:
        rows: all rows of a batch.
        index: those that leave.
        split: what they were read from.
        places: index within the split of those that leave.
        why: their columns `_check` and `_message`.
    """
    kept: Columns = {name: _plain(columns.take(column, index)) for name, column in rows.items()}
    from_split = pa.repeat(columns.literals([split.id])[0], len(index))
    return {**kept, "_split": from_split, "_row": columns.integers(places), **why}


def _plain(column: Column) -> Column:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
