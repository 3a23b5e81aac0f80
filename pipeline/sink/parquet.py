"""Columns as ``.parquet``."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import columns as arrow
from pipeline.core import Array, Columns, File, Schema, Task
from pipeline.errors import ConfigError, DataError, DTypeError, PipelineError
from pipeline.files import Home, Publication, check_suffix, home, storage

_SUFFIX = ".parquet"
_LOOSE = 1024
"""Pieces of rows that may wait before they become one."""
_GROUP_ROWS = 1 << 20
_PIECE_BYTES = 4 << 20
"""Decoded size of what is encoded at once: what stays in a cache, and no more than a batch, which is then only cut."""
_PAGE_BYTES = 128 << 10
"""Encoded size of a page, as far as rows allow. It is written in one piece; see `files` for what long ones cost."""
_FIRST = 1 << 14
"""Rows in which all words are looked for first."""
_PARTITION_SHARE = 8
_NULL = "__HIVE_DEFAULT_PARTITION__"
_LONGEST_NAME = 255


# ---- the sink --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parquet:
    """Writes tables whose bytes depend on rows and configuration alone, not on how the rows were batched.

    Types, nullability and the metadata of table and columns are kept; what Parquet would give back as another type is
    refused by name. Of a dictionary-typed column each row group keeps the values that occur in it, in their order; if
    the dictionary is ordered it keeps them all, as do dictionaries inside of lists and structs.

    Strings and binaries may come as words and codes (see `StoresWords`); they are declared as words all the same, and
    stored as a dictionary of the words of each row group, however many. Their codes take as many bits from the first
    row on as the last one needs, so that the bytes of a part depend on how its first rows came, too.

    Args:
        path: ``name.parquet`` for one file, else a folder with one part for each task.
        compression: none, snappy, zstd, lz4, gzip or brotli.
        compression_level: as the codec counts it; None for its default.
        dictionary: what is dictionary-encoded beside dictionary-typed columns: ``auto`` (strings and binaries, at any
            depth), True, False, or names of columns.
        row_group_rows: rows of a row group; None for as many as `row_group_bytes` hold, at most 2**20.
        row_group_bytes: decoded size of a row group, estimated from types and input. A writer holds one in memory.
        tensor: how rows that have a shape are stored.
        complex: ``pairs`` stores complex numbers as two floats each, as declared in the metadata of the column.
        partition_by: columns that become folders ``name=value``, in that order, and leave the files.
        max_open_partitions: most folders that one task may write to. Each holds an eighth of a row group in memory.
        page_checksum: store a checksum with each page, by which readers notice damage.
        durability: ``rename`` leaves out the fsyncs: safe against a killed process, not against power loss.
        cached: False takes written files out of the page cache, once they are on disk.
    """

    columnar: ClassVar[bool] = True
    advice: ClassVar[str] = "sink.page_checksum=false saves an eighth of encoding, sink.compression=none a fifth of it"

    path: str
    compression: str = "snappy"
    compression_level: int | None = None
    dictionary: Literal["auto"] | bool | Sequence[str] = "auto"
    row_group_rows: int | None = None
    row_group_bytes: int = 128 << 20
    tensor: arrow.TensorType = "fixed_shape_tensor"
    complex: arrow.ComplexType = "error"
    partition_by: Sequence[str] = ()
    max_open_partitions: int = 1000
    page_checksum: bool = True
    durability: Literal["full", "rename"] = "full"
    cached: bool = True

    def __post_init__(self) -> None:
        check_suffix(self.path, _SUFFIX)
        _check_choice("compression", self.compression, ("none", "snappy", "zstd", "lz4", "gzip", "brotli"))
        _check_choice("tensor", self.tensor, ("fixed_shape_tensor", "fixed_size_list"))
        _check_choice("complex", self.complex, ("error", "pairs"))
        _check_choice("durability", self.durability, ("full", "rename"))
        _check_level(self.compression, self.compression_level)
        for key in ("row_group_rows", "row_group_bytes", "max_open_partitions"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ConfigError(f"sink.{key} must be at least 1; got {value}")
        if isinstance(self.dictionary, str) and self.dictionary != "auto":
            raise ConfigError(
                f"sink.dictionary must be auto, true, false or a list of columns; got {self.dictionary!r}"
            )
        if isinstance(self.partition_by, str):
            raise ConfigError(f"sink.partition_by must be a list of columns, such as [{self.partition_by}]")
        if self.partition_by and self.single:
            raise ConfigError(f"sink.partition_by makes folders, but sink.path={self.path!r} names one file")

    @property
    def single(self) -> bool:
        """Whether all rows go to one file."""
        return Path(self.path).suffix == _SUFFIX

    def accept(self, schema: Schema) -> Schema:
        """The schema in Arrow's types. Columns that become folders are still in it.

        Raises:
            DTypeError: Parquet cannot hold a column, or would give it back as another type.
            ConfigError: a column that the configuration names is not there.
        """
        table = self._table(schema)
        self._check_keys(table)
        stored = self._in_files(table)
        if not stored.names:
            raise DTypeError("a Parquet file needs a column; the output has none that stays in the files")
        _check_types(stored)
        self._dictionary(stored)
        return Schema(tuple(table), table.metadata)

    def open(self, task: Task, schema: Schema) -> ParquetWriter:
        """Start the file of one task; files of partitions are started when their first row comes."""
        where = home(self.path, single=self.single)
        return self.place(task, schema, where, where.single or task.name + _SUFFIX)

    def place(self, task: Task, schema: Schema, where: Home, name: str) -> ParquetWriter:
        """As `open`, under another name and in another output."""
        told = self._told(schema, frozenset())
        row_bytes = self._row_bytes(told.table, task)
        rows, piece_rows = self._rows(row_bytes), _power_of_two(_PIECE_BYTES / row_bytes)
        words = Words()

        def tell(columns: Columns) -> Told:
            return self._told(schema, _coded(columns, told.table, self.words(schema)))

        def start(folder: str, told: Told) -> ParquetFile:
            durable = self.durability == "full"
            publication = Publication(where, folder + name, durable=durable, cached=self.cached)
            return ParquetFile(publication, told, rows, piece_rows, words, direct=not self.partition_by)

        return ParquetWriter(tell, start, told, tuple(self.partition_by), self.max_open_partitions, task.rows, words)

    def words(self, schema: Schema) -> tuple[str, ...]:
        """Strings and binaries that are stored as dictionaries anyway. Those that name folders are not."""
        if isinstance(self.dictionary, bool):
            names = schema.names if self.dictionary else ()
        else:
            names = schema.names if self.dictionary == "auto" else tuple(self.dictionary)
        words = [f.name for f in schema.fields if getattr(f, "type", None) in arrow.WORDS]
        return tuple(name for name in words if name in names and name not in self.partition_by)

    def _told(self, schema: Schema, coded: frozenset[str]) -> Told:
        """What the writers are told: the same for all tasks of a run whose rows come with the same columns coded."""
        kept = self._last.get(coded)
        if kept is None or kept[0] is not schema:
            table = self._table(schema)
            stored = self._in_files(table)
            told = Told(table, stored, self._options(stored))
            kept = self._last[coded] = (schema, told.coded(coded) if coded else told)
        return kept[1]

    @cached_property
    def _last(self) -> dict[frozenset[str], tuple[Schema, Told]]:
        """What the last schema came to."""
        return {}

    def _table(self, schema: Schema) -> pa.Schema:
        fields = [arrow.arrow_field(field, self.tensor, self.complex) for field in schema.fields]
        return pa.schema(fields, metadata=dict(schema.metadata) if schema.metadata else None)

    def _in_files(self, table: pa.Schema) -> pa.Schema:
        """The schema of the files: without the columns that become folders, in types that Parquet gives back."""
        fields = [arrow.parquet_field(field) for field in table if field.name not in self.partition_by]
        return pa.schema(fields, metadata=table.metadata)

    def _check_keys(self, table: pa.Schema) -> None:
        for name in self.partition_by:
            if name not in table.names:
                raise ConfigError(f"sink.partition_by: no column {name!r}; there are {', '.join(table.names)}")
            if name.startswith(("_", ".")) or set(name) & set("=/%"):
                raise ConfigError(f"sink.partition_by: readers would not find a folder named after column {name!r}")
            if not _is_key(table.field(name).type):
                raise DTypeError(
                    f"sink.partition_by: column {name!r} is {table.field(name).type}; folders are named after "
                    "integers, strings, truth values and dates"
                )

    def _dictionary(self, stored: pa.Schema) -> bool | list[str]:
        if self.dictionary is True:
            return True
        typed = {field.name for field in stored if pa.types.is_dictionary(field.type)}
        names = set() if isinstance(self.dictionary, bool) or self.dictionary == "auto" else set(self.dictionary)
        if unknown := names - set(stored.names):
            raise ConfigError(f"sink.dictionary: no column {min(unknown)!r}; there are {', '.join(stored.names)}")
        return [
            path
            for path, physical in _leaves(stored)
            if (self.dictionary == "auto" and physical == "BYTE_ARRAY")
            or any(path == name or path.startswith(f"{name}.") for name in names | typed)
        ]

    def _options(self, stored: pa.Schema) -> dict[str, Any]:
        return {
            "compression": self.compression,
            "compression_level": self.compression_level,
            "use_dictionary": self._dictionary(stored),
            "write_page_checksum": self.page_checksum,
            "data_page_size": _PAGE_BYTES,
            **_FORMAT,
        }

    def _rows(self, row_bytes: float) -> int:
        """Rows of a row group: never decided by batches or by free memory, which change from run to run."""
        if self.row_group_rows:
            return self.row_group_rows
        share = _PARTITION_SHARE if self.partition_by else 1
        return max(1, min(_GROUP_ROWS, int(self.row_group_bytes / row_bytes)) // share)

    def _row_bytes(self, table: pa.Schema, task: Task) -> float:
        known = [split.rows for split in task.splits if split.rows is not None]
        rows = sum(known) if len(known) == len(task.splits) else 0
        return max(1.0, sum(_row_bytes(type_) for type_ in table.types), task.bytes / rows if rows else 0.0)


def _power_of_two(most: float) -> int:
    return 1 << (max(1, int(most)).bit_length() - 1)


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"sink.{key} must be one of {', '.join(choices)}; got {value!r}")


def _check_level(compression: str, level: int | None) -> None:
    if level is None:
        return
    if compression == "none" or not pa.Codec.supports_compression_level(compression):
        raise ConfigError(f"sink.compression_level has no meaning for {compression}; leave it null")
    lowest, highest = (
        bound(compression) for bound in (pa.Codec.minimum_compression_level, pa.Codec.maximum_compression_level)
    )
    if not lowest <= level <= highest:
        raise ConfigError(f"sink.compression_level of {compression} must be {lowest} to {highest}; got {level}")


# ---- types -----------------------------------------------------------------------------------------------------------

_FORMAT = {
    "version": "2.6",  # older ones lose nanoseconds and uint32
    "store_schema": True,  # Arrow's own schema in the footer: brings back what Parquet has no name for
    "use_compliant_nested_type": False,  # keeps the name of a list's child
}


def _empty_file(schema: pa.Schema) -> pq.ParquetFile:
    out = io.BytesIO()
    pq.ParquetWriter(out, schema, **_FORMAT).close()
    return pq.ParquetFile(out)


@lru_cache(maxsize=8)
def _leaves(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Paths and physical types of what a file of this schema stores."""
    leaves = _empty_file(schema).schema
    return tuple((leaf.path, leaf.physical_type) for leaf in map(leaves.column, range(len(leaves))))


def _check_types(schema: pa.Schema) -> None:
    """Refuse what does not come back, found by writing and reading a file of no rows."""
    if not _trouble(schema):
        return
    for field in schema:
        if trouble := _trouble(pa.schema([field])):
            raise DTypeError(
                f"column {field.name!r} is {field.type}, which Parquet {trouble}. Cast it before, leave it out with "
                "carry (a list of the columns to carry, or none), or write another format (sink=npz)"
            )
    raise DTypeError(f"the metadata of the table cannot be stored: Parquet {_trouble(schema)}")


def _trouble(schema: pa.Schema) -> str:
    for type_ in schema.types:
        if any(pa.types.is_fixed_size_list(t) and t.list_size == 0 for t in _within(type_)):
            return "writes but cannot read, since the lists have width 0"
    try:
        back = _empty_file(schema).schema_arrow
    except (pa.ArrowException, OSError) as e:
        return f"cannot hold: {e}"
    for field, found in zip(schema, back, strict=True):
        if field.type != found.type:
            return f"would give back as {found.type}"
    return ""


def _within(type_: pa.DataType) -> Iterator[pa.DataType]:
    """A type and all types inside it."""
    type_ = getattr(type_, "storage_type", type_)
    yield type_
    for i in range(type_.num_fields):
        yield from _within(type_.field(i).type)


def _holds_words(type_: pa.DataType) -> bool:
    return any(map(pa.types.is_dictionary, _within(type_)))


def _row_bytes(type_: pa.DataType) -> float:
    """Bytes of a row as far as the type tells; what has no fixed width counts as little."""
    type_ = getattr(type_, "storage_type", type_)
    if pa.types.is_fixed_size_list(type_):
        return int(type_.list_size) * _row_bytes(type_.value_type)
    if pa.types.is_struct(type_):
        return sum(_row_bytes(field.type) for field in type_)
    try:
        return float(type_.bit_width / 8)
    except ValueError:
        return 8.0


def _is_key(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_key(type_.value_type)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_a(type_) for is_a in (*text, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date32))


@dataclass(frozen=True)
class Told:
    """What the writers of a part are told.

    Attributes:
        table: types of the rows.
        stored: types of the rows in the files, as Arrow's writer is given them.
        options: of that writer.
        codes: columns that come as words and codes, and are declared as words.
        declared: types that the files declare; None if those are `stored`.
    """

    table: pa.Schema
    stored: pa.Schema
    options: dict[str, Any]
    codes: frozenset[str] = frozenset()
    declared: pa.Schema | None = None

    def coded(self, names: frozenset[str]) -> Told:
        """The same files for rows of which these columns come as words and codes."""
        table, stored = _with_codes(self.table, names), _with_codes(self.stored, names)
        return Told(table, stored, self.options, names, self.stored)

    @property
    def footer(self) -> dict[str, bytes]:
        """What takes the place of what Arrow's writer puts into the footer by itself: the types that are declared."""
        return {"ARROW:schema": base64.b64encode((self.declared or self.stored).serialize().to_pybytes())}


def _coded(columns: Columns, table: pa.Schema, takes: Sequence[str]) -> frozenset[str]:
    """Columns that come as words and codes where `table` declares the words."""
    types = {name: getattr(columns.get(name), "type", None) for name in takes}
    return frozenset(name for name in takes if types[name] == arrow.codes(table.field(name).type))


def _with_codes(schema: pa.Schema, coded: frozenset[str]) -> pa.Schema:
    fields = [field.with_type(arrow.codes(field.type)) if field.name in coded else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


# ---- the writers -----------------------------------------------------------------------------------------------------


class Words:
    """The words of the dictionary columns of a part, in the order in which they came.

    Pieces of rows bring dictionaries of their own, joined where pieces were joined on the way: which words stand in one
    dictionary depends on batches, this order does not.
    """

    def __init__(self) -> None:
        self._known: dict[str, pa.Array] = {}
        self._last: dict[str, pa.Array] = {}

    def see(self, batch: pa.RecordBatch, but: Collection[str]) -> None:
        """Add the words that are new, those of no row too; not of the columns named last."""
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if not pa.types.is_dictionary(field.type) or field.type.ordered or field.name in but:
                continue
            last, self._last[field.name] = self._last.get(field.name), column.dictionary
            if last is None or not last.equals(column.dictionary):
                self._add(field.name, column.dictionary.drop_null())

    def _add(self, name: str, words: pa.Array) -> None:
        known = self._known.get(name)
        fresh = words if known is None else words.filter(pc.invert(pc.is_in(words, known)))
        self._known[name] = fresh if known is None else pa.concat_arrays([known, fresh])

    def rank(self, name: str, words: pa.Array) -> Array:
        """The place of each of some words among all."""
        return arrow.numbers(pc.index_in(words, self._known[name]))


class ParquetFile:
    """One file under construction: collects rows and writes a row group whenever it has enough.

    The places where pages end depend on how an array is cut into chunks, so a row group is encoded from pieces of a
    fixed number of rows. Batches of a multiple of it are cut; what else comes is copied together.

    Args:
        publication: the file; aborted if not even the writer can be made.
        told: schema of the file, and what Arrow's writer is told.
        rows: of a row group.
        piece_rows: of a piece.
        words: of the dictionary columns of the part.
        direct: Arrow opens the file once more and writes it itself; through Python, every page would be copied. Not for
            files that are many, for which one descriptor each has to do.
    """

    def __init__(
        self,
        publication: Publication,
        told: Told,
        rows: int,
        piece_rows: int,
        words: Words,
        *,
        direct: bool,
    ) -> None:
        self.rows = 0
        self._words = words
        self._publication = publication
        self._schema = schema = told.stored
        self._codes = told.codes
        self._group_rows = rows
        self._piece_rows = piece_rows
        self._held: list[pa.RecordBatch] = []
        self._loose: list[pa.RecordBatch] = []
        self._held_rows = self._loose_rows = 0
        self._folds = not any(pa.types.is_dictionary(type_) and type_.ordered for type_ in schema.types)
        self._worded = [i for i, type_ in enumerate(schema.types) if not self._folds or _holds_words(type_)]
        self._direct = direct
        try:
            with storage(publication.final):
                self._out = pa.OSFile(str(publication.temp), "wb") if direct else publication
                self._parquet = pq.ParquetWriter(self._out, schema, **told.options)
                if told.declared is not None:
                    self._parquet.add_key_value_metadata(told.footer)
        except BaseException:
            publication.abort()
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        while batch.num_rows:
            some = batch.slice(0, min(self._piece_rows - self._loose_rows, self._group_rows - self._held_rows))
            batch = batch.slice(some.num_rows)
            self._loose.append(some)
            self._loose_rows += some.num_rows
            self._held_rows += some.num_rows
            if self._loose_rows == self._piece_rows:
                self._finish_piece()
            elif len(self._loose) == _LOOSE:
                self._fold()
            if self._held_rows == self._group_rows:
                self._flush()
                self._hash(beside=True)

    def _finish_piece(self) -> None:
        self._fold()
        self._held += self._loose
        self._loose, self._loose_rows = [], 0

    def _fold(self) -> None:
        """Make one batch of many: some kilobytes for each column of a batch outweigh the rows of small ones.

        Not where an order of words is checked batch by batch.
        """
        if self._folds and len(self._loose) > 1:
            pieces = [[_without_null(batch.column(i)) for batch in self._loose] for i in range(len(self._schema))]
            with self._fitting():
                arrays = [arrow.concat(list(each)) for each in pieces]
            self._loose = [pa.RecordBatch.from_arrays(arrays, schema=self._schema)]

    def _flush(self) -> None:
        self._finish_piece()
        self._encode()
        self.rows += self._held_rows
        self._held, self._held_rows = [], 0

    def _hash(self, *, beside: bool = False) -> None:
        """Take in what is written, while it is still in memory."""
        if self._direct:
            self._publication.take_in(beside=beside)

    def _encode(self) -> None:
        with self._fitting(), storage(self._publication.final):
            table = pa.Table.from_batches(self._held, self._schema)
            for i in self._worded:
                table = table.set_column(i, self._schema.field(i), self._words_of(i))
            _check_hollow(table)
            self._parquet.write_table(table, row_group_size=self._held_rows)

    def _words_of(self, place: int) -> pa.ChunkedArray:
        """What is held of a column with words: those of different dictionaries are put in one, so it is one piece."""
        pieces, field = [batch.column(place) for batch in self._held], self._schema.field(place)
        if field.name in self._codes:
            return pa.chunked_array(self._coded(pieces, field))
        return pa.chunked_array([_joined(pieces, field, self._words)])

    def _coded(self, pieces: list[pa.Array], field: pa.Field) -> list[pa.Array]:
        """Pieces of one size with one dictionary, of the words that occur; as they are if they have that already."""
        words = pieces[0].dictionary
        if self._folds and _all_in_order(pieces[0]) and all(piece.dictionary.equals(words) for piece in pieces):
            return pieces
        whole = _joined(pieces, field, None)
        return [whole.slice(start, self._piece_rows) for start in range(0, len(whole), self._piece_rows)]

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        try:
            yield
        except pa.ArrowException as e:
            rows = f"rows {self.rows} to {self.rows + self._held_rows}"
            raise DTypeError(f"{rows} of {str(self._publication.final)!r} do not fit Parquet: {e}") from e

    def finish(self) -> None:
        """Write what is left, and the footer. Still under its temporary name."""
        if self._held_rows:
            self._flush()
        with storage(self._publication.final):
            self._parquet.close()
        self._hash()

    def publish(self) -> File:
        """Make it visible."""
        file = self._publication.publish(self.rows)
        with suppress(OSError):  # without a reason; all that was written has been flushed and closed by the publication
            self._out.close()
        return file

    def abort(self) -> None:
        """Remove it, published or not."""
        self._held, self._loose = [], []
        self._parquet.is_open = False  # else it would write a footer when it is collected
        self._parquet.writer = None  # Arrow still writes one as it goes: now, while there is a file to take it
        with suppress(OSError):
            self._out.close()
        self._publication.retract()


class ParquetWriter:
    """The file of one task, or one file in each folder if there are partitions."""

    def __init__(
        self,
        tell: Callable[[Columns], Told],
        start: Callable[[str, Told], ParquetFile],
        told: Told,
        keys: tuple[str, ...],
        limit: int,
        rows: int | None,
        words: Words,
    ) -> None:
        self._words = words
        self._tell = tell
        self._start = start
        self._told = told
        self._keys = keys
        self._limit = limit
        self._expected = rows
        self._rows = 0
        self._files: dict[str, ParquetFile] = {}

    def write(self, columns: Columns) -> None:
        """Append rows, in order within each file."""
        if list(columns) != self._told.table.names:
            raise PipelineError(f"expected columns {self._told.table.names}; got {list(columns)}")
        if len(lengths := {len(column) for column in columns.values()}) != 1:
            raise PipelineError(f"columns of {sorted(lengths)} rows cannot be written side by side")
        if not self._files:  # the first rows decide, which are those of the first split
            self._told = self._tell(columns)
        table = self._told.table
        arrays = [arrow.to_arrow(c, f) for c, f in zip(columns.values(), table, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=table)
        self._words.see(batch, self._told.codes)
        self._rows += batch.num_rows
        for folder, rows in _by_folder(batch, self._keys) if self._keys else [("", batch)]:
            self._file(folder).write(_recast(rows, self._told.stored))

    def _file(self, folder: str) -> ParquetFile:
        if folder not in self._files:
            if len(self._files) == self._limit:
                raise DataError(
                    f"sink.partition_by={list(self._keys)} makes more than {self._limit} folders in one task. "
                    "Partition by columns of fewer values, or raise sink.max_open_partitions: each folder takes memory"
                )
            self._files[folder] = self._start(folder, self._told)
        return self._files[folder]

    def close(self) -> tuple[File, ...]:
        """Finish all files, then publish them one after the other."""
        if self._expected not in (None, self._rows):
            raise PipelineError(f"expected {self._expected} rows for this part; got {self._rows}")
        if not self._keys:
            self._file("")  # there, also if no row came
        files = [self._files[folder] for folder in sorted(self._files)]
        for file in files:
            file.finish()
        published = tuple(file.publish() for file in files)
        self._files = {}
        return published

    def abort(self) -> None:
        """Remove all files, also those that `close` had published before it failed."""
        for file in self._files.values():
            file.abort()


def _check_hollow(table: pa.Table) -> None:
    """Refuse rows that pyarrow writes without a word into a file that it then cannot read."""
    for column, field in zip(table.columns, table.schema, strict=True):
        if any(map(_hollow, column.chunks)):
            raise DTypeError(
                f"column {field.name!r} has null structs that hold fixed-size lists declared without nulls, which "
                "Parquet writes but cannot read. Declare the lists nullable, or leave the column out with carry"
            )


def _hollow(array: pa.Array) -> bool:
    array = getattr(array, "storage", array)
    type_ = array.type
    if not _may_be_hollow(type_):  # `flatten` aborts the process on some arrays, so it is left alone where it can be
        return False
    if pa.types.is_struct(type_):
        return (_holds_lists(type_) and array.null_count > 0) or any(map(_hollow, array.flatten()))
    return _hollow(array.items if pa.types.is_map(type_) else array.flatten())


@lru_cache(maxsize=256)
def _may_be_hollow(type_: pa.DataType) -> bool:
    return any(pa.types.is_struct(t) and _holds_lists(t) for t in _within(type_))


def _holds_lists(type_: pa.StructType) -> bool:
    """Whether a struct has a field of fixed-size lists that is declared without nulls."""
    lists = (pa.types.is_fixed_size_list(getattr(f.type, "storage_type", f.type)) for f in type_ if not f.nullable)
    return any(lists)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _joined(pieces: list[pa.Array], field: pa.Field, words: Words | None) -> pa.Array:
    """The same array for the same rows, however they are cut into pieces.

    Words that are in the files only keep the order of their first rows (`words` is None).
    """
    if not pa.types.is_dictionary(field.type):
        return arrow.concat(list(pieces))
    pieces = [_without_null(piece) for piece in pieces]
    whole: pa.DictionaryArray = arrow.concat(list(pieces))
    if not field.type.ordered:
        return _observed(whole, field.name, words)
    if any(not whole.dictionary.slice(0, len(p.dictionary)).equals(p.dictionary) for p in pieces):
        raise DTypeError(
            f"column {field.name!r} is an ordered dictionary, but its values come in more than one order. Cast it to "
            "string before, or leave it out with carry"
        )
    return whole


def _without_null(column: pa.Array) -> pa.Array:
    """Nulls that are values of a dictionary, which Arrow allows and cannot join, as nulls of the column."""
    if not pa.types.is_dictionary(column.type) or not column.dictionary.null_count:
        return column
    return column.dictionary_decode().dictionary_encode().cast(column.type)


def _all_in_order(column: pa.DictionaryArray) -> bool:
    """Whether the first rows already have all words, in the order of the dictionary."""
    used = arrow.numbers(pc.unique(column.indices.slice(0, _FIRST)).drop_null())
    return np.array_equal(used, np.arange(len(column.dictionary)))


def _observed(column: pa.DictionaryArray, name: str, words: Words | None) -> pa.DictionaryArray:
    """A dictionary of the values that occur, in the order of all; the others depend on what was read together."""
    used = arrow.numbers(pc.unique(column.indices).drop_null())
    if words is not None:
        used = used[np.argsort(words.rank(name, column.dictionary.take(arrow.integers(used))), kind="stable")]
    if np.array_equal(used, np.arange(len(column.dictionary))):
        return column
    place = np.zeros(len(column.dictionary), np.int64)
    place[used] = np.arange(len(used))
    indices = arrow.integers(place).take(column.indices).cast(column.type.index_type)
    return pa.DictionaryArray.from_arrays(indices, column.dictionary.take(arrow.integers(used)))


def _by_folder(batch: pa.RecordBatch, keys: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Rows of each folder, in order, without the columns that name it."""
    group = np.zeros(batch.num_rows, np.int64)
    texts = {name: batch.column(name).cast(pa.string()) for name in keys}
    for text in texts.values():
        encoded = text.dictionary_encode(null_encoding="encode")
        mixed = group * len(encoded.dictionary) + arrow.numbers(encoded.indices)
        group = np.unique(mixed, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    stored = batch.drop_columns(list(keys))
    for index in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if not len(index):
            continue
        folder = "".join(_folder(name, text[index[0].item()].as_py()) for name, text in texts.items())
        yield folder, stored if len(index) == len(order) else _take(stored, index)


def _recast(batch: pa.RecordBatch, stored: pa.Schema) -> pa.RecordBatch:
    arrays = [arrow.recast(column, field) for column, field in zip(batch.columns, stored, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=stored)


def _take(batch: pa.RecordBatch, index: Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([arrow.take(column, index) for column in batch.columns], schema=batch.schema)


def _folder(name: str, value: str | None) -> str:
    if value == _NULL:
        raise DataError(f"sink.partition_by: column {name!r} holds the text {_NULL!r}, which would be read as null")
    folder = f"{name}={_NULL if value is None else quote(value, safe='')}"
    if len(folder.encode()) > _LONGEST_NAME:
        raise DataError(f"sink.partition_by: column {name!r} holds {value!r}, which is too long to name a folder")
    return f"{folder}/"
