"""duckdb: no torch, the same arithmetic in SQL."""

from __future__ import annotations

import sys
from pathlib import Path

import constants
import duckdb

FEATURES = ", ".join(
    f"greatest(-5, least(5, ({name} - {mean}::FLOAT) * {1 / std}::FLOAT))::FLOAT AS {name}"
    for name, mean, std in zip(constants.FEATURES, constants.MEAN, constants.STD, strict=True)
)


def copy(columns: str, source: Path, target: Path) -> None:
    duckdb.sql(f"COPY (SELECT {columns} FROM '{source}') TO '{target}' (FORMAT parquet, COMPRESSION snappy)")


if __name__ == "__main__":
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if name == "W1":
        copy(f"id, kind, {FEATURES}", place / "in" / "*.parquet", out / "out.parquet")
    else:
        for file in sorted((place / "in").iterdir()):
            copy(FEATURES, file, out / file.name)
