"""The identity promise: what goes in comes out, bit for bit, however it is cut, batched and selected.

Where the traps of conversion are tested, T = through the whole stage in this file, else the module that has the test:

    null makes int64 a float (2**53+1), uint64 too       T every table: NUMBERS with nulls, tables._SPECIAL
    NaN and null mistaken for each other                 T every table: floats with nulls, payloads, signalling NaN
    offset of a slice ignored, bits of a bitmap too      T every table: sliced and chunked; tests/test_columns.py
    values of a sliced fixed-size list or tensor         T every table; nulls in it shift no rows: the same
    nulls inside of lists not counted                    T test_null_elements_inside_lists_...
    struct child ignores the nulls of its parent         T every table: nested()
    a dictionary with a null among its words             tests/sink/test_parquet.py; corpora: test-null-dictionary
    one dictionary for each row group                    T every table: dictionaries()
    INT64_MIN as a timestamp is no null                  T every table: tables._SPECIAL in TIMES; .npy: NaT
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

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.columns import nulls
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import DTypeError
from pipeline.run import Options, run
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.parquet import Parquet
from pipeline.testing.compare import assert_identical
from pipeline.transform.identity import Identity
from tests import tables
from tests.fakes import conversion

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=3000)

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


def refused(table: pa.Table, way: dict[str, Any]) -> str:
    """Why a table is refused, by its data alone; "" if it is not."""
    for column in table.columns:
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        top = max((v or 0 for v in column.to_pylist()), default=0) if pa.types.is_uint64(column.type) else 0
        if way["unsigned"] == "widen" and top >= 2**63:
            return "is no int64"
        if _has_inner_nulls(whole):
            return "null elements inside its lists"
    return ""


def _has_inner_nulls(column: pa.Array) -> bool:
    column = getattr(column, "storage", column)
    if not pa.types.is_fixed_size_list(column.type):
        return False
    inner = column.flatten()
    return bool(nulls(inner)) or _has_inner_nulls(inner)


def check_table(table: pa.Table, data: st.DataObject) -> None:
    """Through the stage in some way: the same table, or the error that its data are due."""
    groups, codes = data.draw(st.sampled_from([7, 17, 1000])), data.draw(st.booleans())
    codes = codes or any(pa.types.is_dictionary(t) and t.ordered for t in table.schema.types)
    way, rows = data.draw(WAYS), data.draw(sizes(len(table)))
    select: Sequence[str] | None = data.draw(st.sampled_from([None, list(table.column_names)]))
    with TemporaryDirectory(dir=_MEMORY) as folder:
        before, after = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, before, row_group_size=groups, use_dictionary=codes, compression="none")
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
        reason = refused(table, way)
        assert reason, error
        assert reason in error
        assert "column 'c" in error
        assert not after.exists()


_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@QUICK
@given(tables.tables(), st.data())
def test_any_table_comes_back(table: pa.Table, data: st.DataObject) -> None:
    """Every type, null, slice, chunk, dictionary and piece of metadata, in any batching, splitting and selection."""
    check_table(table, data)


@pytest.mark.slow
@LONG
@given(tables.tables(most=400), st.data())
def test_any_table_comes_back_again_and_again(table: pa.Table, data: st.DataObject) -> None:
    """The same with more and larger tables."""
    check_table(table, data)
