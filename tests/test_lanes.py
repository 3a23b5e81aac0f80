"""Several batches in the compute lane at once: the same bytes, and only where the transform says that it may be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.check.checks import parse
from pipeline.core import Columns, Split, Tensors, Transform, concurrent
from pipeline.device.cpu import Cpu
from pipeline.errors import ConfigError, DataError, PipelineError, TransformError
from pipeline.sink.parquet import Parquet
from pipeline.source.parquet import Parquet as ParquetSource
from pipeline.transform.clip import Clip
from pipeline.transform.compose import Compose
from pipeline.transform.module import Module
from pipeline.transform.standardize import Standardize
from tests.fakes import Rows, run_rows, table
from tests.test_run import digests

ROOT = Path(__file__).resolve().parent.parent


def declared(function: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """A function that says that several threads may call it."""
    function.concurrent = True  # type: ignore[attr-defined]
    return function


def widened() -> Module:
    """A module whose result changes if a row meets other weights."""
    torch.manual_seed(0)
    return Module(nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3), nn.GELU()), ["x"], ["y"])


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "fitted": lambda: Compose([Standardize(["x"]), Clip(-1, 1, ["x"])]),
    "module": widened,
    "function": lambda: declared(lambda t: {"x": t["x"].flip(0)}),
}


SHORT, LONG = 40, 100
"""Rows of a split: batches have 16, and parts of up to four batches are made whole."""


@pytest.mark.parametrize("rows", [SHORT, LONG])
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_bytes_do_not_depend_on_the_threads(tmp_path: Path, name: str, depth: int, rows: int) -> None:
    """Order, values and what was learned; the key of a part does not either."""
    options: dict[str, Any] = {"columns": ["x"], "carry": ["id", "word"], "stream_depth": depth}
    source = Rows(table(900), splits_of=rows)
    run_rows(source, TRANSFORMS[name](), tmp_path / "a", computers=1, **options)
    run_rows(source, TRANSFORMS[name](), tmp_path / "b", computers=3, **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    again = run_rows(source, TRANSFORMS[name](), tmp_path / "a", computers=2, **options)
    assert again["state"] == "nothing to do"


WHOLE = {"read": 3, "upload": 3, "compute": 3, "download": 3, "write": 3}
LANES = {"upload": 1, "compute": 3}


@pytest.mark.parametrize(
    ("rows", "options", "threads"),
    [
        pytest.param(SHORT, {}, WHOLE, id="short"),
        pytest.param(LONG, {}, LANES, id="long"),
        pytest.param(900, {}, LANES, id="one part"),
        pytest.param(SHORT, {"stream_bytes": 3 * 5 * SHORT * 8}, WHOLE, id="just room"),
        pytest.param(SHORT, {"stream_bytes": 3 * 5 * SHORT * 8 - 1}, LANES, id="no room"),
        pytest.param(SHORT, {"computers": 1}, {"upload": 1, "compute": 1}, id="one computer"),
        pytest.param(SHORT, {"writers": 2}, LANES | {"write": 2}, id="writers are given"),
        pytest.param(SHORT, {"readers": 2}, LANES | {"read": 2}, id="readers are given"),
        pytest.param(SHORT, {"html": True}, LANES, id="a page shows them"),
        pytest.param(SHORT, {"stream_depth": 0}, {"read": 1, "compute": 1, "write": 1}, id="no threads"),
    ],
)
def test_short_parts_are_made_whole(
    tmp_path: Path, rows: int, options: dict[str, Any], threads: dict[str, int]
) -> None:
    """Each in one thread, where several may compute; the report says so, and counts every batch once."""
    given = {"columns": ["x"], "computers": 3} | options
    done = run_rows(Rows(table(900), splits_of=rows), Clip(0), tmp_path / "a", **given)
    lanes = {lane["lane"]: lane for lane in json.loads(Path(done["report"]).read_text())["lanes"]}
    assert {name: lanes[name]["threads"] for name in threads} == threads
    batches = sum(-(-min(rows, 900 - start) // 16) for start in range(0, 900, rows))
    assert [lanes[name]["items"] for name in ("read", "upload", "compute", "download")] == [batches] * 4
    assert lanes["write"]["items"] == -(-900 // rows)


def test_an_empty_part_is_short(tmp_path: Path) -> None:
    """And changes nothing for those beside it."""
    (tmp_path / "in").mkdir()
    for i, rows in enumerate((40, 0, 30)):
        pq.write_table(table(rows), tmp_path / f"in/{i}.parquet")
    done = run_rows(ParquetSource(str(tmp_path / "in")), Clip(0), tmp_path / "out", columns=["x"], computers=2)
    lanes = {lane["lane"]: lane["threads"] for lane in json.loads(Path(done["report"]).read_text())["lanes"]}
    assert set(lanes.values()) == {2}
    assert (done["rows"], done["parts"]) == (70, 3)


def test_folders_of_values_are_not_made_several_parts_at_once(tmp_path: Path) -> None:
    """Each part holds as many files open as there are folders."""
    sink = Parquet(str(tmp_path / "out"), partition_by=["word"])
    done = run_rows(Rows(table(900), splits_of=SHORT), Clip(0), tmp_path, sink=sink, columns=["x"], computers=2)
    lanes = {lane["lane"]: lane["threads"] for lane in json.loads(Path(done["report"]).read_text())["lanes"]}
    assert lanes["upload"] == 1


def test_no_more_threads_are_in_a_transform_than_computers(tmp_path: Path) -> None:
    """The first batches give a third time to come."""
    inside, lock, third = 0, threading.Lock(), threading.Event()

    def counting(tensors: Tensors) -> Tensors:
        nonlocal inside
        with lock:
            inside += 1
            if inside == 3:
                third.set()
        if len(tensors["x"]) > 0 and tensors["x"][0] < 32:
            third.wait(timeout=0.5)
        with lock:
            inside -= 1
        return tensors

    source = Rows(table(96), splits_of=16)
    run_rows(source, declared(counting), tmp_path / "a", columns=["x"], computers=2)
    assert not third.is_set()


def test_a_part_of_unknown_length_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    """A filter leaves the rows of a split open until they are read."""
    pq.write_table(table(900), tmp_path / "a.parquet", row_group_size=10)
    source = ParquetSource(str(tmp_path / "a.parquet"), split_rows=10, filter=[["x", ">", 100]])
    done = run_rows(source, Clip(0), tmp_path / "out", columns=["x"], computers=2)
    lanes = {lane["lane"]: lane["threads"] for lane in json.loads(Path(done["report"]).read_text())["lanes"]}
    assert lanes["compute"] == 2
    assert lanes["upload"] == 1
    assert done["rows"] == 799


def test_checks_of_short_parts_see_whole_parts(tmp_path: Path) -> None:
    """Rows repeated in another batch of the part are found, those of another part are not taken for them."""
    twice = table(900).set_column(0, "id", pa.array([n // 20 for n in range(900)]))  # each id in two or three batches
    checks = parse({"input": [{"column": "id", "unique": True, "action": "quarantine"}]})
    made = {}
    for computers in (1, 3):
        out = tmp_path / str(computers)
        options: dict[str, Any] = {"columns": ["x"], "checks": checks, "computers": computers}
        made[computers] = run_rows(Rows(twice, splits_of=SHORT), Clip(0), out, **options)
    assert made[1]["quarantined"] == made[3]["quarantined"] == 900 - 45
    assert digests(tmp_path / "1") == digests(tmp_path / "3")
    aside = [sorted(p.read_bytes() for p in (tmp_path / n / "_pipeline").rglob("*.parquet")) for n in ("1", "3")]
    assert aside[0] == aside[1]
    assert len(aside[0]) == -(-900 // SHORT)


def test_two_threads_are_in_a_transform_that_allows_it(tmp_path: Path) -> None:
    """They meet there."""
    met = threading.Barrier(2)

    def meeting(tensors: Tensors) -> Tensors:
        if len(tensors["x"]):
            met.wait(timeout=10)
        return tensors

    run_rows(Rows(table(96), splits_of=96), declared(meeting), tmp_path / "a", columns=["x"], computers=2)


@dataclass
class Copied(Rows):
    """Rows whose reading is to copy; it says in which threads that was."""

    decodes: bool = False
    readers: set[int] = field(default_factory=set)

    def read(self, split: Split) -> Iterator[Columns]:
        for chunk in super().read(split):
            self.readers.add(threading.get_ident())
            yield chunk


@pytest.mark.parametrize(
    ("options", "decodes", "mixed"),
    [
        ({}, False, True),
        ({"html": True}, False, True),
        ({}, True, False),
        ({"readers": 1}, False, False),
        ({"stream_depth": 0}, False, False),
    ],
)
def test_who_computes_reads_too_where_that_is_to_copy(
    tmp_path: Path, options: dict[str, Any], decodes: bool, mixed: bool
) -> None:
    """And one of them writes; the file is the one that lanes make."""
    computing: set[int] = set()

    def noting(tensors: Tensors) -> Tensors:
        if len(tensors["x"]):
            computing.add(threading.get_ident())
        return {"x": tensors["x"] * 2}

    source = Copied(table(900), splits_of=300, decodes=decodes)
    done = run_rows(source, declared(noting), tmp_path / "a.parquet", columns=["x"], computers=3, **options)
    reading = {*source.readers}
    run_rows(source, declared(noting), tmp_path / "b.parquet", columns=["x"], computers=1)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    lanes = {lane["lane"]: lane["threads"] for lane in json.loads(Path(done["report"]).read_text())["lanes"]}
    assert lanes == {
        "read": 1,
        "upload": 1,
        "compute": 3 if options.get("stream_depth") != 0 else 1,
        "download": 1,
        "write": 1,
    }
    assert (reading <= computing) == (mixed or options.get("stream_depth") == 0)
    assert threading.active_count() == 1


@pytest.mark.parametrize("place", ["reading", "computing"])
def test_an_error_where_lanes_are_mixed_leaves_nothing(tmp_path: Path, place: str) -> None:
    """It says where it was, and all threads end."""

    def broken(tensors: Tensors) -> Tensors:
        if place == "computing" and 500 in tensors["x"]:
            raise ValueError("broken")
        return tensors

    class Damaged(Copied):
        def read(self, split: Split) -> Iterator[Columns]:
            for chunk in super().read(split):
                if place == "reading" and pc.any(pc.equal(chunk["x"], 500)).as_py():
                    raise DataError("rows are damaged")
                yield chunk

    with pytest.raises(PipelineError, match=r"rows are damaged|rows 192-208 of split rows-300: .*broken"):
        run_rows(
            Damaged(table(900), splits_of=300), declared(broken), tmp_path / "a.parquet", columns=["x"], computers=3
        )
    assert not (tmp_path / "a.parquet").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert threading.active_count() == 1


def test_one_thread_calls_what_says_nothing(tmp_path: Path) -> None:
    """By default, whatever cores there are; to ask for more is refused with the way out."""
    threads = set()

    def counting(tensors: Tensors) -> Tensors:
        threads.add(threading.get_ident())
        return tensors

    run_rows(Rows(table(900)), counting, tmp_path / "a", columns=["x"])
    assert len(threads - {threading.get_ident()}) == 1
    with pytest.raises(ConfigError, match=r"stream.computers=2: .*counting does not say that several threads may call"):
        run_rows(Rows(table()), counting, tmp_path / "b", columns=["x"], computers=2)
    with pytest.raises(ConfigError, match=r"stream.computers must be at least 1; got 0"):
        run_rows(Rows(table()), counting, tmp_path / "b", columns=["x"], computers=0)


class OneQueue(Cpu):
    """A device that wants to be asked by one thread, as CUDA does."""

    concurrent = False


def test_a_device_with_one_queue_is_asked_by_one_thread(tmp_path: Path) -> None:
    """Whatever the transform allows."""
    run_rows(Rows(table()), Clip(0, columns=["x"]), tmp_path / "a", columns=["x"], device=OneQueue())
    with pytest.raises(ConfigError, match=r"stream.computers=2: device=cpu has one queue of work; set stream.comp"):
        run_rows(Rows(table()), Clip(0), tmp_path / "b", columns=["x"], device=OneQueue(), computers=2)


def test_random_numbers_and_several_threads_do_not_go_together(tmp_path: Path) -> None:
    """Even where the transform says so: an error, and nothing is committed."""

    def noisy(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] + torch.rand(len(tensors["x"]))}

    with pytest.raises(TransformError, match=r"draws random numbers.*stream.computers=1"):
        run_rows(Rows(table()), declared(noisy), tmp_path / "a", columns=["x"], computers=2)
    assert digests(tmp_path / "a") == {}
    run_rows(Rows(table()), declared(noisy), tmp_path / "b", columns=["x"], computers=1)


class Counting(nn.Module):
    """Keeps something from call to call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def test_a_module_may_be_shared_if_all_of_it_is_torchs_own() -> None:
    """And is in evaluation mode, without hooks; code of users must say so itself."""
    assert not concurrent(Module(nn.Dropout()))  # as long as it is in training mode
    assert concurrent(Module(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()))
    assert not concurrent(Module(nn.Sequential(nn.Flatten(), Counting()).eval()))
    assert not concurrent(Module(nn.FractionalMaxPool2d(2, output_size=2).eval()))
    assert not concurrent(Module(nn.Embedding(2, 2, max_norm=1).eval()))
    hooked = nn.Linear(2, 2).eval()
    hooked.register_forward_hook(lambda *_: None)
    assert not concurrent(Module(hooked))
    assert concurrent(Compose([Clip(0), Module(nn.Flatten().eval())]))
    assert not concurrent(Compose([Clip(0), lambda t: t]))


def test_a_call_that_blocks_the_interpreter_is_ended_beside_others() -> None:
    """What returns meanwhile does not switch off the alarm of what does not."""
    code = """
import re, threading
from pipeline.watchdog import Watchdog
watchdog, inside = Watchdog(0.3, print, grace=0.2), threading.Event()
def short():
    with watchdog.over("a batch"):
        inside.set()
thread = threading.Thread(target=short)
with watchdog.over("another batch"):
    thread.start(), thread.join()
    re.match("(a+)+$", "a" * 60 + "b")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout" in done.stderr
