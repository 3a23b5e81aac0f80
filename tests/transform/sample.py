"""Columns of every kind."""

from __future__ import annotations

import torch

from pipeline.core import Tensors

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
ROWS = 23


def numbers(rows: int = ROWS) -> Tensors:
    """Integers and floats of all widths, NaN among them, and rows with a shape; small enough for each dtype."""
    rng = torch.Generator().manual_seed(0)
    integers = {name: torch.randint(0, 100, (rows,), generator=rng).to(getattr(torch, name)) for name in INTEGERS}
    floats = {name: torch.randn(rows, generator=rng).to(getattr(torch, name)) for name in FLOATS}
    floats["float32"][3:5] = torch.nan
    image = torch.randint(0, 256, (rows, 2, 3), generator=rng).to(torch.uint8)
    return {**integers, **floats, "image": image, "matrix": torch.randn(2, rows, generator=rng).T}


def columns(rows: int = ROWS) -> Tensors:
    """The same with columns that are no numbers in a narrow sense."""
    flag = torch.arange(rows) % 2 == 0
    return {**numbers(rows), "bool": flag, "complex64": torch.complex(torch.arange(rows).float(), torch.ones(rows))}
