"""Damaged and hostile files: the right result, or exit code 65 with a line that names the file; no dead process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.children import ROOT
from tests.hostile import mutated

FORMATS = ("npy", "npz", "parquet")
BATCH = 100


def outcomes(seeds: Iterable[str]) -> list[dict[str, Any]]:
    """What came of each seed. One that ended its process is followed by those after it in another."""
    left, found = list(seeds), list[dict[str, Any]]()
    while left:
        some, left = left[:BATCH], left[BATCH:]
        argv = [sys.executable, "-m", "tests.hostile", *some]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found += [line for line in lines if "trouble" in line]
        if done.returncode:
            last = lines[-1]
            found.append({**last, "trouble": f"ended the process with {done.returncode}: {done.stderr[-200:]}"})
            left = some[some.index(last["seed"]) + 1 :] + left
    return found


def test_mutations_are_refused_by_name_or_read_as_the_library_reads_them() -> None:
    """The same ones in every run."""
    found = outcomes(f"{format_}-{i}" for format_ in FORMATS for i in range(20))
    assert len(found) == 60
    assert [one for one in found if one["trouble"]] == []
    assert {one["code"] for one in found} == {0, 65}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_a_thousand_mutations(format_: str) -> None:
    """And others than above."""
    found = outcomes(f"{format_}-{i}" for i in range(1000, 2000))
    bad = [one for one in found if one["trouble"]]
    print(f"{format_}: exit codes {Counter(one['code'] for one in found)}, {len(bad)} in trouble")
    assert bad == []


def test_mutations_do_not_change_from_run_to_run() -> None:
    """A failure can be looked into by its seed."""
    assert mutated("npy-7") == mutated("npy-7") != mutated("npy-8")
