"""Everything in memory: read all, compute all, write all. Files that stay apart are done one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transforms


def scaled(table: pa.Table) -> pa.Table:
    x = torch.stack([torch.from_numpy(table[name].to_numpy()) for name in constants.FEATURES], dim=1)
    y = transforms.scale(x).numpy()
    for i, name in enumerate(constants.FEATURES):
        table = table.set_column(table.column_names.index(name), name, pa.array(y[:, i]))
    return table


def narrow(place: Path, out: Path) -> None:
    pq.write_table(scaled(pq.read_table(place / "in")), out / "out.parquet")


def wide(place: Path, out: Path) -> None:
    model = transforms.embedding(place)
    with torch.inference_mode():
        y = model(torch.from_numpy(np.load(place / "in" / "data.npy")))
    np.save(out / "out.npy", y.numpy())


def small_files(place: Path, out: Path) -> None:
    for file in sorted((place / "in").iterdir()):
        pq.write_table(scaled(pq.read_table(file)), out / file.name)


def embeddings(place: Path, out: Path) -> None:
    table = pq.read_table(place / "in")
    x = torch.from_numpy(table["x"].combine_chunks().flatten().to_numpy().reshape(-1, 128).copy())
    y = pa.array(transforms.unit(x).numpy().reshape(-1))
    made = pa.FixedSizeListArray.from_arrays(y, 128)
    pq.write_table(pa.table({"id": table["id"], "x": made}), out / "out.parquet")


def images(place: Path, out: Path) -> None:
    y = transforms.shrink(torch.from_numpy(np.load(place / "in" / "data.npy")))
    np.save(out / "out.npy", y.numpy())


WORK = {"W1": narrow, "W2": wide, "W3": small_files, "W4": embeddings, "W5": images}

if __name__ == "__main__":
    WORK[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
