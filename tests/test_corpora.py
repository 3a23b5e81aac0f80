"""Files of public projects through the whole stage: identical, or an error that names the file and commits nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import ROOT, files

FILES = files()

DOCUMENTED = {
    "columns are called": "two columns of one name have no place in a table by name",
}
"""Words of the errors for files that pyarrow reads and the stage refuses, with the reason."""

pytestmark = pytest.mark.skipif(not FILES, reason="no folder above the checkout has shared/corpora")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """What came of each file; one that ended its process has none, and the next process goes on behind it."""
    found: dict[str, dict[str, str]] = {}
    left = FILES
    while left:
        lines = "".join(json.dumps(file) + "\n" for file in left)
        command = [sys.executable, "-m", "tests.corpora"]
        run = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=90, check=False)
        said = [json.loads(line) for line in run.stdout.splitlines()]
        found |= {line["path"]: line for line in said if "path" in line}
        if run.returncode == 0:
            break
        died = [line["start"] for line in said if "start" in line][-1]
        found[died] = {"broken": f"the process ended with {run.returncode}: {run.stderr[-500:]}"}
        left = left[[file["path"] for file in left].index(died) + 1 :]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file["path"])
def test_a_real_file_comes_back_or_is_refused(file: dict[str, Any], outcomes: dict[str, dict[str, str]]) -> None:
    """Damaged files are refused by name with nothing committed; whole ones come back, but for documented reasons."""
    found = outcomes[file["path"]]
    assert "broken" not in found, found["broken"]
    if "error" not in found:
        assert file["expect"] != "error", "a damaged file passed"
        return
    assert Path(file["full"]).name in found["error"]
    assert not found["left"]
    if file["expect"] != "error":
        table = "\n".join(f"  ...{words}...: {why}" for words, why in DOCUMENTED.items())
        assert any(words in found["error"] for words in DOCUMENTED), (
            f"{found['error']}\nis not among the documented reasons:\n{table}"
        )
