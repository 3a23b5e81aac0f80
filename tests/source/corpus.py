"""Reads files of the corpus, one after the other, and prints what came of each as a line of JSON.

Run in a process of its own: a reader that aborts on a damaged file ends this one, not the tests.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.batching import rows_of
from pipeline.core import Source
from pipeline.errors import PipelineError
from pipeline.source.npy import Npy
from pipeline.source.parquet import Parquet
from pipeline.testing.source import read_all


def outcome(source: Source, numeric: list[str] | None) -> dict[str, Any]:
    """Rows, and a digest of the numbers as the corpus' manifest defines it; or the error."""
    try:
        columns = read_all(source)
    except PipelineError as e:
        return {"error": str(e), "class": type(e).__name__}
    digest = hashlib.sha256()
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            digest.update(np.ascontiguousarray(column.astype(column.dtype.newbyteorder("="))).tobytes())
        elif numeric is not None and name in numeric:
            array = column.to_numpy(zero_copy_only=False)
            digest.update(str(column.type).encode())
            digest.update(b"" if array.dtype == object else array.tobytes())
    return {"rows": rows_of(columns), "digest": digest.hexdigest()}


def outcomes(file: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a Parquet file two: read plainly, and through a filter that keeps every row."""
    if file["kind"] == "npy":
        return [outcome(Npy(file["full"]), None)]
    plain, numeric = Parquet(file["full"]), file.get("numeric_columns", [])
    try:
        first = plain.schema().names[0]
    except PipelineError:
        return [outcome(plain, numeric)]
    kept = Parquet(file["full"], filter=[[[first, "is", None]], [[first, "is not", None]]])
    return [outcome(plain, numeric), outcome(kept, numeric)]


def main() -> None:
    """Each line of stdin is a file of the manifest, as JSON, with `full`, where it lies."""
    for line in sys.stdin:
        file = json.loads(line)
        print(json.dumps({"start": file["path"]}), flush=True)
        for result in outcomes(file):
            print(json.dumps({"path": file["path"], "name": Path(file["full"]).name, **result}), flush=True)


if __name__ == "__main__":
    main()
