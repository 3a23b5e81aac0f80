"""The list of committed parts beside the output: the only truth about what is done.

    out/_pipeline/identity.json    what decides the bytes of every part; written before the first part
    out/_pipeline/journal.jsonl    one line per committed part, appended and fsynced by the single writer
    out/_manifest.json             all parts in order, written when the last one is there
    out/_SUCCESS                   SHA-256 of _manifest.json, written last

A single-file output keeps all four in the sibling folder ``out.npy.run/``. A torn last line of the journal is the trace
of a killed run and is dropped: its part is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core import File, Part, Task
from pipeline.errors import OutputError
from pipeline.files import Home, home, storage, write_bytes, write_json

VERSION = 1
Identity = Mapping[str, Any]


def digest(value: object) -> str:
    """SHA-256 of a JSON value, as hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a finished output, checked against its marker.

    Args:
        path: what ``sink.path`` was: a folder, or a single file.

    Raises:
        OutputError: there is none, it is not finished, or it does not agree with ``_SUCCESS``.
    """
    where = home(os.fspath(path), single=Path(path).with_name(Path(path).name + ".run").is_dir())
    try:
        data = (where.markers / "_manifest.json").read_bytes()
        marker = (where.markers / "_SUCCESS").read_text().strip()
    except OSError as e:
        raise OutputError(f"{os.fspath(path)!r} is not a finished output: {e.strerror} ({e.filename})") from e
    if hashlib.sha256(data).hexdigest() != marker:
        raise OutputError(
            f"{os.fspath(path)!r}: _manifest.json and _SUCCESS do not belong together; a run is under way"
        )
    manifest: dict[str, Any] = json.loads(data)
    return manifest


class Manifest:
    """The bookkeeping of one output, held by its single writer.

    Args:
        where: the places of the output.
        durable: False leaves out the fsyncs.
    """

    def __init__(self, where: Home, *, durable: bool = True) -> None:
        self.where = where
        self._durable = durable
        self._parts: dict[str, Part] = {}
        self._retired: set[str] = set()
        self._identity = where.state / "identity.json"
        self._journal = where.state / "journal.jsonl"

    # ---- opening

    def open(self, identity: Identity, *, restart: bool) -> None:
        """Take up the work of earlier runs, or start anew.

        Raises:
            OutputError: the output belongs to another configuration, or holds files that nobody lists.
        """
        with storage(self.where.root):
            self.where.root.mkdir(parents=True, exist_ok=True)
            self.where.state.mkdir(parents=True, exist_ok=True)
            self._sweep()
        _drop_torn_line(self._journal)
        old = self._old_identity(restart=restart)
        if old is not None:
            self._load(restart=restart)
        changed = old is not None and old != json.loads(json.dumps(identity))
        if changed and not restart and (self._parts or self._retired):
            raise OutputError(self._difference(old or {}, identity))
        if (old is None or changed) and not restart:
            self._refuse_strangers()
        if restart:
            (self.where.markers / "_SUCCESS").unlink(missing_ok=True)
        if old is None or changed or restart:
            self._begin(identity)

    def _sweep(self) -> None:
        """Remove what dead runs left under construction; the lock is ours, so nobody else is at work."""
        shutil.rmtree(self.where.temp, ignore_errors=True)

    def _old_identity(self, *, restart: bool) -> dict[str, Any] | None:
        try:
            old: dict[str, Any] = json.loads(self._identity.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as e:
            if restart:
                return {}
            raise OutputError(f"{str(self._identity)!r} is damaged: {e}. run.restart=true makes the output anew") from e
        return old

    def _refuse_strangers(self) -> None:
        """Readers of the folder would mix files of unknown origin with ours."""
        if self.where.single:
            file = self.where.root / self.where.single
            if file.is_dir():
                raise OutputError(f"{str(file)!r} is a folder, where one file should go. Choose another sink.path")
            if file.exists():
                raise OutputError(
                    f"{str(file)!r} is already there, and no manifest lists it. Choose another sink.path, or "
                    "run.restart=true to replace it"
                )
            return
        found = sorted(p.name for p in self.where.root.iterdir() if not p.name.startswith(("_", ".")))
        if found:
            raise OutputError(
                f"{str(self.where.root)!r} already holds {found[0]!r}"
                + (f" and {len(found) - 1} more" if len(found) > 1 else "")
                + ", which no manifest lists. Choose another sink.path, or run.restart=true to write beside it"
            )

    def _difference(self, old: Identity, new: Identity) -> str:
        keys = [k for k in sorted(old.keys() | new.keys(), key=_rank) if old.get(k) != new.get(k)]
        shown = "; ".join(f"{k} was {_short(old.get(k))}, now {_short(new.get(k))}" for k in keys[:5])
        more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
        target = self.where.root / self.where.single if self.where.single else self.where.root
        return (
            f"{str(target)!r} holds the result of another configuration: {shown}{more}. Choose another sink.path, or "
            "run.restart=true to replace it"
        )

    def _load(self, *, restart: bool) -> None:
        for record in _records(self._journal, damaged=restart):
            if "retired" in record:
                self._retired.update(record["retired"])
            else:
                part = _part(record)
                self._parts[part.key] = part

    def _begin(self, identity: Identity) -> None:
        """A new journal that remembers which files the old one listed, so that they go when the new output stands."""
        self._retired |= self._paths()
        self._parts.clear()
        first = json.dumps({"retired": sorted(self._retired)}) + "\n"
        write_bytes(self._journal, first.encode(), durable=self._durable)
        write_json(self._identity, dict(identity), durable=self._durable)

    # ---- working

    @property
    def parts(self) -> Sequence[Part]:
        """All parts that are committed."""
        return list(self._parts.values())

    def done(self, tasks: Sequence[Task]) -> dict[str, Part]:
        """Parts of the tasks that are committed and whose files still have their size."""
        found = {t.key: self._parts[t.key] for t in tasks if t.key in self._parts}
        return {key: part for key, part in found.items() if self._whole(part)}

    def _whole(self, part: Part) -> bool:
        return all(self._intact(file) for file in (*part.files, *part.side))

    def _intact(self, file: File) -> bool:
        try:
            return (self.where.root / file.path).stat().st_size == file.bytes
        except OSError:
            return False

    def commit(self, part: Part) -> None:
        """Record a part whose files are durable. From here on it is never done again."""
        line = json.dumps(asdict(part)) + "\n"
        with storage(self._journal), self._journal.open("ab", buffering=0) as f:
            f.write(line.encode())
            if self._durable:
                os.fsync(f.fileno())
        self._parts[part.key] = part

    def vanished(self, tasks: Sequence[Task]) -> list[Part]:
        """Parts whose input is no longer there, in the order in which they were made.

        They stay: who moves files away after they were processed does not mean to lose the output.
        """
        if self.where.single:
            return []
        here = {split.id for task in tasks for split in task.splits}
        return [part for part in self._parts.values() if here.isdisjoint(part.splits) and self._whole(part)]

    # ---- finishing

    def finished(self, tasks: Sequence[Task]) -> bool:
        """Whether the manifest on disk stands for just these tasks, and parts whose input is gone."""
        try:
            data = (self.where.markers / "_manifest.json").read_bytes()
            marker = (self.where.markers / "_SUCCESS").read_text().strip()
        except OSError:
            return False
        keys = (
            [part["key"] for part in json.loads(data)["parts"]] if hashlib.sha256(data).hexdigest() == marker else None
        )
        return keys == [part.key for part in self.vanished(tasks)] + [task.key for task in tasks]

    def finish(self, tasks: Sequence[Task], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest and the marker, then remove files that it no longer lists."""
        parts = [asdict(part) for part in [*self.vanished(tasks), *(self._parts[task.key] for task in tasks)]]
        manifest = {
            "version": VERSION,
            **facts,
            "rows_in": sum(p["rows_in"] for p in parts),
            "rows": sum(p["rows_out"] for p in parts),
            "parts": parts,
        }
        listed = {file["path"] for part in parts for file in (*part["files"], *part["side"])}
        path = self.where.markers / "_manifest.json"
        (self.where.markers / "_SUCCESS").unlink(missing_ok=True)
        write_json(path, manifest, durable=self._durable)
        self._retire(listed)
        marker = hashlib.sha256(path.read_bytes()).hexdigest()
        write_bytes(self.where.markers / "_SUCCESS", marker.encode() + b"\n", durable=self._durable)
        shutil.rmtree(self.where.temp, ignore_errors=True)
        return manifest

    def _paths(self) -> set[str]:
        return {f.path for part in self._parts.values() for f in (*part.files, *part.side)}

    def _retire(self, listed: set[str]) -> None:
        known = self._retired | self._paths()
        with storage(self.where.root):
            for path in known - listed:
                (self.where.root / path).unlink(missing_ok=True)


def _rank(key: str) -> tuple[bool, str]:
    """What a person has set comes before what follows from it."""
    return key.startswith(("code.", "input.", "output.", "version")), key


def _short(value: object) -> str:
    text = "not there" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _records(journal: Path, *, damaged: bool) -> Iterator[dict[str, Any]]:
    """What the journal holds; lines that are no JSON are passed over if `damaged`."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except ValueError as e:
            if damaged:
                continue
            raise OutputError(
                f"line {number} of {str(journal)!r} is damaged: {e}. run.restart=true makes the output anew"
            ) from e
        yield record


def _drop_torn_line(journal: Path) -> None:
    """Without this, the next line would be glued to what a killed run left of its last one."""
    if not journal.exists():
        return
    with storage(journal), journal.open("rb+") as f:
        data = f.read()
        if data and not data.endswith(b"\n"):
            f.truncate(data.rfind(b"\n") + 1)


def _part(record: dict[str, Any]) -> Part:
    files, side = (tuple(File(**file) for file in record.pop(key, ())) for key in ("files", "side"))
    return Part(**{**record, "files": files, "side": side, "splits": tuple(record["splits"])})
