"""An audit finds what happened to an output after it was finished, names the file, and touches nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline import read_manifest
from pipeline.audit import audit
from pipeline.errors import DataError, InputError
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet
from tests.fakes import Rows, run_rows, same, table


@pytest.fixture(params=["parts", "single", "hive"])
def kind(request: pytest.FixtureRequest) -> str:
    """Shapes of an output."""
    return str(request.param)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder around a finished output of some kind, made once."""
    return cache(lambda kind: make(kind, tmp_path_factory.mktemp("made")).parent)


@pytest.fixture
def made(finished: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a finished output."""

    def copy(kind: str) -> Path:
        shutil.copytree(finished(kind), tmp_path / "copy")
        return tmp_path / "copy" / ("out.npz" if kind == "single" else "out")

    return copy


Made = Callable[[str], Path]


def make(kind: str, folder: Path) -> Path:
    """A finished output of three parts, or of one file."""
    out = folder / ("out.npz" if kind == "single" else "out")
    sink: Any = Npz(str(out)) if kind == "single" else Parquet(str(out), partition_by=["word"][kind == "parts" :])
    chosen = {"columns": ["id", "x"], "carry": "none" if kind == "single" else "all"}
    run_rows(Rows(table(300)), same, out, sink=sink, **chosen)
    return out


def state(out: Path) -> Path:
    """Where the bookkeeping is."""
    beside = out.with_name(out.name + ".run")
    return beside if beside.exists() else out / "_pipeline"


def markers(out: Path) -> Path:
    return state(out) if out.is_file() else out


def listed(out: Path) -> list[Path]:
    base = out.parent if out.is_file() else out
    return [base / file["path"] for part in read_manifest(out)["parts"] for file in part["files"]]


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_finished_output_agrees_and_is_not_touched(kind: str, made: Made) -> None:
    """Every file was read; no lock, no temporary file, no new time."""
    out = made(kind)
    before = times(out.parent)
    found = audit(str(out))
    assert (found.problems, found.rows, found.files) == ([], 300, len(listed(out)))
    assert found.bytes == sum(p.stat().st_size for p in listed(out))
    assert found.settle()["state"] == "audited"
    assert times(out.parent) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FileFault = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (flip, "has SHA-256"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes; the manifest says"),
        (Path.unlink, "is missing"),
        (to_folder, "is no regular file"),
    ],
    ids=["flip", "short", "missing", "folder"],
)
def test_a_file_that_changed_is_named(kind: str, fault: FileFault, words: str, made: Made) -> None:
    """One bit is enough. What is wrong stands in the message and in the facts."""
    out = made(kind)
    victim = listed(out)[-1]
    fault(victim)
    found = audit(str(out))
    name = victim.relative_to(out.parent if kind == "single" else out).as_posix()
    assert [p.startswith(f"{name}: {words}") or words in p for p in found.problems] == [True]
    assert found.problems[0].startswith(name)
    with pytest.raises(DataError, match="is not what its manifest says") as e:
        found.settle()
    assert e.value.facts["problems"] == found.problems
    assert f"WRONG   {name}" in found.text()


def test_deleting_what_is_named_and_running_again_repairs(kind: str, made: Made) -> None:
    """As the message advises."""
    out = made(kind)
    before = {p: p.read_bytes() for p in listed(out)}
    flip(listed(out)[0])
    listed(out)[0].unlink()
    make(kind, out.parent)
    assert audit(str(out)).problems == []
    assert {p: p.read_bytes() for p in listed(out)} == before


@pytest.mark.parametrize("kind", ["parts", "hive"])
def test_a_file_that_no_manifest_lists_is_named(kind: str, made: Made) -> None:
    """Readers of the folder would take its rows along; names that they pass over are nobody's business."""
    out = made(kind)
    folder = listed(out)[0].parent
    (folder / "mine.parquet").touch()
    (folder / "part-00009-00112233.parquet").touch()
    (folder / "_notes").touch()
    (folder / ".hidden").touch()
    foreign, ours = audit(str(out)).problems
    assert "mine.parquet: is not in the manifest; it is no file of ours" in foreign
    assert "part-00009-00112233.parquet: is not in the manifest; it was published by a run that died" in ours


def test_a_run_that_has_not_ended_is_told_apart(made: Made) -> None:
    """Parts that the journal has and the manifest lacks: more input came, and that run was stopped."""
    out = made("parts")
    manifest = (out / "_manifest.json").read_bytes()
    success = (out / "_SUCCESS").read_bytes()
    run_rows(Rows(table(400)), same, out, columns=["id", "x"])
    (out / "_manifest.json").write_bytes(manifest)
    (out / "_SUCCESS").write_bytes(success)
    (problem,) = audit(str(out)).problems
    assert "part-00003-" in problem
    assert "has not ended" in problem


def test_what_a_stopped_run_left_is_a_note(made: Made) -> None:
    """It harms no reader."""
    out = made("parts")
    (out / ".tmp").mkdir()
    (out / "_pipeline/lock.json").write_text('{"pid": 7, "host": "there", "since": "then"}')
    found = audit(str(out))
    assert found.problems == []
    assert "note    a run is at work here, or was killed: pid 7 on there since then" in found.text()
    assert "temporary files" in found.text()


def drop_key(text: str) -> str:
    return json.dumps({k: v for k, v in json.loads(text).items() if k != "rows"})


def other_rows(text: str) -> str:
    return json.dumps({**json.loads(text), "rows": 299})


def outside(text: str) -> str:
    return text.replace('"path": "', '"path": "../')


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("_SUCCESS", lambda text: "0" * 64, "_SUCCESS holds '000000000000'"),
        ("_SUCCESS", None, "_SUCCESS cannot be read (No such file or directory): the output is not finished"),
        ("_manifest.json", None, "_manifest.json cannot be read (No such file or directory)"),
        ("_manifest.json", lambda text: text[:-20], "_manifest.json is damaged (JSONDecodeError"),
        ("_manifest.json", lambda text: "[]", "_manifest.json is damaged (TypeError"),
        ("_manifest.json", drop_key, "_manifest.json is damaged (KeyError: 'rows')"),
        ("_manifest.json", outside, "which is outside the output"),
        ("_manifest.json", other_rows, "_manifest.json says rows=299, and its parts have 300"),
    ],
)
def test_damaged_markers_are_named(kind: str, name: str, change: Any, words: str, made: Made) -> None:
    """None of it raises anything but the finding."""
    out = made(kind)
    file = markers(out) / name
    if change is None:
        file.unlink()
    else:
        file.write_text(change(file.read_text()))
    assert any(words in problem for problem in audit(str(out)).problems)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*way, key))


def replaced(value: Any, way: tuple[Any, ...], by: Any) -> Any:
    if not way:
        return by
    copy = value.copy()
    copy[way[0]] = replaced(value[way[0]], way[1:], by)
    return copy


@pytest.mark.parametrize("by", [None, "../x", -1, [[]]], ids=repr)
@pytest.mark.parametrize("name", ["_manifest.json", "_pipeline/journal.jsonl"])
def test_records_of_any_form_are_findings_and_no_crash(name: str, by: Any, made: Made) -> None:
    """Whatever stands wherever: parts, numbers, names."""
    out = made("parts")
    file = out / name
    *before, last = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    record = json.loads(last)
    record = {k: v for k, v in record.items() if k not in ("identity", "schema")}
    for way in places(record):
        file.write_text("\n".join([*before, json.dumps(replaced(record, way, by))]) + "\n")
        audit(str(out)).text()
    assert audit(str(out)).problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "journal.jsonl has no line for"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"rows_in": ', '"rows_in": 1')], "disagree on"),
        (lambda lines: [*lines, "{torn\n"], "line {} is damaged"),
        (lambda lines: [*lines, "{torn"], ""),
    ],
    ids=["lost", "changed", "damaged", "torn"],
)
def test_the_journal_has_the_parts_of_the_manifest(kind: str, change: Any, words: str, made: Made) -> None:
    """A torn last line is the trace of a killed run, and no damage."""
    out = made(kind)
    journal = state(out) / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(change(lines)))
    problems = audit(str(out)).problems
    assert [words.format(len(lines) + 1) in p for p in problems] == ([True] if words else [])


def test_nothing_to_audit_is_missing_input(tmp_path: Path) -> None:
    """A wrong path is not a damaged output."""
    with pytest.raises(InputError, match=r"there is no such output to audit"):
        audit(str(tmp_path / "nowhere"))
