"""The list of committed parts beside the output: the only truth about what is done.

    out/_pipeline/identity.json    what decides the bytes of every part; written before the first part
    out/_pipeline/journal.jsonl    one line per committed part, appended and fsynced by the single writer; before them
                                   one with the names of those that are begun
    out/_manifest.json             all parts in order, written when the last one is there
    out/_SUCCESS                   SHA-256 of _manifest.json, written last

A single-file output keeps all four in the sibling folder ``out.npy.run/``. A torn last line of the journal is the trace
of a killed run and is dropped: its part is done again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core import File, Part, Task, whole
from pipeline.errors import OutputError
from pipeline.files import (
    Home,
    home,
    make_folder,
    read_bytes,
    storage,
    sync_folder,
    sync_names,
    to_json,
    visible,
    write_all,
    write_bytes,
    write_json,
)

VERSION = 1
_SUFFIXES = (".parquet", ".npy", ".npz")
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
        self._begun: dict[str, tuple[str, ...]] = {}
        self._orphans: set[str] = set()
        self._identity = where.state / "identity.json"
        self._journal = where.state / "journal.jsonl"

    # ---- opening

    def open(self, identity: Identity, *, restart: bool) -> None:
        """Take up the work of earlier runs, or start anew.

        Raises:
            OutputError: the output belongs to another configuration, or holds files that nobody lists.
        """
        with storage(self.where.root, "creating"):
            make_folder(self.where.root)
            make_folder(self.where.state)
        _drop_torn_line(self._journal)
        old = self._old_identity(restart=restart)
        if old is not None:
            self._load(restart=restart)
        changed = old is not None and old != json.loads(json.dumps(identity))
        if changed and not restart and (self._parts or self._retired):
            raise OutputError(self._difference(old or {}, identity))
        self._orphans = set(self._find_orphans())
        if (old is None or changed) and not restart:
            self._refuse_strangers()
        if restart:
            self.withdraw()
        if old is None or changed or restart:
            self._begin(identity)

    def _old_identity(self, *, restart: bool) -> dict[str, Any] | None:
        if (data := read_bytes(self._identity)) is None:
            return None
        try:
            old: dict[str, Any] = json.loads(data)
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
            if file.exists() and self.where.single not in self._begun:
                raise OutputError(
                    f"{str(file)!r} is already there, and no manifest lists it. Choose another sink.path, or "
                    "run.restart=true to replace it"
                )
            return
        found = sorted(p.name for p in self.where.root.iterdir() if self._strange(p))
        if found:
            raise OutputError(
                f"{str(self.where.root)!r} already holds {found[0]!r}"
                + (f" and {len(found) - 1} more" if len(found) > 1 else "")
                + ", which no manifest lists. Choose another sink.path, or run.restart=true to write beside it"
            )

    def _strange(self, path: Path) -> bool:
        """Whether readers would take it, or something in it, for data, and no run of ours left it."""
        if path.name.startswith(("_", ".")):
            return False
        ours = self._retired | self._orphans
        files = visible(path) if path.is_dir() and ours else [path]
        return any(file.relative_to(self.where.root).as_posix() not in ours for file in files)

    def _find_orphans(self) -> Iterator[str]:
        """Files of parts that earlier runs had begun, and published, and did not live to record."""
        if self.where.single:  # beside it lie files of others
            return
        done = {Path(path).stem for path in self._paths()}
        for keys in {keys for name, keys in self._begun.items() if name not in done}:
            for file in self._folders(keys):
                if self._begun.get(file.stem) == keys and file.stem not in done and file.suffix in _SUFFIXES:
                    yield file.relative_to(self.where.root).as_posix()

    def _folders(self, keys: Sequence[str]) -> Iterator[Path]:
        """Files where a sink puts those of its parts: below one folder ``key=value`` for each key."""
        return self.where.root.glob("/".join([*(f"{glob.escape(key)}=*" for key in keys), "part-*"]))

    def _difference(self, old: Identity, new: Identity) -> str:
        keys = [k for k in sorted(old.keys() | new.keys(), key=_rank) if old.get(k) != new.get(k)]
        shown = "; ".join(few([_change(k, old.get(k), new.get(k)) for k in keys]))
        target = self.where.root / self.where.single if self.where.single else self.where.root
        return (
            f"{str(target)!r} holds the result of another configuration: {shown}. Choose another sink.path, or "
            "run.restart=true to replace it"
        )

    def _load(self, *, restart: bool) -> None:
        for record in _records(self._journal, damaged=restart):
            if "retired" in record:
                self._retired.update(record["retired"])
            elif "begun" in record:
                self._begun.update(dict.fromkeys(record["begun"], tuple(record["keys"])))
            else:
                self._take(_part(record))

    def _take(self, part: Part) -> None:
        """The last record of a part counts; files that only an earlier one names go."""
        if (old := self._parts.pop(part.key, None)) is not None:
            self._retired |= _paths([old])
        self._parts[part.key] = part

    def _begin(self, identity: Identity) -> None:
        """A new journal that remembers which files the old one listed, so that they go when the new output stands."""
        self._retired |= self._paths()
        self._parts.clear()
        records: list[dict[str, Any]] = [{"retired": sorted(self._retired)}]
        records += [
            {"begun": [name for name, held in self._begun.items() if held == keys], "keys": keys}
            for keys in sorted(set(self._begun.values()))
        ]
        first = "".join(json.dumps(record) + "\n" for record in records)
        write_bytes(self._journal, first.encode(), durable=self._durable)
        write_json(self._identity, dict(identity), durable=self._durable)

    # ---- working

    def withdraw(self) -> None:
        """Take the marker back before files come or go, so that who waits for it never sees a half of two outputs.

        A single file is about to be replaced, which makes its manifest untrue; the files that the manifest of a folder
        lists stay until the next one stands.
        """
        names = ("_SUCCESS", "_manifest.json") if self.where.single else ("_SUCCESS",)
        found = [path for name in names if (path := self.where.markers / name).exists()]
        with storage(self.where.markers):
            for path in found:
                path.unlink(missing_ok=True)
            if found and self._durable:
                sync_folder(self.where.markers)

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

    def begin(self, tasks: Sequence[Task], keys: Sequence[str] = ()) -> None:
        """Record which parts are about to be made, and the columns that become folders.

        A run that dies may have published files of theirs that it had not committed. The next one knows them by their
        names: they go where their part is not made again under the same name, as when its input has changed.
        """
        names = [task.name or self.where.single for task in tasks]
        if fresh := [name for name in names if self._begun.get(name) != tuple(keys)]:
            self._append({"begun": fresh, "keys": list(keys)})
            self._begun.update(dict.fromkeys(fresh, tuple(keys)))

    def commit(self, parts: Sequence[Part]) -> None:
        """Record parts whose files are durable, once their names are. From here on they are never made again."""
        if self._durable:
            sync_names(self.where.root, (file.path for part in parts for file in (*part.files, *part.side)))
        self._append(*map(_facts, parts))
        for part in parts:
            self._take(part)

    def _append(self, *records: Mapping[str, Any]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with storage(self._journal), self._journal.open("ab", buffering=0) as f:
            write_all(f, lines.encode())
            if self._durable:
                os.fsync(f.fileno())

    def vanished(self, tasks: Sequence[Task]) -> list[Part]:
        """Parts whose input is no longer there, in the order in which they were made.

        They stay: who moves files away after they were processed does not mean to lose the output.
        """
        if self.where.single:
            return []
        here = {whole(split.id) for task in tasks for split in task.splits}
        last = {whole(id_): v for p in self._parts.values() for id_, v in zip(p.splits, p.versions, strict=False)}
        gone = [
            part
            for part in self._parts.values()
            if here.isdisjoint(map(whole, part.splits))
            and all(last[whole(id_)] == v for id_, v in zip(part.splits, part.versions, strict=False))
        ]
        return [left for part in gone if (left := self._left(part)) is not None]

    def _left(self, part: Part) -> Part | None:
        """What is still there of a part that cannot be made again; None if nothing is, which somebody wanted so.

        Raises:
            OutputError: a file of it is no longer what it was.
        """
        there = {file for file in (*part.files, *part.side) if (self.where.root / file.path).exists()}
        for file in there:
            if not self._intact(file):
                raise OutputError(
                    f"{str(self.where.root / file.path)!r} is not as it was written, and its input {part.splits[0]!r} "
                    "is no longer there to make it again. Remove it, or bring it or its input back; run.restart=true "
                    "makes the output anew without it"
                )
        if there == {*part.files, *part.side}:
            return part
        files = tuple(file for file in part.files if file in there)
        side = tuple(file for file in part.side if file in there)
        return replace(part, files=files, side=side, rows_out=sum(f.rows for f in files)) if files else None

    def changed(self, tasks: Sequence[Task]) -> list[str]:
        """What became of the input since the parts of these tasks were made, one line for each file."""
        if not (parts := self._parts.values()):
            return []
        before = {whole(id_): v for part in parts for id_, v in zip(part.splits, part.versions, strict=False)}
        now = {whole(split.id): split.version for task in tasks for split in task.splits}
        return list(differences(before, now, came=bool(self.where.single)))  # its one part is made of all splits

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
        parts = [_facts(part) for part in [*self.vanished(tasks), *(self._parts[task.key] for task in tasks)]]
        manifest = {
            "version": VERSION,
            **facts,
            "rows_in": sum(p["rows_in"] for p in parts),
            "rows": sum(p["rows_out"] for p in parts),
            "parts": parts,
        }
        listed = {file["path"] for part in parts for file in (*part["files"], *part["side"])}
        data = to_json(manifest)
        self.withdraw()
        write_bytes(self.where.markers / "_manifest.json", data, durable=self._durable)
        self._retire(listed)
        marker = hashlib.sha256(data).hexdigest()
        write_bytes(self.where.markers / "_SUCCESS", marker.encode() + b"\n", durable=self._durable)
        return manifest

    def _paths(self) -> set[str]:
        return _paths(self._parts.values())

    def _retire(self, listed: set[str]) -> None:
        known = self._retired | self._orphans | self._paths()
        with storage(self.where.root):
            for path in known - listed:
                (self.where.root / path).unlink(missing_ok=True)


def _paths(parts: Iterable[Part]) -> set[str]:
    return {f.path for part in parts for f in (*part.files, *part.side)}


def differences(before: Mapping[str, str], now: Mapping[str, str], *, came: bool = True) -> Iterator[str]:
    """How the versions of input files differ; `came` tells also which are there on one side alone."""
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            yield f"{name} changed (was {_version(before[name])}, now {_version(now[name])})"
    if came:
        yield from (f"{name} is new" for name in sorted(now.keys() - before.keys()))
        yield from (f"{name} is gone" for name in sorted(before.keys() - now.keys()))


def _version(version: str) -> str:
    """A version in words, if it is size and modification time."""
    size, _, time = version.partition(":")
    if not (size.isdecimal() and time.isdecimal()):
        return version
    when = datetime.fromtimestamp(int(time) / 1e9, UTC).isoformat(timespec="milliseconds")
    return f"{int(size):,} bytes of {when}"


def few(lines: Sequence[str], most: int = 5) -> list[str]:
    """The first lines, and how many there are more."""
    return [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]


def _rank(key: str) -> tuple[bool, str]:
    """What a person has set comes before what follows from it."""
    return key.startswith(("code.", "input.", "output.", "version")), key


def _change(key: str, old: object, new: object) -> str:
    """What became of a key; of code and secrets only digests are kept."""
    if key.startswith("code.") and old is not None and new is not None:
        return f"the code of {key.removeprefix('code.')} changed"
    if all(str(value).startswith("scrypt:") for value in (old, new)):
        return f"{key} changed (a secret)"
    return f"{key} was {_short(old)}, now {_short(new)}"


def _short(value: object) -> str:
    text = "not there" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _records(journal: Path, *, damaged: bool) -> Iterator[dict[str, Any]]:
    """What the journal holds; lines that are no JSON are passed over if `damaged`."""
    for number, line in enumerate((read_bytes(journal) or b"").splitlines(keepends=True), 1):
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


def _facts(part: Part) -> dict[str, Any]:
    """The part as JSON has it."""
    return {**vars(part), "files": [vars(f) for f in part.files], "side": [vars(f) for f in part.side]}


def _part(record: dict[str, Any]) -> Part:
    files, side = (tuple(File(**file) for file in record.pop(key, ())) for key in ("files", "side"))
    lists = {name: tuple(record.get(name, ())) for name in ("splits", "versions")}
    return Part(**{**record, **lists, "files": files, "side": side})
