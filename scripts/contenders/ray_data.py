"""Ray Data: map_batches in its default format on this machine alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import constants
import numpy as np
import ray
import torch
import transforms

Batch = dict[str, Any]


def scaled(batch: Batch) -> Batch:
    x = torch.stack([torch.tensor(batch[name]) for name in constants.FEATURES], dim=1)
    y = transforms.scale(x).numpy()
    return {**batch, **{name: y[:, i] for i, name in enumerate(constants.FEATURES)}}


def unit(batch: Batch) -> Batch:
    return {**batch, "x": transforms.unit(torch.tensor(np.stack(batch["x"]))).numpy()}


def shrunk(batch: Batch) -> Batch:
    return {"data": transforms.shrink(torch.tensor(batch["data"])).numpy()}


class Embedding:
    """Reads the weights once in each worker."""

    def __init__(self, place: Path) -> None:
        self.model = transforms.embedding(place)

    def __call__(self, batch: Batch) -> Batch:
        with torch.inference_mode():
            return {"data": self.model(torch.tensor(batch["data"])).numpy()}


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False, _node_ip_address="127.0.0.1")
    if name == "W2":
        rows = ray.data.read_numpy(str(place / "in"))
        rows = rows.map_batches(Embedding, fn_constructor_args=(place,), batch_size=8192, concurrency=1)
        rows.write_numpy(str(out), column="data")
    elif name == "W5":
        ray.data.read_numpy(str(place / "in")).map_batches(shrunk, batch_size=512).write_numpy(str(out), column="data")
    else:
        rows = ray.data.read_parquet(str(place / "in"))
        rows.map_batches(unit if name == "W4" else scaled, batch_size=8192).write_parquet(str(out))
    ray.shutdown()
