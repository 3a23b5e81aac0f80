"""torch's DataLoader: two worker processes read and compute in order, the main process writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transforms
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader, Dataset


class RowGroups(Dataset[Any]):
    """One item for each row group: which file, the tensors, and what is carried."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self.files = sorted((place / "in").iterdir())
        self.items = [(i, g) for i, file in enumerate(self.files) for g in range(pq.ParquetFile(file).num_row_groups)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, pa.Table]:
        which, group = self.items[index]
        table = pq.ParquetFile(self.files[which]).read_row_group(group)
        if self.name == "W4":
            x = torch.from_numpy(table["x"].combine_chunks().flatten().to_numpy().reshape(-1, 128).copy())
            return which, transforms.unit(x), table.select(["id"])
        x = torch.stack([torch.from_numpy(table[name].to_numpy()) for name in constants.FEATURES], dim=1)
        return which, transforms.scale(x), table.drop_columns(constants.FEATURES)


class Blocks(Dataset[Any]):
    """One item for each block of rows of an array."""

    def __init__(self, name: str, place: Path) -> None:
        self.path = place / "in" / "data.npy"
        self.call = transforms.embedding(place) if name == "W2" else transforms.shrink
        self.rows = 8192 if name == "W2" else 512

    def __len__(self) -> int:
        return -(-len(np.load(self.path, mmap_mode="r")) // self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        block = np.load(self.path, mmap_mode="r")[index * self.rows : (index + 1) * self.rows]
        with torch.no_grad():
            return self.call(torch.from_numpy(block.copy()))


def tables(name: str, place: Path, out: Path) -> None:
    data = RowGroups(name, place)
    writers: dict[int, pq.ParquetWriter] = {}
    for which, y, carried in DataLoader(data, batch_size=None, num_workers=2):
        if name == "W4":
            made = {"x": pa.FixedSizeListArray.from_arrays(pa.array(y.numpy().reshape(-1)), 128)}
        else:
            made = {column: pa.array(y[:, i].numpy()) for i, column in enumerate(constants.FEATURES)}
        table = pa.table({**{column: carried[column] for column in carried.column_names}, **made})
        if which not in writers:
            writers[which] = pq.ParquetWriter(out / data.files[which].name, table.schema)
        writers[which].write_table(table)
        for done in [i for i in writers if i < which]:
            writers.pop(done).close()
    for writer in writers.values():
        writer.close()


def array(name: str, place: Path, out: Path) -> None:
    data = Blocks(name, place)
    rows = len(np.load(data.path, mmap_mode="r"))
    target, start = None, 0
    for y in DataLoader(data, batch_size=None, num_workers=2):
        if target is None:
            target = open_memmap(out / "out.npy", "w+", y.numpy().dtype, (rows, *y.shape[1:]))
        target[start : start + len(y)] = y.numpy()
        start += len(y)


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    (array if name in ("W2", "W5") else tables)(name, place, out)
