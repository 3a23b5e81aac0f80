"""Dask on threads: partitions of a dataframe, files of lists, blocks of an array."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import constants
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transforms
from numpy.lib.format import open_memmap


def scaled(frame: pd.DataFrame) -> pd.DataFrame:
    x = torch.tensor(frame[constants.FEATURES].to_numpy())
    return frame.assign(**dict(zip(constants.FEATURES, transforms.scale(x).numpy().T, strict=True)))


def tables(place: Path, out: Path) -> None:
    frames = dd.read_parquet(str(place / "in"))
    made = frames.map_partitions(scaled, meta=frames.partitions[0].head(0))
    made.to_parquet(str(out), write_index=False, name_function=lambda i: f"{i:05}.parquet")


@dask.delayed
def unit(source: Path, target: Path) -> None:
    table = pq.read_table(source)
    x = torch.tensor(table["x"].combine_chunks().flatten().to_numpy().reshape(-1, 128))
    made = pa.FixedSizeListArray.from_arrays(pa.array(transforms.unit(x).numpy().reshape(-1)), 128)
    pq.write_table(pa.table({"id": table["id"], "x": made}), target)


def array(place: Path, out: Path, call: Callable[[torch.Tensor], torch.Tensor], rows: int) -> None:
    source = np.load(place / "in" / "data.npy", mmap_mode="r")

    def block(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return call(torch.tensor(x)).numpy()

    made = block(source[:1])
    blocks = da.from_array(source, chunks=(rows, *source.shape[1:])).map_blocks(
        block, dtype=made.dtype, chunks=(rows, *made.shape[1:])
    )
    target = open_memmap(out / "out.npy", "w+", made.dtype, (len(source), *made.shape[1:]))
    da.store(blocks, target, lock=False)
    target.flush()


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if name == "W2":
        array(place, out, transforms.embedding(place), 8192)
    elif name == "W5":
        array(place, out, transforms.shrink, 512)
    elif name == "W4":
        dask.compute([unit(file, out / file.name) for file in sorted((place / "in").iterdir())])
    else:
        tables(place, out)
