"""Source parquet: files, globs, folders and Hive-partitioned folders, read by runs of row groups.

A footer is never asked about single column chunks: on a damaged one, `row_group(i).column(j)` ends the whole process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import columns as arrow
from pipeline import filter as filters
from pipeline.core import Columns, Schema, Split
from pipeline.errors import ConfigError, DataError
from pipeline.filter import Filter
from pipeline.source import CHUNK_BYTES, Listed, check_count, check_names, check_same, listed, reading

Keys: TypeAlias = tuple[tuple[str, str | None], ...]
"""Names and values in the folders of a file, as they are spelled; None for null."""

_SUFFIXES = (".parquet", ".parq", ".pq")
_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_LEAST_ROWS, _LEAST_BYTES = 65536, 4 << 20  # what is decoded at once: less is slower, more leaves the cache
_WORTH_ROWS = 1 << 19  # of a split: to find that a column has many words takes as long as a fifth of decoding these
_PROBES = 16  # row groups of a split that are looked at for it
_ROWS_OF_A_WORD, _WORDS_BYTES = 256, 1 << 16  # at least and at most, where words are called few; else nothing is gained
_BUFFER_BYTES = 1 << 20  # of each column, instead of the whole column chunk: memory does not grow with row groups


@dataclass(frozen=True)
class Parquet:
    """Reads Parquet files with all that pyarrow reads: any compression, nested columns, extension types.

    All files have the same columns, in any order; that of the first file counts. Folders called ``key=value`` below
    `path` add columns after those of the files. The input is listed once for each object: make a new one to see files
    that came later.

    Args:
        path: a file, a folder or a glob.
        columns: names to read, in this order; None reads all.
        filter: rows to read: ``[[column, op, value], ...]``, which must all hold, or a list of such lists, of which one
            must hold. Ops: ``== != < <= > >=``, ``in`` and ``not in`` with a list, ``is`` and ``is not`` with null.
        split_rows: rows after which a split ends, at the end of a row group; None makes every file one split.
        read_rows: rows decoded at once, fewer where they would take more than 64 MiB. None decodes whole batches, of
            some MiB together.
        partitions: types of partition columns by name. Those not named, and all with "auto", are int64 if every value
            is written as an integer, else string. None ignores the folders.
        page_checksum: verify the checksums of pages that have one.
        threads: decode columns in parallel.
        max_row_group_bytes: refuse a file with a row group that unpacks to more.
    """

    advice: ClassVar[str] = "a string column that carry leaves out saves a third of decoding a narrow table"

    path: str
    columns: Sequence[str] | None = None
    filter: Sequence[Any] | None = None
    split_rows: int | None = None
    read_rows: int | None = None
    partitions: Mapping[str, str] | Literal["auto"] | None = "auto"
    page_checksum: bool = True
    threads: bool = True
    max_row_group_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        check_names("source.columns", self.columns)
        check_count("source.split_rows", self.split_rows, optional=True)
        check_count("source.read_rows", self.read_rows, optional=True)
        check_count("source.max_row_group_bytes", self.max_row_group_bytes)
        filters.parse(self.filter)
        _key_types(self.partitions)

    def schema(self) -> Schema:
        """The columns of the files, then those of the folders; or those in `columns`."""
        table = self._survey[0]
        return Schema(tuple(table.field(name) for name in self.columns or table.names), table.metadata)

    def splits(self) -> Sequence[Split]:
        """Runs of row groups of each file, in the order of the files' names. A filter leaves their rows unknown."""
        return self._survey[1]

    # ---- planning

    @cached_property
    def _survey(self) -> tuple[pa.Schema, tuple[Split, ...]]:
        """Every column there is, read or not; and the splits."""
        footers = [self._footer(file) for file in listed(self.path, _SUFFIXES)]
        for other in footers[1:]:
            _check_alike(footers[0], other)
        table = footers[0].schema
        for field in self._key_fields(footers):
            table = table.append(field)
        for name in self.columns or ():
            if name not in table.names:
                raise ConfigError(f"source.columns: no column {name!r}; there are {', '.join(map(repr, table.names))}")
        asked = filters.parse(self.filter)
        asked.check(table)
        splits: list[Split] = []
        for footer in footers:
            left = asked.rest(_known(table, footer.keys))
            if not left.never:
                splits += self._cut(footer, len(table), counted=left.always)
        # Where no file can hold a row that passes, the schema still has to arrive.
        return table, tuple(splits) or (footers[0].split(0, 0, rows=0),)

    def _footer(self, file: Listed) -> _Footer:
        with reading(file.path, file.version), self._open(file.path) as parquet:
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            keys = () if self.partitions is None else _keys(file.id)
            rows, sizes = tuple(g.num_rows for g in groups), tuple(g.total_byte_size for g in groups)
            footer = _Footer(file, _origins(parquet.schema_arrow), keys, rows, sizes)
            footer.check(parquet.metadata.num_rows, self.max_row_group_bytes)
        return footer

    @contextmanager
    def _open(self, path: str, words: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        """A file; the columns in `words` are decoded as dictionaries."""
        with pa.OSFile(path) as file:  # given a name, pyarrow looks for its filesystem first, which takes longer
            yield pq.ParquetFile(
                file,
                read_dictionary=list(words) or None,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=self.page_checksum,
            )

    def _key_fields(self, footers: Sequence[_Footer]) -> list[pa.Field]:
        types, names = _key_types(self.partitions), [name for name, _ in footers[0].keys]
        for name in types:
            if name not in names:
                raise ConfigError(f"source.partitions: no folders are called {name}=...; keys are {names}")
        values = {name: {dict(footer.keys)[name] for footer in footers} - {None} for name in names}
        return [pa.field(name, types.get(name) or _guess(values[name])) for name in names]

    def _cut(self, footer: _Footer, width: int, *, counted: bool) -> Iterator[Split]:
        """Runs of row groups; their decoded size is put down by the share of columns that are read."""
        for start, stop in _runs(footer.rows, self.split_rows):
            rows = sum(footer.rows[start:stop]) if counted else None
            yield footer.split(start, stop, rows=rows, share=len(self.columns or range(width)) / width)

    # ---- reading

    def read(self, split: Split) -> Iterator[Columns]:
        """The rows in the order of the file. What was decoded is counted against the footer."""
        return self.read_only(split, self.columns or self._survey[0].names, _LEAST_ROWS)

    def read_only(self, split: Split, columns: Sequence[str], rows: int) -> Iterator[Columns]:
        """As `read`; columns that are not asked for are not decoded, unless the filter needs them."""
        return self.read_words(split, columns, rows, ())

    def read_words(self, split: Split, columns: Sequence[str], rows: int, words: Sequence[str]) -> Iterator[Columns]:
        """As `read_only`; of the columns in `words`, those come as dictionaries that have few words."""
        table = self._survey[0]
        fields = [table.field(name) for name in columns]
        known = _known(table, split.extra)
        left = filters.parse(self.filter).rest(known)
        names = [f.name for f in fields if f.name not in known.schema.names]
        with reading(split.path, split.version, f"row_groups={split.start}-{split.stop}"):
            some = False
            few = self._few(split, [f for f in fields if f.name in words and f.name in names], left)
            batches = self._coded(split, names, rows, few) if few else self._batches(split, names, left, rows, ())
            for batch in batches if split.start < split.stop else ():
                yield {f.name: _column(f, batch, known, coded=f.name in few) for f in fields}
                some = True
        if not some:
            yield {f.name: pa.nulls(0, f.type) for f in fields}

    def _few(self, split: Split, fields: Sequence[pa.Field], left: Filter) -> list[str]:
        """Which of these columns are stored as few words and codes, by the first row of some row groups.

        With the first row come all words of a row group, and of one that is not stored so, no other: no words at all,
        or one, may be either.
        """
        asked = [f.name for f in fields if f.type in arrow.WORDS and "." not in f.name]
        if not asked or not left.always or (split.rows or 0) < _WORTH_ROWS:
            return []
        with self._open(split.path, asked) as parquet:
            groups = range(split.start, split.stop)
            for group in groups[:: -(-len(groups) // _PROBES)]:
                rows = parquet.metadata.row_group(group).num_rows
                asked = [name for name in asked if 1 < _words(parquet, group, name) <= rows // _ROWS_OF_A_WORD]
        return asked

    def _coded(self, split: Split, names: list[str], rows: int, few: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches with these columns as words and codes, by Arrow as long as the words are few.

        Within a row group a writer may go over to another encoding. Arrow then adds all that follows to the dictionary
        of each batch, or has no way to read it so. What is damaged, the second way meets again.
        """
        done = 0
        with suppress(_NotFew, pa.ArrowException, OSError):
            for batch in self._batches(split, names, Filter(), rows, few):
                if any(batch.column(name).dictionary.nbytes > _WORDS_BYTES for name in few):
                    raise _NotFew
                yield batch
                done += batch.num_rows
            return
        for batch in self._batches(split, names, Filter(), rows, ()):
            if done < batch.num_rows:
                yield _encoded(batch.slice(done), few)
            done = max(0, done - batch.num_rows)

    def _batches(
        self, split: Split, names: list[str], left: Filter, rows: int, few: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        with self._open(split.path, few) as parquet:
            groups = range(split.start, split.stop)
            if left.always:
                yield from self._scan(parquet, groups, names, rows)
                return
            # pyarrow.dataset would use the statistics in the footer, and hangs or aborts where those are damaged. So a
            # row group is looked through by the columns of the filter alone, up to the first row that passes.
            for group in groups:
                asked = self._scan(parquet, [group], left.columns, rows)
                if any(left.mask(batch).true_count for batch in asked):
                    for batch in self._scan(parquet, [group], list(dict.fromkeys([*names, *left.columns])), rows):
                        yield _passing(batch, left.mask(batch))

    def _scan(
        self, parquet: pq.ParquetFile, groups: Sequence[int], names: list[str], rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Row groups, decoded; their rows are counted against the footer."""
        size, expected = self._batch_rows(parquet.metadata, groups, rows)
        found = 0
        threads = self.threads and expected > size  # for one batch, to wake them takes longer than to decode
        for batch in parquet.iter_batches(size, groups, columns=names, use_threads=threads):
            batch.validate()
            found += batch.num_rows
            yield batch
        if found != expected:
            raise ValueError(f"its footer says {expected} rows; {found} were found")

    def _batch_rows(self, metadata: pq.FileMetaData, groups: Sequence[int], asked: int) -> tuple[int, int]:
        """Rows to decode at once, and all rows of the row groups."""
        rows = sum(metadata.row_group(i).num_rows for i in groups)
        size = max(1, sum(metadata.row_group(i).total_byte_size for i in groups))
        most = max(1, CHUNK_BYTES * rows // size)
        least = min(_LEAST_ROWS, _LEAST_BYTES * rows // size)
        return min(self.read_rows or asked * max(1, -(-least // asked)), most), rows


@dataclass(frozen=True)
class _Footer:
    """What planning needs of a file; `rows` and `sizes` (unpacked bytes) are those of its row groups."""

    file: Listed
    schema: pa.Schema
    keys: Keys
    rows: tuple[int, ...]
    sizes: tuple[int, ...]

    def check(self, rows: int, max_bytes: int) -> None:
        """Refuse what cannot be read as a table."""
        names = self.schema.names
        if not names:
            raise ValueError("it has no columns")
        counts = Counter(names)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"{count} columns are called {name!r}")
        for name in dict(self.keys):
            if name in counts:
                raise ValueError(f"column {name!r} is also a key of its folder; source.partitions=null ignores folders")
        if min(self.rows, default=0) < 0 or sum(self.rows) != rows:
            raise ValueError(f"its footer says {rows} rows, and {sum(self.rows)} in its row groups")
        if (largest := max(self.sizes, default=0)) > max_bytes:
            where = self.sizes.index(largest)
            raise ValueError(
                f"row group {where} unpacks to {largest} bytes; source.max_row_group_bytes allows {max_bytes}"
            )

    def split(self, start: int, stop: int, *, rows: int | None, share: float = 1.0) -> Split:
        """The split of these row groups."""
        size, name = int(share * sum(self.sizes[start:stop])), f"{self.file.id}:{start}-{stop}"
        return Split(name, self.file.version, rows, max(0, size), self.file.path, start, stop, self.keys)


def _check_alike(first: _Footer, other: _Footer) -> None:
    check_same(first.file, list(first.schema), other.file, list(other.schema))
    ours, theirs = [name for name, _ in first.keys], [name for name, _ in other.keys]
    if ours != theirs:
        raise DataError(
            f"the folders differ in their keys: {ours} for {first.file.path!r}, {theirs} for {other.file.path!r}. "
            "source.partitions=null ignores folders"
        )


def _runs(rows: Sequence[int], least: int | None) -> Iterator[tuple[int, int]]:
    """Runs of row groups of at least so many rows, the last one smaller; one run of none if there are none."""
    start, held = 0, 0
    for i, count in enumerate(rows):
        held += count
        if least is not None and held >= least:
            yield start, i + 1
            start, held = i + 1, 0
    if start < len(rows) or not rows:
        yield start, len(rows)


def _keys(id_: str) -> Keys:
    pairs = [folder.partition("=")[::2] for folder in id_.split("/")[:-1] if "=" in folder]
    keys = tuple((unquote(k, errors="strict"), None if v == _NULL else unquote(v, errors="strict")) for k, v in pairs)
    if len(dict(keys)) < len(keys):
        raise ValueError("two of its folders have the same key")
    return keys


def _key_types(partitions: object) -> dict[str, pa.DataType]:
    """Types that the user gave to partition columns."""
    if partitions is None or partitions == "auto":
        return {}
    if not isinstance(partitions, Mapping):
        raise ConfigError(f"source.partitions must be auto, null or {{name: type}}; got {partitions!r}")
    try:
        return {name: pa.type_for_alias(alias) for name, alias in partitions.items()}
    except (ValueError, TypeError) as e:
        raise ConfigError(f"source.partitions: {e}; types are Arrow's: int32, string, date32, ...") from e


def _guess(values: set[str | None]) -> pa.DataType:
    """int64 where that loses nothing: 7 is a number, 07 and 7.0 are not."""
    whole = all(v is not None and _INTEGER.fullmatch(v) and -(2**63) <= int(v) < 2**63 for v in values)
    return pa.int64() if values and whole else pa.string()


def _known(table: pa.Schema, keys: Keys) -> pa.RecordBatch:
    """The partition columns of a file: one row."""
    columns = {}
    for name, value in keys:
        try:
            text = pa.nulls(1, pa.string()) if value is None else arrow.literals([value])
            columns[name] = text.cast(table.field(name).type)
        except pa.ArrowException as e:
            raise ConfigError(f"source.partitions: {name}={value} is no {table.field(name).type}") from e
    return pa.record_batch(columns)


class _NotFew(Exception):  # noqa: N818  (no error: the rows are read in another way)
    """A dictionary has grown."""


def _words(parquet: pq.ParquetFile, group: int, name: str) -> int:
    """Words of a column in a row group; 0 if it is not stored as few."""
    try:
        first = next(parquet.iter_batches(1, [group], columns=[name], use_threads=False), None)
    except (pa.ArrowException, OSError):  # an encoding that Arrow cannot leave as words and codes; or it is damaged
        return 0
    words = None if first is None else first.column(name).dictionary
    return 0 if words is None or words.nbytes > _WORDS_BYTES else len(words)


def _encoded(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    columns = {
        n: c.dictionary_encode() if n in names else c for n, c in zip(batch.schema.names, batch.columns, strict=True)
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _column(field: pa.Field, batch: pa.RecordBatch, known: pa.RecordBatch, *, coded: bool) -> pa.Array:
    if field.name in known.schema.names:
        return pa.repeat(known.column(field.name)[0], batch.num_rows)
    column, stored = batch.column(field.name), arrow.parquet_field(field)
    if coded and column.type == arrow.codes(field.type):
        _check_codes(field.name, column)
        return column
    if column.type != stored.type:
        raise ValueError(f"column {field.name!r} is {column.type}; the first file's footer says {stored.type}")
    return arrow.recast(column, field)


def _check_codes(name: str, column: pa.DictionaryArray) -> None:
    """Refuse codes for which there is no word, as a damaged file has them: who looks one up ends the process."""
    bounds, most = pc.min_max(column.indices).as_py(), len(column.dictionary) - 1
    if bounds["max"] is not None and not 0 <= bounds["min"] <= bounds["max"] <= most:
        raise ValueError(f"column {name!r} has codes {bounds['min']}..{bounds['max']} for {most + 1} words")


def _passing(batch: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """The rows where `mask` is true. `pyarrow.RecordBatch.filter` has no way for views, at any depth."""
    if mask.true_count == batch.num_rows:
        return batch
    index = arrow.numbers(pc.indices_nonzero(mask)).astype(np.int64)
    return pa.RecordBatch.from_arrays([arrow.take(column, index) for column in batch.columns], schema=batch.schema)


def _origins(schema: pa.Schema) -> pa.Schema:
    """The columns as they were before they were stored."""
    return pa.schema([arrow.parquet_origin(field) for field in schema], metadata=schema.metadata)
