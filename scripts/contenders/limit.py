"""The work that no contender can leave out: decode, transform and encode, one after the other in one thread.

Prints the CPU seconds of each as JSON, start-up not counted. Encoders have the settings that suit the data, and memory
is used again where that is possible.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transforms

BLOCK_BYTES = 2 << 20  # of rows that are transformed at once

taken = {"decode": 0.0, "transform": 0.0, "encode": 0.0}


@contextmanager
def counted(step: str) -> Iterator[None]:
    start = time.process_time()
    yield
    taken[step] += time.process_time() - start


def tables(name: str, place: Path, out: Path) -> None:
    for file in sorted((place / "in").glob("*.parquet")):
        with counted("decode"):
            words = ["kind"] if name == "W1" else []
            table = pq.ParquetFile(file, read_dictionary=words).read(use_threads=False)
        with counted("transform"):
            made = unit(table) if name == "W4" else scaled(table)
        with counted("encode"):
            pq.write_table(made, out / file.name, use_dictionary=words)


def scaled(table: pa.Table) -> pa.Table:
    made = {name: table[name] for name in table.column_names}
    for feature, name in enumerate(constants.FEATURES):
        chunks = [
            pa.array(transforms.scale_one(torch.from_numpy(part), feature).numpy())
            for chunk in table[name].chunks
            for part in blocks(chunk.to_numpy())
        ]
        made[name] = pa.chunked_array(chunks)
    return pa.table(made)


def unit(table: pa.Table) -> pa.Table:
    chunks = [
        pa.FixedSizeListArray.from_arrays(pa.array(transforms.unit(torch.from_numpy(part)).numpy().reshape(-1)), 128)
        for chunk in table["x"].chunks
        for part in blocks(chunk.flatten().to_numpy().reshape(-1, 128))
    ]
    return pa.table({"id": table["id"], "x": pa.chunked_array(chunks)})


def blocks(array: np.ndarray) -> list[np.ndarray]:
    rows = max(1, BLOCK_BYTES * len(array) // max(1, array.nbytes))
    return [array[start : start + rows] for start in range(0, len(array), rows)]


def arrays(name: str, place: Path, out: Path) -> None:
    source = np.load(place / "in" / "data.npy", mmap_mode="r")
    call = transforms.embedding(place) if name == "W2" else transforms.shrink
    shape, dtype = ((len(source), 64), "f4") if name == "W2" else ((len(source), 3, 32, 32), "f2")
    buffer = np.empty_like(blocks(source)[0])
    with (out / "out.npy").open("wb", buffering=0) as target:
        np.lib.format.write_array_header_1_0(
            target, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        with (place / "in" / "data.npy").open("rb", buffering=0) as file:
            file.seek(source.offset)
            for rows in map(len, blocks(source)):
                with counted("decode"):
                    block = buffer[:rows]
                    file.readinto(block.reshape(-1).view(np.uint8).data)
                with counted("transform"):
                    made = call(torch.from_numpy(block)).numpy()
                with counted("encode"):
                    target.write(made.data)


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.array(np.zeros(1))  # looks for pandas, once
    with torch.inference_mode():
        (arrays if name in ("W2", "W5") else tables)(name, place, out)
    print(json.dumps(taken))
