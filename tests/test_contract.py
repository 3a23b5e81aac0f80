"""The contract of `pipeline.testing.contract`, line by line, through the stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import columns
from pipeline.batching import cut
from pipeline.columns import describe
from pipeline.core import ArrayField, Column, Columns, Output
from pipeline.device.cuda import Cuda
from pipeline.difference import compare
from pipeline.errors import DTypeError
from pipeline.policy import LOGICAL
from pipeline.run import Stage
from pipeline.sample import Kept
from pipeline.sink.npz import Npz as NpzSink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npz import Npz
from pipeline.source.parquet import Parquet
from pipeline.testing import samples
from pipeline.testing.contract import ARROW, NUMPY, ROWS, Row, short
from pipeline.testing.memory import Memory, planned, through, work
from pipeline.testing.page import text
from pipeline.testing.refusals import REFUSALS, RETURNED, Refusal, Returned
from pipeline.testing.source import read_all
from pipeline.transform.identity import Identity
from tests.device.fake import FakeRuntime

TABLE = ARROW + NUMPY
TENSORS = [row for row in TABLE if row.tensor]
SIZES = (1, 7, ROWS - 1, ROWS, ROWS + 1)

each = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
each_tensor = pytest.mark.parametrize("row", TENSORS, ids=lambda row: row.name)


@dataclass
class Look:
    """Identity that notes type, shape and place of what it sees."""

    rowwise: bool = True
    seen: dict[str, tuple[str, int]] = field(default_factory=dict)

    def __call__(self, tensors: Any) -> Any:
        for name, t in tensors.items():
            inner = t.values() if t.is_nested else t
            shape = ", ".join(["*"] * t.is_nested + [str(n) for n in inner.shape[1:]])
            kind = str(t.dtype).removeprefix("torch.") + (f"[{shape}]" if shape else "")
            self.seen[name] = (kind, inner.data_ptr())
        return tensors


def sink(row: Row, *, other: bool = False) -> Any:
    """The format of the row's own library, or of the other."""
    pairs = "pairs" if row.pairs else "error"
    return ParquetSink("x.parquet", complex=pairs) if row.arrow != other else NpzSink("x.npz")  # type: ignore[arg-type]


def source(row: Row, column: Column) -> Memory:
    """A column `x` in memory."""
    rows = column.reshape(-1) if isinstance(column, np.ndarray) and row.scalar else column
    return Memory((row.field("x"),), [{"x": rows}])


def plan(row: Row, column: Column, columns: Sequence[str] | None = None, *, other: bool = False) -> Stage:
    """The stage before anything is read; what is stored is not asked."""
    kept = Kept(sink(row, other=other), typed=other)
    return planned(source(row, column), Identity(), kept, {"nulls": "mask", **row.policy}, columns=columns)


# ---- plan time -------------------------------------------------------------------------------------------------------


@each
def test_the_way_of_a_type_is_decided_without_a_row(row: Row) -> None:
    """By default and chosen by name, from the type alone: the same for no rows as for some."""
    some = row.sample(0.3)
    none = some.reshape(-1)[:0] if row.scalar else some[:0]
    for chosen, is_tensor in ((None, bool(row.tensor) and not row.named), (["x"], bool(row.tensor))):
        if chosen and not is_tensor:
            with pytest.raises(DTypeError, match=f"column 'x' is .*{row.why}.*carried along"):
                plan(row, some, chosen)
            continue
        full, empty = (plan(row, column, chosen) for column in (some, none))
        assert (full.ways, full.plan.ways()) == (empty.ways, empty.plan.ways())
        (route,) = full.plan.layout.routes if is_tensor else [None]
        assert (route is None) == ("x" in full.plan.layout.carried)
        if route is not None:
            assert (str(route.kind), route.copy) == (row.tensor, "" if row.seen else row.copy)
        assert kind(full.ways.stored.fields[0]) == kind(row.field("x"), row.back)


def kind(f: Any, dtype: str = "") -> Any:
    """What must come back of a field."""
    return (np.dtype(dtype or f.dtype), f.shape, f.scalar) if isinstance(f, ArrayField) else f


@each
def test_the_other_format_stores_it_as_declared_or_refuses(row: Row) -> None:
    """NumPy columns in Parquet, Arrow columns in .npy and .npz; also said before a row is read."""
    for chosen in {bool(row.tensor), bool(row.policy)}:
        if not row.stored:
            with pytest.raises(DTypeError, match="column 'x'"):
                plan(row, row.sample(), ["x"] if chosen else [], other=True)
            continue
        (stored,) = plan(row, row.sample(), ["x"] if chosen else [], other=True).ways.stored.fields
        assert (describe(stored) if row.arrow else short(stored.type)) == row.stored


@each
def test_the_own_format_keeps_the_type_or_refuses_it(row: Row) -> None:
    """What a file would give back as another type is refused before a row is read."""
    for chosen in [["x"], []] if row.tensor else [[]]:
        made = source(row, row.sample()), Identity(), Kept(sink(row)), {"nulls": "mask", **row.policy}
        if row.file:
            with pytest.raises(DTypeError, match=f"column 'x' is .*{row.file}"):
                planned(*made, columns=chosen)
            continue
        (stored,) = planned(*made, columns=chosen).ways.stored.fields
        dtype = LOGICAL.get(np.dtype(row.type).name, "") if row.held else row.back if chosen else ""
        assert kind(stored) == kind(row.field("x"), dtype)


# ---- memory ----------------------------------------------------------------------------------------------------------


@each_tensor
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_memory_is_shared_or_copied_as_the_line_says(row: Row, share: float) -> None:
    """By the addresses of the buffers: of the source and the tensor, of the tensor and what the sink is given."""
    column = source(row, row.sample(share)).pieces[0]["x"]
    column = column if row.scalar else cut({"x": column}, 3, len(column))["x"]
    look = Look()
    given = Memory((row.field("x"),), [{"x": column}])
    back = through(given, look, sink(row), {"nulls": "mask", **row.policy}, columns=["x"])["x"]
    seen, at = look.seen["x"]
    assert seen == row.tensor
    if "[0]" in row.tensor:  # no values, no memory
        return
    assert within(at, column) == (not row.copy)
    assert within(at, back) == (not (row.copy_out or (share and row.copy_nulls)))


def test_memory_is_never_shared_where_a_copy_is_asked_for() -> None:
    """Under ``memory=copy`` no tensor lies in the source, whatever its type and layout."""
    fields, values, policies = table(MANY, 0.3)
    chosen = [f.name for f, row in zip(fields, MANY, strict=True) if row.tensor]
    look, keys = Look(), {"nulls": "mask", "columns": policies, "memory": "copy"}
    back = through(Memory(tuple(fields), [values]), look, ParquetSink("x"), keys, columns=chosen)
    for row, name in zip(MANY, values, strict=True):
        assert_back(row, values[name], back[name])
        assert name not in look.seen or not within(look.seen[name][1], values[name]), row.name


def within(address: int, column: Column) -> bool:
    """Whether an address lies in the memory of a column."""
    if isinstance(column, np.ndarray):
        low, high = np.lib.array_utils.byte_bounds(column)
        return low <= address < high
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    column = column.indices if isinstance(column, pa.DictionaryArray) else column
    return any(b is not None and b.address <= address < b.address + b.size for b in column.buffers()[1:])


# ---- values ----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], share: float) -> tuple[list[Any], Columns, dict[str, Any]]:
    """All lines as columns of one table, each under its own policy: fields, values and ``conversion.columns``."""
    named = {f"c{i}": row for i, row in enumerate(rows)}
    fields = [row.field(name) for name, row in named.items()]
    values = {name: source(row, row.sample(share)).pieces[0]["x"] for name, row in named.items()}
    return fields, values, {name: row.policy for name, row in named.items() if row.policy}


MANY = [row for row in TABLE if not row.scalar and len(row.sample()) == ROWS]
IN_PARQUET = [row for row in MANY if row.arrow and not row.file]
IN_NPZ = [row for row in TABLE if not row.arrow and not row.held and not row.scalar]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_value_comes_back_in_any_batches(share: float, size: int) -> None:
    """All lines side by side, in slices that begin anywhere, whatever the batch size and however many are null."""
    check_values(share, size)


@pytest.mark.parametrize("size", [7, ROWS])
def test_every_value_comes_back_from_a_device_that_is_late(size: int) -> None:
    """Through pinned buffers that are used again, and copies that happen only when somebody waits for them."""
    check_values(0.3, size, Cuda(runtime=FakeRuntime()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", SIZES)
def test_every_value_comes_back_from_cuda(size: int) -> None:
    """The same as on the CPU."""
    check_values(0.3, size, Cuda())


@pytest.mark.parametrize("chosen", [True, False])
def test_rows_that_a_transform_takes_are_those_of_every_column(chosen: bool) -> None:
    """Repeated and out of order, from slices: tensors and carried columns follow, whatever their type."""
    dense = [row for row in MANY if "*" not in row.tensor and not row.back and "any byte" not in row.layout]
    fields, whole, policies = table(dense, 0.3)
    pieces, order = [cut(whole, 3, 11), cut(whole, 11, ROWS)], [6, 0, 0, 3]

    def pick(tensors: Any) -> Output:
        rows = torch.tensor(order if len(tensors["at"]) else [], dtype=torch.int64)
        return Output({name: t[rows] for name, t in tensors.items()}, rows=rows)

    named = [f.name for f, row in zip(fields, dense, strict=True) if row.tensor and chosen]
    given = [{"at": np.arange(8), **piece} for piece in pieces]
    source = Memory((ArrayField("at", np.dtype("i8")), *fields), given)
    keys = {"nulls": "mask", "columns": policies}
    back = through(source, pick, ParquetSink("x"), keys, columns=["at", *named], batch_rows=8)
    for row, (name, column) in zip(dense, whole.items(), strict=True):
        expected = [column[3 + batch + i : 4 + batch + i] for batch in (0, 8) for i in order]
        assert_back(row, columns.concat(expected), back[name])


def check_values(share: float, size: int, device: Cuda | None = None) -> None:
    fields, whole, policies = table(MANY, share)
    pieces = [cut(whole, 3, 8), cut(whole, 8, 8), cut(whole, 8, ROWS)]
    keys = {"nulls": "mask", "columns": policies}
    chosen = [f.name for f, row in zip(fields, MANY, strict=True) if row.tensor]
    look = Look()
    back = through(
        Memory(tuple(fields), pieces), look, ParquetSink("x"), keys, columns=chosen, batch_rows=size, device=device
    )
    expected = cut(whole, 3, ROWS)
    for row, (name, column) in zip(MANY, back.items(), strict=True):
        assert_back(row, expected[name], column)
        assert look.seen.get(name, ("", 0))[0] == row.tensor, row.name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chosen", [["x"], []])
def test_codes_keep_their_words_where_each_piece_has_others(size: int, chosen: list[str], tmp_path: Path) -> None:
    """Code 0 means another word in each piece, and nulls are null; in memory and in one file."""
    type_, chance = pa.dictionary(pa.int8(), pa.string()), np.random.default_rng(1)
    pieces = [samples.column(type_, rows, chance, 0.3) for rows in (5, 8, 6)]
    assert len({piece.dictionary[0].as_py() for piece in pieces}) > 1
    given = Memory((pa.field("x", type_),), [{"x": piece} for piece in pieces])
    keys, expected = {"nulls": "mask", "dictionary": "codes"}, columns.concat(pieces)
    found = through(given, Identity(), ParquetSink("x"), keys, columns=chosen, batch_rows=size)["x"]
    assert not compare(expected, found).what
    before, after = files(str(tmp_path / "x.parquet"))
    work(planned(given, Identity(), after, keys, columns=chosen, batch_rows=size))
    assert not compare(expected, read_all(before)["x"]).what


def assert_back(row: Row, given: Column, found: Column) -> None:
    """The same type and bits, or the type that the line declares."""
    if isinstance(given, np.ndarray) and isinstance(found, np.ndarray):
        assert found.dtype == np.dtype(row.back or given.dtype), row.name
        given = np.array(given.astype(found.dtype, copy=False), order="C")
        assert found.shape == given.shape, row.name
        exact = given.dtype.kind not in "Ob"  # a device may make the bytes of truth values 1
        same = given.tobytes() == found.tobytes() if exact else np.array_equal(given, found)
    else:
        assert found.type == given.type, row.name
        same = not compare(given, found).what
    assert same, row.name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_every_value_comes_back_through_files(suffix: str, size: int, tmp_path: Path) -> None:
    """What the table says that a file can hold: carried into one, as tensors from there into another, and read."""
    rows = IN_PARQUET if suffix == ".parquet" else IN_NPZ
    fields, values, policies = table(rows, 0.3)
    one, other = (files(str(tmp_path / f"{name}{suffix}")) for name in ("one", "other"))
    keys = {"nulls": "mask", "columns": policies}
    work(planned(Memory(tuple(fields), [values]), Identity(), one[1], {}, columns=[]))
    chosen = [f.name for f, row in zip(fields, rows, strict=True) if row.tensor]
    work(planned(one[0], Identity(), other[1], keys, columns=chosen, batch_rows=size))
    back = read_all(other[0])
    for row, f, stored in zip(rows, fields, other[0].schema().fields, strict=True):
        assert kind(stored) == kind(f, row.back), row.name
        assert_back(row, values[f.name], back[f.name])


def files(path: str) -> tuple[Any, Any]:
    """Source and sink of a file."""
    return (Parquet(path), ParquetSink(path)) if path.endswith(".parquet") else (Npz(path), NpzSink(path))


# ---- nulls, refusals, what a transform returns -----------------------------------------------------------------------


HOLED = [row for row in TENSORS if row.arrow]
NUMBERS = [
    row for row in HOLED if not row.named and "*" not in row.tensor and row.tensor.partition("[")[0] not in LOGICAL
]


@pytest.mark.parametrize("row", HOLED, ids=lambda row: row.name)
def test_nulls_stop_the_run(row: Row) -> None:
    """Where the transform takes no masks and nothing is said; column and count are named."""
    column = row.sample(0.3)
    with pytest.raises(DTypeError, match=f"column 'x' has {column.null_count} nulls .first in row .*nulls=fill"):
        through(source(row, column), Look(), sink(row), row.policy, columns=["x"])


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_nulls_are_filled_on_request(row: Row) -> None:
    """Rows that were null hold the value, all others what they held."""
    column, keys = row.sample(0.3), {**row.policy, "nulls": "fill", "fill_value": 1}
    filled = through(source(row, column), Look(), sink(row), keys, columns=["x"])["x"]
    present, absent = np.flatnonzero(column.is_valid()), np.flatnonzero(column.is_null())
    assert not compare(columns.take(column, present), columns.take(filled, present)).what
    values, valid = columns.values(filled, "x", pairs=columns.paired(row.field("x")))
    assert valid is None
    assert (values[absent] == 1).all()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.case)
def test_a_value_is_refused_rather_than_changed(refusal: Refusal) -> None:
    """The message names the column and the way out."""
    message, at = refusal.message(), 0
    for words in refusal.words:
        assert words in message[at:], message
        at = message.index(words, at)


@pytest.mark.parametrize("returned", RETURNED, ids=lambda returned: returned.case)
def test_what_a_transform_returns_is_stored_or_refused(returned: Returned) -> None:
    """Whatever bits and strides the tensor has, its values are stored; what is no dense tensor is named."""
    if not returned.stored:
        assert re.search(f"column 'x'.*{re.escape(returned.words)}", message := returned.message()), message
        return
    found = returned.column()
    made = returned.make(torch.tensor([1.5, -0.0, 3.0]))
    assert short(found.type) == returned.stored
    assert columns.values(found, "x")[0].tolist() == (made.values() if made.is_nested else made).tolist()


def test_every_type_has_a_line() -> None:
    """Also those that a later version adds; pyarrow makes no array of the two intervals."""
    ids = {name: getattr(pa.lib, name) for name in dir(pa.lib) if name.startswith("Type_")}
    made = {row.type.id for row in ARROW}
    assert {n for n, id_ in ids.items() if id_ not in made} == {"Type_INTERVAL_MONTHS", "Type_INTERVAL_DAY_TIME"}
    assert {np.dtype(code).kind for code in np.typecodes["All"]} == {np.dtype(row.type).kind for row in NUMPY}
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_the_page_is_that_of_the_table() -> None:
    """`scripts/contract` writes it anew; the messages on it are those that the stage gives."""
    page = Path(__file__).parent.parent / "docs" / "conversion.md"
    assert page.read_text(encoding="utf-8") == text(), "run scripts/contract"
