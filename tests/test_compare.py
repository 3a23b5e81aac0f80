"""Runs side by side: from a sweep's results, or from the reports of outputs."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare import lines, main, write_csv
from pipeline.page import document
from pipeline.sweep import result
from pipeline.sweep.result import Result, difference


def one(name: str, rate: int | None, state: str = "done", **overrides: str) -> Result:
    facts = {"number": int(name), "rows": 10, "seconds": 1.5, "rows_per_second": rate, "peak_memory_bytes": 2_000_000}
    config = {"transform": {"_target_": "t", "by": name}, "sink": {"path": f"multirun/{name}"}}
    error = "" if state != "failed" else "column <b>: too long"
    return Result(name, state, overrides, facts if rate else {"number": int(name)}, config, 65 if error else 0, error)


def sweep(folder: Path, *results: Result) -> Path:
    for each in results:
        result.write(result.path(folder, each.name), each)
    return folder


def output(folder: Path, config: dict[str, Any], name: str = "_pipeline/report.json") -> Path:
    (folder / name).parent.mkdir(parents=True)
    facts = {"state": "done", "rows": 5, "seconds": 0.25, "config": config}
    (folder / name).write_text(json.dumps(facts))
    return folder


def test_a_sweep_is_told_again_and_its_files_are_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of its jobs."""
    sweep(tmp_path, one("1", 20, rows="b", device="cpu"), one("0", 10, rows="a", device="cpu"))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["rows", "rows", "seconds", "rows/s", "memory", "state"]
    assert [line.split()[0] for line in out[1:3]] == ["a", "b"]
    assert {"sweep.csv", "sweep.html"} <= {path.name for path in tmp_path.iterdir()}


def test_two_outputs_are_told_with_the_difference_of_their_configurations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders and single files; nothing is written unless a place is named."""
    output(tmp_path / "a", {"batch": {"rows": 1}, "columns": None, "sink": {"path": "a"}})
    output(tmp_path, {"batch": {"rows": 2}, "columns": None, "sink": {"path": "b.npy"}}, "b.npy.run/report.json")
    places = [str(tmp_path / "a"), str(tmp_path / "b.npy")]
    assert main(places) == 0
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines()]
    assert ["batch.rows", "1", "2"] in table
    assert not any(line[:1] == ["columns"] for line in table)
    assert "--out DIR writes" in out
    assert main([*places, "--out", str(tmp_path / "made")]) == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["sweep.csv", "sweep.html"]


def test_a_folder_of_outputs_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever lies below it."""
    for name in ("x/a", "x/b", "c"):
        output(tmp_path / name, {"batch": {"rows": name}})
    assert main([str(tmp_path)]) == 0
    assert "3 jobs: 3 done" in capsys.readouterr().out


def test_the_same_configuration_twice_has_no_difference() -> None:
    """Keys that one of them lacks are a difference."""
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert difference({"a": {"b": None}}, {"a": {"c": []}}) == [("a.b", "null", "-"), ("a.c", "-", "[]")]


def test_the_csv_reads_back(tmp_path: Path) -> None:
    """An override that is called like a fact does not hide it."""
    write_csv(tmp_path / "x.csv", [one("0", 10, rows='a,"b'), one("1", None, "failed", rows="c")])
    with (tmp_path / "x.csv").open() as f:
        first, second = csv.DictReader(f)
    assert (first["rows"], first["report.rows"], first["rows_per_second"]) == ('a,"b', "10", "10")
    assert (second["state"], second["code"], second["error"]) == ("failed", "65", "column <b>: too long")


def test_runs_that_do_not_differ_are_told_by_name() -> None:
    """As are those that stand alone."""
    assert lines([one("0", 10, a="1"), one("1", 10, a="1")])[0].split()[0] == "run"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "holds no sweep"),
        (lambda folder: (folder / "report.json").write_text("[]"), "is no report of a run"),
        (lambda folder: sweep(folder, one("0", 1)) / "_jobs/0.json", "is no result of a job"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, words: str) -> None:
    """One line, and the exit code of a missing input."""
    made = make(tmp_path)
    if isinstance(made, Path):
        made.write_text("{}")
    assert main([str(tmp_path)]) == 66
    assert words in capsys.readouterr().err


# ---- page ------------------------------------------------------------------------------------------------------------


def jobs() -> list[Result]:
    grid = [(rows, device) for rows in ("16", "1024", "4096") for device in ("cpu", "<i>&$a$^")]
    made = [one(str(i), 10 + i, rows=rows, device=device) for i, (rows, device) in enumerate(grid)]
    return [*made, one("9", None, "failed", rows="16", device="x")]


def test_the_page_is_one_file_without_scripts() -> None:
    """It fetches nothing, and works in the dark and on paper."""
    html = document.sweep(jobs())
    assert "<script" not in html
    assert not [word for word in ("src=", "@import", 'href="http', "<link") if word in html]
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html


def test_the_page_draws_every_metric_over_every_override() -> None:
    """Rates alone differ here: one chart for each override, and the parallel axes."""
    html = document.sweep(jobs())
    assert html.count("<svg") == 3
    assert html.count("currentColor") > 10
    assert "#0a0b0c" not in html


def test_numbers_below_zero_and_missing_ones_are_drawn_too() -> None:
    """An objective may be negative, and an override may be absent from some jobs."""
    made = [one("0", 10, a="1", b="x"), one("1", 20, a="100"), one("2", 30, a="7", b="_y")]
    made = [replace(each, facts={**each.facts, "objective": -1.5 * i}) for i, each in enumerate(made)]
    assert document.sweep(made).count("<svg") == 5


def test_ids_are_not_used_twice_on_the_page() -> None:
    """Clip paths and markers of one chart are not those of another."""
    ids = re.findall(r' id="([^"]+)"', document.sweep(jobs()))
    assert len(ids) == len(set(ids))
    html = document.sweep(jobs())
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', html)) <= set(ids)


def test_words_of_the_user_are_no_html() -> None:
    """Neither in cells nor in charts."""
    html = document.sweep(jobs())
    assert "<i>" not in html
    assert "&lt;i&gt;&amp;" in html
    assert "column &lt;b&gt;: too long" in html


def test_the_page_is_the_same_each_time() -> None:
    """No dates and no random ids: it can be kept under version control."""
    assert document.sweep(jobs()) == document.sweep(jobs())


def test_a_sweep_of_failures_has_a_page_too() -> None:
    """With nothing to draw."""
    html = document.sweep([one("0", None, "failed", a="1"), one("1", None, "failed", a="2")])
    assert "<svg" not in html
    assert "Sweep of 2 jobs: 2 failed" in html
