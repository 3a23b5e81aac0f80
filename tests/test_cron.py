"""The crontab lines of docs/cron.md and the README, as cron runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/cron.md").read_text()
FLIGHTS = ROOT / "pipeline/data/flights.parquet"
PLACES = ("/srv/etl", "/data", "/var/log", "/run/lock", "/var/lib/node_exporter")


def blocks(kind: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


BY_HAND = [line for b in blocks("bash") for line in b.splitlines()]
LINES = [
    line for text in (PAGE, (ROOT / "README.md").read_text()) for b in blocks("cron", text) for line in b.splitlines()
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The places that the lines name, under one folder: this environment, data by day, a configuration."""
    root = tmp_path_factory.mktemp("machine")
    for place in (*PLACES, "/var/log/etl", "/home"):
        (root / place[1:]).mkdir(parents=True, exist_ok=True)
    (root / "srv/etl/.venv").symlink_to(sys.prefix)
    now = datetime.now(UTC)
    recent = [(now + timedelta(days=shift)).date() for shift in range(-4, 3)]  # of any time zone, or past midnight
    for day in (*recent, date(2026, 1, 30), date(2026, 1, 31)):
        for folder in (f"in/{day}", f"days/dt={day}", f"tree/{day:%Y/%m/%d}"):
            (root / "data" / folder).mkdir(parents=True)
            shutil.copy(FLIGHTS, root / "data" / folder / "flights.parquet")
    for text in blocks("yaml"):
        name = re.match(r"# (/srv/\S+)", text)
        if name:
            (root / name[1][1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / name[1][1:]).write_text(here(text, root))
    return root


def here(text: str, root: Path) -> str:
    """The text with its places under this root."""
    return re.sub("|".join(rf"(?<![\w.]){place}\b" for place in PLACES), lambda m: f"{root}{m[0]}", text)


def command(line: str) -> str:
    """What cron hands to the shell: the line without its five fields, up to a `%` that is not escaped."""
    fields = line.split(maxsplit=5)
    assert all(re.fullmatch(r"[\d*,/-]+", field) for field in fields[:5])
    return re.split(r"(?<!\\)%", fields[5])[0].replace(r"\%", "%")


def cron(line: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a line with the environment, the folder and the shell of cron."""
    env = {"HOME": f"{root}/home", "LOGNAME": "etl", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", here(command(line), root)]
    return subprocess.run(argv, cwd=env["HOME"], env=env, capture_output=True, text=True, check=False)


def logged(root: Path) -> str:
    return "".join(log.read_text() for log in sorted((root / "var/log").rglob("*.log")))


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_line_runs_as_cron_runs_it(line: str, machine: Path) -> None:
    """It ends well, twice, has an output, and leaves nothing for cron to mail."""
    for _ in range(2):
        done = cron(line, machine)
        assert (done.returncode, done.stderr) == (0, ""), logged(machine)
    out = re.search(r"sink\.path=(\S+?)[/\"']*(?:dt=.*)?(?:\s|$)", line)
    folder = machine / (out[1].strip("\"'")[1:] if out else "data/out-daily")
    assert list(folder.rglob("_SUCCESS"))
    assert all(text.startswith("{") for text in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("line", BY_HAND)
def test_a_line_by_hand_runs(line: str, machine: Path) -> None:
    """A sweep over days."""
    done = cron(f"* * * * * {line}", machine)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert {"dt=2026-01-30", "dt=2026-01-31"} <= {path.name for path in (machine / "data/out-days").iterdir()}


def test_every_kind_of_line_is_there() -> None:
    """The list above is not empty by accident."""
    for words in (
        "${yesterday:}",
        r"\%Y",
        "flock",
        "--config-name daily",
        "metrics.textfile",
        "run.nothing_to_do=skip",
    ):
        assert any(words in line for line in LINES)


def test_a_day_from_the_clock_is_in_the_report(machine: Path) -> None:
    """The partition of yesterday, and a command that names it."""
    line = next(line for line in LINES if "${yesterday:}" in line)
    assert cron(line, machine).returncode == 0, logged(machine)
    last = json.loads((machine / "var/log/etl/etl.jsonl").read_text().splitlines()[-1])
    facts = json.loads(Path(last["report"]).read_text())
    assert last["output"] == facts["output"] == f"{machine}/data/out-days/dt={facts['config']['date']}"
    assert facts["command"][-1] == f"date={facts['config']['date']}"


@pytest.mark.slow
def test_the_metrics_of_the_page_are_those_that_are_written(machine: Path) -> None:
    """Names and labels, as the page shows them."""
    line = next(line for line in LINES if "metrics.textfile" in line)
    assert cron(line, machine).returncode == 0, logged(machine)
    text = (machine / "var/lib/node_exporter/etl.prom").read_text()
    written = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert set(re.findall(r"tensor_etl_\w+", PAGE)) <= written


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_units_are_well_formed(tmp_path: Path) -> None:
    """systemd finds nothing to say about them, but for the places that are not here."""
    units = []
    for text in blocks("ini"):
        name = re.match(r"# /etc/systemd/system/(\S+)", text)
        assert name
        units.append(tmp_path / name[1])
        units[-1].write_text(text.replace("/srv/etl/.venv/bin/python", sys.executable).replace("User=etl\n", ""))
    argv = ["systemd-analyze", "verify", "--man=no", *map(os.fspath, units)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, [said for said in done.stderr.splitlines() if str(tmp_path) in said]) == (0, [])
