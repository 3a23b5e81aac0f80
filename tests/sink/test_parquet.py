"""The sink of tables."""

from __future__ import annotations

import gc
import tempfile
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import columns as arrow
from pipeline.core import ArrayField, Columns, Schema, Sink, Split, Task
from pipeline.errors import ConfigError, DataError, DTypeError, PipelineError
from pipeline.sink.parquet import Parquet
from pipeline.testing.sink import SinkContract, batches, names, no_file_above, task, write

TENSOR = pa.fixed_shape_tensor(pa.float32(), [2, 2])
WORDS = pa.dictionary(pa.int8(), pa.string())
LEVELS = pa.dictionary(pa.int8(), pa.string(), ordered=True)


def columns_of(table: pa.Table) -> Columns:
    """One array for each column."""
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def schema_of(table: pa.Table) -> Schema:
    """The schema of a table."""
    return Schema(tuple(table.schema), table.schema.metadata)


def store(sink: Parquet, table: pa.Table, rows: int = 1000) -> pa.Table:
    """What a file gives back."""
    write(sink, schema_of(table), batches(columns_of(table), rows))
    return pq.ParquetFile(sink.path).read()


def every_type(rows: int = 230) -> pa.Table:
    """Nulls, nesting, extension types, dictionaries."""
    some = [None if i % 7 == 3 else i for i in range(rows)]
    words = [None if i is None else f"w{i % 5}" for i in some]
    columns = {
        "i": pa.array(some, pa.uint64()),
        "h": pa.array(some, pa.float16()),
        "b": pa.array([None if i is None else i % 2 == 0 for i in some]),
        "when": pa.array(some, pa.timestamp("ns", "Europe/Berlin")),
        "took": pa.array(some, pa.duration("s")),
        "price": pa.array(some, pa.int64()).cast(pa.decimal128(30, 2)),
        "word": pa.array(words),
        "view": pa.array(words, pa.string_view()),
        "raw": pa.array([None if w is None else w.encode() for w in words], pa.large_binary()),
        "category": pa.array(words).dictionary_encode().cast(WORDS),
        "list": pa.array([None if i is None else [f"{i}"] * (i % 4) for i in some], pa.list_(pa.string())),
        "struct": pa.array([None if i is None else {"a": i, "b": words[i]} for i in some]),
        "map": pa.array([None if i is None else [(f"k{i}", i)] for i in some], pa.map_(pa.string(), pa.int32())),
        "vector": pa.array([None if i is None else [i, None] for i in some], pa.list_(pa.float32(), 2)),
        "tensor": pa.ExtensionArray.from_storage(
            TENSOR, pa.array([[float(i)] * 4 for i in range(rows)], TENSOR.storage_type)
        ),
    }
    fields = [pa.field(name, c.type, metadata={"unit": name}) for name, c in columns.items()]
    fields[-1] = fields[-1].with_nullable(False)
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields, metadata={"made": "here"}))


class TestParquet(SinkContract):
    """Keeps the contract."""

    suffix = ".parquet"

    def make(self, path: str) -> Sink:
        return Parquet(path)

    def sample(self) -> tuple[Schema, Columns]:
        table = every_type()
        return schema_of(table), columns_of(table)

    def read(self, path: Path) -> Columns:
        with pq.ParquetFile(path) as file:
            return columns_of(file.read())


class TestSmallRowGroups(TestParquet):
    """Keeps the contract where batches and row groups have other borders."""

    def make(self, path: str) -> Sink:
        return Parquet(path, row_group_rows=33, compression="zstd", compression_level=1)

    def read(self, path: Path) -> Columns:
        return {name: _fresh(column) for name, column in super().read(path).items()}

    def sample(self) -> tuple[Schema, Columns]:
        schema, columns = super().sample()
        return schema, {name: _fresh(column) for name, column in columns.items()}


def _fresh(column: Any) -> Any:
    """A dictionary in the order in which the values come."""
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(column.type.value_type).dictionary_encode().cast(column.type)


# ---- words and codes -------------------------------------------------------------------------------------------------


def worded() -> pa.Table:
    """Columns that are taken as words and codes, among others."""
    return (
        every_type()
        .select(["i", "word", "category"])
        .append_column(
            pa.field("raw", pa.binary(), nullable=False, metadata={"unit": "raw"}),
            pa.array([b"a", b"", b"b"] * 76 + [b"c"] * 2),
        )
    )


def coded(columns: Columns) -> Columns:
    """The same with words and codes."""
    return {n: c.dictionary_encode() if c.type in (pa.string(), pa.binary()) else c for n, c in columns.items()}


def facts(path: str) -> tuple[Any, ...]:
    """What a file says of itself, but for sizes and places."""
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        stored = [
            (c.path_in_schema, c.encodings, c.compression, c.statistics and c.statistics.to_dict()) for c in chunks
        ]
        schema, meta = file.schema_arrow, pq.read_metadata(path).metadata
        return (
            file.schema.to_arrow_schema(),
            str(file.schema).split("\n", 1)[1],
            schema,
            schema.metadata,
            [f.metadata for f in schema],
            meta,
            stored,
            file.read(),
        )


@pytest.mark.parametrize("group", [33, 1000])
@pytest.mark.parametrize("given", [0, 1, 7, 1000])
def test_words_and_codes_make_the_file_that_words_make(tmp_path: Path, given: int, group: int) -> None:
    """Values, nulls, types, statistics and metadata, of no rows too; the bytes do not depend on batches."""
    table = worded().slice(0, 230 if given else 0)
    plain, words, other = (Parquet(str(tmp_path / f"{name}.parquet"), row_group_rows=group) for name in "abc")
    stored, columns = plain.accept(schema_of(table)), columns_of(table)
    write(plain, stored, batches(columns, max(1, given)))
    write(words, stored, [coded(some) for some in batches(columns, max(1, given))])
    write(other, stored, batches(coded(columns), 64))
    assert facts(words.path) == facts(plain.path)
    assert Path(words.path).read_bytes() == Path(other.path).read_bytes()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_bytes_of_codes_do_not_depend_on_batches(tmp_path: Path, *, ordered: bool, late: bool) -> None:
    """With many pieces to a row group, words that come late, and beside a column whose batches stay as they are."""
    some = np.random.default_rng(0).integers(0, 9, 100_000) + np.arange(100_000) // 30_000 * late
    columns: Columns = {"x": pa.array([f"w{i}" for i in range(13)]).take(pa.array(some)).dictionary_encode()}
    columns |= {"y": pa.array(["a"] * 100_000).dictionary_encode().cast(LEVELS)} if ordered else {}
    columns["wide"] = pa.FixedSizeListArray.from_arrays(np.zeros(6_400_000, np.float32), 64)  # 16,384 rows to a piece
    schema = Schema(tuple(pa.field(n, pa.string() if n == "x" else c.type) for n, c in columns.items()))
    sink = Parquet(str(tmp_path / "a.parquet"), row_group_rows=60_000)
    found = set()
    for rows in (100_000, 7_001, 40_000):
        for way in (dict, _again):
            write(sink, schema, [way(part) for part in batches(columns, rows)])
            found.add(Path(sink.path).read_bytes())
    assert len(found) == 1
    assert pq.ParquetFile(sink.path).read()["x"].to_pylist() == columns["x"].to_pylist()


def _again(columns: Columns) -> Columns:
    """With the words of these rows alone, in the order in which they come."""
    return {n: c.dictionary_decode().dictionary_encode() if n == "x" else c for n, c in columns.items()}


def test_codes_are_written_as_they_come(tmp_path: Path) -> None:
    """Else the bits of a code would grow with the words met so far."""
    words = pa.array(["a", "b", "c"]).take(pa.array([0] * 40_000 + [1, 2]))
    plain, codes = Parquet(str(tmp_path / "a.parquet")), Parquet(str(tmp_path / "b.parquet"))
    for sink, column in ((plain, words), (codes, words.dictionary_encode())):
        write(sink, sink.accept(Schema((pa.field("x", pa.string()),))), [{"x": column}])
    assert facts(plain.path)[:5] == facts(codes.path)[:5]
    assert Path(plain.path).read_bytes() != Path(codes.path).read_bytes()
    assert Path(codes.path).read_bytes().count(b"ARROW:schema") == 1


def test_one_sink_takes_codes_of_one_schema_after_another(tmp_path: Path) -> None:
    """As in the jobs of a program of one's own."""
    for chosen in (["word"], ["raw", "word"]):
        table = worded().select(chosen)
        sink = Parquet(str(tmp_path / "a.parquet"))
        for _ in range(2):
            write(sink, sink.accept(schema_of(table)), [coded(columns_of(table))])
        other = schema_of(table.rename_columns([f"{name}?" for name in chosen]))
        write(sink, sink.accept(other), [coded(columns_of(table.rename_columns(list(other.names))))])
        assert pq.ParquetFile(sink.path).read().column_names == list(other.names)
        write(sink, sink.accept(schema_of(table)), [coded(columns_of(table))])
        assert pq.ParquetFile(sink.path).read().equals(table, check_metadata=True)


@pytest.mark.parametrize("first", [True, False])
def test_words_may_come_after_codes_and_codes_after_words(tmp_path: Path, *, first: bool) -> None:
    """As from files of which one is stored so and the next is not."""
    sink, columns = Parquet(str(tmp_path / "a.parquet"), row_group_rows=99), columns_of(worded())
    given = [coded(some) if (i % 2 == 0) is first else some for i, some in enumerate(batches(columns, 40))]
    write(sink, sink.accept(schema_of(worded())), given)
    assert pq.ParquetFile(sink.path).read().equals(worded(), check_metadata=True)


def test_words_and_codes_of_folders(tmp_path: Path) -> None:
    """A column that names folders is taken as it is declared; the others are the same in each folder."""
    table = worded().append_column("k", pa.array([f"{i % 2}" for i in range(230)]))
    sink = Parquet(str(tmp_path / "out"), partition_by=["k"])
    assert sink.words(schema_of(table)) == ("word", "raw")
    files = write(sink, sink.accept(schema_of(table)), [coded(some) for some in batches(columns_of(table), 50)])
    for file, rest in zip(files, (0, 1), strict=True):
        expected = worded().take(list(range(rest, 230, 2)))
        assert pq.ParquetFile(tmp_path / "out" / file.path).read().equals(expected)


@pytest.mark.parametrize(
    ("dictionary", "expected"),
    [("auto", ("word", "raw")), (True, ("word", "raw")), (False, ()), (["raw", "i"], ("raw",))],
)
def test_words_and_codes_are_taken_where_dictionaries_are_stored(dictionary: Any, expected: tuple[str, ...]) -> None:
    """What is to be stored otherwise is better read so."""
    assert Parquet("out", dictionary=dictionary).words(schema_of(worded())) == expected


def test_codes_that_were_not_asked_for_are_words(tmp_path: Path) -> None:
    """A source of one's own may give them all the same."""
    sink, columns = (
        Parquet(str(tmp_path / "a.parquet"), dictionary=False),
        columns_of(worded().drop_columns("category")),
    )
    write(sink, sink.accept(schema_of(worded().drop_columns("category"))), [coded(columns)])
    assert not any(encodings(sink.path).values())
    assert columns_of(pq.ParquetFile(sink.path).read())["word"].equals(columns["word"])


# ---- the same bytes --------------------------------------------------------------------------------------------------

values = st.one_of(
    st.tuples(st.just(pa.string()), st.lists(st.none() | st.text(max_size=3), max_size=60)),
    st.tuples(st.just(WORDS), st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=60)),
    st.tuples(st.just(pa.float64()), st.lists(st.none() | st.floats(), max_size=60)),
    st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans(), max_size=60)),
    st.tuples(
        st.just(pa.list_(pa.string())),
        st.lists(st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3), max_size=60),
    ),
    st.tuples(
        st.just(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.int8()))])),
        st.lists(
            st.none()
            | st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.none() | st.just([1, None])}),
            max_size=60,
        ),
    ),
)


@example((WORDS, [None, "b", "a", "b"]), [2], 2, False)
@settings(max_examples=150, deadline=None)
@given(values, st.lists(st.integers(0, 20), max_size=8), st.integers(1, 25), st.booleans())
def test_bytes_depend_on_rows_alone(
    drawn: tuple[pa.DataType, list[Any]], cuts: list[int], group: int, sliced: bool
) -> None:
    """However the rows are cut, whether the pieces share memory, and whatever dictionary each piece brings."""
    type_, items = drawn
    field = pa.field("x", type_)
    whole = pa.array(items, type_)
    pieces, start = [], 0
    for size in [*cuts, len(items)]:
        part = items[start : start + size]
        pieces.append(whole.slice(start, size) if sliced else pa.array(part, type_))
        start += size
    with tempfile.TemporaryDirectory() as folder:
        sink = Parquet(f"{folder}/out.parquet", row_group_rows=group, durability="rename")
        one = write(sink, Schema((field,)), [{"x": whole}])
        many = write(sink, Schema((field,)), [{"x": piece} for piece in pieces])
    assert one == many


def test_pages_end_at_the_same_rows(tmp_path: Path) -> None:
    """Columns of several pages: where a page ends is decided within an array, so arrays are cut at the same rows."""
    table = pa.table({"s": [f"{i:>60}" for i in range(60_000)], "l": [[i] * (i % 5) for i in range(60_000)]})
    sink = Parquet(str(tmp_path / "out.parquet"), dictionary=False, durability="rename", row_group_rows=50_000)
    found = {write(sink, schema_of(table), batches(columns_of(table), rows)) for rows in (777, 4096, 60_000)}
    assert len(found) == 1


@pytest.mark.parametrize("type_", [pa.int64(), WORDS, pa.dictionary(pa.int8(), pa.string(), ordered=True)])
def test_batches_of_one_row_make_the_same_file_as_one(tmp_path: Path, type_: pa.DataType) -> None:
    """However many wait for a row group."""
    items = [i % 7 for i in range(2500)] if type_ == pa.int64() else ["a", *"cab" * 833]
    whole = pa.array(items, type_)
    sink, schema = Parquet(str(tmp_path / "out.parquet")), Schema((pa.field("x", type_),))
    one = write(sink, schema, [{"x": whole}])
    assert one == write(sink, schema, [{"x": whole.slice(i, 1)} for i in range(len(whole))])


def test_small_batches_take_the_memory_of_their_rows(tmp_path: Path) -> None:
    """Arrow gives 64 bytes to each piece of a column, and Python more."""
    writer = Parquet(str(tmp_path / "out.parquet")).open(Task(0, "k", "", ()), Schema((pa.field("x", pa.int64()),)))
    before = pa.total_allocated_bytes()
    for i in range(4096):
        writer.write({"x": pa.array([i])})
    assert pa.total_allocated_bytes() - before < 4096 * 32
    writer.abort()


def test_the_order_of_words_does_not_depend_on_batches_in_folders_either(tmp_path: Path) -> None:
    """Rows of one folder know only some of the words that came before."""
    rows = [{"k": 1, "x": "b"}, {"k": 1, "x": "c"}, {"k": 2, "x": "c"}, {"k": 2, "x": "a"}, {"k": 2, "x": "b"}]
    schema = pa.schema([("k", pa.int8()), ("x", WORDS)])
    whole = pa.RecordBatch.from_pylist(rows, schema)
    pieces = [pa.RecordBatch.from_pylist(part, schema) for part in (rows[:2], rows[2:3], rows[3:])]
    sink = Parquet(str(tmp_path / "out"), partition_by=["k"])
    made = [
        write(sink, Schema(tuple(schema)), [dict(zip(("k", "x"), piece.columns, strict=True)) for piece in each])
        for each in ([whole], pieces)
    ]
    assert made[0] == made[1]


def test_a_dictionary_keeps_the_values_that_occur_in_their_order(tmp_path: Path) -> None:
    """The others depend on which rows were read together."""
    column = pa.DictionaryArray.from_arrays(pa.array([3, None, 1], pa.int8()), pa.array(["a", "b", "c", "d"]))
    back = store(Parquet(str(tmp_path / "out.parquet")), pa.table({"x": column})).column("x").chunk(0)
    assert (back.type, back.to_pylist(), back.dictionary.to_pylist()) == (WORDS, ["d", None, "b"], ["b", "d"])


@pytest.mark.parametrize("dictionary", ["auto", False])
def test_an_ordered_dictionary_is_kept_whole(tmp_path: Path, dictionary: Any) -> None:
    """Its order has a meaning, also of the values that do not occur."""
    column = pa.DictionaryArray.from_arrays(
        pa.array([2, None], pa.int8()), pa.array(["low", "mid", "high"]), ordered=True
    )
    back = store(Parquet(str(tmp_path / "out.parquet"), dictionary=dictionary), pa.table({"x": column})).column("x")
    assert back.type == LEVELS
    assert back.chunk(0).equals(column)


def test_an_order_that_changes_is_refused(tmp_path: Path) -> None:
    """Two batches that order the same values differently cannot share a row group."""
    pieces = [
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(order), ordered=True)
        for order in (["a", "b"], ["b", "a"])
    ]
    with pytest.raises(DTypeError, match="'x'.*more than one order"):
        write(Parquet(str(tmp_path)), Schema((pa.field("x", LEVELS),)), [{"x": piece} for piece in pieces])


def test_a_dictionary_with_a_null_in_it_comes_back(tmp_path: Path) -> None:
    """Arrow allows null as a value of the dictionary; it is a null of the column."""
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))
    back = store(Parquet(str(tmp_path / "out.parquet")), pa.table({"x": column}), rows=1)
    assert back.column("x").to_pylist() == ["a", None]


# ---- types -----------------------------------------------------------------------------------------------------------


def test_bits_of_floats_are_kept(tmp_path: Path) -> None:
    """Payloads of NaN, signalling ones too, and the sign of zero."""
    bits = np.array([0x7FF8000000000001, 0x7FF0000000000001, 0xFFF8000000000000, 0x8000000000000000], np.uint64)
    back = store(Parquet(str(tmp_path / "out.parquet")), pa.table({"x": bits.view("f8")}))
    assert back.column("x").to_numpy().view(np.uint64).tolist() == bits.tolist()


def test_names_inside_lists_are_kept(tmp_path: Path) -> None:
    """Also metadata and nullability of the child."""
    child = pa.field("score", pa.int32(), nullable=False)
    table = pa.table({"x": pa.array([[1], None], pa.list_(child))})
    assert store(Parquet(str(tmp_path / "out.parquet")), table).schema.equals(table.schema, check_metadata=True)


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (pa.list_(pa.time32("s")), r"give back as list<item: time32\[ms\]>"),
        (pa.dictionary(pa.int8(), pa.int64()), "give back as int64"),
        (pa.dictionary(pa.int8(), pa.large_string()), "give back as dictionary<values=string"),
        (pa.run_end_encoded(pa.int32(), pa.int8()), "cannot hold"),
        (pa.dense_union([pa.field("a", pa.int8())]), "cannot hold"),
        (pa.month_day_nano_interval(), "cannot hold"),
        (pa.decimal128(9, -2), "cannot hold"),
        (pa.struct([("s", pa.struct([]))]), "cannot hold"),
        (pa.binary(0), "cannot hold"),
        (pa.list_(pa.list_(pa.int8(), 0)), "cannot read"),
    ],
    ids=str,
)
def test_what_parquet_loses_is_refused_by_name(type_: pa.DataType, words: str) -> None:
    """Before a row is read, with the ways out."""
    with pytest.raises(DTypeError, match=rf"column 'bad' is .*{words}.*carry"):
        Parquet("out").accept(Schema((pa.field("good", pa.int8()), pa.field("bad", type_))))


def test_complex_numbers_and_no_columns_are_refused() -> None:
    """Parquet has no such type, and a table without columns would come back without rows."""
    with pytest.raises(DTypeError, match="column 'z' is complex64"):
        Parquet("out").accept(Schema((ArrayField("z", np.dtype("c8")),)))
    with pytest.raises(DTypeError, match="needs a column"):
        Parquet("out").accept(Schema(()))


def test_metadata_that_no_reader_could_open_is_refused() -> None:
    """The key of Arrow's own schema is taken."""
    with pytest.raises(DTypeError, match="metadata of the table"):
        Parquet("out").accept(Schema((pa.field("x", pa.int8()),), {b"ARROW:schema": b"?"}))


@pytest.mark.parametrize("tensor", ["fixed_shape_tensor", "fixed_size_list"])
def test_rows_with_a_shape_become_tensors_or_lists(tmp_path: Path, tensor: Any) -> None:
    """The same numbers in either type."""
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    sink = Parquet(str(tmp_path / "out.parquet"), tensor=tensor)
    schema = sink.accept(Schema((ArrayField("x", x.dtype, (3, 2)),)))
    write(sink, schema, [{"x": x}])
    column = pq.ParquetFile(sink.path).read().column("x").combine_chunks()
    assert column.type == schema.fields[0].type == arrow.arrow_field(ArrayField("x", x.dtype, (3, 2)), tensor).type
    assert np.array_equal(arrow.to_array(column, "x"), x)


def test_nulls_in_a_column_without_nulls_are_refused(tmp_path: Path) -> None:
    """The file and the rows are named, and nothing is left."""
    schema = Schema((pa.field("x", pa.int8(), nullable=False),))
    with pytest.raises(DTypeError, match=r"rows 0 to 2 of '.*out\.parquet'.*'x' is declared non-nullable"):
        write(Parquet(str(tmp_path / "out.parquet")), schema, [{"x": pa.array([1, None], pa.int8())}])
    assert not names(tmp_path)


# ---- layout of the file ----------------------------------------------------------------------------------------------


def groups(path: str) -> list[int]:
    """Rows of each row group."""
    meta = pq.read_metadata(path)
    return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]


def test_row_groups_have_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    """Across the borders of batches."""
    sink = Parquet(str(tmp_path / "out.parquet"), row_group_rows=40)
    store(sink, pa.table({"x": range(100)}), rows=7)
    assert groups(sink.path) == [40, 40, 20]


def test_row_groups_have_the_bytes_that_were_asked_for(tmp_path: Path) -> None:
    """By the width of the types, or by what the input says if that is more."""
    table = pa.table({"x": range(100)})
    sink = Parquet(str(tmp_path / "out.parquet"), row_group_bytes=8 * 60)
    store(sink, table)
    assert groups(sink.path) == [60, 40]
    write(sink, schema_of(table), [columns_of(table)], Task(0, "k", "p", (Split("all", "1", 100, 1600),)))
    assert groups(sink.path) == [30, 30, 30, 10]


def encodings(path: str) -> dict[str, bool]:
    """Which leaves are dictionary-encoded."""
    group = pq.read_metadata(path).row_group(0)
    return {c.path_in_schema: c.has_dictionary_page for c in map(group.column, range(group.num_columns))}


@pytest.mark.parametrize(
    ("dictionary", "expected"),
    [
        ("auto", {"s", "l.list.item", "d"}),
        (True, {"x", "s", "l.list.item", "d"}),
        (False, {"d"}),
        (["x", "l"], {"x", "l.list.item", "d"}),
    ],
    ids=str,
)
def test_dictionary_encoding_can_be_chosen(tmp_path: Path, dictionary: Any, expected: set[str]) -> None:
    """Strings at any depth by default; random numbers are three times dearer with one."""
    words = pa.array(["a", "b", "a"])
    table = pa.table({"x": [1.0, 2.0, 3.0], "s": words, "l": [["a"], ["b"], []], "d": words.dictionary_encode()})
    sink = Parquet(str(tmp_path / "out.parquet"), dictionary=dictionary)
    store(sink, table)
    assert {path for path, encoded in encodings(sink.path).items() if encoded} == expected


def test_damage_is_noticed_by_readers_that_look(tmp_path: Path) -> None:
    """Pages carry checksums."""
    sink = Parquet(str(tmp_path / "out.parquet"), compression="none", dictionary=False)
    store(sink, pa.table({"x": np.arange(1000)}))
    data = bytearray(Path(sink.path).read_bytes())
    data[data.index((500).to_bytes(8, "little"))] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(pa.BufferReader(bytes(data)), page_checksum_verification=True).read()


# ---- partitions ------------------------------------------------------------------------------------------------------

FLIGHTS = pa.table(
    {
        "carrier": pa.array(["UA", "A/B", None, "UA", "", "A/B"]),
        "day": pa.array([date(2013, 1, d) for d in (1, 1, 2, 1, 2, 1)]),
        "id": range(6),
    }
)


def test_partitions_become_folders_that_readers_know(tmp_path: Path) -> None:
    """Names are quoted, null has its own, and the columns leave the files."""
    sink = Parquet(str(tmp_path), partition_by=["carrier", "day"])
    files = write(sink, sink.accept(schema_of(FLIGHTS)), batches(columns_of(FLIGHTS), 2), task("p", 6))
    assert [(f.path, f.rows) for f in files] == [
        ("carrier=/day=2013-01-02/p.parquet", 1),
        ("carrier=A%2FB/day=2013-01-01/p.parquet", 2),
        ("carrier=UA/day=2013-01-01/p.parquet", 2),
        ("carrier=__HIVE_DEFAULT_PARTITION__/day=2013-01-02/p.parquet", 1),
    ]
    keys = pa.schema([("carrier", pa.string()), ("day", pa.date32())])
    back = ds.dataset(
        tmp_path, partitioning=ds.partitioning(keys, flavor="hive"), exclude_invalid_files=False
    ).to_table()
    assert back.sort_by("id").select(FLIGHTS.column_names).to_pylist() == FLIGHTS.to_pylist()
    assert pq.read_schema(tmp_path / files[0].path).names == ["id"]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_rows_of_a_partition_keep_their_order_and_bytes(tmp_path: Path, rows: int) -> None:
    """However the rows come; types that NumPy does not know, too."""
    table = every_type().drop_columns("view").append_column("key", pa.array([i % 3 for i in range(230)], pa.int8()))
    sink = Parquet(str(tmp_path), partition_by=["key"], row_group_rows=20)
    files = write(sink, sink.accept(schema_of(table)), batches(columns_of(table), rows))
    assert files == write(sink, sink.accept(schema_of(table)), [columns_of(table)])
    assert (
        pq.ParquetFile(tmp_path / files[1].path).read().column("tensor").to_pylist()
        == table.column("tensor").to_pylist()[1::3]
    )


def test_an_aborted_writer_has_nothing_left_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Arrow's writer is collected it still writes a footer: into a closed file, an error in a destructor."""
    said: list[object] = []
    monkeypatch.setattr(traceback, "format_exception", lambda *error: said.extend(error))  # how Arrow reports those
    writer = Parquet(str(tmp_path / "out")).open(task(), schema_of(pa.table({"x": [1]})))
    writer.write({"x": pa.array([1])})
    writer.abort()
    del writer
    gc.collect()
    assert said == []


def test_an_aborted_writer_leaves_no_folders(tmp_path: Path) -> None:
    """Nor files of partitions that were published before a later one failed; what stood there stays."""
    sink = Parquet(str(tmp_path), partition_by=["carrier"])
    earlier = write(sink, schema_of(FLIGHTS), [columns_of(FLIGHTS.slice(0, 1))], task("earlier"))
    (tmp_path / "carrier=A%2FB" / "p.parquet").mkdir(parents=True)  # where a file should go
    with pytest.raises(PipelineError, match=r"A%2FB/p\.parquet"):
        write(sink, schema_of(FLIGHTS), [columns_of(FLIGHTS)], task("p"))
    assert names(tmp_path) == {file.path for file in earlier}
    assert {p.name for p in tmp_path.glob("carrier=*")} == {"carrier=UA", "carrier=A%2FB"}


def test_a_disk_that_fills_up_leaves_no_partition(tmp_path: Path) -> None:
    """All files of a part are published, or none."""
    table = pa.table({"k": [0, 1] * 500, "x": range(1000)})
    with no_file_above(500), pytest.raises(PipelineError, match=r"k=0/p\.parquet"):
        write(Parquet(str(tmp_path), partition_by=["k"]), schema_of(table), [columns_of(table)], task("p"))
    assert not names(tmp_path)


def test_too_many_partitions_are_refused(tmp_path: Path) -> None:
    """Each open file takes memory; the message has the key."""
    table = pa.table({"k": range(11), "x": range(11)})
    with pytest.raises(DataError, match=r"more than 10 folders.*sink\.max_open_partitions"):
        write(Parquet(str(tmp_path), partition_by=["k"], max_open_partitions=10), schema_of(table), [columns_of(table)])
    assert not names(tmp_path)


@pytest.mark.parametrize("value", ["__HIVE_DEFAULT_PARTITION__", "x" * 300])
def test_values_that_make_no_folder_are_refused(tmp_path: Path, value: str) -> None:
    """They would be read as null, or no file system takes them."""
    table = pa.table({"k": [value], "x": [1]})
    with pytest.raises(DataError, match="column 'k' holds"):
        write(Parquet(str(tmp_path), partition_by=["k"]), schema_of(table), [columns_of(table)])


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        (["none"], ConfigError, "no column 'none'; there are x, _k, y"),
        (["x"], DTypeError, "column 'x' is double"),
        (["_k"], ConfigError, "would not find a folder named after column '_k'"),
        (["y", "_k", "x"], ConfigError, "_k"),
    ],
    ids=str,
)
def test_keys_that_cannot_be_folders_are_refused(keys: list[str], error: type[PipelineError], words: str) -> None:
    """When the run is planned."""
    schema = Schema((pa.field("x", pa.float64()), pa.field("_k", pa.int8()), pa.field("y", pa.int8())))
    with pytest.raises(error, match=rf"sink\.partition_by.*{words}"):
        Parquet("out", partition_by=keys).accept(schema)


def test_files_need_a_column_beside_the_keys() -> None:
    """Rows without columns would be lost."""
    with pytest.raises(DTypeError, match="needs a column"):
        Parquet("out", partition_by=["x"]).accept(Schema((pa.field("x", pa.int8()),)))


# ---- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"compression": "zip"}, "sink.compression must be one of none, snappy.*; got 'zip'"),
        ({"compression_level": 3}, "sink.compression_level has no meaning for snappy"),
        ({"compression": "zstd", "compression_level": 99}, "sink.compression_level of zstd must be .* to 22; got 99"),
        ({"row_group_rows": 0}, "sink.row_group_rows must be at least 1; got 0"),
        ({"row_group_bytes": -1}, "sink.row_group_bytes must be at least 1"),
        ({"max_open_partitions": 0}, "sink.max_open_partitions must be at least 1"),
        ({"dictionary": "word"}, "sink.dictionary must be auto, true, false or a list"),
        ({"partition_by": "year"}, r"sink.partition_by must be a list of columns, such as \[year\]"),
        ({"tensor": "list"}, "sink.tensor must be one of"),
        ({"durability": "none"}, "sink.durability must be one of full, rename"),
        (
            {"path": "out.parquet", "partition_by": ["year"]},
            "sink.partition_by makes folders, but sink.path='out.parquet'",
        ),
    ],
    ids=str,
)
def test_arguments_that_cannot_work_are_refused(given: dict[str, Any], words: str) -> None:
    """When the sink is made, with the key as in YAML."""
    with pytest.raises(ConfigError, match=words):
        Parquet(**{"path": "out", **given})


def test_an_unknown_dictionary_column_is_refused() -> None:
    """A name that is misspelled must not be passed over."""
    with pytest.raises(ConfigError, match=r"sink\.dictionary: no column 'wrod'; there are word"):
        Parquet("out", dictionary=["wrod"]).accept(Schema((pa.field("word", pa.string()),)))


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    """A part that should hold 5 rows is not published with 4; columns of different lengths are no rows."""
    schema = Schema((pa.field("x", pa.int64()), pa.field("y", pa.int64())))
    with pytest.raises(PipelineError, match="expected 5 rows.*got 4"):
        write(Parquet(str(tmp_path)), schema, [dict.fromkeys("xy", pa.array(range(4)))], task("p", 5))
    with pytest.raises(PipelineError, match=r"columns of \[3, 4\] rows"):
        write(Parquet(str(tmp_path)), schema, [{"x": pa.array(range(3)), "y": pa.array(range(4))}])
    assert not names(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shaped", [False, True])
def test_null_structs_over_lists_that_cannot_be_null_are_refused(nested: bool, shaped: bool, tmp_path: Path) -> None:
    """pyarrow writes a file of them that nobody can read; without null structs it can be read."""
    lists = pa.array([[1], [2], [3]], pa.list_(pa.int8(), 1))
    inner = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int8(), [1]), lists) if shaped else lists
    fields = [pa.field("f", inner.type, nullable=False)]
    made = [
        pa.StructArray.from_arrays([inner], fields=fields, mask=mask) for mask in (None, pa.array([True, False, False]))
    ]
    whole, holed = (pa.ListArray.from_arrays([0, 1, 3], column) if nested else column for column in made)
    table = pa.table({"x": whole})
    assert store(Parquet(str(tmp_path / "a.parquet")), table).equals(table)
    with pytest.raises(DTypeError, match="column 'x' has null structs that hold fixed-size lists"):
        store(Parquet(str(tmp_path / "b.parquet")), pa.table({"x": holed}))
    assert not (tmp_path / "b.parquet").exists()
