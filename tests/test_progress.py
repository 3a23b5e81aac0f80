"""How far a run is, for people at a terminal and for logs."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.log import Console
from pipeline.progress import progress
from pipeline.stream import Lane

ROOT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    """What is written to it, and that it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What stands on the screen once all is written, without colours."""
        screen: list[str] = [""]
        at = 0
        for mark, text in re.findall(r"(\x1b\[[\d;?]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", self.getvalue()):
            if mark == "\n":
                at += 1
                screen += [""] * (at == len(screen))
            elif mark.endswith("A"):
                at -= int(mark[2:-1] or 1)
            elif mark == "\x1b[2K":
                screen[at] = ""
            screen[at] += text
        return [line.rstrip() for line in screen]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be redirected to: pytest has its own stderr by the time that a test begins."""
    for name, value in (("TERM", "xterm"), ("COLUMNS", "100"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    return Terminal()


@pytest.fixture
def lanes() -> list[Lane]:
    """Two, of which one has been at work in two threads for longer than anyone waits here."""
    return [Lane("read", width=2, items=1234, total=1e6), Lane("compute", starved=1e6, total=1e6, blocked=0.0)]


def test_a_terminal_has_a_bar_and_a_line_for_each_lane(terminal: Terminal, lanes: list[Lane]) -> None:
    """With what it does; when the block ends, all of it is gone."""
    with redirect_stderr(terminal), progress("rows", 10) as shown:
        shown.lanes = lanes
        shown.advance(4)
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert "4/10" in drawn
    assert re.search(r"lane +at work +waiting for input +waiting for room +items", drawn)
    assert re.search(r"read \(2\) +100% +0% +0% +1,234", drawn)
    assert re.search(r"compute +0% +100% +0% +0\b", drawn)
    assert "".join(terminal.lines) == ""


def test_a_warning_stays_on_the_screen(terminal: Terminal, lanes: list[Lane]) -> None:
    """It goes above the bar, which is drawn over its own lines alone."""
    log = logging.getLogger("tests.progress")
    log.propagate = False
    log.addHandler(handler := Console())
    try:
        with redirect_stderr(terminal), progress("rows", 10) as shown:
            shown.lanes = lanes
            log.warning("a column is all nulls")
    finally:
        log.removeHandler(handler)
    assert [line for line in terminal.lines if line] == ["a column is all nulls"]


def test_logs_have_a_line_for_each_lane_below_that_of_the_rows(
    lanes: list[Lane], caplog: pytest.LogCaptureFixture
) -> None:
    """If there are lanes to show; always in the same columns."""
    caplog.set_level(logging.INFO, "pipeline")
    for some in ([], lanes):
        with progress("rows", 10, "lines", 0) as shown:
            shown.lanes = some
            shown.advance(5)
    first, second, *told = caplog.messages
    assert first.startswith("rows: 5 rows of 10 (50%)")
    assert second.startswith("rows: 5 rows of 10 (50%)")
    assert [line.split()[0] for line in told] == ["lane", "read", "compute"]


def test_a_run_shows_its_lanes_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the fit pass as well."""
    job = ["hydra/job_logging=json", "log.progress=lines", "log.every=0", "device=cpu"]
    assert main([*job, f"sink.path={tmp_path}/quiet"]) == 0
    assert main([*job, f"sink.path={tmp_path}/out", "log.verbose=true"]) == 0
    quiet, told = capsys.readouterr().err.split(f"{tmp_path}/quiet/_pipeline", 1)
    assert "compute" not in "".join(line for line in quiet.splitlines() if "done:" not in line)
    said = [json.loads(line)["message"].split() for line in told.splitlines() if line.startswith("{")]
    starts = [i for i, words in enumerate(said) if words[:1] == ["lane"]]
    assert {words[0] for words in said[: starts[-1]]} >= {"read", "upload", "fit,"}
    assert {words[0] for words in said[starts[-1] :]} >= {"read", "upload", "compute", "download", "write"}


def test_rich_is_imported_at_a_terminal_only(tmp_path: Path) -> None:
    """A run from cron does not wait for it."""
    code = "import sys; from pipeline.__main__ import main; code = main(); sys.exit(code or 'rich' in sys.modules)"
    args = ["transform=identity", "device=cpu", "log.verbose=true", "log.every=0", f"sink.path={tmp_path}/out"]
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
