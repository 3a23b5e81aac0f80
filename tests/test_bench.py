"""The scripts that measure: they run, check what they measure, and write only their own part of a page."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from measure import checks, convert, page

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    """A script, imported."""
    loader = SourceFileLoader(f"scripts_{name}", str(ROOT / "scripts" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


peers = script("peers")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_bench_convert_measures_every_route_and_writes_its_own_section(tmp_path: Path) -> None:
    """Each route has a row for each direction; the rest of the page stays."""
    place = tmp_path / "page.md"
    place.write_text("before\n<!-- bench convert -->\nOLD\n<!-- /bench convert -->\nafter\n")
    small = ("--rows", "2000", "--batch-bytes", "4096", "--repetitions", "1")
    done = run("scripts/bench", "convert", *small, "--write", str(place))
    assert done.returncode == 0, done.stderr
    text = place.read_text()
    assert text.startswith("before\n<!-- bench convert -->\n\nWritten by")
    assert text.endswith("<!-- /bench convert -->\nafter\n")
    assert "OLD" not in text
    for route in ("8 float32 stacked", "int64, one in ten null", "bool (", "decimal128", "int64, big-endian .npy"):
        assert [line.count("|") for line in text.splitlines() if line.startswith(f"| {route}")] == [10, 10], route


def test_bench_checks_asks_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each, with its time."""
    checks.checks(Namespace(rows=1000, batch_rows=300, repetitions=1, write=None))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert len(rows) == len(checks.ASKED)
    assert all(float(row.split(" | ")[2]) > 0 for row in rows)


def test_bench_makes_a_page_and_writes_its_section_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run needs nothing prepared, and the next replaces what it wrote."""
    place = tmp_path / "docs" / "page.md"
    for text in ("first", "second"):
        page.publish("convert", text, place)
    assert place.read_text() == "# Performance\n\n<!-- bench convert -->\n\nsecond\n\n<!-- /bench convert -->\n"
    assert capsys.readouterr().out == "first\nsecond\n"


def test_bench_refuses_a_page_without_its_section_before_it_measures(tmp_path: Path) -> None:
    """The page is left as it is, and nobody waits for figures that have no place."""
    place = tmp_path / "page.md"
    place.write_text("# Mine\n")
    with pytest.raises(SystemExit, match="<!-- bench convert -->"):
        convert.convert(Namespace(rows=10**12, repetitions=1, batch_bytes=1, write=place))
    assert place.read_text() == "# Mine\n"


def test_bench_stops_if_a_route_loses_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fast and wrong gets no figures."""
    case = next(iter(convert.cases(100)))
    monkeypatch.setattr(convert, "leave", lambda way, tensors: case.columns | {"f0": pa.array(np.zeros(100, "f4"))})
    with pytest.raises(SystemExit, match="8 float32 stacked .* does not come back as it went in"):
        convert.measure(case, 1 << 20, 1)


@pytest.mark.parametrize("kind", peers.KINDS)
def test_a_column_equals_itself_bit_for_bit(kind: str) -> None:
    """The comparison finds nothing where there is nothing, however the column is cut into chunks."""
    table = peers.KINDS[kind].table()
    chunks = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert peers.compare(peers.KINDS[kind], table, chunks) == "same"


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("float64, -0.0 and denormals", lambda x: pa.array(x.to_numpy() + 0.0), "334 of 1,000 values changed"),
        ("float64, NaN beside null", lambda x: pa.array(x.to_numpy(zero_copy_only=False)), "333 of 1,000 nulls became"),
        ("float32, NaN payloads", lambda x: pa.array(np.full(len(x), np.nan, "f4")), "1,000 of 1,000 values changed"),
        ("int64 above 2**53, with nulls", lambda x: x.cast(pa.float64(), safe=False), "int64 → double; 334 of 1,000"),
        ("uint64 above 2**63", lambda x: x.cast(pa.int64(), safe=False), "uint64 → int64; 667 of 1,000"),
        ("bool with nulls", lambda x: x.fill_null(False), "333 of 1,000 nulls became values"),
        ("ordered dictionary", lambda x: x.dictionary_decode(), "→ string"),
        ("struct of lists of large_string, large_binary", lambda x: x.take(pa.array([1] * 1000)), "values became null"),
        ("not null, metadata of field and schema", lambda x: x, "nullable; field metadata lost; schema metadata lost"),
        ("order of rows, 8 files", lambda x: x, "40,000 of 40,000 rows in another place"),
    ],
)
def test_a_change_is_found_and_named(kind: str, change: object, words: str) -> None:
    """What the peers do to columns, done by hand."""
    before = peers.KINDS[kind].table()
    column = before["x"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    ids = (
        before["id"].take(pa.array(np.arange(len(before))[::-1]))
        if "order" in kind and "rows" in kind
        else before["id"]
    )
    after = pa.table({"id": ids, "x": change(column)})  # type: ignore[operator]
    assert words in peers.compare(peers.KINDS[kind], before, after)


def test_the_stage_changes_nothing_and_an_absent_peer_is_said_to_be_absent() -> None:
    """One cell of the page, made as the script makes it."""
    peers.PEERS["nobody"] = peers.Peer("a_package_that_nobody_has", print)
    assert peers.cell("nobody", "bool with nulls") == "not installed"
    done = run("scripts/peers", "--peer", "this stage", "--kind", "int64 above 2**53, with nulls")
    assert "| int64 above 2**53, with nulls | same |" in done.stdout, done.stderr
