"""The identity promise: what goes in comes out, bit for bit, however it is cut, batched and selected.

Where the traps of conversion are tested, T = through the whole stage in this file, else the module that has the test:

    null makes int64 a float (2**53+1), uint64 too       T every table: NUMBERS with nulls, samples._SPECIAL
    NaN and null mistaken for each other                 T every table: floats with nulls, payloads, signalling NaN
    offset of a slice ignored, bits of a bitmap too      T every table: sliced and chunked; tests/test_columns.py
    values of a sliced fixed-size list or tensor         T every table; nulls in it shift no rows: the same
    nulls inside of lists not counted                    T test_null_elements_inside_lists_...
    struct child ignores the nulls of its parent         T every table: nested()
    a dictionary with a null among its words             tests/sink/test_parquet.py; corpora: test-null-dictionary
    one dictionary for each row group                    T every table: dictionaries()
    INT64_MIN as a timestamp is no null                  T every table: samples._SPECIAL in TIMES; .npy: NaT
    unit and time zone lost                              T every table: TIMES
    columns of two types promoted when stacked           tests/test_layout.py: types are never promoted
    int to float and back, NaN into an integer           tests/test_policy.py: an exact cast finds every value
    decimals as floats, date64 cut, timestamp[s]         T every table: DECIMALS; test_what_parquet_would_change_...
    DLPack writes into memory that is shared             tests/test_tensors.py; tests/test_imports.py
    mask of a masked array dropped                       tests/test_tensors.py
    byte order, Fortran order, unaligned, no rows, 0-d   T every array
    negative strides, packed fields, zero strides        tests/test_tensors.py; packed fields: T test_fields_...
    a transform that writes in place                     tests/test_run.py
    bfloat16, float8 lose their dtype in .npy            T test_bfloat16_...
    duplicate members, lying headers, pickles            tests/source/test_npy.py, test_npz.py; tests/test_corpora.py
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.columns import nulls
from pipeline.core import Array
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import DTypeError
from pipeline.run import Options, run
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.npz import Npz as NpzSink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.npz import Npz
from pipeline.source.parquet import Parquet
from pipeline.testing.compare import assert_identical
from pipeline.transform.identity import Identity
from tests import tables
from tests.fakes import Rows, conversion

QUICK = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=3000, derandomize=False)

WAYS = st.fixed_dictionaries(
    {
        "memory": st.sampled_from(["auto", "copy"]),
        "dictionary": st.sampled_from(["error", "codes"]),
        "unsigned": st.sampled_from(["native", "native", "widen"]),
        "stream_depth": st.sampled_from([0, 2]),
    }
)


def identity(source: Any, sink: Any, **options: Any) -> None:
    """Run the stage; nulls travel as masks."""
    made = conversion({"nulls": "mask", "unsupported": "passthrough", **options})
    own = {key: value for key, value in options.items() if key in Options.__dataclass_fields__}
    told = replace(Options(progress="none"), conversion=made, **own)
    run(source=source, transform=Identity(), sink=sink, engine=Local(), device=Cpu(), options=told)


def read(path: Path) -> pa.Table:
    """A file as pyarrow reads it, a chunk for each row group."""
    with pq.ParquetFile(path) as file:
        return file.read()


def sizes(rows: int) -> st.SearchStrategy[int]:
    """Batch sizes at which something may go wrong."""
    return st.sampled_from(sorted({1, 7, max(1, rows - 1), max(1, rows), rows + 1}))


# ---- Parquet to Parquet ----------------------------------------------------------------------------------------------


def refusals(table: pa.Table) -> set[str]:
    """Words of the errors that the data of a table may cause."""
    found: set[str] = set()
    for column in table.columns:
        leaf = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        leaf = getattr(leaf, "storage", leaf)
        while pa.types.is_fixed_size_list(leaf.type):
            leaf = leaf.flatten()
            found |= {"null elements inside its lists"} if nulls(leaf) else set()
        if pa.types.is_uint64(leaf.type) and max((v or 0 for v in leaf.to_pylist()), default=0) >= 2**63:
            found.add("is no int64")  # under unsigned=widen
    return found


def check_table(table: pa.Table, data: st.DataObject) -> None:
    """Through the stage in some way: the same table, or the error that its data are due."""
    groups, codes = data.draw(st.sampled_from([7, 17, 1000])), data.draw(st.booleans())
    codes = codes or any(pa.types.is_dictionary(t) and t.ordered for t in table.schema.types)
    way, rows = data.draw(WAYS), data.draw(sizes(len(table)))
    select: Sequence[str] | None = data.draw(st.sampled_from([None, list(table.column_names)]))
    with TemporaryDirectory(dir=_MEMORY) as folder:
        before, after = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        try:
            pq.write_table(table, before, row_group_size=groups, use_dictionary=codes, compression="none")
            pq.read_table(before)
        except (pa.ArrowException, OSError):
            reject()  # pyarrow cannot slice views inside others, nor read back nulls in some nested fixed-size lists
        source = Parquet(
            str(before),
            split_rows=data.draw(st.sampled_from([None, 1, 20])),
            read_rows=data.draw(st.sampled_from([5, 65536])),
        )
        sink = ParquetSink(str(after), row_group_rows=data.draw(st.sampled_from([None, 11])), durability="rename")
        error = ""
        try:
            identity(source, sink, columns=select, batch_rows=rows, **way)
        except DTypeError as e:
            error = str(e)
        if not error:
            assert_identical(read(before), read(after))
            return
        assert any(words in error for words in refusals(table)), error
        assert way["unsigned"] == "widen" or "is no int64" not in error
        assert "column 'c" in error
        assert not after.exists()


_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@QUICK
@given(tables.tables(), st.data())
def test_any_table_comes_back(table: pa.Table, data: st.DataObject) -> None:
    """Every type, null, slice, chunk, dictionary and piece of metadata, in any batching, splitting and selection."""
    check_table(table, data)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@LONG
@given(tables.tables(most=400), st.data())
def test_any_table_comes_back_again_and_again(table: pa.Table, data: st.DataObject) -> None:
    """The same with more and larger tables."""
    check_table(table, data)


def test_null_elements_inside_lists_are_carried_or_refused_by_name(tmp_path: Path) -> None:
    """A mask of rows has no place for them; they are counted at any depth, and under null lists they are none."""
    kind = pa.list_(pa.list_(pa.float32(), 2), 1)
    table = pa.table({"x": pa.array([[[1, 2]], None, [[None, 4]]], kind), "n": pa.array([1, 2, 3])})
    pq.write_table(table, tmp_path / "in.parquet")
    source = Parquet(str(tmp_path / "in.parquet"))
    with pytest.raises(DTypeError, match="column 'x' has null elements inside its lists .first in row 2 "):
        identity(source, ParquetSink(str(tmp_path / "out.parquet")))
    identity(source, ParquetSink(str(tmp_path / "out.parquet")), columns=["n"])
    assert_identical(read(tmp_path / "out.parquet"), read(tmp_path / "in.parquet"))


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (pa.run_end_encoded(pa.int32(), pa.int64()), "cannot hold"),
        (pa.dense_union([pa.field("a", pa.int64())]), "cannot hold"),
        (pa.month_day_nano_interval(), "cannot hold"),
        (pa.decimal128(9, -2), "cannot hold"),
        (pa.struct([]), "cannot hold"),
        (pa.list_(pa.float32(), 0), "width 0"),
        (pa.list_(pa.struct([("s", pa.timestamp("s"))])), "would give back as list"),
        (pa.dictionary(pa.int8(), pa.int64()), "would give back as int64"),
        (pa.dictionary(pa.int8(), pa.large_string()), "would give back as dictionary"),
    ],
    ids=str,
)
def test_what_parquet_would_change_is_refused_by_name(type_: pa.DataType, words: str, tmp_path: Path) -> None:
    """At plan time, from the type alone."""
    table = pa.table({"n": pa.array([], pa.int64()), "x": pa.nulls(0, type_)})
    with pytest.raises(DTypeError, match=f"column 'x' is .*{words}"):
        identity(Rows(table), ParquetSink(str(tmp_path / "out.parquet")), columns=["n"])
    assert not (tmp_path / "out.parquet").exists()


SECONDS = {
    "day": pa.array([0, -86_400_000, None, 86_400_000 * 10**6], pa.int64()).cast(pa.date64()),
    "time": pa.array([0, 86_399, None, 1], pa.int32()).cast(pa.time32("s")),
    "at": pa.array([0, -(2**52), None, 2**52], pa.int64()).cast(pa.timestamp("s")),
    "there": pa.array([0, 1, None, 2], pa.int64()).cast(pa.timestamp("s", "Europe/Berlin")),
}


@pytest.mark.parametrize("chosen", [[], list(SECONDS)], ids=["carried", "tensors"])
def test_times_that_parquet_has_no_type_for_are_stored_in_another_and_come_back(chosen: Any, tmp_path: Path) -> None:
    """The metadata of the field says what they were; it is not part of the column."""
    fields = [pa.field(name, column.type, metadata={"unit": "x"}) for name, column in SECONDS.items()]
    table = pa.table(list(SECONDS.values()), pa.schema(fields))
    identity(Rows(table), ParquetSink(str(tmp_path / "a.parquet")), columns=chosen)
    stored = pq.read_table(tmp_path / "a.parquet")
    assert [str(type_) for type_ in stored.schema.types] == [
        *("date32[day]", "time32[ms]", "timestamp[ms]", "timestamp[ms, tz=Europe/Berlin]")
    ]
    assert stored["at"].cast(pa.int64()).to_pylist() == [0, -(2**52) * 1000, None, 2**52 * 1000]
    assert stored.schema.field("at").metadata == {b"unit": b"x", b"arrow_type": b"timestamp[s]"}
    source = Parquet(str(tmp_path / "a.parquet"))
    back = next(source.read(source.splits()[0]))
    assert_identical(pa.table(list(back.values()), pa.schema(source.schema().fields)), table)
    identity(source, ParquetSink(str(tmp_path / "b.parquet")), columns=chosen)
    assert_identical(read(tmp_path / "b.parquet"), read(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([86_400_001]).cast(pa.date64()), "date64.*date32.*would lose data: 86400001"),
        (pa.array([2**62]).cast(pa.timestamp("s")), r"timestamp\[s\].*timestamp\[ms\].*out of bounds"),
        (pa.array([2**30], pa.int32()).view(pa.time32("s")), r"time32\[s\].*not every value is a time32\[ms\]"),
    ],
    ids=["no midnight", "too far", "no time of day"],
)
def test_times_that_have_no_place_in_parquet_are_refused_by_name(column: pa.Array, words: str, tmp_path: Path) -> None:
    """Nothing is cut or wrapped around."""
    with pytest.raises(DTypeError, match=f"column 'x' is {words}"):
        identity(Rows(pa.table({"x": column})), ParquetSink(str(tmp_path / "a.parquet")), columns=[])
    assert not (tmp_path / "a.parquet").exists()


# ---- NumPy to NumPy --------------------------------------------------------------------------------------------------

RECORD = [("a", "<i2"), ("b", ">f8", (2,)), ("c", [("d", "S3")])]
OTHERS = [np.dtype("V2"), np.dtype("V5"), np.dtype("g"), np.dtype("G"), np.dtype(">g"), np.dtype(RECORD)]
DTYPES = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(sizes=(64, 128)),
    arrays.datetime64_dtypes(),
    arrays.timedelta64_dtypes(),
    arrays.byte_string_dtypes(min_len=1),
    arrays.unicode_string_dtypes(min_len=1),
    st.sampled_from(OTHERS),
)


@st.composite
def any_array(draw: st.DrawFn, rows: int | None = None) -> Array:
    """Random bits of any dtype, N-d, in C or Fortran order, perhaps without rows."""
    dtype = draw(DTYPES)
    shape = (draw(st.integers(0, 20)) if rows is None else rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    data = np.frombuffer(raw.translate(_TRUTH) if dtype.kind == "b" else raw, np.uint8)
    if dtype.kind == "U":  # bytes that are no code points are no text
        data = np.frombuffer(
            np.array(["aé\0𝄞"[: dtype.itemsize // 4]] * int(np.prod(shape)), dtype).tobytes(), np.uint8
        )
    array = data.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


_TRUTH = bytes(i % 2 for i in range(256))


def saved(array: Array) -> bytes:
    """What `numpy.save` makes of an array in C order."""
    out = io.BytesIO()
    np.save(out, np.array(array, order="C"))
    return out.getvalue()


@settings(QUICK, max_examples=120)
@given(any_array(), st.data())
def test_any_array_comes_back_as_numpy_saves_it(array: Array, data: st.DataObject) -> None:
    """Byte for byte: dtype, byte order, shape, values."""
    with TemporaryDirectory(dir=_MEMORY) as folder:
        np.save(Path(folder, "in.npy"), array)
        split, mapped = data.draw(st.sampled_from([None, 1, 5])), data.draw(st.booleans())
        source = Npy(str(Path(folder, "in.npy")), split_rows=split, mmap=mapped)
        sink = NpySink(str(Path(folder, "out.npy")), durability="rename")
        way, rows = data.draw(WAYS), data.draw(sizes(len(array)))
        if way["unsigned"] == "widen" and array.dtype.str[1:] == "u8" and (array >= 2**63).any():
            way["unsigned"] = "native"
        identity(source, sink, batch_rows=rows, **way)
        assert Path(folder, "out.npy").read_bytes() == saved(array)


@settings(QUICK, max_examples=60)
@given(st.integers(0, 12).flatmap(lambda rows: st.lists(any_array(rows), min_size=1, max_size=3)), st.data())
def test_any_archive_comes_back(members: list[Array], data: st.DataObject) -> None:
    """Each member as `numpy.save` writes it, under its name, in order."""
    named = {f"m.{i}é": array for i, array in enumerate(members)}
    with TemporaryDirectory(dir=_MEMORY) as folder:
        np.savez(Path(folder, "in.npz"), **named)  # type: ignore[arg-type]
        sink = NpzSink(str(Path(folder, "out.npz")), compressed=data.draw(st.booleans()), durability="rename")
        depth, rows = data.draw(st.sampled_from([0, 2])), data.draw(sizes(len(members[0])))
        identity(Npz(str(Path(folder, "in.npz"))), sink, batch_rows=rows, stream_depth=depth)
        with zipfile.ZipFile(Path(folder, "out.npz")) as archive:
            assert archive.namelist() == [f"{name}.npy" for name in named]
            assert [archive.read(name) for name in archive.namelist()] == [saved(array) for array in members]
