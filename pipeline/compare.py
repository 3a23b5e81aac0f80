"""Runs side by side: a table for a terminal, sweep.csv, and the differences of two configurations.

python -m pipeline.compare multirun          # a sweep: the table, and its sweep.csv and sweep.html anew
python -m pipeline.compare out other         # any outputs; of two, how their configurations differ
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, InputError, PipelineError
from pipeline.files import write_bytes
from pipeline.log import emit
from pipeline.plan import table
from pipeline.sweep import result
from pipeline.sweep.measure import MEASURES
from pipeline.sweep.result import Result, difference, summary

_MOST_KEYS = 4  # of runs that stand alone, whose whole configurations are compared; the page has all
_SHOWN = ("rows", "batches", "seconds", "rows_per_second", "peak_memory_bytes", "memory_bytes", "objective")


# ---- finding ---------------------------------------------------------------------------------------------------------


def gather(folders: Iterable[str]) -> list[Result]:
    """Results of sweeps and of single runs: a sweep's folder, an output, or a folder of outputs.

    Raises:
        InputError: nothing of the kind is there.
    """
    found = [one for folder in folders for one in _in(Path(folder))]
    if not found:
        raise InputError("no folder is given; name a sweep (multirun) or some outputs")
    return found


def _in(folder: Path) -> list[Result]:
    jobs = [result.read(file) for file in result.stamps(folder) if file.name.count(".json") == 1 and not _dry(file)]
    if jobs:
        return sorted(jobs, key=lambda one: int(one.facts.get("number", 0)))
    single = folder.with_name(folder.name + ".run") / "report.json"
    reports = [single] if single.is_file() else sorted(folder.rglob("report.json"))
    if not reports:
        raise InputError(f"{str(folder)!r} holds no sweep (_jobs) and no output of a run (report.json)")
    return [result.read_report(file, _output(file)) for file in reports]


def _dry(file: Path) -> bool:
    return file.name.endswith((".plan.json", ".verify.json"))


def _output(report: Path) -> str:
    state = report.parent
    return str(state.parent if state.name == "_pipeline" else state.with_name(state.name.removesuffix(".run")))


# ---- telling ---------------------------------------------------------------------------------------------------------


def lines(results: Sequence[Result]) -> list[str]:
    """The table for a terminal: what differs, what was measured, how it ended."""
    rows = result.settings(results)
    keys = result.varying(rows)
    alone = not keys or not results[0].overrides
    keys = keys[:_MOST_KEYS] if alone else keys
    names = [[one.name] * alone + [row.get(key, "-") for key in keys] for row, one in zip(rows, results, strict=True)]
    shown = [m for m in MEASURES if m.key in _SHOWN and any(m.of(one) is not None for one in results)]
    head = [*["run"] * alone, *keys, *(m.name for m in shown), "state"]
    body = [[*name, *(m.cell(one) for m in shown), one.ended] for name, one in zip(names, results, strict=True)]
    return table(head, body)


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """All overrides and all plain facts, one line for each job."""
    rows = result.settings(results)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    facts = list(dict.fromkeys(key for one in results for key, value in one.facts.items() if _plain(value)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = ["job", *keys, "state", "code", *(f"report.{key}" if key in keys else key for key in facts), "error"]
    writer.writerow(own)
    for row, one in zip(rows, results, strict=True):
        values = [one.facts.get(key) for key in facts]
        writer.writerow([one.name, *(row.get(key) for key in keys), one.state, one.code, *values, one.error])
    write_bytes(path, text.getvalue().encode(), durable=False)


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def write(folder: Path, results: Sequence[Result], *, drawn: bool = True) -> list[str]:
    """Write sweep.csv and, if it is to be drawn and can be, sweep.html: lines that say what is where."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "sweep.csv", results)
    said = [f"table  {folder / 'sweep.csv'}"]
    if not drawn:
        return said
    from pipeline.page import document

    if missing := document.missing():
        return [*said, f"page   not drawn, {missing} is not there: pip install 'tensor-etl-stage[report]'"]
    write_bytes(folder / "sweep.html", document.sweep(results).encode(), durable=False)
    return [*said, f"page   {folder / 'sweep.html'}"]


# ---- command ---------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the runs in the folders that are named; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.compare", description="Compare the jobs of a sweep, or any finished outputs."
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a sweep (multirun), an output, a folder of outputs")
    parser.add_argument("--out", metavar="DIR", help="write sweep.csv and sweep.html there; default: into the sweep")
    given = parser.parse_args(argv)
    try:
        said = _compare(given.folders, given.out)
    except PipelineError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.code
    emit("\n".join(said))
    return 0


def _compare(folders: Sequence[str], out: str | None) -> list[str]:
    results = gather(folders)
    if len(folders) == 1 and out is None and (Path(folders[0]) / result.FOLDER).is_dir():
        out = folders[0]
    if out is not None and Path(out).is_file():
        raise ConfigError(f"--out {out}: expected a folder; it is a file")
    said = [*lines(results), "", summary(results)]
    if len(results) == 2:
        rows = difference(results[0].config, results[1].config)
        said += ["", *table(["key", *(one.name for one in results)], rows or [("no difference", "", "")])]
    where = write(Path(out), results) if out else ["--out DIR writes sweep.csv and sweep.html"]
    return [*said, "", *where]


if __name__ == "__main__":
    sys.exit(main())
