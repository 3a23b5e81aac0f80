"""The embedded data are what PROVENANCE.md says."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline

DATA = Path(pipeline.__file__).parent / "data"
PROVENANCE = (DATA / "PROVENANCE.md").read_text(encoding="utf-8")
HASHES = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", PROVENANCE, re.MULTILINE)}

WHOLE = (
    "year", "month", "day", "dep_time", "sched_dep_time", "arr_time", "sched_arr_time", "flight", "hour", "minute",
)  # fmt: skip
REAL = ("dep_delay", "arr_delay", "air_time", "distance")
TEXT = ("carrier", "tailnum", "origin", "dest")
NULLS = {"dep_time": 521, "dep_delay": 521, "arr_time": 536, "arr_delay": 606, "air_time": 606, "tailnum": 155}


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return pq.read_table(DATA / "flights.parquet")


def test_every_data_file_has_its_hash_in_provenance() -> None:
    """The files are just those that PROVENANCE.md lists, byte for byte."""
    files = {path.name: path for path in DATA.iterdir() if path.suffix in {".npy", ".parquet"}}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == HASHES


def test_the_flights_are_all_of_january(flights: pa.Table) -> None:
    """Each of the 27,004 flights left, or was to leave, in January 2013."""
    assert flights.num_rows == 27_004
    assert set(flights["year"].to_pylist()) == {2013}
    assert set(flights["month"].to_pylist()) == {1}
    assert set(flights["day"].to_pylist()) == set(range(1, 32))


def test_the_flights_have_the_types_of_the_original(flights: pa.Table) -> None:
    """Integers with gaps are integers, text is text, and time_hour is an instant; no column is missing."""
    types = {name: pa.int64() for name in WHOLE} | {name: pa.float64() for name in REAL}
    types |= {name: pa.string() for name in TEXT} | {"time_hour": pa.timestamp("us", tz="UTC")}
    assert {field.name: field.type for field in flights.schema} == types
    assert len(types) == 19


def test_the_flights_keep_their_nulls(flights: pa.Table) -> None:
    """Nulls are where the source has NA, and nowhere turned into NaN."""
    assert {name: n for name in flights.column_names if (n := flights[name].null_count)} == NULLS
    assert not any(np.isnan(flights[name].drop_null().to_numpy()).any() for name in REAL)
    assert all(str(n) in PROVENANCE for n in NULLS.values())


def test_the_first_flight_is_the_first_of_the_source(flights: pa.Table) -> None:
    """Order and values are the source's: United 1545 to Houston, due out at 5:15 in New York."""
    first = flights.slice(0, 1).to_pylist()[0]
    assert (first["carrier"], first["flight"], first["dest"], first["dep_time"]) == ("UA", 1545, "IAH", 517)
    assert first["time_hour"] == datetime(2013, 1, 1, 10, tzinfo=UTC)


def test_the_flights_come_in_several_row_groups() -> None:
    """Three row groups, so that the main job has something to split; every field says what it is."""
    file = pq.ParquetFile(DATA / "flights.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10_000, 10_000, 7_004]
    assert all(b"description" in field.metadata for field in file.schema_arrow)


def test_the_digits_are_small_grey_images() -> None:
    """1,797 images of 8 x 8 bytes from 0 to 16, the first of them a zero: empty in the middle."""
    digits = np.load(DATA / "digits.npy", allow_pickle=False)
    assert (digits.shape, digits.dtype) == ((1797, 8, 8), np.uint8)
    assert (digits.min(), digits.max()) == (0, 16)
    assert digits[0, 4].tolist() == [0, 5, 8, 0, 0, 9, 8, 0]
