"""`python -m pipeline.schema` tells columns and their ways before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.schema import main

ROOT = Path(__file__).parents[1]


def ways(out: str) -> dict[str, str]:
    """The last cell of each line of the table, by column."""
    body = out.splitlines()[3:]
    return {line.split()[0]: line.split("  ")[-1].strip() for line in body}


def test_parquet_tells_each_way_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tensor with or without a copy, carried, or refused as a tensor for a reason."""
    table = pa.table(
        {
            "number": pa.array([1, 2], pa.int32()),
            "truth": [True, False],
            "word": ["a", "b"],
            "when": pa.array([1, 2], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert main([str(tmp_path / "x.parquet")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Parquet {tmp_path}/x.parquet: 2 rows, ")
    found = ways(out)
    assert found["number"] == "tensor int32, memory shared"
    assert found["truth"].startswith("tensor bool, one copy: ")
    assert found["word"] == "carried untouched; refused as a tensor: tensors hold numbers and truth values"
    assert found["when"] == "carried untouched; columns=[...] would make it a tensor"


def test_arrays_archives_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each path by its suffix, or that of the first file in it."""
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    np.savez(tmp_path / "z.npz", a=np.zeros(4), s=np.array(["a", "b", "c", "d"]))
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "y.npy", np.zeros(5))
    assert main([str(tmp_path / name) for name in ("x.npy", "z.npz", "in")]) == 0
    heads = [line.split(":")[0].split()[0] for line in capsys.readouterr().out.splitlines() if " rows, " in line]
    assert heads == ["Npy", "Npz", "Npy"]


def test_what_cannot_be_read_is_named_and_the_others_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is that of the first that failed."""
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.csv").write_text("a\n1\n")
    assert main([str(tmp_path / "gone.npy"), str(tmp_path / "x.csv"), str(tmp_path / "x.npy")]) == 66
    out, err = capsys.readouterr()
    assert "gone.npy" in err
    assert "x.csv' is none of .parquet" in err
    assert "3 rows" in out


def test_it_does_not_import_torch() -> None:
    """It answers at once, also where torch is not installed."""
    code = "import sys; sys.modules['torch'] = None; from pipeline.schema import main; sys.exit(main(sys.argv[1:]))"
    file = ROOT / "pipeline/data/flights.parquet"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tailnum" in done.stdout


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path) -> None:
    """`python -m pipeline.schema wide.parquet | head -1`."""
    pq.write_table(pa.table({f"c{n}": [n] for n in range(5000)}), tmp_path / "wide.parquet")
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "pipeline.schema", str(tmp_path / "wide.parquet")]
    done = subprocess.run(argv, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
