"""Laws of a source. Subclass `SourceContract`, return yours from `make`, and let pytest collect it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.batching import join, rows_of
from pipeline.core import ArrayField, Column, Columns, Field, KeepsWords, Schema, Selective, Source, Split


def read_split(source: Source, split: Split) -> Columns:
    """All rows of one split."""
    return join(list(source.read(split)))


def read_all(source: Source) -> Columns:
    """All rows of the input."""
    return join([read_split(source, split) for split in source.splits()])


def kind(field: Field) -> tuple[object, ...]:
    """What a column must have in common with its field: dtype and row shape, or the Arrow type."""
    return (field.dtype, field.shape) if isinstance(field, ArrayField) else (field.type,)


def assert_fits(chunk: Columns, schema: Schema) -> None:
    """The chunk has the names and types of the schema, in its order, and one number of rows."""
    assert tuple(chunk) == schema.names
    for name, column in chunk.items():
        found = (column.dtype, column.shape[1:]) if isinstance(column, np.ndarray) else (column.type,)
        assert found == kind(schema[name]), f"column {name!r} is {found}, the schema says {kind(schema[name])}"
        assert len(column) == rows_of(chunk), f"column {name!r} has {len(column)} rows, others {rows_of(chunk)}"


def assert_same_rows(found: Columns, expected: Columns) -> None:
    """Names, order, types, nulls and bits are equal."""
    assert list(found) == list(expected)
    for name, column in found.items():
        assert _bits(column) == _bits(expected[name]), f"column {name!r} differs"


def _bits(column: Column) -> object:
    if isinstance(column, np.ndarray):
        return column.dtype, column.shape, column.tobytes()
    if pa.types.is_floating(column.type):  # NaN equals nothing, its bits do
        width = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[column.type.bit_width]
        return column.type, column.view(width).to_pylist()
    return column.type, repr(column.to_pylist())


class SourceContract:
    """What the driver and the worker rely on. Inherit and define `make`."""

    def make(self, tmp_path: Path) -> Source:  # noqa: ARG002
        """A source of at least two splits; called again for the same `tmp_path`, it reads the same input."""
        raise AssertionError("define make() in the subclass")

    def absent(self, tmp_path: Path) -> Source:  # noqa: ARG002
        """The same kind of source for an input that is not there."""
        raise AssertionError("define absent() in the subclass")

    def test_the_constructor_opens_nothing(self, tmp_path: Path) -> None:
        """A source of an input that is not there can be made, and travels."""
        pickle.loads(pickle.dumps(self.absent(tmp_path)))  # noqa: S301

    def test_splits_are_named_once_and_for_all(self, tmp_path: Path) -> None:
        """Every call, and every object for the same input, names the same splits in the same order, each once."""
        source = self.make(tmp_path)
        splits = list(source.splits())
        assert splits == list(source.splits()) == list(self.make(tmp_path).splits())
        assert len({split.id for split in splits}) == len(splits) >= 2
        assert all(split.id and split.version for split in splits)

    def test_chunks_have_the_columns_of_the_schema(self, tmp_path: Path) -> None:
        """Each split yields at least one chunk, and every chunk fits the schema."""
        source = self.make(tmp_path)
        for split in source.splits():
            chunks = list(source.read(split))
            assert chunks, f"split {split.id} yields no chunk"
            for chunk in chunks:
                assert_fits(chunk, source.schema())

    def test_columns_that_nobody_needs_can_be_left_out(self, tmp_path: Path) -> None:
        """A source that can be selective yields just the columns asked for, with the same rows, and otherwise any."""
        source = self.make(tmp_path)
        if not isinstance(source, Selective):
            return
        for split in source.splits():
            whole = read_split(source, split)
            for names in (source.schema().names[::-1], source.schema().names[-1:]):
                chunks = list(source.read_only(split, names, 3))
                assert all(tuple(chunk) == names for chunk in chunks)
                assert_same_rows(join(chunks), {name: whole[name] for name in names})

    def test_words_may_be_left_as_codes(self, tmp_path: Path) -> None:
        """A source that keeps words gives the same rows, each column in one way, and codes only where it was asked."""
        source = self.make(tmp_path)
        if not isinstance(source, KeepsWords):
            return
        names = source.schema().names
        for split in source.splits():
            for words in (names, names[:1], ()):
                chunks = list(source.read_words(split, names, 3, words))
                coded = [{n for n in names if _is_coded(c[n], source.schema()[n])} for c in chunks]
                assert coded[0] <= {*words}
                assert all(each == coded[0] for each in coded)
                plain = [{n: decoded(c[n]) if n in coded[0] else c[n] for n in names} for c in chunks]
                assert_same_rows(join(plain), read_split(source, split))

    def test_rows_are_as_many_as_announced(self, tmp_path: Path) -> None:
        """A split that says how many rows it has, has them."""
        source = self.make(tmp_path)
        for split in source.splits():
            assert split.rows in {None, rows_of(read_split(source, split))}

    def test_a_split_can_be_read_again(self, tmp_path: Path) -> None:
        """The second time gives the same bits, by the same object or by another."""
        source, other = self.make(tmp_path), self.make(tmp_path)
        for split in source.splits():
            first = read_split(source, split)
            assert_same_rows(read_split(source, split), first)
            assert_same_rows(read_split(other, split), first)

    def test_splits_can_be_read_in_any_order(self, tmp_path: Path) -> None:
        """What a split holds does not depend on what was read before it, nor on how much of that."""
        source = self.make(tmp_path)
        forward = [read_split(source, split) for split in source.splits()]
        for split, expected in reversed(list(zip(source.splits(), forward, strict=True))):
            _glance(source.read(source.splits()[0]))
            assert_same_rows(read_split(source, split), expected)

    def test_it_travels_cold_and_warm(self, tmp_path: Path) -> None:
        """A pickled source reads the same, whether it was used before or not."""
        source = self.make(tmp_path)
        cold: Source = pickle.loads(pickle.dumps(source))  # noqa: S301
        expected = read_all(source)
        warm: Source = pickle.loads(pickle.dumps(source))  # noqa: S301
        for copy in (cold, warm):
            splits = pickle.loads(pickle.dumps(source.splits()))  # noqa: S301
            assert_same_rows(join([read_split(copy, split) for split in splits]), expected)

    def test_chunks_stay_as_they_are(self, tmp_path: Path) -> None:
        """What was handed out is not overwritten by what is read later."""
        source = self.make(tmp_path)
        for split in source.splits():
            held = list(source.read(split))
            assert_same_rows(join(held), read_split(source, split))


def decoded(column: Column) -> Column:
    """Words and codes as words."""
    assert isinstance(column, pa.DictionaryArray)
    return column.dictionary_decode()


def _is_coded(column: Column, field: Field) -> bool:
    if isinstance(column, np.ndarray) or isinstance(field, ArrayField) or column.type == field.type:
        return False
    return bool(column.type == pa.dictionary(pa.int32(), field.type))


def _glance(chunks: Iterable[Columns]) -> None:
    """Take the first chunk and turn away."""
    iterator = iter(chunks)
    next(iterator)
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
