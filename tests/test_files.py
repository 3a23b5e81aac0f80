"""Listing, publishing, locking, small records."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError, InputError, OutputError, PipelineError, RetryError, StorageError
from pipeline.files import (
    Home,
    Publication,
    check_suffix,
    find,
    home,
    lock,
    release_files,
    scratch,
    storage_error,
    sync_names,
    version,
    write_bytes,
    write_json,
)
from pipeline.sink.npy import Npy
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet
from pipeline.testing.sink import names, no_file_above
from tests.fakes import Rows, run_rows, same, table

SUFFIXES = (".npy", ".npz")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with data, side files and other files."""
    for name in (
        *("b.npy", "a.npy", "c.npz", "note.txt", "_SUCCESS.npy", ".hidden.npy"),
        *("deep/er/d.npy", "_pipeline/state.npy", ".tmp/torn.npy", "k=1/e.npy", "B.npy"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def where(tmp_path: Path) -> Home:
    """The places of an output folder."""
    return home(str(tmp_path / "out"), single=False)


def found(tree: Path, pattern: str) -> list[str]:
    """Names below the tree."""
    return [p.relative_to(tree).as_posix() for p in find(f"{tree}/{pattern}", SUFFIXES)]


# ---- input -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_to_any_depth_in_the_order_of_bytes(tree: Path) -> None:
    """Side files, and folders of them, are passed over."""
    assert found(tree, "") == ["B.npy", "a.npy", "b.npy", "c.npz", "deep/er/d.npy", "k=1/e.npy"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.npy", ["B.npy", "a.npy", "b.npy"]),
        ("**/*.npy", ["B.npy", "a.npy", "b.npy", "deep/er/d.npy", "k=1/e.npy"]),
        ("[ab].np?", ["a.npy", "b.npy"]),
        ("k=*/*", ["k=1/e.npy"]),
        ("*", ["B.npy", "a.npy", "b.npy", "c.npz", "note.txt"]),
        ("_pipeline/*.npy", ["_pipeline/state.npy"]),
    ],
)
def test_a_glob_passes_over_side_files_that_it_does_not_name(tree: Path, pattern: str, expected: list[str]) -> None:
    """A folder that the user names is taken, one that a wildcard meets is not."""
    assert found(tree, pattern) == expected


@pytest.mark.parametrize("name", ["note.txt", "_SUCCESS.npy", "x[1].npy", "a=b c.npy"])
def test_a_file_named_in_full_is_taken(tree: Path, name: str) -> None:
    """Whatever its suffix, and also if its name looks like a glob."""
    (tree / name).touch()
    assert found(tree, name) == [name]


@pytest.mark.parametrize("pattern", ["x.parquet", "*.parquet"])
def test_a_file_of_another_source_is_sent_there(tree: Path, pattern: str) -> None:
    """Who forgets source=parquet reads that, and not that the header of the array is damaged."""
    (tree / "x.parquet").touch()
    with pytest.raises(ConfigError, match=r"x.parquet' is no .npy or .npz file; give source=parquet to read it"):
        found(tree, pattern)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("out.npy", r"ends in .npy, and this sink writes .parquet files; give sink=npy, a name that ends in .parquet"),
        ("out.pq", r"ends in .pq, and this sink writes .parquet files; give a name that ends in .parquet"),
    ],
)
def test_a_folder_is_not_named_like_a_file_of_another_format(path: str, words: str) -> None:
    """Who writes sink.path=out.npy means a file; other suffixes are anybody's."""
    with pytest.raises(ConfigError, match=words):
        check_suffix(path, ".parquet")
    check_suffix("out.parquet", ".parquet")
    check_suffix("out.v1", ".parquet")


def test_a_path_may_be_relative(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the folder the user stands in."""
    monkeypatch.chdir(tree)
    assert [str(p) for p in find("*.npz", SUFFIXES)] == ["c.npz"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("none.npy", "cannot read '.*none.npy': No such file"),
        ("*.parquet", "no .npy or .npz file in '.*parquet'; give a file, a folder or a glob"),
        (".tmp/deep", "cannot read"),
    ],
)
def test_missing_input_is_named(tree: Path, pattern: str, words: str) -> None:
    """With the key, so that the user knows what to set."""
    with pytest.raises(InputError, match=f"source.path: {words}"):
        found(tree, pattern)


def test_an_empty_folder_and_an_empty_path_are_told_apart(tmp_path: Path) -> None:
    """Nothing there, and nothing asked for."""
    with pytest.raises(InputError, match="no .npy"):
        find(str(tmp_path), SUFFIXES)
    with pytest.raises(ConfigError, match=r"no value given for sink\.x"):
        find("", SUFFIXES, "sink.x")


@pytest.mark.parametrize("pattern", ["pipe.npy", "", "*.npy"])
def test_a_fifo_is_refused(tmp_path: Path, pattern: str) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match=r"pipe\.npy' is not a regular file"):
        found(tmp_path, pattern)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    """A file that was there once is missing input, not less input."""
    (tmp_path / "gone.npy").symlink_to(tmp_path / "away.npy")
    with pytest.raises(InputError, match=r"cannot read '.*gone\.npy'"):
        found(tmp_path, "")


def test_a_version_changes_with_the_file(tree: Path) -> None:
    """A longer file, and one of the same length written later."""
    file = tree / "a.npy"
    first = version(file)
    os.utime(file, ns=(0, 1))
    second = version(file)
    file.write_bytes(b"xy")
    assert len({first, second, version(file)}) == 3
    file.unlink()
    with pytest.raises(InputError, match=r"a\.npy'.*it was there when the run was planned"):
        version(file)


# ---- output ----------------------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_books_inside_and_a_file_beside(tmp_path: Path) -> None:
    """Under names that readers of data pass over; nothing is made yet."""
    folder = home(f"{tmp_path}/out", single=False)
    assert (folder.root, folder.markers, folder.single) == (tmp_path / "out", tmp_path / "out", "")
    assert {folder.state.name[0], folder.temp.name[0]} == {"_", "."}
    file = home(f"{tmp_path}/out.npy", single=True)
    assert (file.root, file.markers, file.single) == (tmp_path, tmp_path / "out.npy.run", "out.npy")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"sink\.path"):
        home("", single=True)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("name", ["p.bin", "k=1/j=2/p.bin"])
def test_a_file_appears_whole_or_not_at_all(where: Home, name: str, durable: bool) -> None:
    """With a true record; its temporary name is gone."""
    publication = Publication(where, name, durable=durable)
    for data in (b"abc", b"", memoryview(b"defg")[::1], np.arange(3), np.zeros((0, 2))):
        publication.write(data)
    assert not (where.root / name).exists()
    assert publication.tell() == 31
    file = publication.publish(rows=5)
    data = (where.root / name).read_bytes()
    assert data == b"abcdefg" + np.arange(3).tobytes()
    assert (file.path, file.bytes, file.sha256, file.rows) == (name, 31, hashlib.sha256(data).hexdigest(), 5)
    assert names(where.root) == {name}


def test_what_took_the_place_of_an_older_file_is_not_taken_back(where: Home) -> None:
    """A part that is made again may fail at a later file: those that were committed are still there."""
    for text in (b"old", b"new"):
        publication = Publication(where, "p.bin")
        publication.write(text)
        publication.publish(1)
    publication.retract()
    assert (where.root / "p.bin").read_bytes() == b"new"
    first = Publication(where, "q.bin")
    first.write(b"new")
    first.publish(1)
    first.retract()
    assert not (where.root / "q.bin").exists()


def in_memory(path: Path) -> bool:
    """Whether the first page is in the page cache; to look does not fetch it (mincore(2))."""
    told = (ctypes.c_ubyte * 1)()
    with path.open("r+b") as f, mmap.mmap(f.fileno(), 1) as page:
        byte = ctypes.c_char.from_buffer(page)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(byte)), ctypes.c_size_t(1), told) == 0
        del byte
    return bool(told[0] & 1)


@pytest.fixture
def disk(where: Home) -> Home:
    """A place whose files are on a disk, and not always in memory."""
    if not (hasattr(ctypes.CDLL(None), "mincore") and hasattr(os, "posix_fadvise")):
        pytest.skip("the system does not tell what is in memory, or takes no advice")
    where.temp.mkdir(parents=True)
    file = where.temp / "tried"
    with file.open("wb") as f:
        f.write(bytes(1 << 16))
        f.flush()
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(file):
        pytest.skip("the files of this system stay in memory")
    file.unlink()
    return where


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_nobody_reads_soon_leaves_memory(disk: Home, cached: bool, draft: bool) -> None:
    """And is the same on disk."""
    data = bytes(range(256)) * 1000
    publication = Publication(disk, "p.bin", draft=draft, cached=cached)
    publication.write(data)
    assert in_memory(publication.temp)
    file = publication.publish(1)
    assert in_memory(disk.root / "p.bin") == cached
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert (disk.root / "p.bin").read_bytes() == data


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_on_disk_leaves_memory_while_a_long_file_is_written(
    disk: Home, cached: bool, durable: bool, others: bool
) -> None:
    """Some way behind what is written, also by Arrow itself; not where nobody waits for the disk."""
    publication = Publication(disk, "p.bin", cached=cached, durable=durable)
    block = bytes(8 << 20)

    def append() -> None:
        if not others:
            publication.write(block)
            return
        with publication.temp.open("ab") as file:
            file.write(block)
        publication.take_in()

    for _ in range(8):
        append()
    with publication.temp.open("rb") as f:
        os.fsync(f.fileno())
    assert in_memory(publication.temp)
    append()
    assert in_memory(publication.temp) == (cached or not durable)
    publication.abort()


@pytest.mark.parametrize("sink", [Npy, Npz, Parquet])
@pytest.mark.parametrize("cached", [False, True])
def test_every_sink_has_the_choice(disk: Home, cached: bool, sink: Any) -> None:
    """By its argument `cached`; what is written is the same."""
    place = disk.root / "out"
    run_rows(Rows(table(200)), same, place, sink=sink(str(place), cached=cached), columns=["x"], carry="none")
    files = [file for file in place.iterdir() if file.name.startswith("part-")]
    assert len(files) == 2
    assert {in_memory(file) for file in files} == {cached}


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("others", [False, True])
def test_a_long_file_goes_to_the_disk_while_it_is_written(
    where: Home, monkeypatch: pytest.MonkeyPatch, others: bool, durable: bool
) -> None:
    """Whoever writes it. One fsync at a time, in another thread, and one for all in the end."""
    sizes: list[int] = []
    begun, go = threading.Semaphore(0), threading.Event()

    def fsync(fd: int) -> None:
        sizes.append(os.fstat(fd).st_size)
        begun.release()
        assert go.wait(60)

    def append() -> None:
        if others:
            with publication.temp.open("ab") as other:
                other.write(block)
            publication.take_in()
        else:
            publication.write(block)

    monkeypatch.setattr(os, "fsync", fsync)
    publication, block = Publication(where, "p.bin", durable=durable), bytes(5 << 20)
    try:
        append()
        assert sizes == []  # short files wait for their end
        append()
        if durable:
            begun.acquire()
            assert 8 << 20 <= sizes[0] <= 10 << 20
        append()
        append()
        assert len(sizes) == durable
    finally:
        go.set()
    assert publication.publish(1).bytes == 20 << 20
    assert sizes[1:] == ([20 << 20] if durable else [])


@pytest.mark.parametrize("end", ["write", "publish", "abort"])
def test_a_failed_fsync_on_the_way_fails_the_file(where: Home, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """The next one on the same descriptor may succeed although the bytes are lost, and so it is not asked."""
    asked: list[int] = []

    def fsync(fd: int) -> None:
        asked.append(fd)
        raise OSError(errno.EIO, "EIO")

    monkeypatch.setattr(os, "fsync", fsync)
    publication, block = Publication(where, "p.bin"), bytes(8 << 20)
    publication.write(block)
    if end != "abort":
        with pytest.raises(StorageError, match="writing '.*p.bin' failed: Input/output error"):
            while end == "write":
                publication.write(block)
            publication.publish(1)
    publication.abort()
    assert len(asked) == 1
    assert list(where.root.rglob("*.bin")) == []


def test_a_draft_is_hashed_after_it_was_rewritten(where: Home) -> None:
    """A header that counts rows is known last."""
    publication = Publication(where, "p.bin", draft=True)
    publication.write(b"0000rows")
    publication.rewrite(0, b"0042")
    file = publication.publish(42)
    assert (where.root / "p.bin").read_bytes() == b"0042rows"
    assert (file.bytes, file.sha256) == (8, hashlib.sha256(b"0042rows").hexdigest())


def test_what_others_append_is_hashed_and_counted(where: Home) -> None:
    """Arrow writes a file by itself, page by page; the record is that of all it wrote."""
    publication = Publication(where, "p.bin")
    expected = b""
    for data in (b"here", b"x" * 100_000, b"", b"there"):
        with publication.temp.open("ab") as other:
            other.write(data)
        publication.take_in()
        expected += data
    file = publication.publish(3)
    assert (where.root / "p.bin").read_bytes() == expected
    assert (file.bytes, file.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())


def test_each_folder_of_some_names_is_fsynced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those between a file and the root too, and the root after what is in it."""
    seen: list[str] = []

    def fsync(fd: int) -> None:
        seen.append(str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(tmp_path)))

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell what a descriptor is")
    for folder in ("a=1/b=1", "a=1/b=2", "c"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", fsync)
    sync_names(tmp_path, ["a=1/b=1/p", "a=1/b=1/q", "a=1/b=2/p", "c/p", "p", "q"])
    assert sorted(seen) == [".", "a=1", "a=1/b=1", "a=1/b=2", "c"]
    assert seen.index("a=1") > max(seen.index("a=1/b=1"), seen.index("a=1/b=2"))
    assert seen[-1] == "."
    seen.clear()
    sync_names(tmp_path, [])
    assert seen == []


def test_a_folder_that_is_gone_has_no_names_to_keep(tmp_path: Path) -> None:
    """Somebody has removed it since; the next run finds that its files are missing. What is no folder is an error."""
    sync_names(tmp_path, ["gone/p", "p"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        PipelineError, match=f"writing '{re.escape(str(tmp_path / 'file/x/p'))}' failed: Not a directory"
    ):
        sync_names(tmp_path, ["file/x/p"])


def _beside() -> int:
    return sum(thread.name.startswith("pipeline-beside") for thread in threading.enumerate())


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("draft", [True, False])
def test_much_is_hashed_beside_and_little_in_turn(where: Home, durable: bool, draft: bool) -> None:
    """The record is the same, and so is the order of both."""
    publication = Publication(where, "p.bin", durable=durable, draft=draft)
    pieces = [np.arange(n, dtype="<u4") + n for n in (1, 3 << 20, 7, 1 << 18, (1 << 18) - 1, 0, 5 << 18)]
    for piece in pieces:
        assert publication.write(piece) == piece.nbytes
    assert _beside() <= durable  # an fsync
    file = publication.publish(1)
    data = b"".join(piece.tobytes() for piece in pieces)
    assert (where.root / "p.bin").read_bytes() == data
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert _beside() == 0


def test_memory_is_the_caller_s_again_after_a_write(where: Home) -> None:
    """Buffers are used again, for the next batch."""
    publication = Publication(where, "p.bin")
    buffer = np.zeros(8 << 20, np.uint8)
    digest = hashlib.sha256()
    for i in range(10):
        buffer[:] = i
        digest.update(buffer.data)
        publication.write(buffer)
        buffer[:] = 255
    assert publication.publish(1).sha256 == digest.hexdigest()


def test_files_that_are_read_back_at_once_do_not_share_memory(where: Home) -> None:
    """Blocks are used again, by one thread at a time."""
    made = [Publication(where, f"{i}.bin") for i in range(8)]
    data = [bytes([i]) * (5 << 20) for i in range(8)]
    for _ in range(3):
        for publication, piece in zip(made, data, strict=True):
            with publication.temp.open("ab") as other:
                other.write(piece)
            publication.take_in(beside=True)
    for publication, piece in zip(made, data, strict=True):
        assert publication.publish(1).sha256 == hashlib.sha256(piece * 3).hexdigest()


def test_what_others_append_is_hashed_beside_while_they_go_on(where: Home) -> None:
    """What comes after a call is left for the next one; `publish` waits for the last."""
    publication = Publication(where, "p.bin")
    expected = b""
    with publication.temp.open("ab", buffering=0) as other:
        for i in range(5):
            data = bytes([i]) * (3 << 20)
            other.write(data)
            expected += data
            publication.take_in(beside=True)
    file = publication.publish(3)
    assert (where.root / "p.bin").read_bytes() == expected
    assert (file.bytes, file.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())
    assert _beside() == 0


@pytest.mark.parametrize("end", ["publish", "take_in", "abort"])
def test_a_file_that_is_cut_short_is_never_published(where: Home, end: str) -> None:
    """Its bytes are hashed in another thread; what goes wrong there is raised in the one that goes on."""
    publication = Publication(where, "p.bin")
    publication.temp.write_bytes(b"x" * 100)
    publication.take_in()
    size = 2 << 30  # sparse; to hash it takes seconds
    os.truncate(publication.temp, size)
    publication.take_in(beside=True)
    os.truncate(publication.temp, 0)
    if end == "abort":
        publication.abort()
    else:
        with pytest.raises(StorageError, match="'.*p.bin' was cut short while it was written"):
            publication.publish(1) if end == "publish" else publication.take_in()
        publication.abort()
    assert names(where.root) == set()
    assert _beside() == 0


def test_an_aborted_file_leaves_nothing(where: Home) -> None:
    """Also when aborted twice; what was published stays."""
    first = Publication(where, "p.bin")
    first.publish(0)
    first.abort()
    second = Publication(where, "p.bin")
    second.write(b"torn")
    second.abort()
    second.abort()
    second.retract()
    assert names(where.root) == {"p.bin"}
    assert (where.root / "p.bin").read_bytes() == b""


def test_a_retracted_file_takes_its_empty_folders_along(where: Home) -> None:
    """But not those that others use."""
    other = Publication(where, "k=1/q.bin")
    other.publish(0)
    for name in ("k=1/j=1/p.bin", "k=2/p.bin"):
        publication = Publication(where, name)
        publication.publish(0)
        publication.retract()
    assert names(where.root) == {"k=1/q.bin"}
    assert sorted(p.name for p in where.root.iterdir() if p != where.temp) == ["k=1"]


def test_two_publications_of_one_name_do_not_mix(where: Home) -> None:
    """Each has its own temporary file; the last one wins whole."""
    one, two = Publication(where, "p.bin"), Publication(where, "p.bin")
    one.write(b"one")
    two.write(b"two!")
    two.publish(0)
    one.publish(0)
    assert (where.root / "p.bin").read_bytes() == b"one"


def test_a_write_that_fails_names_the_final_file(where: Home) -> None:
    """Not the temporary one, which the user does not know."""
    publication = Publication(where, "p.bin")
    with no_file_above(10), pytest.raises(StorageError, match=r"/out/p\.bin' failed: File too large"):
        publication.write(b"x" * 11)
    publication.abort()
    assert not names(where.root)


@pytest.mark.parametrize("name", ["f/p.bin", "d"])
def test_a_place_that_is_taken_is_the_users_to_change(where: Home, name: str) -> None:
    """A file where a folder should be, and a folder where a file should be."""
    (where.root / "d").mkdir(parents=True)
    (where.root / "f").touch()
    publication = Publication(where, name)
    with pytest.raises(OutputError, match=rf"/out/{name}' failed.*Choose another sink\.path"):
        publication.publish(0)
    publication.abort()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands where the output folder should be."""
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"/out/p\.bin' failed"):
        Publication(home(str(tmp_path / "out"), single=False), "p.bin")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, RetryError),
        (errno.EDQUOT, RetryError),
        (errno.EACCES, OutputError),
        (errno.EROFS, StorageError),
        (errno.ENAMETOOLONG, OutputError),
        (errno.EIO, StorageError),
        (errno.ESTALE, StorageError),
    ],
)
def test_errors_of_the_system_say_whether_to_try_again(code: int, kind: type[PipelineError]) -> None:
    """Exit code and advice hang on it; the file and the reason are named."""
    error = storage_error(Path("/x/p.bin"), OSError(code, os.strerror(code)))
    assert type(error) is kind
    assert f"writing '/x/p.bin' failed: {os.strerror(code)}. " in str(error)


def test_what_dead_runs_left_goes_before_and_after_a_run(where: Home) -> None:
    """Files under construction and small records; what somebody else calls .tmp stays."""
    left = f".lock.json.{'0' * 32}.tmp"
    for name in (f".tmp/{'1' * 32}.bin", f"_pipeline/{left}", left, ".mine.tmp", "p.bin"):
        (where.root / name).parent.mkdir(parents=True, exist_ok=True)
        (where.root / name).touch()
    with scratch(where):
        assert not where.temp.exists()
        Publication(where, "q.bin").close()
    found = sorted(p.relative_to(where.root).as_posix() for p in where.root.rglob("*") if p.is_file())
    assert found == [".mine.tmp", "p.bin"]
    assert not where.temp.exists()


# ---- records ---------------------------------------------------------------------------------------------------------


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    """Keys keep their order, text stays readable."""
    path = tmp_path / "r.json"
    for value in ({"old": 1}, {"z": "é", "a": [1, None]}):
        write_json(path, value)
    assert list(json.loads(path.read_text()).items()) == [("z", "é"), ("a", [1, None])]
    assert "é" in path.read_text()
    assert names(tmp_path) == {"r.json"}


def test_a_record_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """Also when the value is no JSON."""
    path = tmp_path / "r.json"
    write_json(path, {"old": 1})
    with no_file_above(20), pytest.raises(StorageError, match=r"r\.json"):
        write_bytes(path, b"x" * 21)
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_bytes()) == {"old": 1}
    assert names(tmp_path) == {"r.json"}


# ---- one writer ------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from pipeline.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_holds_the_output(tmp_path: Path) -> None:
    """And may write when the first has ended."""
    with hold(tmp_path) as process:
        with (
            pytest.raises(RetryError, match=rf"pid {process.pid} on {os.uname().nodename} since 20.*Try again later"),
            lock(tmp_path),
        ):
            pass
        assert process.communicate("")[0] == ""
    with lock(tmp_path):
        pass
    assert process.returncode == 0
    assert not (tmp_path / "lock.json").exists()


def test_who_waits_says_so_once_and_goes_on_when_the_other_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The holder ends only when it was seen that somebody waits for it."""
    with hold(tmp_path) as process:
        waiting = logging.getLogger("pipeline")
        ends = Ends(process)
        waiting.addHandler(ends)
        try:
            with lock(tmp_path, wait=True) as waited:
                assert waited
                assert json.loads((tmp_path / "lock.json").read_bytes())["pid"] == os.getpid()
        finally:
            waiting.removeHandler(ends)
    assert [r.getMessage().split(" since")[0] for r in caplog.records] == [
        f"waiting for another run to finish with this output: pid {process.pid} on {os.uname().nodename}"
    ]
    with lock(tmp_path, wait=True) as waited:
        assert not waited


class Ends(logging.Handler):
    """Ends the process that holds the lock at the first word."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self.process = process

    def emit(self, record: logging.LogRecord) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    """After which the message is that of a run that does not wait, with the key."""
    with hold(tmp_path) as process:
        with (
            pytest.raises(RetryError, match=rf"after run.lock_timeout=0.3 seconds: pid {process.pid} on .* since 20"),
            lock(tmp_path, wait=True, timeout=0.3),
        ):
            pass
        process.communicate("")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_waiting(tmp_path: Path, number: int) -> None:
    """As it ends a run, leaving the lock to its holder."""
    code = """
import logging, sys
from pathlib import Path
from pipeline.__main__ import _Door, _signals
from pipeline.files import lock
logging.basicConfig()
door = _Door([], verbose=False)
try:
    with _signals(door), lock(Path(sys.argv[1]), wait=True):
        pass
finally:
    print(door.signal)
"""
    with hold(tmp_path) as process:
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert "waiting for another run" in waiting.stderr.readline()
            waiting.send_signal(number)
            assert waiting.communicate(timeout=30)[0] == f"{int(number)}\n"
        assert json.loads((tmp_path / "lock.json").read_bytes())["pid"] == process.pid
        process.communicate("")


def test_who_ends_at_once_takes_its_own_files_and_nobody_elses(where: Home) -> None:
    """Temporary files belong to the holder of the lock."""
    where.temp.mkdir(parents=True)
    with lock(where.state):
        release_files(where)
        assert not where.temp.exists()
        assert not (where.state / "lock.json").exists()
    where.temp.mkdir()
    with hold(where.state) as process:
        release_files(where)
        assert where.temp.exists()
        assert json.loads((where.state / "lock.json").read_bytes())["pid"] == process.pid
        process.communicate("")


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    """The system takes the lock back; what the dead one wrote about itself does no harm."""
    with hold(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / "lock.json").read_bytes())["pid"] == process.pid
    with lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_bytes())["pid"] == os.getpid()


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    """A run that failed does not block the next."""
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    with lock(tmp_path):
        pass


def test_a_lock_in_a_place_that_is_taken_names_it(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "state").touch()
    with pytest.raises(OutputError, match="/state' failed"), lock(tmp_path / "state"):
        pass
