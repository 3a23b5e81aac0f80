"""Input that changes while a run is under way: the right rows, or an error that names the file; never a wrong part."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.files import find
from tests.children import Ending, Fault, server
from tests.jobs import Job, Values, clean, inputs

FORMATS = ("parquet", "npy", "npz")


def vanish(file: Path) -> None:
    file.unlink()


def shrink(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def grow(file: Path) -> None:
    with file.open("ab") as f:
        f.write(b"more" * 1000)


def replace(file: Path) -> None:
    """By a file of the same size."""
    new = shutil.copy2(other(file), file.with_suffix(".new"))
    Path(new).replace(file)


def overwrite(file: Path) -> None:
    file.write_bytes(other(file).read_bytes())


def other(file: Path) -> Path:
    return inputs() / f"other{file.suffix}"


Change = Callable[[Path], None]
CHANGES: tuple[Change, ...] = (vanish, shrink, grow, replace, overwrite)


@functools.cache
def allowed(format_: str) -> list[Values]:
    """What comes of the one input and of the other."""
    job = make(format_)
    replace(job.input)
    assert job.run().code == 0
    ours = make(format_)
    assert ours.run().code == 0
    return [ours.values(), job.values()]


def make(format_: str) -> Job:
    """A job whose input may be changed: a copy of its own."""
    job = Job.make(format_)
    restore(job)
    return job


def restore(job: Job) -> None:
    job.input.unlink(missing_ok=True)
    shutil.copy2(inputs() / job.input.name, job.input)


def check(format_: str, change: Change, k: int) -> Ending:
    """The run stands still before its k-th call, the file changes, the run goes on."""
    job = make(format_)
    pid = job.start(Fault("any", k, "stop"))
    if (ending := server().wait(pid)).code is None:
        change(job.input)
        os.kill(pid, signal.SIGCONT)
        ending = server().wait(pid)
    assert ending.code in (0, 65, 66), (ending.code, ending.err)
    assert "Traceback" not in ending.err
    if ending.code == 0:
        assert job.values() in allowed(format_)
    else:
        assert job.input.name in ending.err
        assert not job.marked()
    restore(job)
    shutil.rmtree(job.folder)
    return ending


@pytest.mark.parametrize("format_", FORMATS)
def test_input_that_changes_while_it_is_read_is_noticed(format_: str) -> None:
    """It vanishes, shrinks, grows, is replaced, is written over: at some calls, from the listing of the input on."""
    rng, calls = random.Random(format_), clean(format_).ending.counts["any"]
    codes = [check(format_, change, rng.randrange(1, calls // 2)).code for change in CHANGES]
    assert {65, 66} & set(codes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", FORMATS)
def test_input_may_change_at_every_call(format_: str) -> None:
    """Before each call of a run, to the last."""
    failed, codes = [], dict[int | None, int]()
    for change in CHANGES:
        for k in range(1, clean(format_).ending.counts["any"] + 1):
            try:
                code = check(format_, change, k).code
                codes[code] = codes.get(code, 0) + 1
            except AssertionError as e:
                failed.append(f"{change.__name__} at {k}: {e}")
    print(f"{format_}: exit codes {codes}, {len(failed)} failed")
    assert not failed, "\n".join(failed[:20])


# ---- what is no file of data -----------------------------------------------------------------------------------------


def test_sockets_and_devices_are_refused(tmp_path: Path) -> None:
    """As fifos are: reading them waits for ever, or never ends."""
    with socket.socket(socket.AF_UNIX) as server_:
        server_.bind(str(tmp_path / "s.npy"))
        with pytest.raises(InputError, match=r"s\.npy' is not a regular file"):
            find(str(tmp_path / "s.npy"), (".npy",))
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"zero\.npy' is not a regular file"):
        find(str(tmp_path / "zero.npy"), (".npy",))


@pytest.mark.parametrize("pattern", ["", "**/*.npy", "a/**/*.npy"])
def test_links_in_a_circle_are_gone_round_once(tmp_path: Path, pattern: str) -> None:
    """A folder that links to the one above it holds each file once."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.npy").touch()
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/itself").symlink_to(tmp_path / "a/itself")
    found = [p.relative_to(tmp_path).as_posix() for p in find(f"{tmp_path}/{pattern}", (".npy",))]
    assert found == ["a/b/x.npy"]


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    """Too many levels of symbolic links."""
    (tmp_path / "x.npy").symlink_to(tmp_path / "x.npy")
    for pattern in ("x.npy", "", "*.npy"):
        with pytest.raises(InputError, match=r"cannot read '.*x\.npy': Too many levels"):
            find(f"{tmp_path}/{pattern}", (".npy",))
