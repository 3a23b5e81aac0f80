"""What the README and docs/checks.md show works as it is written there."""

from __future__ import annotations

import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import read_manifest
from tests.documents import ROOT, blocks, commands, run

BLOCKS, CHECKS = blocks("README.md"), blocks("docs/checks.md")
COMMANDS = commands("README.md") + commands("docs/checks.md")
FAILS = commands("docs/checks.md", "# exit code 65")
FLIGHTS = ROOT / "pipeline/data/flights.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the files that the README writes, and data under the names that it uses."""
    here = tmp_path_factory.mktemp("user")
    for kind, text in BLOCKS + CHECKS:
        name = re.match(r"# ([\w/]+\.(?:py|yaml))\b", text)
        if name and kind in ("python", "yaml"):
            (here / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (here / name[1]).write_text(text)
    shutil.copy(FLIGHTS, here / "features.parquet")
    (here / "in").mkdir()
    table = pq.read_table(FLIGHTS)
    for i in range(2):
        pq.write_table(table.slice(i * 1000, 1000), here / "in" / f"{i}.parquet")
    (here / "logs").mkdir()
    (here / "logs" / "a.csv").write_text("when,value\n2026-01-01,1.5\n2026-01-02,2.5\n")
    return here


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, folder: Path) -> None:
    """Each command line ends well; those for a device that is not there say so."""
    done = run(command, folder)
    wants_cuda = "cuda" in command and not torch.cuda.is_available()
    assert done.returncode == (2 if wants_cuda else 65 if command in FAILS else 0), done.stderr
    assert "Traceback" not in done.stderr
    if wants_cuda:
        assert "cuda" in done.stderr


def test_every_kind_of_example_is_there() -> None:
    """The list above is not empty by accident."""
    text = "\n".join(COMMANDS)
    for part in (
        "+device=cuda",
        "action=plan",
        "transform=mine",
        "source=logs",
        "-m ",
        "columns={",
        "--help",
        "sink.path=jfk",
    ):
        assert part in text


def test_the_transform_of_the_readme_computes(folder: Path) -> None:
    """Its new column is there, and right."""
    run("python -m pipeline --config-dir my_conf transform=mine conversion.nulls=fill sink.path=checked", folder)
    frame = pd.read_parquet(folder / "checked")
    expected = frame["arr_delay"] / (frame["air_time"] + 1e-3)
    assert (frame["ratio"] - expected).abs().max() < 1e-2 * expected.abs().max()


def test_the_row_filter_of_the_readme_keeps_rows_together(folder: Path) -> None:
    """Carried columns follow the rows that `late` keeps."""
    (folder / "my_conf/transform/late.yaml").write_text("_target_: late.late\n")
    (folder / "late.py").write_text(next(text for _, text in BLOCKS if "def late" in text))
    done = run(
        "python -m pipeline --config-dir my_conf transform=late conversion.nulls=fill sink.path=late_out", folder
    )
    assert done.returncode == 0, done.stderr
    got = pd.read_parquet(folder / "late_out")
    source = pd.read_parquet(FLIGHTS)
    expected = source[source["dep_delay"] > 60]
    assert got["tailnum"].tolist() == expected["tailnum"].tolist()
    assert len(got) == read_manifest(folder / "late_out")["rows"]


def test_the_output_is_read_as_the_readme_reads_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By four libraries, with what their readers need said."""
    for command in ("python -m pipeline", next(c for c in COMMANDS if "partition_by" in c)):
        assert run(command, folder).returncode == 0
    monkeypatch.chdir(folder)
    lines = next(text for kind, text in BLOCKS if kind == "python" and "import pandas" in text).splitlines()
    names: dict[str, Any] = {}
    exec(lines[0], names)
    sizes = [len(got) if hasattr(got := eval(line, names), "__len__") else got for line in lines[2:]]
    assert sizes == [27004, 27004, 27004, len(pq.read_table(folder / "jfk")), 27004]


def test_the_quarantine_of_the_page_on_checks_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python prints the rows that its command took out, and its error is the one that the other command gives."""
    takes, fails = (command for command in COMMANDS if "max: 300" in command)
    assert run(takes, folder).returncode == 0
    monkeypatch.chdir(folder)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(next(text for kind, text in CHECKS if kind == "python"))
    assert "breaks air_time min 0, max 300" in out.getvalue()
    shown = next(text for kind, text in CHECKS if kind == "text")
    said = run(fails, folder).stderr.replace(f"{FLIGHTS.parent}/", "")
    assert " ".join(shown.split()) in " ".join(said.split())
