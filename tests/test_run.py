"""The driver and the worker together: order, rows, nulls, memory, failure and resumption."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.check.checks import parse
from pipeline.core import Columns, Output, Schema, Split, Task, Writer
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import ConfigError, DataError, DTypeError, OutputError, RetryError, TransformError
from pipeline.manifest import read_manifest
from pipeline.policy import Conversion, Policy
from pipeline.run import Options, head_start, plan, prepare, run
from pipeline.sink.npy import Npy
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet
from pipeline.source.npy import Npy as NpySource
from pipeline.source.parquet import Parquet as ParquetSource
from pipeline.transform.standardize import Standardize
from pipeline.worker import FIT_ROWS
from tests.fakes import FailAt, Rows, run_rows, same, table

NUMBERS = ["id", "x"]


def read(out: Path) -> pa.Table:
    """The output in the order of its manifest."""
    files = [f["path"] for part in read_manifest(out)["parts"] for f in part["files"]]
    return pa.concat_tables([pq.read_table(out / f, partitioning=None) for f in files])


def digests(out: Path) -> dict[str, str]:
    """Bytes of the data files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("*.parquet"))}


def read_journal(out: Path) -> list[Any]:
    """Records of committed parts."""
    lines = (out / "_pipeline/journal.jsonl").read_text().splitlines()
    return [record for line in lines if "key" in (record := json.loads(line))]


def times(out: Path) -> dict[str, int]:
    """Modification times of all files."""
    return {str(p): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Apart(Cpu):
    """A device with memory of its own."""

    shares = False


@pytest.mark.parametrize(("dtype", "device", "rows"), [("u1", Cpu(), 128), ("u1", Apart(), 256), ("f2", Cpu(), 128)])
def test_pixels_count_as_the_floats_that_are_made_of_them(tmp_path: Path, dtype: str, device: Cpu, rows: int) -> None:
    """In the cache of a CPU."""
    np.save(tmp_path / "a.npy", np.zeros((300, 4, 4), dtype))
    source, sink = NpySource(str(tmp_path / "a.npy")), Npy(str(tmp_path / "b.npy"))
    given: dict[str, Any] = {"source": source, "transform": same, "sink": sink, "engine": Local(), "device": device}
    assert prepare(**given, options=Options(batch_bytes=256 * 16)).plan.batch_rows == rows


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 7, 99, 100, 101])
def test_identity_gives_back_the_table_at_any_batch_size_and_depth(tmp_path: Path, depth: int, rows: int) -> None:
    """Values, types, nulls, order and metadata; and the same bytes in the files."""
    run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS, batch_rows=rows, stream_depth=depth)
    assert read(tmp_path / "a").equals(table(), check_metadata=True)
    run_rows(Rows(table(), chunk=1000), same, tmp_path / "b", columns=NUMBERS, batch_rows=64)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    """Zero rows are a result too."""
    summary = run_rows(Rows(table(0)), same, tmp_path / "a", columns=NUMBERS)
    assert (summary["state"], summary["rows"]) == ("done", 0)
    assert read(tmp_path / "a").schema.equals(table(0).schema, check_metadata=True)


def test_carried_columns_follow_the_rows_that_are_kept(tmp_path: Path) -> None:
    """A mask drops rows of every column."""

    def odd(tensors: Any) -> Output:
        keep = tensors["id"] % 2 == 1
        return Output({name: t[keep] for name, t in tensors.items()}, keep)

    run_rows(Rows(table()), odd, tmp_path / "a", columns=NUMBERS)
    assert read(tmp_path / "a").equals(table().filter(pa.array([i % 2 == 1 for i in range(250)])))


def test_carried_columns_follow_rows_that_repeat(tmp_path: Path) -> None:
    """An index reorders and repeats within a batch; nulls go along."""

    def twice(tensors: Any) -> Output:
        index = torch.arange(len(tensors["id"])).repeat_interleave(2)
        return Output({name: t[index] for name, t in tensors.items()}, index)

    run_rows(Rows(table()), twice, tmp_path / "a", columns=[*NUMBERS, "n"], nulls="mask")
    assert read(tmp_path / "a").equals(table().take(pa.array(np.repeat(np.arange(250), 2))))


@pytest.mark.parametrize("nulls", ["auto", "error"])
def test_a_transform_that_does_not_know_nulls_is_not_given_any(tmp_path: Path, nulls: str) -> None:
    """The message names the column and the two ways out; nothing is committed."""
    with pytest.raises(DTypeError, match=r"column 'n' has .* nulls.*conversion.nulls=mask.*conversion.nulls=fill"):
        run_rows(Rows(table()), same, tmp_path / "a", columns=["n"], nulls=nulls)
    assert digests(tmp_path / "a") == {}


def test_masked_nulls_come_back_as_nulls(tmp_path: Path) -> None:
    """By column name, whatever the transform made of the values under them."""

    def plus(tensors: Any) -> Any:
        return {name: t + 1 for name, t in tensors.items()}

    run_rows(Rows(table()), plus, tmp_path / "a", columns=["n"], nulls="mask")
    expected = [None if v is None else v + 1 for v in table()["n"].to_pylist()]
    assert read(tmp_path / "a")["n"].to_pylist() == expected


def test_nulls_of_columns_that_are_left_out_are_not_counted(tmp_path: Path) -> None:
    """The summary would look as if they had been lost."""
    facts = run_rows(Rows(table()), same, tmp_path / "a", columns=["x"], carry="none")
    assert facts["rows"] == 250
    assert read_manifest(tmp_path / "a")["parts"][0]["nulls_in"] == {}


def test_a_new_column_beside_nulls_needs_a_word_on_them(tmp_path: Path) -> None:
    """Garbage under nulls never becomes a value."""

    def new(tensors: Any) -> Any:
        return {**tensors, "new": tensors["n"] * 2}

    with pytest.raises(TransformError, match="added column 'new' while 'n' hold nulls"):
        run_rows(Rows(table()), new, tmp_path / "a", columns=["n"], nulls="mask")


@dataclass
class Kept:
    """A source that hands out its own arrays, the same ones at every read."""

    array: Any = field(default_factory=lambda: np.arange(40, dtype=np.float32))

    def schema(self) -> Any:
        return Rows(pa.table({"x": pa.array(self.array)})).schema()

    def splits(self) -> list[Split]:
        return [Split("all", "1", 40, 160)]

    def read(self, split: Split) -> Iterator[Columns]:
        yield {"x": pa.array(self.array)}


def test_a_field_is_found_by_its_name() -> None:
    """The first one of that name; a name that is not there is not found."""
    schema = Schema((pa.field("x", pa.int8()), pa.field("y", pa.int16()), pa.field("x", pa.int32())))
    assert (schema["x"].type, schema["y"].type) == (pa.int8(), pa.int16())
    assert "y" in schema
    assert "z" not in schema


def test_a_transform_that_writes_in_place_works_on_a_copy(tmp_path: Path) -> None:
    """Found by the run on zero rows; the source keeps its values."""

    def double(tensors: Any) -> Any:
        tensors["x"].mul_(2)
        return tensors

    source = Kept()
    run_rows(source, double, tmp_path / "a")
    assert read(tmp_path / "a")["x"].to_pylist() == [2.0 * i for i in range(40)]
    assert source.array.tolist() == list(range(40))
    with pytest.raises(ConfigError, match="writes in place, which conversion.memory=share forbids"):
        run_rows(Kept(), double, tmp_path / "b", memory="share")


def test_a_write_in_place_that_the_trial_did_not_show_stops_the_run(tmp_path: Path) -> None:
    """Nothing of it is committed, and the way out is named and works."""

    def sly(tensors: Any) -> Any:
        if len(tensors["x"]):
            tensors["x"].add_(1)
        return tensors

    with pytest.raises(TransformError, match=r"wrote into column 'x'.*conversion.memory=copy"):
        run_rows(Kept(), sly, tmp_path / "a")
    assert digests(tmp_path / "a") == {}
    source = Kept()
    run_rows(source, sly, tmp_path / "a", memory="copy")
    assert source.array.tolist() == list(range(40))


@pytest.mark.parametrize("depth", [0, 2])
def test_a_transform_may_compute_into_a_buffer_of_its_own(tmp_path: Path, depth: int) -> None:
    """What it keeps is copied: later lanes would else find the values of the next batch there."""
    buffer = torch.empty(16, dtype=torch.float32)

    def doubled(tensors: Any) -> Any:
        return {"x": torch.mul(tensors["x"], 2, out=buffer[: len(tensors["x"])])}

    run_rows(Kept(), doubled, tmp_path / "a", stream_depth=depth)
    assert read(tmp_path / "a")["x"].to_pylist() == [2.0 * i for i in range(40)]


def test_a_transform_may_keep_which_rows_it_chose(tmp_path: Path) -> None:
    """The very tensors that it returned, rows and validity, filled again for each batch, as much as values."""
    chosen, valid = torch.empty(2, dtype=torch.int64), torch.empty(2, dtype=torch.bool)

    def two(tensors: Any) -> Output:
        x = tensors["x"]
        if not len(x):
            return Output(tensors, torch.empty(0, dtype=torch.int64))
        first = int(x[0]) // 5 % 2
        chosen[0], chosen[1] = first, 3
        valid[0], valid[1] = first == 0, True
        return Output({"x": x[chosen]}, chosen, {"x": valid})

    run_rows(Rows(table()), two, tmp_path / "a", columns=["x"], batch_rows=5)
    run_rows(Rows(table()), two, tmp_path / "b", columns=["x"], batch_rows=5, stream_depth=0)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda t: {"x": t["x"][:-1] if len(t["x"]) else t["x"]}, "column 'x' has 15 rows.*input has 16"),
        (lambda t: [t["x"]], "returned list; expected a dict"),
        (lambda t: {"x": t["x"].numpy()}, "column 'x': the transform returned ndarray, not a tensor"),
        (
            lambda t: {"x": t["x"].to(torch.float64) if len(t["x"]) else t["x"]},
            "column 'x'.*float64.*on zero rows.*float32",
        ),
        (lambda t: {**t, **({"y": t["x"]} if len(t["x"]) else {})}, "column 'y'.*on zero rows it returned nothing"),
        (lambda t: {"x": t["x"].sum()}, "on zero rows, .*column 'x'.*0-d"),
        (lambda t: {"x": t["x"].reshape(len(t["x"]), -1)}, "on zero rows, .*raised RuntimeError: cannot reshape"),
        (lambda t: {"x": t["x"].to_sparse()}, "column 'x'.*sparse"),
        (lambda t: {"x": t["x"].to(torch.bfloat16)}, "'x'.*bfloat16"),
        (lambda t: Output({"x": t["x"][:1]}, torch.zeros(len(t["x"][:1]), dtype=torch.int32)), "Output.rows must be"),
        (lambda t: Output({"x": t["x"][:1]}, torch.full((len(t["x"][:1]),), 99)), "outside 0..15"),
        (lambda t: Output(t, validity={"z": t["x"] > 0}), "validity is given for 'z'"),
    ],
)
def test_broken_contracts_are_named(tmp_path: Path, transform: Any, message: str) -> None:
    """By column, with what was expected; nothing is committed and nothing temporary stays."""
    with pytest.raises((TransformError, DTypeError), match=message):
        run_rows(Rows(table()), transform, tmp_path / "a", columns=["x"])
    assert digests(tmp_path / "a") == {}
    assert list((tmp_path / "a" / ".tmp").glob("*")) == []


@pytest.mark.parametrize("depth", [0, 2])
def test_a_failed_run_goes_on_where_it_stopped(tmp_path: Path, depth: int) -> None:
    """Finished parts stay, the error names file and rows, and the result equals an uninterrupted run."""
    with pytest.raises(
        TransformError, match=r"rows 0-16 of split rows-100: the transform raised ValueError: planned fault"
    ):
        run_rows(Rows(table()), FailAt(same, 1 + 8), tmp_path / "a", columns=NUMBERS, stream_depth=depth)
    assert not any(t.name == "pipeline-lane" for t in threading.enumerate())
    assert list((tmp_path / "a" / ".tmp").glob("*")) == []
    there = len(read_journal(tmp_path / "a"))
    summary = run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS, stream_depth=depth)
    assert summary["parts_made"] == 3 - there
    run_rows(Rows(table()), same, tmp_path / "b", columns=NUMBERS)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize("depth", [0, 2])
def test_the_bytes_do_not_depend_on_how_many_work_at_once(tmp_path: Path, depth: int) -> None:
    """Splits decoded and parts encoded at once, in folders of parts and in one file."""
    for name in ("parts", "one.parquet"):
        out = [tmp_path / f"{n}" / name for n in (1, 3)]
        for n, path in zip((1, 3), out, strict=True):
            path.parent.mkdir(exist_ok=True)
            run_rows(Rows(table(), 30), same, path, stream_depth=depth, readers=n, writers=n, nulls="mask")
        first, second = (read_manifest(path)["parts"] for path in out)
        assert [part["files"] for part in first] == [part["files"] for part in second]


@dataclass(frozen=True)
class Broken:
    """A sink whose part of this number cannot be written; the others are Parquet."""

    inner: Parquet
    index: int
    path: str = ""
    columnar = True
    single = False

    def accept(self, schema: Schema) -> Schema:
        return self.inner.accept(schema)

    def open(self, task: Task, schema: Schema) -> Writer:
        if task.index == self.index:
            raise OSError("planned fault")
        return self.inner.open(task, schema)


@pytest.mark.parametrize("writers", [1, 3])
def test_parts_before_one_that_fails_are_committed_whole(tmp_path: Path, writers: int) -> None:
    """Those that were encoded beside it leave nothing behind, and the next run makes them."""
    out = tmp_path / "out"
    broken = Broken(Parquet(str(out)), 4, str(out))
    with pytest.raises(OSError, match="planned"):
        run_rows(Rows(table(), 30), same, out, sink=broken, writers=writers, nulls="mask")
    assert [part["index"] for part in read_journal(out)] == [0, 1, 2, 3]
    assert not list((out / ".tmp").glob("*"))
    assert run_rows(Rows(table(), 30), same, out, writers=writers, nulls="mask")["parts_made"] == 5
    assert read(out).num_rows == 250


def test_random_numbers_depend_on_the_part_only(tmp_path: Path) -> None:
    """A resumed run draws what an uninterrupted one draws; another seed draws others."""

    def noise(tensors: Any) -> Any:
        return {"x": torch.rand(len(tensors["x"]))}

    with pytest.raises(TransformError):
        run_rows(Rows(table()), FailAt(noise, 1 + 18), tmp_path / "a", columns=["x"], stream_depth=0)
    run_rows(Rows(table()), noise, tmp_path / "a", columns=["x"])
    run_rows(Rows(table()), noise, tmp_path / "b", columns=["x"])
    run_rows(Rows(table()), noise, tmp_path / "c", columns=["x"], seed=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_the_same_command_after_success_touches_nothing(tmp_path: Path) -> None:
    """No file of the output has a new time."""
    run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS)
    before = {k: v for k, v in times(tmp_path / "a").items() if "lock" not in k}
    assert run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS)["state"] == "nothing to do"
    assert {k: v for k, v in times(tmp_path / "a").items() if "lock" not in k} == before


def test_new_input_is_processed_alone(tmp_path: Path) -> None:
    """Parts that are there stay as they are; the manifest has all in the order of the input."""
    run_rows(Rows(table(200)), same, tmp_path / "a", columns=NUMBERS)
    before = times(tmp_path / "a")
    summary = run_rows(Rows(table(250)), same, tmp_path / "a", columns=NUMBERS)
    assert (summary["parts"], summary["parts_made"]) == (3, 1)
    assert all(times(tmp_path / "a")[k] == v for k, v in before.items() if k.endswith(".parquet"))
    assert read(tmp_path / "a").equals(table(250))


def test_a_changed_split_replaces_its_own_part(tmp_path: Path) -> None:
    """The old file goes, the others stay."""
    run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS)
    before = digests(tmp_path / "a")
    summary = run_rows(Rows(table(), versions={1: "2"}), same, tmp_path / "a", columns=NUMBERS)
    after = digests(tmp_path / "a")
    assert summary["parts_made"] == 1
    assert len(after) == 3
    assert len(before.keys() & after.keys()) == 2


def test_another_configuration_needs_a_word(tmp_path: Path) -> None:
    """Refused with the key that changed; restart replaces the output and leaves nothing of the old one."""
    run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS, identity={"transform.k": 1})
    with pytest.raises(OutputError, match="transform.k was 1, now 2"):
        run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS, identity={"transform.k": 2})
    run_rows(Rows(table()), same, tmp_path / "a", columns=NUMBERS, identity={"transform.k": 2}, restart=True)
    assert len(digests(tmp_path / "a")) == 3
    assert read(tmp_path / "a").equals(table())


@dataclass(frozen=True)
class Centre:
    """Subtracts the mean of x, learned in two passes to see that more than one works."""

    means: tuple[float, ...] = ()

    @property
    def fitted(self) -> bool:
        return len(self.means) == 2

    def start(self) -> Any:
        return {"sum": torch.zeros((), dtype=torch.float64), "rows": torch.zeros((), dtype=torch.int64)}

    def update(self, state: Any, tensors: Any, validity: Any) -> Any:
        x = tensors["x"].double() - sum(self.means)
        return {"sum": state["sum"] + x.sum(), "rows": state["rows"] + len(x)}

    def merge(self, first: Any, second: Any) -> Any:
        return {name: first[name] + second[name] for name in first}

    def finish(self, state: Any) -> Centre:
        return replace(self, means=(*self.means, float(state["sum"] / max(1, int(state["rows"])))))

    def __call__(self, tensors: Any) -> Any:
        return {"x": tensors["x"] - sum(self.means)}


@pytest.mark.parametrize("rows", [1, 16, 1000])
def test_a_fit_pass_comes_first_and_does_not_depend_on_the_batches(tmp_path: Path, rows: int) -> None:
    """Learned from all rows, applied to all rows, kept beside the output."""
    run_rows(Rows(table()), Centre(), tmp_path / "a", columns=["x"], carry="none", batch_rows=rows)
    assert np.allclose(read(tmp_path / "a")["x"], np.arange(250) - 124.5)
    run_rows(Rows(table()), Centre(), tmp_path / "b", columns=["x"], carry="none")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    facts = json.loads((tmp_path / "a/_pipeline/fit.json").read_text())
    assert (facts["passes"], facts["rows"]) == (2, 250)


@dataclass
class Choosy(Rows):
    """Yields what is asked for, and keeps account of it."""

    asked: list[tuple[tuple[str, ...], int]] = field(default_factory=list)

    def read_only(self, split: Split, columns: Sequence[str], rows: int) -> Iterator[Columns]:
        self.asked.append((tuple(columns), rows))
        yield from ({name: chunk[name] for name in columns} for chunk in self.read(split))


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    """The fit pass reads what it learns from, the run what leaves; something is read to count the rows."""
    source = Choosy(table(), 250)
    run_rows(source, Standardize(), tmp_path / "a", columns=["x"], carry=["word"])
    assert source.asked == [(("x",), FIT_ROWS), (("x", "word"), 16)]
    source.asked.clear()
    made = run_rows(source, lambda _: {}, tmp_path / "b", columns=[], carry=["id"])
    assert (source.asked, made["rows"]) == ([(("id",), 16)], 250)


@dataclass(frozen=True)
class Watched(ParquetSource):
    """Keeps account of the columns that may come as words and codes."""

    asked: list[tuple[str, ...]] = field(default_factory=list)

    def read_words(self, split: Split, columns: Sequence[str], rows: int, words: Sequence[str]) -> Iterator[Columns]:
        self.asked.append(tuple(words))
        yield from super().read_words(split, columns, rows, words)


SPLITS = 3
WORDY = 1 << 19
"""Rows of a file in which it is worth to look for words."""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of few words, of which some come late, one of many, and one of few that become many; nulls among them."""
    folder, n = tmp_path_factory.mktemp("wordy"), np.arange(WORDY)
    for i, words in enumerate((n % np.where(n < WORDY // 2, 5, 300), n, np.where(n < WORDY // 2, n % 5, n))):
        word = pa.array(words, mask=n % 11 == 3).cast(pa.string())
        raw = pa.array([b"ab", b""]).take(pa.array(n % 2))
        limit = 1 << 12 if i == 2 else 1 << 20  # of the dictionary, after which words are stored as they are
        rows = pa.table({"x": n.astype(np.float32), "word": word, "raw": raw})
        pq.write_table(rows, folder / f"{i}.parquet", dictionary_pagesize_limit=limit)
    return folder


@pytest.mark.parametrize(
    ("options", "out", "expected"),
    [
        pytest.param({}, "out", ("word", "raw"), id="all that is carried"),
        pytest.param({"carry": ["raw"]}, "out", ("raw",), id="what is carried"),
        pytest.param({"checks": parse({"input": [{"column": "x", "max": 1e9}]})}, "out", None, id="not past checks"),
        pytest.param({"html": True}, "out", None, id="not past a page"),
        pytest.param({}, "out.parquet", None, id="not from several splits into one file"),
        pytest.param({"sink": Parquet("out", dictionary=False)}, "out", None, id="not where they are stored as words"),
        pytest.param({"sink": Npz("out"), "carry": "none"}, "out", None, id="not to a sink that knows of none"),
    ],
)
def test_words_travel_as_codes_where_nobody_looks_at_them(
    tmp_path: Path, wordy: Path, options: dict[str, Any], out: str, expected: tuple[str, ...] | None
) -> None:
    """Where they may, the source is told; where not, it is not asked for any."""
    source = Watched(str(wordy))
    given = {"columns": ["x"], "batch_rows": 16_384} | options
    sink: Any = given.pop("sink", Parquet(out))
    sink = replace(sink, path=str(tmp_path / out))
    run_rows(source, same, tmp_path, sink=sink, **given)
    assert source.asked == [expected or ()] * SPLITS


@pytest.mark.parametrize("moved", [False, True])
def test_words_that_travel_as_codes_come_back(tmp_path: Path, wordy: Path, *, moved: bool) -> None:
    """Values, nulls, types and order, also of rows that the transform moves; the bytes do not depend on batches."""

    def reverse(tensors: Any) -> Any:
        return Output({"x": tensors["x"].flip(0)}, rows=torch.arange(len(tensors["x"]) - 1, -1, -1))

    transform = reverse if moved else same
    run_rows(ParquetSource(str(wordy)), transform, tmp_path / "a", columns=["x"], batch_rows=WORDY)
    expected = pq.read_table(wordy)
    if moved:
        expected = pa.concat_tables([expected.slice(i * WORDY, WORDY)[::-1] for i in range(SPLITS)])
    assert read(tmp_path / "a").equals(expected, check_metadata=True)
    if not moved:
        run_rows(ParquetSource(str(wordy)), transform, tmp_path / "b", columns=["x"], batch_rows=10_007)
        assert digests(tmp_path / "b") == digests(tmp_path / "a")
        run_rows(ParquetSource(str(wordy)), transform, tmp_path / "c", columns=["x"], batch_rows=WORDY, html=True)
        alike = [digests(tmp_path / "c")[name] == digest for name, digest in digests(tmp_path / "a").items()]
        assert alike == [
            False,
            True,
            False,
        ]  # a word that comes late is known from the beginning, where words come as codes


def headed(source: Any, out: Path, transform: Any = same, **given: Any) -> dict[str, Any]:
    """A run with a head start, as the front door makes one."""
    options = replace(Options(batch_rows=16, batch_bytes=1, progress="none", columns=["x"]), **given)
    sink = Parquet(str(out))
    head = head_start(source, sink, options)
    assert (head is None) is (out.exists() and not options.restart)
    try:
        return run(
            source=source, transform=transform, sink=sink, engine=Local(), device=Cpu(), options=options, head=head
        )
    finally:
        if head is not None:
            head.stop()


def test_what_was_read_early_is_not_read_again(tmp_path: Path) -> None:
    """The output is that of a run without a head start; each split is read once."""
    source = Choosy(table())
    assert headed(source, tmp_path / "a")["rows"] == 250
    assert len(source.asked) == len(source.splits())
    run_rows(Rows(table()), same, tmp_path / "b", columns=["x"])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_fit_pass_takes_what_was_read_early(tmp_path: Path) -> None:
    """The pass after it reads again, and the output is that of a run without a head start."""
    source = Choosy(table())
    headed(source, tmp_path / "a", Standardize())
    assert len(source.asked) == 2 * len(source.splits())
    run_rows(Rows(table()), Standardize(), tmp_path / "b", columns=["x"])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_what_is_read_early_comes_as_words_and_codes_too(tmp_path: Path, wordy: Path) -> None:
    """And makes the same bytes."""
    source = Watched(str(wordy))
    headed(source, tmp_path / "a", batch_rows=16_384)
    assert source.asked == [("word", "raw")] * SPLITS
    run_rows(ParquetSource(str(wordy)), same, tmp_path / "b", columns=["x"], batch_rows=16_384)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_nothing_is_read_early_in_vain(tmp_path: Path) -> None:
    """Not where parts are there already, unless they are to be replaced; not where all is done in one thread."""
    source = Choosy(table())
    assert head_start(source, Parquet(str(tmp_path / "a")), Options()) is None  # less than a batch
    headed(source, tmp_path / "a")
    source.asked.clear()
    assert headed(source, tmp_path / "a")["state"] == "nothing to do"
    assert head_start(source, Parquet(str(tmp_path / "b")), Options(stream_depth=0, batch_bytes=1)) is None
    assert source.asked == []
    headed(source, tmp_path / "a", restart=True)
    assert len(source.asked) == len(source.splits())


def test_what_is_wrong_with_the_input_is_said_by_the_run(tmp_path: Path) -> None:
    """A head start that cannot be made is none; one that fails on the way fails the run, with the same words."""

    @dataclass
    class Broken(Choosy):
        def read_only(self, split: Split, columns: Sequence[str], rows: int) -> Iterator[Columns]:
            yield from super().read_only(split, columns, rows)
            raise DataError("the file ends in the middle")

    nowhere = Options(columns=["nowhere"], batch_bytes=1)
    assert head_start(Choosy(table()), Parquet(str(tmp_path / "a")), nowhere) is None
    with pytest.raises(DataError, match="ends in the middle"):
        headed(Broken(table()), tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.parquet"))


def test_what_was_learned_is_not_learned_again(tmp_path: Path) -> None:
    """A run that failed after the fit takes up the state; a finished one has nothing to do."""

    @dataclass(frozen=True)
    class Once(Centre):
        seen: list[int] = field(default_factory=list)

        def update(self, state: Any, tensors: Any, validity: Any) -> Any:
            self.seen.append(len(tensors["x"]))
            return super().update(state, tensors, validity)

    run_rows(Rows(table()), Once(), tmp_path / "a", columns=["x"])
    (part,) = (tmp_path / "a").glob("part-00001*")
    part.unlink()
    again = Once()
    assert run_rows(Rows(table()), again, tmp_path / "a", columns=["x"])["parts_made"] == 1
    assert sum(again.seen) == 0


def test_new_input_for_a_fitted_transform_needs_a_word(tmp_path: Path) -> None:
    """Refused by default; `fit=keep` applies what was learned; a restart learns anew and redoes all."""
    out = tmp_path / "a"
    run_rows(Rows(table(200)), Centre(), out, columns=["x"], carry="none")
    words = (
        r"learned from another input: rows-0 changed \(was 1, now 2\); rows-200 is new\. "
        r"run.restart=true.*run.fit=keep.*another sink.path"
    )
    with pytest.raises(OutputError, match=words):
        run_rows(Rows(table(300), versions={0: "2"}), Centre(), out, columns=["x"], carry="none")
    with pytest.raises(OutputError, match="learned from another input: rows-100 is gone"):
        run_rows(Rows(table(100)), Centre(), out, columns=["x"], carry="none")
    summary = run_rows(Rows(table(300)), Centre(), out, columns=["x"], carry="none", fit="keep")
    assert summary["parts_made"] == 1
    assert np.allclose(read(out)["x"], np.arange(300) - 99.5)
    run_rows(Rows(table(300)), Centre(), out, columns=["x"], carry="none", restart=True)
    assert np.allclose(read(out)["x"], np.arange(300) - 149.5)


def test_the_batch_counts_where_rows_depend_on_their_neighbours(tmp_path: Path) -> None:
    """A resumed run would mix two results; a row-wise transform gives the same in any batches."""

    def ranks(tensors: Any) -> Any:
        return {"x": tensors["x"].argsort()}

    run_rows(Rows(table()), ranks, tmp_path / "a", columns=["x"])
    assert run_rows(Rows(table()), ranks, tmp_path / "a", columns=["x"], batch_rows=7)["state"] == "nothing to do"
    ranks.rowwise = False  # type: ignore[attr-defined]
    run_rows(Rows(table()), ranks, tmp_path / "b", columns=["x"])
    with pytest.raises(OutputError, match=r"batch.rows was 16, now 7. Choose another sink.path, or run.restart=true"):
        run_rows(Rows(table()), ranks, tmp_path / "b", columns=["x"], batch_rows=7)


def test_a_state_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    """The parts were made with another one. Half a state, of a run that was killed, is none."""
    out = tmp_path / "a"
    run_rows(Rows(table()), Centre(), out, columns=["x"], carry="none")
    run_rows(Rows(table(100)), Centre(), tmp_path / "b", columns=["x"], carry="none")
    state = out / "_pipeline/fit.safetensors"
    mine = state.read_bytes()
    state.write_bytes((tmp_path / "b/_pipeline/fit.safetensors").read_bytes())
    with pytest.raises(OutputError, match=r"fit.safetensors' is damaged: it is not the state.*run.restart=true"):
        run_rows(Rows(table()), Centre(), out, columns=["x"], carry="none")
    (out / "_pipeline/fit.json").unlink()
    assert run_rows(Rows(table()), Centre(), out, columns=["x"], carry="none")["state"] == "nothing to do"
    assert state.read_bytes() == mine


def test_the_part_of_vanished_input_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files are moved away after they were processed; a warning says so, and the next run has nothing to do."""
    out = tmp_path / "a"
    source = Rows(table(300))
    run_rows(source, same, out, columns=NUMBERS)

    class Later(Rows):
        def splits(self) -> list[Split]:
            return super().splits()[1:]

    summary = run_rows(Later(table(400)), same, out, columns=NUMBERS)
    assert "rows-0 is no longer in the input; its part stays" in caplog.text
    assert (summary["parts_made"], read_manifest(out)["rows"]) == (1, 400)
    assert read(out).equals(table(400))
    assert run_rows(Later(table(400)), same, out, columns=NUMBERS)["state"] == "nothing to do"


@dataclass(frozen=True)
class Small:
    """A transform that finds room for so many rows, as on a small device."""

    room: int
    rowwise: bool = True
    sizes: list[int] = field(default_factory=list)

    def __call__(self, tensors: Any) -> Any:
        rows = len(tensors["x"])
        if rows > self.room:
            raise torch.OutOfMemoryError("planned: no room")
        self.sizes.append(rows)
        return {"x": tensors["x"] + 1}


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("room", [1, 3, 10])
def test_a_batch_too_large_for_the_device_is_split(tmp_path: Path, room: int, depth: int) -> None:
    """Only that batch; carried columns and order stay, later batches are smaller at once, the bytes are the same."""
    small = Small(room)
    run_rows(Rows(table()), small, tmp_path / "a", columns=["x"], stream_depth=depth)
    run_rows(Rows(table()), lambda t: {"x": t["x"] + 1}, tmp_path / "b", columns=["x"])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert max(small.sizes) <= room
    assert (
        read_manifest(tmp_path / "a")["parts"][0]["nulls_in"] == read_manifest(tmp_path / "b")["parts"][0]["nulls_in"]
    )


@pytest.mark.parametrize(
    ("transform", "why"),
    [(Small(0), "with 1 rows.*it is one row"), (Small(3, rowwise=False), "with 16 rows.*it is not row-wise")],
)
def test_a_device_too_small_for_a_batch_that_cannot_be_split(tmp_path: Path, transform: Small, why: str) -> None:
    """Worth trying again elsewhere, so it has the code for that; nothing is committed."""
    with pytest.raises(RetryError, match=why):
        run_rows(Rows(table()), transform, tmp_path / "a", columns=["x"])
    assert digests(tmp_path / "a") == {}


def test_the_plan_says_what_happens_to_each_column_and_writes_nothing(tmp_path: Path) -> None:
    """The way of columns, copies and why, nulls, the output schema; also under exceptions by column."""
    conversion = Conversion(
        Policy(nulls="mask"), {"n": {"nulls": "fill"}, "id": {"dtype": "float64", "cast": "unsafe"}}
    )
    options = Options(columns=["id", "x", "n"], carry=["word"], conversion=conversion)
    out = tmp_path / "out"
    sink, engine, device = Parquet(str(out)), Local(), Cpu()
    text = plan(source=Rows(table()), transform=same, sink=sink, engine=engine, device=device, options=options)
    middle = text.split("input column")[1].split("output column")[0]
    lines = {line.split()[0]: line for line in middle.splitlines() if line}
    assert "250 rows" in text
    assert "tensor float64, one copy: cast from int64" in lines["id"]
    assert "tensor float32, memory shared" in lines["x"]
    assert "nulls: filled" in lines["n"]
    assert "carried untouched" in lines["word"]
    assert "left out (carry)" in lines["list"]
    assert "kept: values and validity travel apart" in text
    assert not out.exists()


def test_options_are_checked() -> None:
    """By the names that the configuration has."""
    with pytest.raises(ConfigError, match=r"batch.rows must be at least 1; got 0"):
        run_rows(Rows(table()), same, Path("never"), batch_rows=0)
    with pytest.raises(ConfigError, match=r"conversion.nulls must be one of auto, error, mask, fill; got 'nan'"):
        run_rows(Rows(table()), same, Path("never"), nulls="nan")
