"""As quick as a script for just this job gets: whole files or blocks in two threads, the first read while torch loads.

It leaves out what this stage does beside: no fsync, no hash, no manifest, no checks, no report, and no second run.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

gc.disable()
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["MIMALLOC_PURGE_DELAY"] = "-1"

import numpy as np  # noqa: E402  (what is set above is read when it loads)

if TYPE_CHECKING:
    import pyarrow as pa

THREADS = 2
BLOCK_BYTES = 2 << 20  # of rows that are transformed at once
EARLY_BYTES = 64 << 20  # of files that are read before torch is there


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def tables(name: str, place: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    files = sorted((place / "in").glob("*.parquet"))
    words = ["kind"] if name == "W1" else []

    def read(file: Path) -> pa.Table:
        return pq.ParquetFile(file, read_dictionary=words).read(use_threads=False)

    def made(file: Path, early: Future[pa.Table] | None) -> None:
        table = early.result() if early else read(file)
        del early
        with torch.inference_mode():
            table = limit.unit(table) if name == "W4" else limit.scaled(table)
        pq.write_table(table, out / file.name, use_dictionary=words, data_page_size=1 << 17)

    with ThreadPoolExecutor(1) as reader:
        early = {file: reader.submit(read, file) for file in _first(files, EARLY_BYTES)}
        torch = _torch()
        import limit  # the same encoding and transform, now that torch is there

        early = {file: table for file, table in early.items() if not table.cancel()}
    with ThreadPoolExecutor(THREADS + (name == "W3")) as threads:  # one more where each waits for the disk often
        for each in [threads.submit(made, file, early.pop(file, None)) for file in files]:
            each.result()


def _first(files: list[Path], size: int) -> list[Path]:
    """The first files that have so many bytes together."""
    ends = accumulate(file.stat().st_size for file in files)
    return [file for file, end in zip(files, ends, strict=True) if end <= size]


# ---- .npy ------------------------------------------------------------------------------------------------------------


def arrays(name: str, place: Path, out: Path) -> None:
    source = np.load(place / "in" / "data.npy", mmap_mode="r")
    rows = max(1, BLOCK_BYTES // source[0].nbytes)
    shape, dtype = ((len(source), 64), "<f4") if name == "W2" else ((len(source), 3, 32, 32), "<f2")
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    target = (out / "out.npy").open("wb", buffering=0)
    np.lib.format.write_array_header_1_0(target, {"descr": dtype, "fortran_order": False, "shape": shape})
    head = target.tell()
    file = os.open(place / "in" / "data.npy", os.O_RDONLY)
    torch = _torch()
    import transforms

    call = transforms.embedding(place) if name == "W2" else transforms.shrink
    kept = threading.local()

    def made(start: int) -> None:
        if not hasattr(kept, "buffer"):
            kept.buffer = np.empty((rows, *source.shape[1:]), source.dtype)
        block = kept.buffer[: len(source) - start]
        os.preadv(file, [block.reshape(-1).view(np.uint8).data], source.offset + start * source[0].nbytes)
        with torch.inference_mode():
            result = call(torch.from_numpy(block)).numpy()
        data = result.reshape(-1).view(np.uint8).data
        for i in range(0, len(data), 1 << 16):  # longer writes take fresh memory in long pieces, which is dear
            os.pwrite(target.fileno(), data[i : i + (1 << 16)], head + start * row_bytes + i)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(made, range(0, len(source), rows)))


def _torch() -> Any:
    import torch
    import transforms  # noqa: F401  (loads torch.nn)

    torch.set_num_threads(1)
    return torch


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    run: Callable[[str, Path, Path], None] = arrays if name in ("W2", "W5") else tables
    run(name, place, out)
    sys.stdout.flush()
    os._exit(0)
