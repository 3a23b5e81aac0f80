"""Hugging Face datasets: map over batches in torch format, through its cache of Arrow files."""

from __future__ import annotations

import sys
from pathlib import Path

import constants
import torch
import transforms
from datasets import load_dataset

Batch = dict[str, torch.Tensor]


def scaled(batch: Batch) -> Batch:
    y = transforms.scale(torch.stack([batch[name] for name in constants.FEATURES], dim=1))
    return {name: y[:, i] for i, name in enumerate(constants.FEATURES)}


def unit(batch: Batch) -> Batch:
    return {"x": transforms.unit(batch["x"])}


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    files = sorted(map(str, (place / "in").iterdir()))
    rows = load_dataset("parquet", data_files=files, split="train")
    made = rows.with_format("torch").map(
        unit if name == "W4" else scaled, batched=True, batch_size=10_000, features=rows.features
    )
    made.to_parquet(str(out / "out.parquet"))
