"""`scripts/bench checks`: what checks of the data cost."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from measure import page
from measure.convert import SEED
from pipeline.batching import cut
from pipeline.check.checks import parse
from pipeline.check.inspection import Inspector
from pipeline.check.rules import bind
from pipeline.core import Batch, Columns, Schema, Split, Task

ASKED: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("`min: 0, max: 1`", "8 float32 columns", {"column": "x*", "min": 0, "max": 1}),
    ("`nan: 0`", "8 float32 columns", {"column": "x*", "nan": 0}),
    (
        "`min`, `max`, `nan`, `inf`, `nulls`",
        "8 float32 columns",
        {"column": "x*", "min": 0, "max": 1, "nan": 0, "inf": 0, "nulls": 0},
    ),
    (
        "`min: 0.01`, which 8 % of the rows break, `warn`",
        "8 float32 columns",
        {"column": "x*", "min": 0.01, "action": "warn"},
    ),
    (
        "`min: 0.001`, which 0.8 % of the rows break, `quarantine`",
        "8 float32 columns, 11 to keep",
        {"column": "x*", "min": 0.001, "action": "quarantine"},
    ),
    ("`allowed`, 3 values", "strings", {"column": "word", "allowed": ["JFK", "LGA", "EWR"]}),
    ("`unique`", "int64, in random order", {"column": "id", "unique": True}),
    ("`unique`", "strings of about 10 bytes", {"column": "name", "unique": True}),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "CPU time of checks of the data, against a warm memcpy of 8 float32 columns."
    parser = commands.add_parser("checks", help=words, description=words)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--batch-rows", type=int, default=131_072, help="rows of a batch")
    parser.add_argument("--repetitions", type=int, default=5, help="the best counts")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table in its section of this page")
    parser.set_defaults(command=checks)


def checks(arguments: argparse.Namespace) -> None:
    """Ask one check at a time of a table in memory."""
    if min(arguments.rows, arguments.batch_rows, arguments.repetitions) < 1:
        sys.exit("scripts/bench: --rows, --batch-rows and --repetitions must be at least 1")
    held = _asked(arguments.rows)
    batches = [
        cut(held, start, start + arguments.batch_rows) for start in range(0, arguments.rows, arguments.batch_rows)
    ]
    block = np.zeros(8 * arguments.rows, np.float32)
    copied = _cpu(partial(np.copyto, np.empty_like(block), block), arguments.repetitions)
    figures = [(check, of, _cpu(partial(inspect, batches, entry), arguments.repetitions)) for check, of, entry in ASKED]
    lines = [(check, of, f"{1000 * best:.1f}", f"{best / copied:.1f}") for check, of, best in figures]
    measured = (
        f"CPU milliseconds for {arguments.rows:,} rows in batches of {arguments.batch_rows:,}, the best of "
        f"{arguments.repetitions}; and as multiples of a copy of the 8 float32 columns."
    )
    rows = page.table(("check", "of", "ms", "copies"), lines, words=2)
    page.publish(
        "checks", f"Written by `scripts/bench checks` on {page.machine()}.\n\n{measured}\n\n{rows}", arguments.write
    )


def _asked(rows: int) -> Columns:
    random = np.random.default_rng(SEED)
    held: Columns = {f"x{i}": pa.array(random.random(rows, np.float32)) for i in range(8)}
    held["id"] = pa.array(random.permutation(rows))
    held["name"] = pa.array([f"name-{i}" for i in range(rows)])
    held["word"] = pa.array(random.choice(["JFK", "LGA", "EWR"], rows))
    return held


def inspect(batches: Sequence[Columns], entry: dict[str, object]) -> None:
    """One check of all batches, as in the upload lane of a run."""
    schema = Schema(tuple(pa.field(name, column.type) for name, column in batches[0].items()))  # type: ignore[union-attr]
    split = Split("split", "1")
    task = Task(0, "key", "part", (split,))
    inspector = Inspector(bind(parse({"input": [entry]}), schema, schema))
    for batch in batches:
        inspector.enter(Batch(task, split, 0, len(batch["id"]), batch, last=batch is batches[-1]))


def _cpu(call: Callable[[], object], repetitions: int) -> float:
    """The least CPU time of all repetitions, after one that does not count."""
    taken = []
    for _ in range(repetitions + 1):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken[1:])
