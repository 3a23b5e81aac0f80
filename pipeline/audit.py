"""An output against its own record: every file read again and compared with the manifest. Writes nothing.

    _SUCCESS holds the digest of _manifest.json, the manifest lists parts and their files, the journal has a line for
    each part, and the folder holds nothing else that a reader would take for data.

Neither the input nor torch is needed, and no right to write.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import File
from pipeline.errors import DataError, InputError
from pipeline.files import Home, holder, home, sha256, visible
from pipeline.plan import counted, human

_OURS = re.compile(r"part-\d{5,}-[0-9a-f]{8}\.\w+")
_SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """What was compared and found.

    Attributes:
        output: what was audited.
        problems: what is wrong, one line each; empty if the output is as it was when it was finished.
        notes: what is worth knowing and not wrong.
        files, bytes: what was read and agreed.
    """

    output: str
    parts: int
    rows: int
    files: int
    bytes: int
    problems: Sequence[str]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """The findings for people."""
        agreed = f"{counted(self.files, 'file')} of {counted(self.parts, 'part')} agree, {human(self.bytes)}"
        lines = [("output", self.output), ("rows", f"{self.rows:,} by the manifest"), ("files", agreed)]
        lines += [("note", note) for note in self.notes] + [("WRONG", problem) for problem in self.problems]
        return "\n".join(f"{name:<7} {value}" for name, value in lines)

    def facts(self) -> dict[str, Any]:
        """The findings for machines."""
        numbers = {"parts": self.parts, "rows": self.rows, "files": self.files, "bytes": self.bytes}
        return {"output": self.output, **numbers, "problems": list(self.problems)}

    def settle(self) -> dict[str, Any]:
        """The summary of an output that is as it should be.

        Raises:
            DataError: it is not; the message has the first problems, `facts` all of them.
        """
        if not self.problems:
            return {"state": "audited", **self.facts()}
        more = f"; and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
        error = DataError(
            f"{self.output!r} is not what its manifest says: {'; '.join(self.problems[:_SHOWN])}{more}. Delete the "
            "files that are named and run the command that made them again: it makes what is missing"
        )
        error.facts = self.facts()
        raise error


def audit(path: str) -> Audit:
    """Compare the output at `path` with its manifest.

    Raises:
        InputError: nothing is there.
    """
    where = home(path, single=Path(path).with_name(Path(path).name + ".run").is_dir())
    if not (where.root / where.single).exists() and not where.state.exists():
        raise InputError(f"sink.path={path!r}: there is no such output to audit")
    manifest, problems = _manifest(where)
    problems += _sums(manifest)
    parts = manifest["parts"]
    listed = [File(**file) for part in parts for file in _files(part)]
    wrong = {file.path: told for file in listed if (told := _differs(where, file))}
    problems += [f"{name}: {told}" for name, told in wrong.items()]
    journal, damage = _journal(where)
    problems += _unlisted(where, {file.path for file in listed}, journal)
    problems += [*damage, *_against(journal, parts)]
    agreed = [file for file in listed if file.path not in wrong]
    size = sum(file.bytes for file in agreed)
    return Audit(path, len(parts), int(manifest["rows"]), len(agreed), size, problems, list(_notes(where)))


# ---- records ---------------------------------------------------------------------------------------------------------

_NOTHING: dict[str, Any] = {"parts": [], "rows": 0, "rows_in": 0}


def _manifest(where: Home) -> tuple[dict[str, Any], list[str]]:
    """The manifest, or an empty one, and what is wrong with it."""
    file = where.markers / "_manifest.json"
    try:
        data = file.read_bytes()
    except OSError as e:
        return _NOTHING, [f"_manifest.json cannot be read ({e.strerror}): the output is not finished"]
    problems = list(_marker(where, hashlib.sha256(data).hexdigest()))
    try:
        manifest = json.loads(data)
        _check_form(manifest)
    except (KeyError, TypeError, ValueError) as e:
        return _NOTHING, [*problems, f"_manifest.json is damaged ({type(e).__name__}: {e})"]
    return manifest, problems


def _marker(where: Home, digest: str) -> Iterator[str]:
    try:
        marker = (where.markers / "_SUCCESS").read_text(encoding="utf-8", errors="replace").strip()
    except OSError as e:
        yield f"_SUCCESS cannot be read ({e.strerror}): the output is not finished"
        return
    if marker != digest:
        yield f"_SUCCESS holds {marker[:12]!r}..., and the SHA-256 of _manifest.json is {digest[:12]}..."


def _check_form(manifest: Any) -> None:
    """Raise for what is no manifest, so that all else may take its form for granted."""
    _check_numbers(manifest, "rows", "rows_in")
    for part in manifest["parts"]:
        _check_part(part)


def _check_part(part: Any) -> None:
    _check_numbers(part, "rows_in", "rows_out")
    if not isinstance(part["key"], str):
        raise TypeError(f"key must be a string; got {part['key']!r}")
    for record in _files(part):
        file = File(**record)
        _check_numbers(record, "bytes", "rows")
        if not isinstance(file.sha256, str):
            raise TypeError(f"sha256 must be a string; got {file.sha256!r}")
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts or "\0" in file.path:
            raise ValueError(f"it lists {file.path!r}, which is outside the output")


def _files(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Data, and what checks have put aside."""
    return [*part["files"], *part.get("side", ())]


def _check_numbers(record: Any, *names: str) -> None:
    for name in names:
        if type(record[name]) is not int:
            raise TypeError(f"{name} must be a number; got {record[name]!r}")


def _sums(manifest: Mapping[str, Any]) -> Iterator[str]:
    for key, of in (("rows_in", "rows_in"), ("rows", "rows_out")):
        total = sum(part[of] for part in manifest["parts"])
        if manifest[key] != total:
            yield f"_manifest.json says {key}={manifest[key]:,}, and its parts have {total:,}"


def _journal(where: Home) -> tuple[dict[str, Any], list[str]]:
    """Committed parts by key, and what is wrong with the journal. A torn last line is the trace of a killed run."""
    file = where.state / "journal.jsonl"
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError as e:
        return {}, [f"journal.jsonl cannot be read ({e.strerror})"]
    known: dict[str, Any] = {}
    damage: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if "retired" not in record and "begun" not in record:
                _check_part(record)
                known[record["key"]] = record
        except (KeyError, TypeError, ValueError) as e:
            damage += [f"journal.jsonl: line {number} is damaged ({e})"] if line.endswith(b"\n") else []
    return known, damage


def _against(journal: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The journal grows part by part, the manifest is written once: they agree on every part of a finished run."""
    for part in parts:
        if part["key"] not in journal:
            yield f"journal.jsonl has no line for {_named(part)}"
        elif journal[part["key"]] != part:
            yield f"journal.jsonl and _manifest.json disagree on {_named(part)}"


def _named(part: Mapping[str, Any]) -> str:
    return ", ".join(file["path"] for file in part["files"]) or f"part {part.get('index')}"


# ---- files -----------------------------------------------------------------------------------------------------------


def _differs(where: Home, file: File) -> str:
    """How a file differs from its record, or nothing."""
    path = where.root / file.path
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is no regular file"
        if found.st_size != file.bytes:
            return f"has {found.st_size:,} bytes; the manifest says {file.bytes:,}"
        digest = sha256(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read ({e.strerror})"
    return "" if digest == file.sha256 else f"has SHA-256 {digest[:12]}...; the manifest says {file.sha256[:12]}..."


def _unlisted(where: Home, listed: set[str], journal: Mapping[str, Any]) -> Iterator[str]:
    """Files that a reader of the folder would take for data."""
    if where.single:
        return
    committed = {file["path"] for part in journal.values() for file in part["files"]}
    for path in sorted(visible(where.root)):
        name = path.relative_to(where.root).as_posix()
        if name in listed:
            continue
        if name in committed:
            yield f"{name}: is not in the manifest; the run that committed it, or one after it, has not ended"
        elif _OURS.fullmatch(path.name):
            yield f"{name}: is not in the manifest; it was published by a run that died before it could record it"
        else:
            yield f"{name}: is not in the manifest; it is no file of ours, and readers would take its rows along"


def _notes(where: Home) -> Iterator[str]:
    if who := holder(where.state):
        yield f"a run is at work here, or was killed: {who}"
    if where.temp.is_dir():
        yield "temporary files of that run are there; the next run removes them"
