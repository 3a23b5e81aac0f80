"""Files: list the input, publish the output atomically, lock it, and keep small JSON records."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

import filelock

from pipeline.core import File
from pipeline.errors import ConfigError, InputError, OutputError, PipelineError, RetryError, StorageError
from pipeline.stream import Beside

log = logging.getLogger("pipeline")

_GLOB = frozenset("*?[")
_FORMATS = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet"}
"""Suffixes that tell which source or sink is meant."""

_LONG = 2 << 20
"""Bytes that are hashed in a thread beside the one that writes them, half a batch by default: what leaves as large as
it came leaves a processor free more often. For less, to begin a thread takes longer than it saves."""

_BLOCK = 1 << 16
"""Bytes of one write. For a long one the system takes memory in long pieces, which a virtual machine may have to fetch
from its host first: 256 MB take 0.1 s in short ones, 0.8 s in those of 128 KiB and more."""

_BACK = 1 << 20
"""Bytes that are read back at once to be hashed."""

_idle: list[memoryview] = []
"""Memory to read back into, which is used again: fresh pages are dear."""

_AHEAD = 8 << 20
"""Bytes after which what is written goes to the disk, beside what follows: the end has little left to wait for."""

_BEHIND = 8 * _AHEAD
"""Bytes that the disk is given to write before they are let go, where a file is not to stay in memory."""

_POLL = 0.2
"""Seconds between two looks at a lock that another run holds."""


# ---- input -----------------------------------------------------------------------------------------------------------


def find(path: str, suffixes: tuple[str, ...], key: str = "source.path") -> list[Path]:
    """Regular files behind a file name, a folder (searched to any depth) or a glob, sorted by name as bytes.

    Names that start with ``_`` or ``.`` are side files and are passed over, as are files in a folder so named. A file
    that is named in full is taken whatever its suffix, unless that is the suffix of another source.

    Raises:
        ConfigError: `path` is empty, or names a file of another source.
        InputError: nothing is there, or what is there is no regular file.
    """
    _check_local(path, key)
    root = Path(path)
    if root.is_dir():
        found = [p for p in _walk(root) if p.suffix in suffixes]
    elif root.exists() or not _GLOB & set(path):
        found = [root]
    else:
        given = sum(1 for _ in takewhile(lambda part: not _GLOB & set(part), root.parts))
        found = [Path(p) for p in glob.glob(path, recursive=True)]  # noqa: PTH207
        found = [p for p in found if not p.is_dir() and not any(map(_hidden, p.parts[given:])) and not _circles(p)]
    if not found:
        raise InputError(f"{key}: no {' or '.join(suffixes)} file in {path!r}; give a file, a folder or a glob")
    for file in found:
        _check_regular(file, key)
        if file.suffix in _FORMATS and file.suffix not in suffixes:
            kind = _FORMATS[file.suffix]
            raise ConfigError(f"{key}: {str(file)!r} is no {' or '.join(suffixes)} file; give source={kind} to read it")
    return sorted(found, key=os.fsencode)


def _check_local(path: str, key: str) -> None:
    """Refuse what would be taken for a folder with a curious name in the current one."""
    if not path:
        raise ConfigError(f"no value given for {key}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ConfigError(f"{key}: {path!r} is a URL; give a path of this machine, such as that of a mounted store")
    if path.split("/", 1)[0] == "~":
        raise ConfigError(f'{key}: no shell has replaced the ~ of {path!r}; write "$HOME{path[1:]}"')


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (Path(folder, name) for name in names if not _hidden(name))


def _circles(file: Path) -> bool:
    """Whether the way to a file leads through a link to a folder that it lies in: ``**`` would find it many times."""
    links = [folder for folder in file.parents if folder.is_symlink()]
    return any(folder.parent.resolve().is_relative_to(folder.resolve()) for folder in links)


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _check_regular(file: Path, key: str) -> None:
    """A fifo would block for ever and a device may never end, so only regular files are read."""
    try:
        mode = file.stat().st_mode
    except OSError as e:
        raise InputError(f"{key}: cannot read {str(file)!r}: {e.strerror}") from e
    if not stat.S_ISREG(mode):
        raise InputError(f"{key}: {str(file)!r} is not a regular file")
    if not os.access(file, os.R_OK):
        raise InputError(f"{key}: no permission to read {str(file)!r}")


def version(file: str | os.PathLike[str]) -> str:
    """Size and modification time of a file: what changes when somebody writes to it."""
    try:
        s = os.stat(file)  # noqa: PTH116  (a path that is text need not be taken apart)
    except OSError as e:
        raise InputError(f"cannot read {os.fspath(file)!r}: {e.strerror}; it was there when the run was planned") from e
    return f"{s.st_size}:{s.st_mtime_ns}"


# ---- output ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """The places of one output.

    A folder keeps its bookkeeping in ``_pipeline/``; a single file ``out.npy`` in the sibling ``out.npy.run/``.

    Attributes:
        root: folder that holds the data files.
        state: bookkeeping: journal, fitted state, report, lock.
        temp: files under construction; gone when no run is at work.
        single: name of the one output file, or "" for a folder of parts.
    """

    root: Path
    state: Path
    temp: Path
    single: str = ""

    @property
    def markers(self) -> Path:
        """Folder of ``_manifest.json`` and ``_SUCCESS``."""
        return self.state if self.single else self.root


def home(path: str, *, single: bool) -> Home:
    """Places of the output at `path`. Touches nothing."""
    _check_local(path, "sink.path")
    p = Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow a symlink that the user wants written through)
    if single:
        state = p.with_name(p.name + ".run")
        return Home(p.parent, state, state / ".tmp", p.name)
    return Home(p, p / "_pipeline", p / ".tmp")


def check_suffix(path: str, suffix: str) -> None:
    """Refuse an output folder that has the name of a file of another format.

    Raises:
        ConfigError: `path` ends like a file, and not with `suffix`.
    """
    found = Path(path).suffix
    if found in _FORMATS and found != suffix:
        named = f"sink={_FORMATS[found]}, " if _FORMATS[found] != _FORMATS[suffix] else ""
        raise ConfigError(
            f"sink.path={path!r} ends in {found}, and this sink writes {suffix} files; give {named}a name that ends in "
            f"{suffix} for one file, or another name for a folder"
        )


class Publication:
    """A file that appears under its final name complete and durable, or not at all.

    Written in a temporary folder on the same filesystem and hashed on the way; `publish` fsyncs and renames. Usable as
    a binary file by pyarrow and NumPy; who writes all of `temp` by itself calls `take_in`. A long file is fsynced on
    the way too, beside what is written, so that the last fsync has little to wait for.
    After an error nothing is retried on the same descriptor: a failed fsync may have dropped the data.

    Args:
        where: the output.
        name: final path relative to ``where.root``, with ``/`` for folders.
        durable: False leaves out the fsyncs: safe against a killed process, not against power loss.
        draft: True if `rewrite` will be used: the file is then hashed at the end, by reading it once more.
        cached: False lets go of what is on disk, so that it takes no room among the files that the system keeps in
            memory; who reads the file next waits for the disk. Without fsyncs it stays there.
    """

    def __init__(
        self, where: Home, name: str, *, durable: bool = True, draft: bool = False, cached: bool = True
    ) -> None:
        self.name = name
        self.final = where.root / name
        self.temp = where.temp / f"{uuid4().hex}{Path(name).suffix}"
        self.closed = False
        self._visible = self._replaced = False
        self._durable = durable
        self._draft = draft
        self._cached = cached
        self._hash = hashlib.sha256()
        self._beside, self._flush = Beside(), Beside()
        self._size = 0
        with storage(self.final):
            try:
                self._file = self._create()
            except FileNotFoundError:  # the first of a run
                self.temp.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._create()

    def _create(self) -> io.FileIO:
        return io.FileIO(self.temp, "x+")

    def write(self, data: Any) -> int:
        """Append bytes (anything with the buffer protocol) and return their number."""
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        with storage(self.final), self._hashing(view):
            for start in range(0, len(view), _LONG):
                some = view[start : start + _LONG]
                write_all(self._file, some)
                self._grow(len(some))
        return len(view)

    @contextmanager
    def _hashing(self, view: memoryview) -> Iterator[None]:
        """Hash these bytes, if they are many beside what is done meanwhile: writing them takes about as long."""
        self._beside.wait()
        if self._draft:
            pass
        elif len(view) < _LONG:
            self._hash.update(view)
        else:
            self._beside.begin(partial(self._hash.update, view))
        try:
            yield
        finally:
            self._beside.wait()

    def take_in(self, *, beside: bool = False) -> None:
        """Hash what others have appended to `temp` since the last call, best while it is still in memory.

        Args:
            beside: in a thread of its own, while more is appended; the next call waits for it.
        """
        self._beside.wait()
        with storage(self.final):
            stop = os.fstat(self._file.fileno()).st_size
        if beside:
            self._beside.begin(partial(self._read_back, stop))
        else:
            self._read_back(stop)

    def _read_back(self, stop: int) -> None:
        try:
            block = _idle.pop()
        except IndexError:
            block = memoryview(bytearray(_BACK))
        with storage(self.final):
            if _far(self._size, stop):
                self._to_disk()
            while self._size < stop:
                got = os.preadv(self._file.fileno(), [block[: stop - self._size]], self._size)
                if not got:
                    raise StorageError(
                        f"{str(self.final)!r} was cut short while it was written. Run the same command again"
                    )
                self._hash.update(block[:got])
                self._size += got
        self._leave_memory()
        _idle.append(block)

    def _grow(self, size: int) -> None:
        before, self._size = self._size, self._size + size
        if _far(before, self._size):
            self._to_disk()
            self._leave_memory()

    def _to_disk(self) -> None:
        """Let the disk work on what is there, unless it has not done with what was there before."""
        if self._durable and self._flush.idle():
            self._flush.begin(partial(os.fsync, self._file.fileno()))

    def _leave_memory(self) -> None:
        if self._durable and not (self._cached or self._draft):
            _let_go(self._file, self._size - _BEHIND)

    def rewrite(self, offset: int, data: bytes) -> None:
        """Replace bytes of a draft, such as a header that counts rows."""
        assert self._draft, "what was written has been hashed"
        with storage(self.final):
            os.pwrite(self._file.fileno(), data, offset)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Nothing is buffered here; pyarrow asks for it."""

    def readable(self) -> bool:
        """Write-only."""
        return False

    def writable(self) -> bool:
        """Write-only."""
        return True

    def seekable(self) -> bool:
        """Parts are written front to back."""
        return False

    def close(self) -> None:
        """Close the descriptor without publishing. Harmless when called twice."""
        self.closed = True
        self._beside.end()  # first, since it may begin the other
        self._flush.end()
        self._file.close()

    def publish(self, rows: int) -> File:
        """Make the file durable, give it its final name, and return its record. For the name see `sync_names`."""
        self._beside.wait()
        with storage(self.final):
            digest = sha256(self.temp) if self._draft else self._hash.hexdigest()
            if self._durable:
                self._flush.wait()
                os.fsync(self._file.fileno())
                if not self._cached:
                    _let_go(self._file, self._size)
            self.close()
            if "/" in self.name:
                self.final.parent.mkdir(parents=True, exist_ok=True)
            self._replaced = self.final.exists()
            move(self.temp, self.final)
            self._visible = True
        return File(self.name, self._size, digest, rows)

    def abort(self) -> None:
        """Remove what was written. Harmless after `publish` and when called twice.

        What cannot be removed is no failure of its own: no reader sees it, and `scratch` tries again.
        """
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            self.temp.unlink(missing_ok=True)

    def retract(self) -> None:
        """As `abort`, and take back what was published, with the folders of `name` that are left empty.

        For a part of several files, when a later one could not be published. A file that took the place of one of that
        name stays, since that one may be committed: in a folder the name holds the key of the part, and with it what is
        in the file; a single file has lost its manifest before.
        """
        self.abort()
        if not self._visible or self._replaced:
            return
        with suppress(OSError):
            self.final.unlink(missing_ok=True)
            for depth in range(self.name.count("/")):
                self.final.parents[depth].rmdir()


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write every byte, in short pieces: an unbuffered file may take fewer, as on a full disk, without an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view[:_BLOCK]) :]


def _far(start: int, stop: int) -> bool:
    return stop // _AHEAD > start // _AHEAD


def _let_go(file: io.FileIO, stop: int) -> None:
    """Take the bytes before `stop` out of the page cache (POSIX; see posix_fadvise(2)); those not on disk yet stay.

    It is advice: a filesystem that does not take it loses nothing.
    """
    if stop > 0 and hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, stop, os.POSIX_FADV_DONTNEED)


def move(temp: Path, final: Path) -> None:
    """Give a file its final name. An error is none if the name is the file's: the answer of a server may get lost."""
    file = temp.stat()
    try:
        temp.replace(final)
    except OSError:
        if temp.exists() or not final.exists() or not os.path.samestat(file, final.stat()):
            raise


def visible(folder: Path) -> Iterator[Path]:
    """Files that a reader of the folder would take for data, at any depth."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(("_", "."))]
        yield from (Path(root, name) for name in names if not name.startswith(("_", ".")))


def make_folder(folder: Path) -> None:
    """Make a folder, those above it too, so that their names survive power loss."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_names(root: Path, names: Iterable[str]) -> None:
    """Make names relative to `root` survive power loss, those of their folders too; each folder is fsynced once."""
    folders: dict[str, str] = {}  # each with a name in it, by which the user knows it
    for name in names:
        folder = name
        while folder and (folder := folder.rpartition("/")[0]) not in folders:
            folders[folder] = name
    for folder in sorted(folders, reverse=True):
        with storage(root / folders[folder]), suppress(FileNotFoundError):  # it has gone since, and the names with it
            sync_folder(root / folder)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a small file atomically."""
    temp = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with storage(path):
        try:
            with open(temp, "xb", buffering=0) as f:  # noqa: PTH123
                write_all(f, data)
                if durable:
                    os.fsync(f.fileno())
            move(temp, path)
        except BaseException:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a small JSON file atomically; keys keep their order."""
    write_bytes(path, to_json(value), durable=durable)


def to_json(value: Any) -> bytes:
    """A JSON value as people can read it."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def read_bytes(path: Path) -> bytes | None:
    """What a small file holds, or None if it is not there."""
    with storage(path, "reading"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def storage(path: Path, doing: str = "writing") -> Iterator[None]:
    """Turn an OSError into the error that says whether to try again, naming the file.

    Args:
        path: what the user knows it as, which is not the temporary name.
        doing: writing, reading or creating. Only what is created first can be on a disk that never was writable; one
            that becomes so later has failed.
    """
    try:
        yield
    except PipelineError:
        raise
    except OSError as e:
        raise storage_error(path, e, doing) from e


def storage_error(path: Path, e: OSError, doing: str = "writing") -> PipelineError:
    """The error for a failed operation on an output file."""
    message = f"{doing} {str(path)!r} failed: {os.strerror(e.errno) if e.errno else e}"
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return RetryError(f"{message}. Finished parts are kept: make space and run the same command again")
    if e.errno in _NOT_HERE or (e.errno == errno.EROFS and doing == "creating"):
        return OutputError(f"{message}. Choose another sink.path or its permissions")
    return StorageError(f"{message}. Finished parts are kept: run the same command again")


_NOT_HERE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


# ---- one writer ------------------------------------------------------------------------------------------------------


@contextmanager
def lock(folder: Path, *, wait: bool = False, timeout: float | None = None) -> Iterator[bool]:
    """Hold the only right to write to an output; the value is whether another run had it before.

    Args:
        folder: bookkeeping of the output.
        wait: stand in line, and say once for whom. A signal ends the waiting.
        timeout: seconds to wait at most; None for as long as it takes.

    Raises:
        RetryError: another run holds it, or still holds it after `timeout`; the message says which.
    """
    holder, gate = folder / "lock.json", filelock.FileLock(folder / "lock")
    with storage(folder, "creating"):
        make_folder(folder)
        waited = _acquire(gate, holder, wait=wait, timeout=timeout)
    try:
        write_json(holder, {"pid": os.getpid(), "host": os.uname().nodename, "since": _now()}, durable=False)
        yield waited
    finally:
        with suppress(OSError):  # the work is done, and the end of the process gives the lock back too
            holder.unlink(missing_ok=True)
        with suppress(OSError):
            gate.release()


_PATIENCE = 2.0
"""Seconds that a holder gets who has not said yet who it is, or has just left."""


def _acquire(gate: filelock.BaseFileLock, holder: Path, *, wait: bool, timeout: float | None) -> bool:
    """Take the lock; whether that took waiting."""
    for patience in (0, _PATIENCE):
        with suppress(filelock.Timeout):
            gate.acquire(timeout=patience)
            return False
        if holder.exists():
            break
    if not wait:
        raise RetryError(f"another run is writing this output: {_holder(holder)}. Try again later, or run.lock=wait")
    log.warning("waiting for another run to finish with this output: %s", _holder(holder))
    try:
        gate.acquire(timeout=-1 if timeout is None else timeout, poll_interval=_POLL)
    except filelock.Timeout as e:
        raise RetryError(
            f"another run was still writing this output after run.lock_timeout={timeout:g} seconds: {_holder(holder)}. "
            "Try again later"
        ) from e
    return True


def release_files(where: Home) -> None:
    """Remove what a process that ends without unwinding would leave: temporary files, and its name in the lock.

    Nothing if the lock is another's, whose files they are. The lock itself goes with the process.
    """
    name = where.state / "lock.json"
    with suppress(OSError, ValueError):
        who = json.loads(name.read_bytes())
        if (who.get("pid"), who.get("host")) == (os.getpid(), os.uname().nodename):
            shutil.rmtree(where.temp, ignore_errors=True)
            name.unlink()


def holder(state: Path) -> str:
    """Who holds the lock of an output by its own account, or "" if nobody claims to. A killed run still does."""
    return _holder(state / "lock.json") if (state / "lock.json").exists() else ""


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "holder unknown"
    return f"pid {who.get('pid')} on {who.get('host')} since {who.get('since')}"


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def scratch(where: Home) -> Iterator[None]:
    """Nothing is under construction before the block, nor after it. For the one who holds the lock."""
    sweep(where)
    _at_work.add(where)
    try:
        yield
    finally:
        _at_work.discard(where)
        sweep(where)


_at_work: set[Home] = set()
"""Outputs of this process that have something under construction."""


def sweep(where: Home) -> None:
    """Remove what is under construction, as far as that can be done: whatever stays, no reader sees it."""
    _remove(where.temp)
    for folder in {where.state, where.markers}:
        with suppress(OSError):
            for left in [p for p in folder.iterdir() if _TEMPORARY.fullmatch(p.name)]:
                left.unlink()


def _remove(folder: Path) -> None:
    with suppress(OSError):  # it is empty unless a run was killed
        folder.rmdir()
        return
    with suppress(OSError):  # rmtree raises some errors even so
        shutil.rmtree(folder, ignore_errors=True)


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def sweep_all() -> None:
    """Remove what this process has under construction, when it must end at once."""
    for where in list(_at_work):
        sweep(where)
