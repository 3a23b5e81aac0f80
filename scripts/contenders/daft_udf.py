"""Daft: batch functions over columns, through torch."""

from __future__ import annotations

import sys
from pathlib import Path

import constants
import daft
import numpy as np
import pyarrow as pa
import torch
import transforms

REAL = daft.DataType.float32()


def scaled(place: Path, out: Path) -> None:
    rows = daft.read_parquet(str(place / "in" / "*.parquet"))
    for feature, name in enumerate(constants.FEATURES):

        @daft.func.batch(return_dtype=REAL)
        def scale(column: daft.Series, feature: int = feature) -> daft.Series:
            x = torch.tensor(column.to_arrow().to_numpy())
            return daft.Series.from_numpy(transforms.scale_one(x, feature).numpy())

        rows = rows.with_column(name, scale(rows[name]))
    rows.write_parquet(str(out))


def matrix(column: daft.Series) -> torch.Tensor:
    lists = column.to_arrow()
    return torch.tensor(lists.flatten().to_numpy().reshape(len(lists), -1))


def lists(tensor: torch.Tensor) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(tensor.numpy().reshape(-1)), tensor.shape[1])


@daft.func.batch(return_dtype=daft.DataType.fixed_size_list(REAL, 128))
def unit(column: daft.Series) -> daft.Series:
    return daft.Series.from_arrow(lists(transforms.unit(matrix(column))))


def embeddings(place: Path, out: Path) -> None:
    rows = daft.read_parquet(str(place / "in" / "*.parquet"))
    rows.with_column("x", unit(rows["x"])).write_parquet(str(out))


def wide(place: Path, out: Path) -> None:
    model = transforms.embedding(place)

    @daft.func.batch(return_dtype=daft.DataType.fixed_size_list(REAL, 64))
    def embed(column: daft.Series) -> daft.Series:
        with torch.inference_mode():
            return daft.Series.from_arrow(lists(model(matrix(column))))

    rows = daft.from_arrow(pa.table({"data": lists(torch.from_numpy(np.load(place / "in" / "data.npy")))}))
    made = rows.with_column("data", embed(rows["data"])).to_arrow()["data"]
    np.save(out / "out.npy", np.concatenate([chunk.flatten().to_numpy() for chunk in made.chunks]).reshape(-1, 64))


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"W1": scaled, "W2": wide, "W3": scaled, "W4": embeddings}[name](place, out)
