"""Whether two tables, columns or arrays are the same, bit for bit: what an identity stage must give back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.columns import concat
from pipeline.difference import compare


def assert_identical(a: Any, b: Any) -> None:
    """Fail unless two Arrow tables, Arrow arrays (chunked or not) or NumPy arrays are the same.

    Types, field names, nullability and metadata count, as do nulls at every depth and every bit of a value: NaN with
    another payload, or 0.0 for -0.0, is a difference. What lies under a null, how a column is chunked, and which
    unused words a dictionary keeps do not count; the order of the words of an ordered dictionary does.
    """
    if isinstance(a, pa.Table) and isinstance(b, pa.Table):
        _assert_schemas(a.schema, b.schema)
        for name, ours, theirs in zip(a.column_names, a.columns, b.columns, strict=True):
            _assert_columns(ours, theirs, f"column {name!r}: ")
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{a.dtype} {a.shape} became {b.dtype} {b.shape}"
        assert a.tobytes() == b.tobytes(), compare(a, b).what or "bits differ"
    else:
        _assert_columns(a, b, "")


def _assert_schemas(a: pa.Schema, b: pa.Schema) -> None:
    same = a.equals(b, check_metadata=True)
    assert same, f"the schema\n{a.to_string()}\nbecame\n{b.to_string()}"


def _assert_columns(a: Any, b: Any, where: str) -> None:
    a, b = _whole(a), _whole(b)
    assert a.type == b.type, f"{where}{a.type} became {b.type}"
    if what := compare(a, b).what:
        raise AssertionError(where + what)
    if pa.types.is_dictionary(a.type) and a.type.ordered:
        ours, theirs = a.dictionary.to_pylist(), b.dictionary.to_pylist()
        kept = [word for word in ours if word in theirs], [word for word in theirs if word in ours]
        assert kept[0] == kept[1], f"{where}the words of the ordered dictionary come in another order"


def _whole(column: Any) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return concat(list(column.chunks)) if column.num_chunks else pa.nulls(0, column.type)
