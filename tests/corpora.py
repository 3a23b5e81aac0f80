"""Sends files of the corpora through the whole stage, and prints what came of each as a line of JSON.

Run in a process of its own: a reader that aborts on a damaged file ends this one, not the tests.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.core import Sink, Source
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import PipelineError
from pipeline.policy import Conversion
from pipeline.run import Options, run
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.parquet import Parquet
from pipeline.testing.compare import assert_identical
from pipeline.transform.identity import Identity

ROOT = Path(__file__).parents[1]


def corpora() -> Path | None:
    """``shared/corpora`` in a folder above the checkout, or above the one that this is a worktree of."""
    homes, git = [ROOT], ROOT / ".git"
    if git.is_file():
        homes.append(Path(git.read_text(encoding="utf-8").partition(":")[2].strip()))
    found = [folder / "shared" / "corpora" for home in homes for folder in home.parents]
    return next((folder for folder in found if (folder / "manifest.json").is_file()), None)


def files() -> list[dict[str, Any]]:
    """What the manifest says of each file, with `full`, where it lies; nothing if there are no corpora."""
    folder = corpora()
    if folder is None:
        return []
    listed = json.loads((folder / "manifest.json").read_bytes())["files"]
    return [{**file, "full": str(folder / file["path"])} for file in listed if file["expect"] != "ignored"]


def outcome(kind: str, path: str, folder: Path) -> dict[str, str]:
    """What became of one file: "" if it came back bit for bit."""
    out = folder / f"out.{kind}"
    npy = kind == "npy"
    source: Source = Npy(path) if npy else Parquet(path)
    sink: Sink = NpySink(str(out), durability="rename") if npy else ParquetSink(str(out), durability="rename")
    told = replace(Options(progress="none", batch_rows=1000), conversion=Conversion().with_nulls("mask"))
    try:
        run(source=source, transform=Identity(), sink=sink, engine=Local(), device=Cpu(), options=told)
    except PipelineError as e:
        left = [p.name for p in folder.rglob("*") if p == out or p.name in ("_SUCCESS", "_manifest.json")]
        return {"error": str(e), "left": " ".join(left)}
    except Exception as e:  # noqa: BLE001  (the test that reads this says what must not happen)
        return {"broken": f"{type(e).__name__}: {e}"}
    try:
        if npy:
            assert_identical(np.ascontiguousarray(np.load(path)), np.load(out))
        else:
            assert_identical(pq.ParquetFile(path).read(), pq.ParquetFile(out).read())
    except AssertionError as e:
        return {"broken": f"not the same: {e}"}
    return {}


def main() -> None:
    """Each line of stdin is a file of the manifest, as JSON, with `full`, where it lies."""
    for line in sys.stdin:
        file = json.loads(line)
        print(json.dumps({"start": file["path"]}), flush=True)
        with TemporaryDirectory() as folder:
            found = outcome(file["kind"], file["full"], Path(folder))
        print(json.dumps({"path": file["path"], **found}), flush=True)


if __name__ == "__main__":
    main()
