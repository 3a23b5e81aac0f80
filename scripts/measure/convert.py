"""`scripts/bench convert`: what conversions cost, against a warm memcpy of the same bytes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from measure import page
from measure.figure import Figure, interleave
from pipeline import columns
from pipeline.core import Array, ArrayField, Column, Columns, Schema, Staged, Tensors
from pipeline.device.cpu import Cpu
from pipeline.layout import VALID, Layout, layout

SEED = 20260101
TARGET = 1.2  # times a warm memcpy: more is set in bold
MAX_BATCH_ROWS = 1 << 20  # as in a run

T = TypeVar("T")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "Arrow and NumPy columns to tensors and back, against a warm memcpy of the same bytes."
    parser = commands.add_parser("convert", help=words, description=words)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of a plain column; others have as many bytes"
    )
    parser.add_argument("--repetitions", type=int, default=15, help="rounds, A B C A B C; minimum and median are shown")
    parser.add_argument("--batch-bytes", type=int, default=4 << 20, help="batch.bytes of the run that is looked at")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table in its section of this page")
    parser.set_defaults(command=convert)


def convert(arguments: argparse.Namespace) -> None:
    """Time every route, in whole columns and in batches of the size that a run uses."""
    if min(arguments.rows, arguments.repetitions, arguments.batch_bytes) < 1:
        sys.exit("scripts/bench: --rows, --repetitions and --batch-bytes must be at least 1")
    if arguments.write is not None:
        page.frame("convert", arguments.write)  # refuses a page without the section before the minutes are spent
    torch.set_num_threads(1)  # as a run does
    routes = [
        route for case in cases(arguments.rows) for route in measure(case, arguments.batch_bytes, arguments.repetitions)
    ]
    slow = [_detour(*detour, arguments.repetitions) for detour in detours(arguments.rows)]
    page.publish("convert", _page(routes, slow, arguments), arguments.write)


def _page(routes: Sequence[Measured], slow: Sequence[Sequence[str]], arguments: argparse.Namespace) -> str:
    return PAGE.format(
        rows=arguments.rows,
        repetitions=arguments.repetitions,
        machine=page.machine(),
        batch=f"{arguments.batch_bytes / (1 << 20):g}",
        target=TARGET,
        routes=page.table(HEADER, [_line(route) for route in routes], words=2),
        above="; ".join(f"{route.name} ({route.ratio:.2f}x)" for route in routes if route.ratio > TARGET) or "none",
        detours=page.table(("instead", "MB", "ms", "GB/s", "memcpy"), slow),
    )


PAGE = """\
Written by `scripts/bench convert --rows {rows} --repetitions {repetitions}` on {machine}.

Columns to CPU tensors (in) and back (out) by the calls that a run makes: `layout.enter` and `device.upload`,
`device.download` and `columns.restore`. Each is checked to give back what went in. "Whole" is one call for all rows,
whose results need fresh memory; "batches" are the {batch} MiB of a run. The memcpy is warm, of as many bytes as the
tensors have, whole or block by block into one buffer, and timed in turn with the route. Milliseconds: minimum / median;
ratios are of minimums, in bold above {target}. What is shared is not read; its time is that of the calls.
Other work on the machine shows in the medians first.

{routes}

Above {target} in batches: {above}.

The usual ways instead, whole:

{detours}"""

HEADER = ("route", "how", "MB", "whole ms", "GB/s", "memcpy", "batches ms", "GB/s", "memcpy")


def _line(route: Measured) -> tuple[str, ...]:
    size = route.case.rows * route.case.row_bytes
    whole = _figures(size, route.whole, route.whole_memcpy)
    return (
        route.name,
        route.case.way,
        f"{size / 1e6:,.0f}",
        *whole,
        *_figures(size, route.batches, route.batches_memcpy),
    )


def _figures(size: int, figure: Figure, memcpy: Figure) -> tuple[str, str, str]:
    ratio = figure.best / memcpy.best
    words = f"**{ratio:.2f}x**" if ratio > TARGET else f"{ratio:.2f}x"
    speed = size / figure.best / 1e9
    return (
        f"{figure.best * 1e3:.2f} / {figure.median * 1e3:.2f}",
        f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
        words,
    )


def _detour(name: str, size: int, call: Callable[[], object], repetitions: int) -> tuple[str, ...]:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    timed = interleave({"memcpy": lambda: np.copyto(target, source), "call": call}, repetitions)
    return (name, f"{size / 1e6:,.0f}", *_figures(size, timed["call"], timed["memcpy"]))


@dataclass(frozen=True)
class Case:
    """Columns, and the layout by which they become tensors; `way` says how the bits travel."""

    name: str
    way: str
    layout: Layout
    columns: Columns

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def row_bytes(self) -> int:
        """Bytes of the tensors of one row, with the byte that says whether it is null."""
        return self.layout.row_bytes + sum(columns.nulls(column) > 0 for column in self.columns.values())

    def cut(self, rows: int) -> list[Columns]:
        """The columns in batches, as views."""
        return [
            {name: column[start : start + rows] for name, column in self.columns.items()}
            for start in range(0, self.rows, rows)
        ]


def cases(rows: int) -> Iterator[Case]:
    """One after the other, so that only one is in memory."""
    rng = np.random.default_rng(SEED)
    real, integer = rng.random(rows, dtype=np.float32), rng.integers(-(2**63), 2**63 - 1, rows)
    short = integer % 10**12
    wide = rng.random((max(1, rows // 16), 8, 16), dtype=np.float32)
    permuted = pa.fixed_shape_tensor(pa.float32(), (8, 16), permutation=[1, 0])

    yield _stacked({f"f{i}": pa.array(rng.random(rows, dtype=np.float32)) for i in range(8)})
    yield _case("float32", "shared", pa.array(real))
    yield _case("int64", "shared", pa.array(integer))
    yield _case(
        "int64, one in ten null", "values shared, bits unpacked", pa.array(integer, mask=rng.random(rows) < 0.1)
    )
    yield _case(f"bool ({8 * rows:,} rows)", "bits unpacked", pa.array(rng.random(8 * rows) < 0.5))
    yield _case("fixed_size_list of 128 float32", "shared", _typed(wide.reshape(-1, 128), pa.list_(pa.float32(), 128)))
    yield _case(
        "fixed_shape_tensor, 8 x 16 float32", "shared", _typed(wide, pa.fixed_shape_tensor(pa.float32(), (8, 16)))
    )
    yield _case("the same, permuted", "shared in, put in order out", _typed(wide.transpose(0, 2, 1), permuted))
    yield _case("timestamp[us, UTC]", "shared", _typed(integer, pa.timestamp("us", tz="UTC")))
    yield _case("decimal64(18, 2)", "shared", _typed(short, pa.decimal64(18, 2)))
    yield _case("decimal128(18, 2)", "narrowed and widened, checked", _typed(short, pa.decimal128(18, 2)))
    yield _case("float32, big-endian .npy", "bytes swapped", real.astype(">f4"))
    yield _case("int64, big-endian .npy", "bytes swapped", integer.astype(">i8"))


def _stacked(held: Columns) -> Case:
    schema = Schema(tuple(pa.field(name, pa.float32()) for name in held))
    return Case(
        "8 float32 stacked to (rows, 8)",
        "columns copied into one matrix",
        layout(schema, {"x": list(held)}, "none"),
        held,
    )


def _case(name: str, way: str, column: Column) -> Case:
    schema = Schema((ArrayField("x", column.dtype) if isinstance(column, np.ndarray) else pa.field("x", column.type),))
    return Case(name, way, layout(schema, ["x"], "none"), {"x": column})


def _typed(array: Array, type_: pa.DataType) -> pa.Array:
    return columns.restore(array, None, pa.field("x", type_))


@dataclass(frozen=True)
class Measured:
    """One direction of a case: whole columns at once, and in batches; each beside its own memcpy."""

    case: Case
    direction: str
    whole: Figure
    whole_memcpy: Figure
    batches: Figure
    batches_memcpy: Figure

    @property
    def name(self) -> str:
        """The case and its direction."""
        return f"{self.case.name}, {self.direction}"

    @property
    def ratio(self) -> float:
        """Time in batches, which is how a run works, over that of a memcpy of as many bytes in as many pieces."""
        return self.batches.best / self.batches_memcpy.best


def measure(case: Case, batch_bytes: int, repetitions: int) -> list[Measured]:
    """Time both directions of a case."""
    batch_rows = min(MAX_BATCH_ROWS, max(1, batch_bytes // case.layout.row_bytes))
    whole, batches = (_round_trips(case, rows, repetitions) for rows in (case.rows, batch_rows))
    return [
        Measured(case, direction, whole[direction], whole["memcpy"], batches[direction], batches["memcpy"])
        for direction in ("in", "out")
    ]


def _round_trips(case: Case, rows: int, repetitions: int) -> dict[str, Figure]:
    pieces = case.cut(rows)
    tensors = [enter(case.layout, piece) for piece in pieces]
    for piece, held in zip(pieces, tensors, strict=True):
        if not _same(piece, leave(case.layout, held)):
            sys.exit(f"scripts/bench: {case.name} does not come back as it went in")
    source = np.ones((case.rows, case.row_bytes), np.uint8)
    target = np.ones((min(rows, case.rows), case.row_bytes), np.uint8)
    blocks = [source[start : start + rows] for start in range(0, case.rows, rows)]
    return interleave(
        {
            "memcpy": lambda: each(blocks, lambda block: np.copyto(target[: len(block)], block)),
            "in": lambda: each(pieces, lambda piece: enter(case.layout, piece)),
            "out": lambda: each(tensors, lambda held: leave(case.layout, held)),
        },
        repetitions,
    )


def each(pieces: Sequence[T], call: Callable[[T], object]) -> None:
    """Call with each piece and drop the result, as a run does once a batch is written."""
    for piece in pieces:
        call(piece)


def enter(way: Layout, held: Columns) -> Tensors:
    """Columns to tensors, as a run on the CPU does it."""
    return Cpu().upload(way.enter(held)).tensors


def leave(way: Layout, tensors: Tensors) -> Columns:
    """Tensors to columns, as a run on the CPU does it."""
    arrays = Cpu().download(Staged(tensors))
    left: Columns = {}
    for route in way.routes:
        for position, field in enumerate(route.fields):
            array = arrays[route.name][:, position] if route.stacked else arrays[route.name]
            left[field.name] = columns.restore(array, arrays.get(VALID + route.name), field)
    return left


def _same(one: Columns, other: Columns) -> bool:
    def alike(a: Column, b: Column) -> bool:
        return a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a.equals(b))

    return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)


# ---- convert: what is not done ---------------------------------------------------------------------------------------


def detours(rows: int) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """The usual ways of the same conversions: name, bytes of the result, the call."""
    rng = np.random.default_rng(SEED)
    gaps = pa.array(rng.integers(-(2**40), 2**40, rows), mask=rng.random(rows) < 0.1)
    yield (
        "int64 with nulls: Array.to_numpy, float64 with NaN (changes values above 2**53)",
        8 * rows,
        lambda: to_numpy(gaps),
    )
    yield (
        "the same back: pa.array(..., from_pandas=True)",
        8 * rows,
        partial(pa.array, to_numpy(gaps), from_pandas=True),
    )
    truth = rng.random(8 * rows) < 0.5
    packed = pa.array(truth)
    yield "bool: Array.to_numpy", 8 * rows, lambda: to_numpy(packed)
    yield "bool back: pa.array", 8 * rows, lambda: pa.array(truth)
    held = [rng.random(rows, dtype=np.float32) for _ in range(8)]
    yield "8 float32: np.stack(axis=1)", 32 * rows, lambda: np.stack(held, axis=1)
    tensors = [torch.from_numpy(column) for column in held]
    yield "8 float32: torch.stack(dim=1)", 32 * rows, lambda: torch.stack(tensors, dim=1)


def to_numpy(column: pa.Array) -> Array:
    array: Array = column.to_numpy(zero_copy_only=False)
    return array
