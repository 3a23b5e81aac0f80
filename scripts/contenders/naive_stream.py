"""Batch after batch in one loop: read some rows, compute them, write them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transforms
from numpy.lib.format import open_memmap


def scaled(batch: pa.RecordBatch) -> pa.RecordBatch:
    x = torch.stack([torch.from_numpy(batch[name].to_numpy().copy()) for name in constants.FEATURES], dim=1)
    y = transforms.scale(x).numpy()
    made = {name: batch[name] for name in batch.schema.names}
    made |= {name: pa.array(y[:, i]) for i, name in enumerate(constants.FEATURES)}
    return pa.record_batch(made, schema=batch.schema)


def unit(batch: pa.RecordBatch) -> pa.RecordBatch:
    x = torch.from_numpy(batch["x"].flatten().to_numpy().reshape(-1, 128).copy())
    made = pa.FixedSizeListArray.from_arrays(pa.array(transforms.unit(x).numpy().reshape(-1)), type=batch["x"].type)
    return pa.record_batch({"id": batch["id"], "x": made}, schema=batch.schema)


def tables(place: Path, out: Path, function: Callable[[pa.RecordBatch], pa.RecordBatch]) -> None:
    for path in sorted((place / "in").iterdir()):
        file = pq.ParquetFile(path)
        with pq.ParquetWriter(out / path.name, file.schema_arrow) as writer:
            for batch in file.iter_batches():
                writer.write_batch(function(batch))


def array(place: Path, out: Path, function: Callable[[torch.Tensor], torch.Tensor], rows: int) -> None:
    source = np.load(place / "in" / "data.npy", mmap_mode="r")
    target = None
    for start in range(0, len(source), rows):
        with torch.inference_mode():
            made = function(torch.from_numpy(source[start : start + rows].copy())).numpy()
        if target is None:
            target = open_memmap(out / "out.npy", "w+", made.dtype, (len(source), *made.shape[1:]))
        target[start : start + rows] = made


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if name == "W2":
        array(place, out, transforms.embedding(place), 8192)
    elif name == "W5":
        array(place, out, transforms.shrink, 512)
    else:
        tables(place, out, unit if name == "W4" else scaled)
