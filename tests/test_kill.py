"""A killed run, run again, gives the bytes of a run that was never killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import read_manifest
from tests.faults import main as stage

ROOT = Path(__file__).resolve().parent.parent


def data(out: Path) -> dict[str, str]:
    """What a reader of the folder sees."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if not p.name.startswith(("_", "."))
    }


@pytest.fixture(scope="module", params=["parquet", "npz"])
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The format and the bytes of an uninterrupted run."""
    out = tmp_path_factory.mktemp("clean") / "out"
    stage(str(out), request.param, "", 0)
    return request.param, data(out)


@pytest.mark.parametrize(("point", "number"), [("publish", 0), ("publish", 4), ("batch", 3), ("batch", 20)])
def test_a_killed_run_resumes_to_the_same_bytes(
    clean: tuple[str, dict[str, str]], point: str, number: int, tmp_path: Path
) -> None:
    """After the kill every visible file is whole; after the second run all are there, once, and nothing temporary."""
    fmt, expected = clean
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "tests.faults", str(out), fmt, point, str(number)]
    killed = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    torn = data(out)
    assert torn.items() <= expected.items()
    assert len(torn) < len(expected) or point == "publish"
    assert not (out / "_SUCCESS").exists()
    stage(str(out), fmt, "", 0)
    assert data(out) == expected
    assert not (out / ".tmp").exists()
    assert read_manifest(out)["rows"] == 500
