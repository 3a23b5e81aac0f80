"""The summary of a run begins with what to do about its speed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.check.checks import parse
from pipeline.core import advice
from pipeline.device.cpu import Cpu
from pipeline.errors import ConfigError
from pipeline.sink.npy import Npy
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet
from pipeline.source.npy import Npy as NpySource
from pipeline.source.npz import Npz as NpzSource
from pipeline.source.parquet import Parquet as ParquetSource
from pipeline.transform.standardize import Standardize
from tests.fakes import Rows, run_rows, same, table


def test_the_first_line_names_the_slowest_lane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its share is that of one of its threads, and never above the whole time."""
    run_rows(Rows(table(), 30), same, tmp_path / "a", writers=3, nulls="mask")
    first = capsys.readouterr().err.splitlines()[1].split()
    report = json.loads((tmp_path / "a" / "_pipeline" / "report.json").read_text())
    lanes = {lane["lane"]: lane for lane in report["lanes"]}
    assert first[0] == "slowest"
    assert lanes[first[1]]["busy"] / lanes[first[1]]["threads"] == pytest.approx(
        max(lane["busy"] / lane["threads"] for lane in lanes.values())
    )
    assert report["verdict"].startswith(report["bottleneck"])
    assert int(report["bottleneck"].split("(")[1].split("%")[0]) <= 100
    assert lanes["write"]["threads"] == 3


class ToldRows(Rows):
    """A source with something to say."""

    advice = "read less"


class ToldParquet(Parquet):
    """A sink with something to say."""

    advice = "write less"


def test_what_is_advised_is_said_by_the_one_whose_lane_it_is(tmp_path: Path) -> None:
    """Sources and sinks of your own may, too."""
    run_rows(ToldRows(table(), 30), same, tmp_path / "a", sink=ToldParquet(str(tmp_path / "a")), nulls="mask")
    report = json.loads((tmp_path / "a" / "_pipeline" / "report.json").read_text())
    said = {"read": "; read less", "write": "; write less", "compute": f"; {advice(Cpu())}"}
    assert report["verdict"] == report["bottleneck"] + said.get(report["bottleneck"].split()[0], "")


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (ParquetSource("x"), "a string column that carry leaves out"),
        (NpySource("x"), "source.mmap=true"),
        (NpzSource("x"), "numpy.savez"),
        (Cpu(), "device=cuda"),
        (Parquet("x"), "sink.page_checksum=false"),
        (Npy("x"), "sink.cached=false"),
        (Npz("x"), "sink=npy"),
        (Npz("x", compressed=True), "sink.compressed=false"),
        (object(), ""),
    ],
)
def test_advice_is_about_what_was_chosen(owner: object, words: str) -> None:
    """And about keys that it has."""
    given = advice(owner)
    assert words in given
    for key in re.findall(r"(?:source|sink)\.(\w+)=", given):
        assert hasattr(owner, key)


def test_nothing_made_is_nothing_slow(tmp_path: Path) -> None:
    """A run that found all parts has no slowest lane."""
    run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask")
    assert "verdict" not in run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask")


# ---- the page --------------------------------------------------------------------------------------------------------

CHECKS = parse({"input": [{"column": "x", "max": 90, "action": "quarantine"}], "output": []})


def page_of(out: Path) -> str:
    return (out / "_pipeline" / "report.html").read_text(encoding="utf-8")


def test_the_page_has_all_that_is_known(tmp_path: Path) -> None:
    """In one file that asks for nothing from elsewhere; in the dark, on paper and on a phone too."""
    config, command = {"source": {"path": "<in> & out"}}, ["python", "-m", "pipeline", "source.path='<in> & out'"]
    run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True, config=config, command=command)
    html = page_of(tmp_path / "a")
    report = json.loads((tmp_path / "a" / "_pipeline" / "report.json").read_text())
    assert html.index(report["verdict"]) < html.index("<h2>Lanes over time</h2>")
    for word in ("download", "rows per second", "resident memory", "Values before and after", "Nulls", "part-00000-"):
        assert word in html
    assert "&lt;in&gt; &amp; out" in html
    assert html.count('class="bars"') >= 2
    assert f"torch {report['versions']['torch']}" in html
    assert not [word for word in ("<script", "src=", "@import", 'href="http', "<link", "<in>") if word in html]
    for word in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert word in html


def test_the_page_changes_no_byte_of_the_output(tmp_path: Path) -> None:
    """And is not there unless it is asked for."""
    outs = [tmp_path / name for name in ("a", "b")]
    for out, html in zip(outs, (True, False), strict=True):
        run_rows(Rows(table(), 30), same, out, nulls="mask", html=html)
    first, second = ([(f.name, f.read_bytes()) for f in sorted(out.glob("*.parquet"))] for out in outs)
    assert first == second
    assert [(out / "_pipeline" / "report.html").exists() for out in outs] == [True, False]


def test_secrets_stay_out_of_the_page(tmp_path: Path) -> None:
    """Names of files, which no configuration spelled, are masked as in the report."""
    source = Rows(table(), 30)

    def hide(text: str) -> str:
        return text.replace(source.splits()[0].id, "***")

    run_rows(source, same, tmp_path / "a", nulls="mask", html=True, hide=hide)
    assert '<td class="key">***</td>' in page_of(tmp_path / "a")
    assert f">{source.splits()[0].id}<" not in page_of(tmp_path / "a")


def test_a_run_with_nothing_to_do_keeps_the_page(tmp_path: Path) -> None:
    """It is about the run that made the output."""
    run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True)
    before = page_of(tmp_path / "a")
    assert run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True)["state"] == "nothing to do"
    assert page_of(tmp_path / "a") == before


def test_a_page_that_cannot_be_written_loses_no_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning says what went wrong."""
    (tmp_path / "a" / "_pipeline" / "report.html").mkdir(parents=True)
    made = run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True)
    assert (made["state"], (tmp_path / "a" / "_SUCCESS").exists()) == ("done", True)
    assert "report.html is not written" in caplog.text


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_the_missing_extra_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Exit code 2, and nothing is written."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"{library}.*pip install 'tensor-etl-stage\[report\]'") as caught:
        run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True)
    assert caught.value.code == 2
    assert not (tmp_path / "a").exists()


def test_the_page_of_no_rows(tmp_path: Path) -> None:
    """There is one, with no values to show."""
    run_rows(Rows(table().slice(0, 0), 30), same, tmp_path / "a", nulls="mask", html=True, stream_depth=0)
    assert "Lanes over time" in page_of(tmp_path / "a")


def test_checks_are_on_the_page(tmp_path: Path) -> None:
    """With the rows that went to quarantine."""
    made = run_rows(Rows(table(), 30), same, tmp_path / "a", nulls="mask", html=True, checks=CHECKS)
    assert made["quarantined"]
    assert f"{made['quarantined']:,} rows quarantined" in page_of(tmp_path / "a")


def test_carried_columns_are_on_the_page_without_their_words(tmp_path: Path) -> None:
    """What they look like once, as they come out as they went in; words stay in the data."""
    words = pa.table({"x": [1.0, 2.0], "who": ["a-secret-name", "b"], "day": pa.array([20484, 20485], pa.date32())})
    run_rows(Rows(words, 30), same, tmp_path / "a", html=True)
    html = page_of(tmp_path / "a")
    row = next(line for line in html.splitlines() if ">who</td>" in line and "carried" in line)
    assert re.findall(r'"number">([^<]*)<', row) == ["1", "7", "6", "13"]
    assert "<td>2 different</td>" in row
    assert "2026-01-31" in html
    assert "a-secret-name" not in html


def test_the_fit_is_in_the_timeline(tmp_path: Path) -> None:
    """With lanes of its own, before those of the run; learning is one of them."""
    run_rows(Rows(table(), 30), Standardize(), tmp_path / "a", nulls="mask", html=True)
    html = page_of(tmp_path / "a")
    lanes = re.findall(r"<tr><td>([\w: ]+)</td><td class=\"number\">\d+</td><td", html)
    assert lanes == ["fit: read", "fit: upload", "fit: learn", "read", "upload", "compute", "download", "write"]
    report = json.loads((tmp_path / "a" / "_pipeline" / "report.json").read_text())
    assert [lane["lane"] for lane in report["fit_lanes"]] == ["read", "upload", "learn"]
