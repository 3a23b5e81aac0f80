"""The source of Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.batching import rows_of
from pipeline.core import Columns, Source, Split
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.filter import Filter
from pipeline.source.parquet import Parquet
from pipeline.testing.source import SourceContract, assert_same_rows, read_all, read_split

FLIGHTS = Path(__file__).parents[2] / "pipeline" / "data" / "flights.parquet"


def table(rows: int = 10, start: int = 0) -> pa.Table:
    """Numbers, strings with nulls, and a tensor column."""
    numbers = range(start, start + rows)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(rows * 6.0).reshape(rows, 2, 3)) if rows else None
    return pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "s": pa.array([None if i % 3 == 0 else f"s{i % 4}" for i in numbers], pa.string()),
            "t": pa.nulls(0, pa.fixed_shape_tensor(pa.float64(), (2, 3))) if tensors is None else tensors,
        }
    )


def write(path: Path, data: pa.Table, group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=group, write_page_checksum=True)
    os.utime(path, (1, 1))
    return path


def columns(data: pa.Table) -> Columns:
    return {
        name: pa.concat_arrays(data[name].chunks) if data[name].num_chunks else data[name] for name in data.column_names
    }


class TestContract(SourceContract):
    """Keeps the contract: files without rows, without row groups, partitions, columns in another order."""

    def make(self, tmp_path: Path) -> Source:
        write(tmp_path / "k=1" / "a.parquet", table())
        write(tmp_path / "k=1" / "b.parquet", table(0))
        write(tmp_path / "k=2" / "c.parquet", table().select(["t", "n", "s"]))
        return Parquet(str(tmp_path), split_rows=4, read_rows=2)

    def absent(self, tmp_path: Path) -> Source:
        return Parquet(str(tmp_path / "absent.parquet"))


class TestContractOfFilters(TestContract):
    """Keeps the contract where a filter decides how many rows there are."""

    def make(self, tmp_path: Path) -> Source:
        super().make(tmp_path)
        return Parquet(str(tmp_path), split_rows=4, columns=["k", "s"], filter=[["n", ">", 4], ["n", "<", 6]])


def test_the_embedded_flights_come_through() -> None:
    """All columns of the file, with nulls, types and the metadata of table and fields."""
    source, expected = Parquet(str(FLIGHTS)), pq.read_table(FLIGHTS)
    assert_same_rows(read_all(source), columns(expected.combine_chunks()))
    found = pa.schema(source.schema().fields, source.schema().metadata)
    assert found.equals(expected.schema, check_metadata=True)
    assert sum(split.rows or 0 for split in source.splits()) == expected.num_rows


@pytest.mark.parametrize(
    ("split_rows", "cuts"),
    [(None, [(0, 4)]), (1, [(0, 1), (1, 2), (2, 3), (3, 4)]), (4, [(0, 2), (2, 4)]), (99, [(0, 4)])],
)
def test_a_file_is_cut_where_row_groups_end(
    split_rows: int | None, cuts: list[tuple[int, int]], tmp_path: Path
) -> None:
    """As soon as enough rows are together; no row is lost or doubled."""
    write(tmp_path / "a.parquet", table())
    source = Parquet(str(tmp_path), split_rows=split_rows)
    assert [(split.start, split.stop) for split in source.splits()] == cuts
    assert [split.id for split in source.splits()] == [f"a.parquet:{start}-{stop}" for start, stop in cuts]
    assert_same_rows(read_all(source), columns(table()))


def test_chunks_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    """Long rows come in smaller chunks than read_rows says."""
    write(tmp_path / "a.parquet", table(9), group=9)
    long = pa.table({"b": [b"\0" * 40_000_000] * 3})
    pq.write_table(long, tmp_path / "b.bin", compression="none", use_dictionary=False)
    small, big = Parquet(str(tmp_path / "a.parquet"), read_rows=4), Parquet(str(tmp_path / "b.bin"))
    assert [rows_of(chunk) for chunk in small.read(small.splits()[0])] == [4, 4, 1]
    assert [rows_of(chunk) for chunk in big.read(big.splits()[0])] == [1, 1, 1]


def test_chunks_are_whole_batches(tmp_path: Path) -> None:
    """At least some tens of thousands of rows are decoded at once, and no batch is cut."""
    write(tmp_path / "a.parquet", pa.table({"n": range(200_000)}), group=200_000)
    source = Parquet(str(tmp_path / "a.parquet"))
    sizes = {
        asked: [rows_of(c) for c in source.read_only(source.splits()[0], ["n"], asked)] for asked in (30_000, 90_000)
    }
    assert sizes == {30_000: [90_000, 90_000, 20_000], 90_000: [90_000, 90_000, 20_000]}


def test_what_is_not_asked_for_is_not_decoded(tmp_path: Path) -> None:
    """Damage in a column is met by who reads it, or filters by it; a column of the filter does not come along."""
    path = write(tmp_path / "a.parquet", pa.table({"n": range(1000), "m": range(1000)}), group=1000)
    held = bytearray(path.read_bytes())
    footer = 8 + int.from_bytes(held[-8:-4], "little")
    held[-footer - 9] ^= 1  # in the last page of the last column
    path.write_bytes(held)
    source, filtered = Parquet(str(path)), Parquet(str(path), filter=[["m", "<", 3]])
    (split,) = source.splits()
    assert [list(chunk) for chunk in source.read_only(split, ["n"], 100)] == [["n"]]
    for damaged in (source.read_only(split, ["m"], 100), filtered.read_only(filtered.splits()[0], ["n"], 100)):
        with pytest.raises(DataError, match=r"a\.parquet"):
            list(damaged)


MANY = 1 << 19
"""Rows of a split in which it is worth to look for words."""
GROUP = 1 << 18


def wordy(rows: int = MANY) -> pa.Table:
    """Columns of few words and of many, some of them empty or null."""
    n = np.arange(rows)
    few = pa.array([None, "w1", "w2", "w3", ""]).take(pa.array(n % 5))
    return pa.table(
        {
            "few": few,
            "plain": few,
            "raw": pa.array([b"0", b"1", b"2"]).take(pa.array(n % 3)),
            "large": few.cast(pa.large_string()),
            "a.b": few,
            "inside": pa.StructArray.from_arrays([few], ["few"]),
            "delta": few,
            "lengths": few,
            "many": pa.array(n).cast(pa.string()),
            "null": pa.nulls(rows, pa.string()),
            "one": pa.array(["same"]).take(pa.array(n * 0)),
            "n": pa.array(n),
        }
    )


STORED = {
    "use_dictionary": ["few", "raw", "large", "a.b", "inside.few", "many", "null", "one"],
    "column_encoding": {"delta": "DELTA_BYTE_ARRAY", "lengths": "DELTA_LENGTH_BYTE_ARRAY"},
}


def coded(source: Parquet, words: tuple[str, ...], rows: int = 16_384) -> list[set[str]]:
    """Columns that come as codes, for each split; all columns hold what `read` gives, and no chunk too many words."""
    names, found = source.schema().names, []
    for split in source.splits():
        chunks, plain = list(source.read_words(split, names, rows, words)), read_split(source, split)
        found.append({n for n in names if chunks[0][n].type != plain[n].type})
        for name in names:
            column = pa.chunked_array([chunk[name] for chunk in chunks])
            assert column.cast(plain[name].type).equals(pa.chunked_array([plain[name]]))
            if name in found[-1]:
                assert all(len(c.dictionary) <= max(len(c), 5000) for c in column.chunks)
    return found


def test_few_words_are_left_as_they_are_stored(tmp_path: Path) -> None:
    """Strings and binaries of the first level that are stored as dictionaries; where asked, and nowhere else."""
    pq.write_table(wordy(), tmp_path / "a.parquet", row_group_size=GROUP, **STORED)
    source = Parquet(str(tmp_path / "a.parquet"))
    assert coded(source, tuple(wordy(0).column_names)) == [{"few", "raw"}]
    assert coded(source, ("raw", "many")) == [{"raw"}]
    assert coded(Parquet(source.path, filter=[["n", ">", 7]]), ("few", "raw")) == [set()]


@pytest.mark.parametrize(
    ("rows", "group", "split_rows", "expected"),
    [
        pytest.param(MANY - 1, GROUP, None, [set()], id="few rows"),
        pytest.param(MANY + 1023, GROUP, None, [set()], id="few rows of a word in the last row group"),
        pytest.param(MANY + 1024, GROUP, None, [{"x"}], id="enough rows in the last row group"),
        pytest.param(3 * MANY, GROUP, MANY, [{"x"}, set(), {"x"}], id="split by split"),
        pytest.param(3 * MANY, GROUP, None, [set()], id="many words in the middle"),
        pytest.param(0, GROUP, None, [set()], id="no rows"),
    ],
)
def test_where_words_are_few_the_split_alone_decides(
    tmp_path: Path, rows: int, group: int, split_rows: int | None, expected: list[set[str]]
) -> None:
    """Row group by row group, so that it does not depend on what else is read."""
    n = np.arange(rows)
    words = pa.array(np.where((rows > 2 * MANY) & (n // MANY == 1), n, n % 4)).cast(pa.string())
    pq.write_table(pa.table({"x": words}), tmp_path / "a.parquet", row_group_size=group)
    assert coded(Parquet(str(tmp_path), split_rows=split_rows), ("x",)) == expected


@pytest.mark.parametrize("rows", [1000, 16_384, MANY])
def test_words_that_become_many_within_a_row_group_stay_with_their_batch(tmp_path: Path, rows: int) -> None:
    """The writer gave up its dictionary there; Arrow would add all that follows to the dictionary of each batch."""
    n = np.arange(MANY)
    words = pa.array(np.where(n < 300_000, n % 9, n)).cast(pa.string())
    pq.write_table(
        pa.table({"x": words}), tmp_path / "a.parquet", row_group_size=MANY, dictionary_pagesize_limit=1 << 8
    )
    assert coded(Parquet(str(tmp_path)), ("x",), rows) == [{"x"}]


def test_words_may_go_over_to_an_encoding_that_has_no_codes(tmp_path: Path) -> None:
    """As writers of version 2 do it, which pyarrow is not: within the third batch Arrow says that it cannot."""

    class Turning(Parquet):
        def _batches(
            self, split: Split, names: list[str], left: Filter, rows: int, few: Sequence[str]
        ) -> Iterator[pa.RecordBatch]:
            for i, batch in enumerate(super()._batches(split, names, left, rows, few)):
                yield batch.slice(0, 1000) if few and i == 2 else batch
                if few and i == 2:
                    raise OSError("Not yet implemented: DecodeArrow of DictAccumulator for DeltaByteArrayDecoder")

    pq.write_table(wordy().select(["few", "n"]), tmp_path / "a.parquet", row_group_size=GROUP)
    assert coded(Turning(str(tmp_path)), ("few",), 100_000) == [{"few"}]


def test_a_code_without_a_word_is_refused(tmp_path: Path) -> None:
    """Who looked it up would end the process."""
    words = pa.array(["a", "b", "c"]).take(pa.array(np.random.default_rng(0).integers(0, 3, MANY)))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": words}), path, row_group_size=MANY, compression="none", write_statistics=False)
    held = bytearray(path.read_bytes())
    held[len(held) // 2] = 0xFF  # four codes of two bits, 3 each
    path.write_bytes(held)
    source = Parquet(str(path))
    with pytest.raises(DataError, match=r"column 'x' has codes 0\.\.3 for 3 words"):
        list(source.read_words(source.splits()[0], ["x"], 16_384, ["x"]))


@pytest.mark.parametrize("rows", [0, 10])
def test_nested_and_odd_types_flow_through(rows: int, tmp_path: Path) -> None:
    """Dictionaries, structs, lists, maps, decimals, half floats, views and extension types keep their type."""
    n = list(range(rows))
    data = pa.table(
        {
            "d": pa.array([f"{i % 2}" for i in n], pa.string()).dictionary_encode(),
            "a.b": pa.array(n, pa.int8()),
            "a": pa.array([{"b": i, "c": None} for i in n], pa.struct([("b", pa.int8()), ("c", pa.string())])),
            "l": pa.array([[i] * i for i in n], pa.list_(pa.int32())),
            "m": pa.array([{"k": i} for i in n], pa.map_(pa.string(), pa.int8())),
            "dec": pa.array(n, pa.decimal128(30, 2)),
            "half": pa.array([float(i) for i in n], pa.float16()),
            "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"%016d" % i for i in n], pa.binary(16))),
            "fsl": pa.array([[i, i] for i in n], pa.list_(pa.float32(), 2)),
            "null": pa.nulls(rows),
        }
    )
    write(tmp_path / "a.parquet", data)
    whole = Parquet(str(tmp_path))
    assert [f.type for f in whole.schema().fields] == [
        pq.read_schema(tmp_path / "a.parquet").field(i).type for i in range(10)
    ]
    assert {name: column.to_pylist() for name, column in read_all(whole).items()} == data.to_pydict()
    if rows:
        kept = Parquet(str(tmp_path), filter=[["a.b", "in", [2, 7]]])
        assert {name: column.to_pylist() for name, column in read_all(kept).items()} == data.take([2, 7]).to_pydict()
    for name in data.column_names:
        assert read_all(Parquet(str(tmp_path), columns=[name]))[name].to_pylist() == data[name].to_pylist()


# ---- partitions


def test_folders_become_columns(tmp_path: Path) -> None:
    """After those of the files: integers where that loses nothing, strings decoded, the default folder null."""
    for folder in ("y=1/d=07/c=a%2Fb", "y=-2/d=8/c=__HIVE_DEFAULT_PARTITION__", "y=-2/d=9/c="):
        write(tmp_path / folder / "f.parquet", table(1))
    source = Parquet(str(tmp_path))
    assert [(f.name, f.type) for f in source.schema().fields[3:]] == [
        ("y", pa.int64()),
        ("d", pa.string()),
        ("c", pa.string()),
    ]
    found = {name: column.to_pylist() for name, column in read_all(source).items()}
    assert (found["y"], found["d"], found["c"]) == ([-2, -2, 1], ["8", "9", "07"], [None, "", "a/b"])


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        (None, {}),
        ({"day": "date32"}, {"y": pa.int64(), "day": pa.date32()}),
        ({"y": "int16", "day": "string"}, {"y": pa.int16(), "day": pa.string()}),
    ],
)
def test_the_types_of_folders_can_be_given(partitions: Any, expected: dict[str, pa.DataType], tmp_path: Path) -> None:
    """By name; null ignores the folders."""
    write(tmp_path / "y=1" / "day=2013-01-31" / "f.parquet", table(1))
    source = Parquet(str(tmp_path), partitions=partitions)
    assert {f.name: f.type for f in source.schema().fields[3:]} == expected
    assert {name: column.type for name, column in list(read_all(source).items())[3:]} == expected


def test_columns_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    """Partition columns too, even alone."""
    write(tmp_path / "y=1" / "f.parquet", table(4))
    assert list(read_all(Parquet(str(tmp_path), columns=["y", "s", "n"]))) == ["y", "s", "n"]
    assert read_all(Parquet(str(tmp_path), columns=["y"]))["y"].to_pylist() == [1, 1, 1, 1]


def test_only_folders_below_the_named_one_count(tmp_path: Path) -> None:
    """What the user wrote, up to the first wildcard, is where the data set begins."""
    path = write(tmp_path / "y=1" / "m=2" / "f.parquet", table(1))
    for given, names in (
        (tmp_path, ["y", "m"]),
        (tmp_path / "y=1", ["m"]),
        (tmp_path / "y=1/*/*.parquet", ["m"]),
        (path, []),
    ):
        assert list(Parquet(str(given)).schema().names[3:]) == names


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["y=1", "m=1"], r"folders differ in their keys: \['m'\] .*, \['y'\]"),
        (["n=1"], "column 'n' is also a key"),
        (["y=1/y=2"], "same key"),
        (["y=%ff"], "utf-8"),
    ],
)
def test_folders_that_make_no_table_are_refused(folders: list[str], message: str, tmp_path: Path) -> None:
    """Before any work, by name of the file."""
    for folder in folders:
        write(tmp_path / folder / "f.parquet", table(1))
    with pytest.raises(DataError, match=rf"{message}|f\.parquet"):
        Parquet(str(tmp_path)).splits()


# ---- filter


def test_a_filter_reads_the_rows_that_pass(tmp_path: Path) -> None:
    """In order, from row groups that hold any, whether or not its columns are read; rows are not known before."""
    write(tmp_path / "a.parquet", table(1000), group=10)
    source = Parquet(str(tmp_path), columns=["s"], filter=[[["n", "<", 25]], [["n", ">=", 990], ["s", "is not", None]]])
    expected = [i for i in range(1000) if i < 25 or (i >= 990 and i % 3)]
    assert {split.rows for split in source.splits()} == {None}
    assert_same_rows(read_all(source), columns(table(1000).select(["s"]).take(expected)))


@pytest.mark.parametrize("type_", [pa.string_view(), pa.binary_view(), pa.list_(pa.string_view())], ids=str)
def test_a_filter_passes_rows_of_views(type_: pa.DataType, tmp_path: Path) -> None:
    """pyarrow has no way to filter views, at any depth."""
    words = [None if i % 7 == 0 else f"longer than twelve bytes {i}" for i in range(50)]
    views = pa.array([[word] for word in words] if pa.types.is_list(type_) else words, type_)
    write(tmp_path / "a.parquet", pa.table({"n": pa.array(range(50)), "v": views}), group=20)
    found = read_all(Parquet(str(tmp_path), filter=[[["n", ">", 30]], [["n", "in", [3, 7]]]]))
    assert found["v"].type == type_
    assert found["v"].to_pylist() == [views[i].as_py() for i in (3, 7, *range(31, 50))]


def test_a_filter_on_folders_leaves_files_out(tmp_path: Path) -> None:
    """Files are told by their folders; those of which every row passes need no counting anew."""
    for year in (2012, 2013, 2014):
        write(tmp_path / f"y={year}" / "f.parquet", table(5))
    source = Parquet(str(tmp_path), filter=[[["y", "==", 2013]], [["y", ">", 2013], ["n", "==", 3]]])
    assert [(split.id, split.rows) for split in source.splits()] == [
        ("y=2013/f.parquet:0-2", 5),
        ("y=2014/f.parquet:0-2", None),
    ]
    found = read_all(source)
    assert (found["n"].to_pylist(), found["y"].to_pylist()) == ([0, 1, 2, 3, 4, 3], [2013] * 5 + [2014])


def test_a_filter_that_nothing_passes_still_has_a_schema(tmp_path: Path) -> None:
    """One split of no rows."""
    write(tmp_path / "y=1" / "f.parquet", table(5))
    for nothing in ([["y", "==", 7]], [["n", "<", 0]]):
        source = Parquet(str(tmp_path), filter=nothing)
        assert {name: column.to_pylist() for name, column in read_all(source).items()} == {
            "n": [],
            "s": [],
            "t": [],
            "y": [],
        }


# ---- refusals


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (pa.field("n", pa.int32()), r"'n': int64 in .*a\.parquet', int32 in .*b\.parquet"),
        (pa.field("n", pa.int64(), nullable=False), r"'n': int64 in .*a\.parquet', int64 not null in .*b\.parquet"),
        (pa.field("m", pa.int64()), r"'n': int64 in .*a\.parquet', absent in .*b\.parquet"),
    ],
)
def test_files_that_differ_are_refused_before_any_work(field: pa.Field, message: str, tmp_path: Path) -> None:
    """The message names both files, the column and both types."""
    write(tmp_path / "a.parquet", pa.table({"n": [1]}))
    write(tmp_path / "b.parquet", pa.table([[1]], schema=pa.schema([field])))
    with pytest.raises(DataError, match=message):
        Parquet(str(tmp_path)).schema()


@pytest.mark.parametrize(
    ("data", "message"),
    [(pa.table([[1], [2]], names=["n", "n"]), "2 columns are called 'n'"), (pa.table({}), "no columns")],
)
def test_what_is_no_table_is_refused(data: pa.Table, message: str, tmp_path: Path) -> None:
    """By name of the file."""
    write(tmp_path / "a.parquet", data)
    with pytest.raises(DataError, match=rf"a\.parquet.*{message}"):
        Parquet(str(tmp_path)).schema()


def test_a_row_group_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    """By the footer alone, with the key that raises the limit."""
    write(tmp_path / "a.parquet", table())
    with pytest.raises(DataError, match=r"a\.parquet.*row group 0 .*source\.max_row_group_bytes allows 10"):
        Parquet(str(tmp_path), max_row_group_bytes=10).splits()


def test_a_file_that_changes_or_goes_is_refused(tmp_path: Path) -> None:
    """Before the first row, and between two."""
    path = write(tmp_path / "a.parquet", table())
    source = Parquet(str(tmp_path), read_rows=2)
    split = source.splits()[0]
    chunks = source.read(split)
    next(chunks)
    os.utime(path, (2, 2))
    with pytest.raises(DataError, match=r"a\.parquet.* changed while it was read"):
        list(chunks)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_split(source, split)
    with pytest.raises(InputError, match=r"absent"):
        Parquet(str(tmp_path / "absent")).splits()


def test_damaged_pages_are_found(tmp_path: Path) -> None:
    """Of 150 mutations of the data none gives other values: the same, or an error that names file and row groups."""
    rng, path = np.random.default_rng(0), tmp_path / "a.parquet"
    write(path, table(100), group=30)
    whole, refused = path.read_bytes(), []
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(4, footer, rng.integers(1, 4)):
            data[at] ^= rng.integers(1, 256)
        path.write_bytes(data)
        try:
            assert_same_rows(read_all(Parquet(str(path))), columns(table(100)))
        except DataError as e:
            refused.append(str(e))
    assert len(refused) > 75
    assert all("a.parquet" in message and "row_groups=0-4" in message for message in refused)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    """Cut anywhere, it has no footer."""
    path = write(tmp_path / "a.parquet", table(100), group=30)
    whole = path.read_bytes()
    for size in np.random.default_rng(0).integers(0, len(whole), 50):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.parquet"):
            Parquet(str(path)).schema()


@pytest.mark.parametrize(
    "arguments",
    [
        {"columns": "n"},
        {"columns": ["n", "n"]},
        {"columns": []},
        {"filter": ["n", ">", 1]},
        {"split_rows": 0},
        {"read_rows": "many"},
        {"read_rows": 0},
        {"partitions": "no"},
        {"partitions": {"y": "integer"}},
        {"max_row_group_bytes": -1},
    ],
    ids=str,
)
def test_arguments_are_checked_where_they_enter(arguments: dict[str, Any]) -> None:
    """The message names the key as YAML has it."""
    with pytest.raises(ConfigError, match=f"source.{next(iter(arguments))}"):
        Parquet("x.parquet", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["absent"]}, r"source\.columns: no column 'absent'; there are 'n', 's', 't', 'y'"),
        ({"filter": [["absent", ">", 1]]}, r"source\.filter: no column 'absent'"),
        ({"partitions": {"z": "int8"}}, r"source\.partitions: no folders are called z="),
        ({"partitions": {"y": "date32"}}, r"source\.partitions: y=1 is no date32"),
    ],
)
def test_arguments_must_fit_the_table(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Known before any row is read."""
    write(tmp_path / "y=1" / "a.parquet", table(1))
    with pytest.raises(ConfigError, match=message):
        Parquet(str(tmp_path), **arguments).splits()
