"""The columns of a file and the way that each would take, before anything runs and without torch.

python -m pipeline.schema flights.parquet
python -m pipeline.schema in/ more.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import columns
from pipeline.columns import describe
from pipeline.core import Field, Source
from pipeline.errors import DTypeError, InputError, PipelineError
from pipeline.files import find
from pipeline.layout import Layout, layout
from pipeline.log import emit
from pipeline.plan import counted, human, table
from pipeline.policy import Policy
from pipeline.source.npy import Npy
from pipeline.source.npz import Npz
from pipeline.source.parquet import Parquet

SOURCES: dict[str, type[Npy | Npz | Parquet]] = {
    ".parquet": Parquet, ".parq": Parquet, ".pq": Parquet, ".npy": Npy, ".npz": Npz
}  # fmt: skip


def source(path: str) -> Source:
    """What reads a file, folder or glob, by the suffix of the first file that is found."""
    known = ", ".join(SOURCES)
    suffix = Path(path).suffix.lower()
    if suffix not in SOURCES:
        suffix = find(path, tuple(SOURCES), "PATH")[0].suffix.lower()
    if suffix not in SOURCES:
        raise InputError(f"{path!r} is none of {known}; for other formats, write a source (README.md)")
    return SOURCES[suffix](path)


def lines(path: str) -> list[str]:
    """What is there, and the way of each column with nothing configured."""
    read = source(path)
    splits = read.splits()
    counts = [split.rows for split in splits]
    rows = f"{sum(c or 0 for c in counts):,} rows" if None not in counts else "rows unknown before reading"
    size = human(sum(split.bytes for split in splits))
    chosen = layout(read.schema(), None, "all")
    ways = [(f.name, describe(f), _way(f, chosen)) for f in chosen.schema.fields]
    head = f"{type(read).__name__} {path}: {rows}, {size} decoded, {counted(len(splits), 'split')}"
    return [head, "", *table(["column", "stored as", "way"], ways)]


def _way(f: Field, chosen: Layout) -> str:
    """How it travels, and what would be needed for the other way."""
    route = next((r for r in chosen.routes if r.name == f.name), None)
    if route is not None:
        return f"tensor {route.kind}, " + (f"one copy: {route.copy}" if route.copy else "memory shared")
    try:
        columns.storage(f, Policy())
    except DTypeError as e:
        reason = str(e).partition(": ")[2].partition(". Leave it out")[0]
        return f"carried untouched; refused as a tensor: {reason or e}"
    return "carried untouched; columns=[...] would make it a tensor"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the columns behind each path; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.schema", description="Print the columns of .parquet, .npy and .npz files and their ways."
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder or a glob")
    code = 0
    for number, path in enumerate(parser.parse_args(argv).paths):
        try:
            emit("\n".join([""] * bool(number) + lines(path)))
        except PipelineError as e:
            print(f"error: {e}", file=sys.stderr)
            code = code or e.code
    return code


if __name__ == "__main__":
    sys.exit(main())
