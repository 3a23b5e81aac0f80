"""The policies of conversion, through the whole stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import ConfigError, DTypeError
from pipeline.sink.npz import Npz
from tests.fakes import Rows, run_rows, same

WORDS = pa.DictionaryArray.from_arrays(pa.array([0, 2, None, 1], pa.int8()), pa.array(["a", "b", "c"]), ordered=True)
TABLE = pa.table(
    {
        "u16": pa.array([0, 1, 2**16 - 1, 7], pa.uint16()),
        "u64": pa.array([0, 1, 2**63 - 1, 7], pa.uint64()),
        "i": pa.array([1, 2, 3, 4]),
        "f": pa.array([0.5, -0.0, float("nan"), 4.0]),
        "g": pa.array([1.5, 2.5, 3.5, 4.5], pa.float32()),
        "word": WORDS,
        "text": pa.array(["x", None, "y", "z"]),
        "bits": pa.array([0x3F80, 0x7FC1, 0xFF80, 1], pa.uint16()),
    }
)


class Spy:
    """Notes the dtypes that it sees and returns what `then` makes of its input."""

    rowwise = True

    def __init__(self, then: Any = same) -> None:
        self.then = then
        self.seen: dict[str, Any] = {}

    def __call__(self, tensors: Any) -> Any:
        self.seen |= {name: (t.dtype, tuple(t.shape[1:]), t.stride()) for name, t in tensors.items()}
        return self.then(tensors)


def through(tmp_path: Path, spy: Any, source: Any = None, **options: Any) -> pa.Table:
    """The output of the stage."""
    run_rows(source or Rows(TABLE), spy, tmp_path / "out", **{"nulls": "mask", **options})
    return pq.read_table(next((tmp_path / "out").glob("*.parquet")))


@pytest.mark.parametrize(
    ("options", "column", "dtype"),
    [
        ({"columns": ["u16"], "unsigned": "widen"}, "u16", torch.int32),
        ({"columns": ["u64"], "unsigned": "widen"}, "u64", torch.int64),
        ({"columns": ["i"], "dtype": "float32", "cast": "unsafe"}, "i", torch.float32),
        ({"columns": ["g"], "dtype": "float64", "cast": "safe"}, "g", torch.float64),
        ({"columns": ["word"], "dictionary": "codes"}, "word", torch.int8),
        ({"columns": ["bits"], "logical_dtype": "bfloat16"}, "bits", torch.bfloat16),
        ({"columns": ["f"], "per_column": {"f": {"dtype": "float32", "cast": "same_kind"}}}, "f", torch.float32),
    ],
)
def test_a_column_seen_as_another_dtype_comes_back_as_it_was(
    tmp_path: Path, options: dict[str, Any], column: str, dtype: torch.dtype
) -> None:
    """The transform sees what was declared; identity gives back the stored type, nulls and words."""
    spy = Spy()
    out = through(tmp_path, spy, **options)
    assert spy.seen[column][0] == dtype
    assert out.schema.equals(TABLE.schema)
    keep = [name for name in TABLE.column_names if name != "f"]
    assert out.select(keep).equals(TABLE.select(keep))
    assert np.array_equal(out["f"].to_numpy(), TABLE["f"].to_numpy(), equal_nan=True)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (pa.array([2**53 + 1]), {"dtype": "float64", "cast": "unsafe"}, "value 9007199254740993 in row 0"),
        (pa.array([2**64 - 1], pa.uint64()), {"unsigned": "widen"}, "value 18446744073709551615 in row 0.*no int64"),
        (pa.array([1e300]), {"dtype": "float32", "cast": "same_kind"}, "value 1e.300 in row 0"),
    ],
)
def test_a_value_that_a_cast_would_change_stops_the_run(
    tmp_path: Path, values: pa.Array, options: dict[str, Any], message: str
) -> None:
    """By column, row and value; nothing is committed."""
    with pytest.raises(DTypeError, match=f"column 'x': {message}"):
        through(tmp_path, same, Rows(pa.table({"x": values})), **options)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_cast_must_be_allowed(tmp_path: Path) -> None:
    """Before any row is read."""
    with pytest.raises(ConfigError, match="conversion.cast=no does not allow; same_kind would"):
        through(tmp_path, same, columns=["f"], dtype="float32")


def test_a_result_that_the_stored_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A widened column goes back checked."""
    with pytest.raises(DTypeError, match="column 'u16' is stored as uint16 and the transform returned int32 where"):
        through(tmp_path, lambda t: {"u16": t["u16"] - 1}, columns=["u16"], unsigned="widen")


def test_codes_outside_the_dictionary_are_refused(tmp_path: Path) -> None:
    """They would be words that are not there."""
    with pytest.raises(
        DTypeError, match="column 'word': the transform returned codes 1..3; the dictionary has 3 words"
    ):
        through(tmp_path, lambda t: {"word": t["word"] + 1}, columns=["word"], dictionary="codes")


@pytest.mark.parametrize(
    ("word", "expected"), [("float32", pa.field("g", pa.float32())), ("bits", pa.field("g", pa.uint16()))]
)
def test_narrow_floats_leave_by_declaration(tmp_path: Path, word: str, expected: pa.Field) -> None:
    """Widened exactly, or as bits that say in their metadata what they are; else refused at plan time."""

    def narrow(tensors: Any) -> Any:
        return {"g": tensors["g"].to(torch.bfloat16)}

    with pytest.raises(DTypeError, match="column 'g'.*bfloat16.*narrow_floats=float32.*narrow_floats=bits"):
        through(tmp_path, narrow, columns=["g"])
    out = through(tmp_path, narrow, columns=["g"], narrow_floats=word)
    assert out.schema.field("g").type == expected.type
    halves = torch.tensor([1.5, 2.5, 3.5, 4.5]).to(torch.bfloat16)
    bits = halves.view(torch.uint16).tolist()
    assert out["g"].to_pylist() == (halves.float().tolist() if word == "float32" else bits)
    if word == "bits":
        assert out.schema.field("g").metadata[b"logical_dtype"] == b"bfloat16"
        spy = Spy()
        run_rows(Rows(out.select(["g"])), spy, tmp_path / "again")
        assert spy.seen["g"][0] == torch.bfloat16


@pytest.mark.parametrize(("word", "left"), [("passthrough", True), ("drop", False)])
def test_a_named_column_that_no_tensor_holds(tmp_path: Path, word: str, left: bool) -> None:
    """Refused by default; carried or left out on request."""
    with pytest.raises(DTypeError, match="column 'text'"):
        through(tmp_path, same, columns=["g", "text"])
    out = through(tmp_path, same, columns=["g", "text"], unsupported=word)
    assert ("text" in out.column_names) == left


def test_columns_of_several_dtypes_are_stacked_by_dtype(tmp_path: Path) -> None:
    """One matrix for each, named after it; taken apart again for a table."""
    spy = Spy()
    columns = {"m": ["i", "g", "u16"]}
    with pytest.raises(DTypeError, match="never promoted.*mixed_dtypes=group"):
        through(tmp_path, spy, columns=columns)
    out = through(tmp_path, spy, columns=columns, mixed_dtypes="group", carry="none")
    assert sorted(spy.seen) == ["m.float32", "m.int64", "m.uint16"]
    assert out.select(["i", "g", "u16"]).equals(TABLE.select(["i", "g", "u16"]))


@pytest.mark.parametrize(("word", "stride"), [("columnar", (1, 4)), ("rows", (2, 1))])
def test_the_memory_of_a_matrix(tmp_path: Path, word: str, stride: tuple[int, int]) -> None:
    """Kept by columns, or by rows; the values are the same."""
    spy = Spy()
    table = pa.table({"a": pa.array([1.0, 2, 3, 4]), "b": pa.array([5.0, 6, 7, 8])})
    out = through(tmp_path, spy, Rows(table), columns={"m": ["b", "a"]}, layout=word)
    assert spy.seen["m"][1:] == ((2,), stride)
    assert out.select(["a", "b"]).equals(table)


def test_a_matrix_goes_to_an_array_file_whole(tmp_path: Path) -> None:
    """In the order of the list."""
    table = pa.table({"a": pa.array([1.0, 2]), "b": pa.array([5.0, 6])})
    run_rows(Rows(table), same, tmp_path, sink=Npz(str(tmp_path / "o.npz")), columns={"m": ["b", "a"]})
    assert np.load(tmp_path / "o.npz")["m"].tolist() == [[5, 1], [6, 2]]
