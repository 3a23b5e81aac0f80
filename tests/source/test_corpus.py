"""Files of public projects, a third of them damaged on purpose: the right numbers, or an error that names the file."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.corpora import ROOT, files

FILES = files()
TWINS = {"bug13053-2.parquet"}  # two columns of one name, which a table by name cannot hold: refused

pytestmark = pytest.mark.skipif(not FILES, reason="no folder above the checkout has shared/corpora")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[dict[str, Any]]]:
    """What came of each file; one that ended its process has no outcome, and the next process goes on behind it."""
    found: dict[str, list[dict[str, Any]]] = {}
    left = FILES
    while left:
        lines = "".join(json.dumps(file) + "\n" for file in left)
        command = [sys.executable, "-m", "tests.source.corpus"]
        run = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        for line in map(json.loads, run.stdout.splitlines()):
            found.setdefault(line.get("path", line.get("start")), []).extend([line] if "path" in line else [])
        if run.returncode == 0:
            break
        died = list(found)[-1]
        found[died] = []
        left = left[[file["path"] for file in left].index(died) + 1 :]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file["path"])
def test_a_real_file_is_read_right_or_refused(file: dict[str, Any], outcomes: dict[str, list[dict[str, Any]]]) -> None:
    """With a filter that keeps every row as without one; an error names the file; nothing ends the process."""
    results = outcomes[file["path"]]
    assert results, "the process died, or hung, on this file"
    for result in results:
        if "error" in result:
            assert file["expect"] != "roundtrip" or result["name"] in TWINS, result["error"]
            assert result["name"] in result["error"]
            continue
        assert file["expect"] != "error"
        assert result["rows"] == file.get("rows", (file.get("shape") or [None])[0])
        assert result["digest"] == file.get("numeric_sha256", file.get("values_sha256"))
