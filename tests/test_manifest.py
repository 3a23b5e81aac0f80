"""The bookkeeping beside an output: what is recorded is done, what is not is done again."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.check.checks import parse
from pipeline.core import File, Part, Split, Task, Tensors
from pipeline.errors import OutputError
from pipeline.files import home
from pipeline.manifest import Manifest, read_manifest
from pipeline.sink.parquet import Parquet
from pipeline.transform.identity import Identity
from tests.fakes import Rows, run_rows, table

TASKS = [Task(i, f"key{i}", f"part-{i}", (Split(f"s{i}", "1"),)) for i in range(3)]


def _opened(out: Path, identity: dict[str, object] | None = None, *, restart: bool = False) -> Manifest:
    manifest = Manifest(home(str(out), single=False))
    manifest.open(identity or {"a": 1}, restart=restart)
    return manifest


def _make(manifest: Manifest, task: Task, text: str = "data", folder: str = "") -> None:
    name = f"{folder}{task.name}.npy"
    (manifest.where.root / name).write_text(text)
    made = (File(name, len(text), "0" * 64, 2),)
    ids, versions = zip(*((split.id, split.version) for split in task.splits), strict=True)
    manifest.commit([Part(task.key, task.index, ids, 2, 2, made, versions=versions)])


def test_what_is_committed_is_done_for_the_next_run(tmp_path: Path) -> None:
    """A part is done when its record and its file are there."""
    _make(_opened(tmp_path), TASKS[0])
    assert set(_opened(tmp_path).done(TASKS)) == {"key0"}


def test_a_file_that_shrank_or_went_is_done_again(tmp_path: Path) -> None:
    """The record alone is not enough."""
    manifest = _opened(tmp_path)
    for task in TASKS:
        _make(manifest, task)
    (tmp_path / "part-0.npy").write_text("")
    (tmp_path / "part-1.npy").unlink()
    assert set(_opened(tmp_path).done(TASKS)) == {"key2"}


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    """It is the trace of a killed run; the next record starts on a line of its own."""
    manifest = _opened(tmp_path)
    for task in TASKS[:2]:
        _make(manifest, task)
    journal = tmp_path / "_pipeline" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    again = _opened(tmp_path)
    assert set(again.done(TASKS)) == {"key0"}
    _make(again, TASKS[2])
    assert set(_opened(tmp_path).done(TASKS)) == {"key0", "key2"}


def test_another_configuration_is_refused_with_what_changed(tmp_path: Path) -> None:
    """Parts of two configurations are never mixed; the message has both values and both ways out."""
    _make(_opened(tmp_path, {"output.x": "float", "transform.min": 0}), TASKS[0])
    words = r"transform.min was 0, now 1; output.x was .*another sink.path.*run.restart=true"
    with pytest.raises(OutputError, match=words):
        _opened(tmp_path, {"output.x": "double", "transform.min": 1})


def test_a_run_that_made_nothing_holds_nothing(tmp_path: Path) -> None:
    """Who corrects the configuration after a first failure gives the same command again, without a restart."""
    _opened(tmp_path, {"conversion.nulls": "error"})
    manifest = _opened(tmp_path, {"conversion.nulls": "fill"})
    _make(manifest, TASKS[0])
    assert set(_opened(tmp_path, {"conversion.nulls": "fill"}).done(TASKS)) == {"key0"}


def test_a_file_that_no_run_had_begun_is_not_mixed_with_others(tmp_path: Path) -> None:
    """Whoever left it."""
    _opened(tmp_path, {"a": 1})
    (tmp_path / "part-0.npy").touch()
    with pytest.raises(OutputError, match="already holds 'part-0.npy'"):
        _opened(tmp_path, {"a": 2})


@pytest.mark.parametrize("keys", [(), ("k",)])
@pytest.mark.parametrize("way", ["the same", "another configuration", "a third one", "a restart"])
def test_what_was_published_and_not_recorded_goes_with_the_next_run(
    tmp_path: Path, way: str, keys: tuple[str, ...]
) -> None:
    """A run that died may leave it; made again it is listed, else nobody reads it twice."""
    folder = "".join(f"{key}=1/" for key in keys)
    manifest = _opened(tmp_path, {"a": 1})
    manifest.begin(TASKS, keys)
    (tmp_path / folder).mkdir(exist_ok=True)
    for task in TASKS[:2]:
        (tmp_path / f"{folder}{task.name}.npy").touch()
    if way == "a third one":
        _opened(tmp_path, {"a": 3})
    manifest = _opened(tmp_path, {"a": 1 if way == "the same" else 2}, restart=way == "a restart")
    manifest.begin(TASKS[1:], keys)
    _make(manifest, TASKS[1], folder=folder)
    manifest.finish(TASKS[1:2], {})
    assert [p.name for p in tmp_path.rglob("*.npy")] == ["part-1.npy"]


@pytest.mark.parametrize("keys", [(), ("k",)])
def test_files_of_others_stay_whatever_their_names(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """Beside what a run left, or deeper; a copy of the output, and another output within it, too."""
    manifest = _opened(tmp_path)
    manifest.begin(TASKS, keys)
    depth = "".join(f"{key}=1/" for key in keys)
    name = TASKS[0].name
    ours = tmp_path / f"{depth}{name}.npy"
    others = [f"{depth}{name}.csv", f"{depth}part-9.npy", f"copy/{depth}{name}.npy", f"{depth}k=2/{name}.npy"]
    others += [f"j=1/{name}.npy", f"_mine/{name}.npy"] + ([f"{name}.npy"] if keys else [])
    for path in (ours, *(tmp_path / other for other in others)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    manifest = _opened(tmp_path)
    _make(manifest, TASKS[1])
    manifest.finish(TASKS[1:2], {})
    assert not ours.exists()
    assert [other for other in others if not (tmp_path / other).exists()] == []


def test_a_file_of_others_beside_what_a_run_left_is_refused(tmp_path: Path) -> None:
    """Also in a folder of values."""
    _opened(tmp_path, {"a": 1}).begin(TASKS, ["k"])
    (tmp_path / "k=1").mkdir()
    for name in (f"{TASKS[0].name}.npy", "other.npy"):
        (tmp_path / "k=1" / name).touch()
    with pytest.raises(OutputError, match="already holds 'k=1'"):
        _opened(tmp_path, {"a": 2})
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_a_single_file_that_a_run_had_begun_is_ours(tmp_path: Path) -> None:
    """It may be there without a record; another configuration replaces it."""
    manifest = Manifest(home(str(tmp_path / "o.npy"), single=True))
    manifest.open({"a": 1}, restart=False)
    manifest.begin([Task(0, "key", "", ())])
    (tmp_path / "o.npy").touch()
    Manifest(home(str(tmp_path / "o.npy"), single=True)).open({"a": 2}, restart=False)


def test_a_part_that_is_made_again_under_another_name_leaves_no_file(tmp_path: Path) -> None:
    """Its place among the others changed; so it is after a crash."""
    manifest = _opened(tmp_path)
    _make(manifest, TASKS[0])
    _make(manifest, replace(TASKS[0], name="part-7"))
    manifest = _opened(tmp_path)
    manifest.finish(TASKS[:1], {})
    assert [p.name for p in tmp_path.glob("*.npy")] == ["part-7.npy"]


def test_of_input_that_changed_and_went_the_last_version_stays(tmp_path: Path) -> None:
    """Its rows would be there twice."""
    manifest = _opened(tmp_path)
    for task in (TASKS[0], replace(TASKS[0], key="new", name="part-5", splits=(Split("s0", "2"),))):
        _make(manifest, task)
    for opened in (manifest, _opened(tmp_path)):
        assert [part.key for part in opened.vanished(TASKS[1:])] == ["new"]
    manifest.finish([], {})
    assert [p.name for p in tmp_path.glob("*.npy")] == ["part-5.npy"]


def test_what_is_left_of_a_part_without_input_stays(tmp_path: Path) -> None:
    """Somebody removes the oldest folders by hand; what was changed is not taken for it."""
    manifest = _opened(tmp_path)
    files = [File(f"k={i}/part-0.npy", 4, "0" * 64, 2) for i in range(3)]
    for file in files:
        (tmp_path / file.path).parent.mkdir()
        (tmp_path / file.path).write_text("data")
    manifest.commit([Part("key0", 0, ("s0",), 6, 6, tuple(files))])
    (tmp_path / files[0].path).unlink()
    assert [(part.files, part.rows_out) for part in manifest.vanished([])] == [(tuple(files[1:]), 4)]
    manifest.finish([], {})
    assert sorted(p.parent.name for p in tmp_path.rglob("part-0.npy")) == ["k=1", "k=2"]
    (tmp_path / files[1].path).write_text("other")
    with pytest.raises(OutputError, match=r"k=1/part-0.npy' is not as it was written, and its input 's0' is no longer"):
        manifest.vanished([])
    for file in files[1:]:
        (tmp_path / file.path).unlink()
    assert not manifest.vanished([])


@pytest.mark.parametrize(("name", "line"), [("identity.json", ""), ("journal.jsonl", "line 3 of ")])
def test_damaged_bookkeeping_is_named_and_a_restart_gets_past_it(tmp_path: Path, name: str, line: str) -> None:
    """What the message advises works."""
    _make(_opened(tmp_path), TASKS[0])
    with (tmp_path / "_pipeline" / name).open("a") as f:
        f.write("{torn\n")
    with pytest.raises(OutputError, match=rf"{line}'.*{name}' is damaged: .*run.restart=true"):
        _opened(tmp_path)
    _opened(tmp_path, restart=True)
    assert not _opened(tmp_path).done(TASKS)


def test_a_restart_removes_the_old_files_only_when_the_new_output_stands(tmp_path: Path) -> None:
    """Also if a run in between was killed."""
    _make(_opened(tmp_path, {"a": 1}), TASKS[0], "old")
    _opened(tmp_path, {"a": 2}, restart=True)
    manifest = _opened(tmp_path, {"a": 2})
    assert (tmp_path / "part-0.npy").exists()
    _make(manifest, TASKS[1])
    manifest.finish(TASKS[1:2], {})
    assert sorted(p.name for p in tmp_path.glob("*.npy")) == ["part-1.npy"]


def test_strange_files_are_refused(tmp_path: Path) -> None:
    """Readers of the folder would mix them with ours."""
    (tmp_path / "other.parquet").touch()
    with pytest.raises(OutputError, match="already holds 'other.parquet', which no manifest lists"):
        _opened(tmp_path)


def test_a_file_or_folder_in_the_place_of_a_single_output_is_refused(tmp_path: Path) -> None:
    """A restart replaces the one and cannot replace the other, so only the first message advises it."""
    (tmp_path / "a.npy").touch()
    (tmp_path / "b.npy").mkdir()
    with pytest.raises(OutputError, match=r"a.npy' is already there.*run.restart=true to replace it"):
        Manifest(home(str(tmp_path / "a.npy"), single=True)).open({}, restart=False)
    with pytest.raises(OutputError, match=r"b.npy' is a folder, where one file should go. Choose another sink.path$"):
        Manifest(home(str(tmp_path / "b.npy"), single=True)).open({}, restart=False)


def test_a_finished_output_can_be_read_and_is_recognised(tmp_path: Path) -> None:
    """The manifest holds the sum of its parts; without the marker it is not finished."""
    manifest = _opened(tmp_path)
    for task in TASKS:
        _make(manifest, task)
    assert not manifest.finished(TASKS)
    manifest.finish(TASKS, {"schema": []})
    assert manifest.finished(TASKS)
    assert not manifest.finished(TASKS[:2])
    assert read_manifest(tmp_path)["rows"] == 6
    (tmp_path / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="not a finished output"):
        read_manifest(tmp_path)


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    """The marker holds its digest."""
    manifest = _opened(tmp_path)
    _make(manifest, TASKS[0])
    manifest.finish(TASKS[:1], {})
    path = tmp_path / "_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 5}))
    with pytest.raises(OutputError, match="do not belong together"):
        read_manifest(tmp_path)


@dataclass
class Order:
    """Watches what a run does to the disk; names of files are safe once each of their folders was fsynced."""

    root: Path
    journal: Path
    data: set[str] = field(default_factory=set)
    """Temporary files whose bytes are on disk."""
    missing: dict[str, set[str]] = field(default_factory=dict)
    """Of each file, the folders that were not fsynced since it was named."""
    syncs: Counter[str] = field(default_factory=Counter)

    def listed(self) -> list[str]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        records = [json.loads(line) for line in lines]
        return [file["path"] for record in records if "key" in record for file in (*record["files"], *record["side"])]

    def check(self) -> None:
        assert not [name for name in self.listed() if self.missing.get(name, {"never named"})]

    def fsync(self, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        name = os.path.relpath(path, self.root)
        self.check()
        self.syncs["journal" if path == str(self.journal) else "folder" if os.path.isdir(path) else "file"] += 1  # noqa: PTH112
        self.data.add(path)
        for folders in self.missing.values():
            folders.discard(name)

    def replace(self, source: Path, target: Path) -> None:
        self.check()
        if Path(source).parent == self.root / ".tmp":
            assert str(source) in self.data, f"{target} is named before it is on disk"
            name = os.path.relpath(target, self.root)
            self.missing[name] = {str(folder) for folder in Path(name).parents}
        REPLACE(source, target)


REPLACE = os.replace


@pytest.mark.parametrize("keys", [(), ("word",)])
def test_a_part_is_recorded_once_its_bytes_and_names_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]
) -> None:
    """What power loss may undo is not in the journal, neither of the data nor of the rows that checks took out."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell what a descriptor is")
    out = tmp_path / "out"
    order = Order(out, out / "_pipeline" / "journal.jsonl")
    monkeypatch.setattr(os, "fsync", order.fsync)
    monkeypatch.setattr(os, "replace", order.replace)
    checks = parse({"input": [{"column": "id", "max": 450, "action": "quarantine"}]})
    rows = Rows(table(500), splits_of=50)
    summary = run_rows(rows, Identity(), out, sink=Parquet(str(out), partition_by=keys), checks=checks)
    monkeypatch.undo()
    assert summary["parts"] == 10
    assert summary["quarantined"] > 0
    assert len(set(order.listed())) == len(order.listed()) > 10
    assert set(order.listed()) <= set(order.missing)
    order.check()
    assert order.syncs["journal"] <= 11


def test_parts_that_are_soon_done_are_recorded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parts are short, a disk is asked less often than there are parts."""
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.readlink(f"/proc/self/fd/{fd}")))  # noqa: PTH115
    monkeypatch.setattr("pipeline.run._BETWEEN_COMMITS", 60)  # until the end, which waits for nothing
    run_rows(Rows(table(500), splits_of=10), Identity(), tmp_path / "out")
    monkeypatch.undo()
    journal = str(tmp_path / "out" / "_pipeline" / "journal.jsonl")
    assert seen.count(journal) in (2, 3)  # the names of the parts to come, the first part or some, and all others
    assert len(read_manifest(tmp_path / "out")["parts"]) == 50


@dataclass
class WaitsForRecord:
    """A transform that goes on with the third part when the first two are in the journal."""

    journal: Path
    calls: list[int] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)

    def __call__(self, tensors: Tensors) -> Tensors:
        self.calls.append(1)
        end = time.monotonic() + 30
        while len(self.calls) == 4 and not self.recorded:  # the first call is the trial
            lines = self.journal.read_text().splitlines()
            if sum('"key"' in line for line in lines) == 2:
                self.recorded.append(2)
            if time.monotonic() > end:
                raise TimeoutError("not recorded")
        return tensors


@pytest.mark.parametrize("depth", [0, 2])
def test_parts_are_recorded_while_the_next_one_is_made(tmp_path: Path, depth: int) -> None:
    """Nothing that is done waits for what is not."""
    transform = WaitsForRecord(tmp_path / "out" / "_pipeline" / "journal.jsonl")
    rows = Rows(table(300), splits_of=100)
    run_rows(rows, transform, tmp_path / "out", batch_rows=100, stream_depth=depth, columns=["id"], carry="none")
    assert transform.recorded == [2]


def test_rename_alone_asks_the_disk_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for data nor for names nor for records: what a run asks for does not hang on the number of parts."""
    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", seen.append)
    asked = []
    for size in (300, 30):
        out = tmp_path / str(size)
        sink = Parquet(str(out), partition_by=["word"], durability="rename")
        run_rows(Rows(table(300), splits_of=size), Identity(), out, sink=sink)
        asked.append(len(seen))
        seen.clear()
    assert asked[0] == asked[1]
