"""polars' lazy frames: no torch, the same arithmetic as expressions."""

from __future__ import annotations

import sys
from pathlib import Path

import constants
import polars as pl


def scaled(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(
        ((pl.col(name) - mean) * (1 / std)).clip(-5, 5).cast(pl.Float32)
        for name, mean, std in zip(constants.FEATURES, constants.MEAN, constants.STD, strict=True)
    )


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if name == "W1":
        scaled(pl.scan_parquet(place / "in" / "*.parquet")).sink_parquet(out / "out.parquet", compression="snappy")
    else:
        pl.collect_all(
            scaled(pl.scan_parquet(file)).sink_parquet(out / file.name, compression="snappy", lazy=True)
            for file in sorted((place / "in").iterdir())
        )
