"""The sink of archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import ArrayField, Columns, Schema, Sink
from pipeline.errors import DTypeError, PipelineError
from pipeline.sink.npz import Npz
from pipeline.testing.sink import SinkContract, names, task, write


def schema_of(columns: Columns) -> Schema:
    """The schema of NumPy columns."""
    return Schema(tuple(ArrayField(name, c.dtype, c.shape[1:]) for name, c in columns.items()))


class TestNpz(SinkContract):
    """Keeps the contract."""

    suffix = ".npz"

    def make(self, path: str) -> Sink:
        return Npz(path)

    def sample(self) -> tuple[Schema, Columns]:
        rng = np.random.default_rng(0)
        columns: Columns = {
            "z": rng.random(230),
            "image": rng.integers(0, 255, (230, 4, 4), np.uint8),
            "when": np.arange(230).astype("M8[us]"),
            "a/b": rng.random(230).astype(">c8"),
            "word": np.array([f"w{i}" for i in range(230)]),
            "pair": np.zeros(230, [("a", "i4"), ("b", "f8")]),
        }
        return schema_of(columns), columns

    def read(self, path: Path) -> Columns:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}


class TestCompressed(TestNpz):
    """Keeps the contract with deflated members."""

    def make(self, path: str) -> Sink:
        return Npz(path, compressed=True)


def test_compressed_members_are_smaller(tmp_path: Path) -> None:
    """And say so to any zip reader; a test of the archive finds no fault."""
    columns: Columns = {"x": np.zeros(100_000)}
    (plain,) = write(Npz(str(tmp_path / "a.npz")), schema_of(columns), [columns])
    (small,) = write(Npz(str(tmp_path / "b.npz"), compressed=True), schema_of(columns), [columns])
    assert small.bytes < plain.bytes / 100
    assert zipfile.ZipFile(tmp_path / "b.npz").testzip() is None


def test_members_have_no_clock_and_no_machine_in_them(tmp_path: Path) -> None:
    """Dates, system and modes are fixed."""
    columns: Columns = {"x": np.zeros(3), "y": np.ones(3)}
    write(Npz(str(tmp_path / "a.npz")), schema_of(columns), [columns])
    infos = zipfile.ZipFile(tmp_path / "a.npz").infolist()
    assert [i.filename for i in infos] == ["x.npy", "y.npy"]
    assert {(i.date_time, i.create_system, i.external_attr) for i in infos} == {((1980, 1, 1, 0, 0, 0), 3, 0o600 << 16)}


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    """They would be read as rows that belong together."""
    columns: Columns = {"x": np.zeros(3), "y": np.ones(4)}
    with pytest.raises(PipelineError, match=r"\[3, 4\] rows"):
        write(Npz(str(tmp_path)), schema_of(columns), [columns])


def test_strings_of_arrow_are_refused_by_name() -> None:
    """NumPy has no place for them."""
    with pytest.raises(DTypeError, match="column 'word' is string"):
        Npz("out").accept(Schema((pa.field("x", pa.int8()), pa.field("word", pa.string()))))


def test_an_archive_needs_a_column() -> None:
    """Else its rows would be lost."""
    with pytest.raises(DTypeError, match="at least one column"):
        Npz("out").accept(Schema(()))


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    """A part that should hold 5 rows is not published with 4."""
    columns: Columns = {"x": np.arange(4)}
    with pytest.raises(PipelineError, match="expected 5 rows; got 4"):
        write(Npz(str(tmp_path)), schema_of(columns), [columns], task("p", 5))
    assert not names(tmp_path)
