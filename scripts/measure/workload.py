"""The five workloads: how their input is made, and what must come out of it, in float64 NumPy.

Nothing here is shared with what the contenders run. Columns are plain arrays in one form, whatever holds them: words as
their place in `WORDS`, lists of one length as matrices.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[Any]
Columns = dict[str, Array]

SEED = 20260101
WORDS = [f"{colour}-{size}" for colour in ("red", "green", "blue", "white") for size in ("s", "m", "l", "xl")]
MEAN, STD = np.arange(8) - 3.5, np.arange(8) / 4 + 0.5
CHANNEL_MEAN, CHANNEL_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PIECE_BYTES = 32 << 20  # of the reference, in float64


@dataclass(frozen=True)
class Workload:
    """One job, at any scale.

    Attributes:
        words: what it is, in a line.
        suffix: of its files, `.parquet` or `.npy`.
        rows: at scale 1.
        piece_rows: rows that the reference computes at once.
        dtype: of the numbers that come out.
        make: write the input of so many rows into a folder.
        expect: what must come out for some rows of the input, given the folder; float64 where numbers were computed.
        digits: binary digits of the result; what is less than its rounding is no difference.
    """

    name: str
    words: str
    suffix: str
    rows: int
    piece_rows: int
    dtype: str
    make: Callable[[Path, int], None]
    expect: Callable[[Columns, Path], Columns]
    digits: int = 17

    def folder(self, under: Path, scale: float) -> Path:
        """Where the input of that scale lies."""
        return under / f"{self.name}-x{scale:g}"

    def prepare(self, under: Path, scale: float) -> Path:
        """The input of that scale, made unless it is there."""
        place = self.folder(under, scale)
        if not place.exists():
            rows = round(self.rows * scale)
            if rows < 2:
                sys.exit(f"scripts/bench: {self.name} at scale {scale:g} has {rows} rows; take a larger scale")
            print(f"making {place} ...", file=sys.stderr)
            draft = place.with_name(f".{place.name}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self.make(draft, rows)
            draft.rename(place)
        return place

    def input(self, place: Path) -> list[Path]:
        """The files of the input, in order."""
        return sorted((place / "in").glob(f"*{self.suffix}"))


def read(files: list[Path], rows: int) -> Iterator[Columns]:
    """The rows of files, in order and in pieces of at most that many."""
    for file in files:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r")
            for start in range(0, len(array), rows):
                yield {"data": array[start : start + rows]}
        else:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(rows):
                    yield {name: plain(batch.column(name)) for name in batch.schema.names}


def plain(column: pa.Array) -> Array:
    """A column as an array: words as their place in `WORDS`, -1 where they are none, lists as rows of a matrix."""
    type_ = column.type
    if isinstance(column, pa.ExtensionArray):
        return plain(column.storage)
    if pa.types.is_dictionary(type_):
        return plain(column.dictionary_decode())
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        places = pc.index_in(column.cast(pa.string()), value_set=pa.array(WORDS))
        return np.asarray(places.fill_null(-1))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        inner = plain(column.flatten())
        return inner.reshape(len(column), -1) if len(column) and len(inner) % len(column) == 0 else inner
    return np.asarray(column.to_numpy(zero_copy_only=False))


# ---- input -----------------------------------------------------------------------------------------------------------


def _tables(folder: Path, rows: int, most: int, make: Callable[[np.random.Generator, int, int], pa.Table]) -> None:
    """Files of at most so many rows each, at least two."""
    count = max(2, -(-rows // most))
    (folder / "in").mkdir()
    for i in range(count):
        first, last = rows * i // count, rows * (i + 1) // count
        table = make(np.random.default_rng([SEED, i]), first, last - first)
        words = [field.name for field in table.schema if pa.types.is_string(field.type)]
        pq.write_table(table, folder / "in" / f"{i:05}.parquet", use_dictionary=words)


def _features(rng: np.random.Generator, _: int, rows: int) -> pa.Table:
    x = rng.standard_normal((8, rows), np.float32)
    spread = 2 * STD.astype("f4")[:, None]  # so that some are cut off at 5
    return pa.table({f"f{i}": column for i, column in enumerate(x * spread + MEAN.astype("f4")[:, None])})


def _narrow(rng: np.random.Generator, first: int, rows: int) -> pa.Table:
    ids = pa.array(np.arange(first, first + rows))
    kinds = pa.DictionaryArray.from_arrays(rng.integers(0, len(WORDS), rows, np.int8), WORDS).cast(pa.string())
    features = _features(rng, first, rows)
    return pa.table([ids, kinds, *features.columns], names=["id", "kind", *features.column_names])


def _embeddings(rng: np.random.Generator, first: int, rows: int) -> pa.Table:
    x = rng.standard_normal((rows, 128), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 128)
    return pa.table({"id": np.arange(first, first + rows), "x": lists})


def _wide(folder: Path, rows: int) -> None:
    _array(folder, (rows, 256), "f4", lambda rng, n: rng.standard_normal((n, 256), np.float32))
    rng = np.random.default_rng(SEED)
    weight = (rng.standard_normal((64, 256)) / 16).astype("f4")
    save_file({"0.weight": weight, "0.bias": rng.standard_normal(64).astype("f4")}, folder / "weights.safetensors")


def _images(folder: Path, rows: int) -> None:
    shape = (3, 64, 64)
    _array(folder, (rows, *shape), "u1", lambda rng, n: rng.integers(0, 256, (n, *shape), np.uint8))


def _array(folder: Path, shape: tuple[int, ...], dtype: str, rows: Callable[[np.random.Generator, int], Array]) -> None:
    (folder / "in").mkdir()
    array = np.lib.format.open_memmap(folder / "in" / "data.npy", "w+", dtype, shape)
    for start in range(0, len(array), 4096):
        piece = array[start : start + 4096]
        piece[:] = rows(np.random.default_rng([SEED, start]), len(piece))
    array.flush()


# ---- the reference ---------------------------------------------------------------------------------------------------


def _scaled(columns: Columns, _: Path) -> Columns:
    made = {f"f{i}": np.clip((columns[f"f{i}"].astype("f8") - MEAN[i]) / STD[i], -5, 5) for i in range(8)}
    return {**columns, **made}


def _embedded(columns: Columns, folder: Path) -> Columns:
    held = load_file(folder / "weights.safetensors")
    x = columns["data"].astype("f8") @ held["0.weight"].astype("f8").T + held["0.bias"].astype("f8")
    return {"data": x * (1 + _erf(x / np.sqrt(2))) / 2}


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26: within 1.5e-7, which is far below the rounding of a sum of 256 floats."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1 - series * np.exp(-x * x)))


def _unit(columns: Columns, _: Path) -> Columns:
    x = columns["x"].astype("f8")
    return {**columns, "x": x / np.linalg.norm(x, axis=1, keepdims=True)}


def _shrunk(columns: Columns, _: Path) -> Columns:
    x = columns["data"].astype("f8") / 255
    x = (x - CHANNEL_MEAN[:, None, None]) / CHANNEL_STD[:, None, None]
    n, c, h, w = x.shape
    return {"data": x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))}


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "W1",
            "20M rows of int64, a string of few values and 8 float32, 20 Parquet files: each column scaled and clipped",
            ".parquet", 20_000_000, 1 << 18, "float32", lambda to, n: _tables(to, n, 1_000_000, _narrow), _scaled,
        ),
        Workload(
            "W2", "one .npy of 1M x 256 float32: Linear to 64 and GELU",
            ".npy", 1_000_000, 1 << 15, "float32", _wide, _embedded,
        ),
        Workload(
            "W3", "500 Parquet files of 20k rows of 8 float32: as W1, one file for each",
            ".parquet", 10_000_000, 1 << 18, "float32", lambda to, n: _tables(to, n, 20_000, _features), _scaled,
        ),
        Workload(
            "W4", "2M rows of int64 and fixed_size_list<float>[128], 8 Parquet files: rows of length 1",
            ".parquet", 2_000_000, 1 << 15, "float32", lambda to, n: _tables(to, n, 250_000, _embeddings), _unit,
        ),
        Workload(
            "W5", "one .npy of 60000 x 3 x 64 x 64 uint8: normalised by channel, 2x2 mean, float16",
            ".npy", 60_000, 256, "float16", _images, _shrunk, digits=11,
        ),
    )
}  # fmt: skip
