"""The sink of single arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.core import ArrayField, Columns, Schema, Sink
from pipeline.errors import ConfigError, DTypeError, PipelineError
from pipeline.npy import npy_header, raw
from pipeline.sink.npy import Npy
from pipeline.testing.sink import SinkContract, batches, task, write


def saved(array: np.ndarray) -> bytes:
    """What NumPy would write."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


class TestNpy(SinkContract):
    """Keeps the contract."""

    suffix = ".npy"

    def make(self, path: str) -> Sink:
        return Npy(path)

    def sample(self) -> tuple[Schema, Columns]:
        x = np.random.default_rng(0).random((230, 3, 2)).astype(">f4")
        x[5, 0] = np.nan
        return Schema((ArrayField("x", x.dtype, (3, 2)),)), {"x": x}

    def read(self, path: Path) -> Columns:
        return {"x": np.load(path)}


@given(
    arrays.arrays(
        st.one_of(
            arrays.scalar_dtypes(),
            arrays.byte_string_dtypes(min_len=1),
            arrays.unicode_string_dtypes(min_len=1),
        ),
        arrays.array_shapes(max_dims=3, min_side=0, max_side=4),
    )
)
def test_a_file_is_what_numpy_saves(array: np.ndarray) -> None:
    """Byte for byte, for every dtype, byte order, layout and shape."""
    field = ArrayField("x", array.dtype, array.shape[1:])
    assert npy_header(field, len(array)) + bytes(raw(array)) == saved(array)
    turned = np.asfortranarray(array)
    assert bytes(raw(turned)) == bytes(raw(array))


@pytest.mark.parametrize("rows", [None, 9])
def test_a_part_is_what_numpy_saves(tmp_path: Path, rows: int | None) -> None:
    """Whether the rows were known before or not."""
    x = np.arange(27, dtype="i2").reshape(9, 3)
    write(Npy(str(tmp_path)), Schema((ArrayField("x", x.dtype, (3,)),)), batches({"x": x}, 4), task("p", rows))
    assert (tmp_path / "p.npy").read_bytes() == saved(x)


def test_arrow_columns_are_stored_as_numpy(tmp_path: Path) -> None:
    """Timestamps keep their unit; lists of a fixed width become an axis."""
    sink = Npy(str(tmp_path / "out.npy"))
    for column in (pa.array([1, 2], pa.timestamp("ms")), pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))):
        schema = sink.accept(Schema((pa.field("x", column.type),)))
        write(sink, schema, [{"x": column}])
        array = np.load(tmp_path / "out.npy")
        assert (array.dtype, array.shape[1:]) == (schema.fields[0].dtype, schema.fields[0].shape)
        assert (
            array.view("i8" if array.dtype.kind == "M" else "i1").tolist()
            == column.cast(pa.int64() if array.dtype.kind == "M" else column.type).to_pylist()
        )


def test_several_columns_are_refused_with_the_ways_out() -> None:
    """One file holds one array."""
    schema = Schema((pa.field("a", pa.int8()), pa.field("b", pa.string())))
    with pytest.raises(DTypeError, match=r"2: 'a', 'b'.*columns=\{features.*carry=none.*sink=npz"):
        Npy("out").accept(schema)


@pytest.mark.parametrize(
    "dtype", [object, np.dtypes.StringDType(), np.dtype("i4", metadata={"unit": "m"}), [("\u65e5", "i4")]]
)
def test_what_numpy_would_pickle_or_lose_is_refused(dtype: npt.DTypeLike) -> None:
    """Nothing is ever pickled."""
    with pytest.raises(DTypeError, match="column 'x'"):
        Npy("out").accept(Schema((ArrayField("x", np.dtype(dtype)),)))


def test_nulls_are_refused_by_name(tmp_path: Path) -> None:
    """They would have to become some number."""
    sink = Npy(str(tmp_path))
    with pytest.raises(DTypeError, match=r"'x' holds 1 nulls"):
        write(sink, sink.accept(Schema((pa.field("x", pa.int8()),))), [{"x": pa.array([1, None], pa.int8())}])


def test_another_shape_than_declared_is_refused(tmp_path: Path) -> None:
    """The header is written once, for all batches."""
    with pytest.raises(DTypeError, match=r"'x' is declared float32\[2\], but holds float32\[3\]"):
        write(
            Npy(str(tmp_path)), Schema((ArrayField("x", np.dtype("f4"), (2,)),)), [{"x": np.zeros((4, 3), np.float32)}]
        )


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    """A part that should hold 5 rows is not published with 4."""
    with pytest.raises(PipelineError, match="expected 5 rows; got 4"):
        write(Npy(str(tmp_path)), Schema((ArrayField("x", np.dtype("i8")),)), [{"x": np.arange(4)}], task("p", 5))
    assert not list(tmp_path.glob("*.npy"))


def test_an_unknown_durability_is_refused() -> None:
    """The message has the key and the choices."""
    with pytest.raises(ConfigError, match=r"sink\.durability must be full or rename; got 'no'"):
        Npy("out", durability="no")  # type: ignore[arg-type]
