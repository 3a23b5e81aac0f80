"""Child processes that run the stage under a fault in a system call. Run as a program: the server that forks them.

The server has imported all that a run needs and started no thread, so that a child costs a fork and the run itself.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import functools
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

OPS = ("any", "change", "open_read", "open_write", "read", "write", "fsync", "rename", "close", "mkdir", "unlink")
"""Kinds of calls; `change` are those that may alter a file system, `any` are all."""
HOWS = ("fail", "after", "short", "kill", "killed_after", "torn", "term", "int", "stop", "clock", "timer")
"""What happens: an error instead of the call or after it, half of a write, death before or after the call or in the
middle of a write, a signal, a jump of the clock by `code` seconds, death `code` microseconds later."""

_HANGS = 60


@dataclass(frozen=True)
class Fault:
    """What happens at the `k`-th call of a kind, or from there on if it is `sticky`."""

    op: str
    k: int
    how: str = "fail"
    code: int = errno.EIO
    sticky: bool = False

    def __str__(self) -> str:
        code = f"-{errno.errorcode[self.code]}" if self.how in ("fail", "after") else ""
        return f"{self.how}{code}-{self.op}-{self.k}{'-sticky' if self.sticky else ''}"


NONE = Fault("any", 0)


@dataclass(frozen=True)
class Ending:
    """How a child ended, or that it stands still.

    Attributes:
        code: exit code; negative for a signal; None if it is stopped.
        met: how often the fault was met.
        counts: calls by kind.
        orphans: processes that it left behind.
        hung: whether it had to be killed.
    """

    code: int | None
    met: int
    counts: Mapping[str, int]
    orphans: int = 0
    hung: bool = False
    out: str = ""
    err: str = ""


@dataclass
class Server:
    """The client's end: forks children, and hears how they end."""

    process: subprocess.Popen[str]
    root: Path
    """Where what the children print is kept, until the tests end."""
    _folders: dict[int, Path] = field(default_factory=dict)

    def start(self, argv: Sequence[str] | str, under: Path, fault: Fault = NONE, **how: Any) -> int:
        """Start a child that runs the stage in `under`, and return its process id.

        Args:
            argv: the command line of the stage; or a format, to run a stage of it without Hydra, which is quicker.
            under: calls on files below this folder are counted; the child stands in it.
            fault: what it meets.
            how: `streams` maps a standard stream to a path, to "" (closed) or to "|" (a pipe that nobody reads);
                `file_size` is a limit; `ignore` names signals; `whole` lets the interpreter take its leave, which is
                slow with torch: else the child ends when the stage has returned.
        """
        folder = Path(tempfile.mkdtemp(prefix="child-", dir=self.root))
        streams = {"0": os.devnull, "1": f"{folder}/out", "2": f"{folder}/err", **how.pop("streams", {})}
        request = {"argv": argv, "under": str(under), "fault": asdict(fault), "streams": streams, **how}
        pid: int = self._ask(do="start", **request)
        self._folders[pid] = folder
        return pid

    def wait(self, pid: int) -> Ending:
        """Until the child ends or stops."""
        told = self._ask(do="wait", pid=pid)
        folder = self._folders[pid]
        texts = [(folder / name).read_text() if (folder / name).exists() else "" for name in ("out", "err")]
        return Ending(**told, out=texts[0], err=texts[1])

    def run(self, argv: Sequence[str] | str, under: Path, fault: Fault = NONE, **how: Any) -> Ending:
        """Start a child and wait for it."""
        return self.wait(self.start(argv, under, fault, **how))

    def _ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the server of the children died"
        return json.loads(line)


@functools.cache
def server() -> Server:
    """The server of this test process. Skips the test where there is no C compiler, or no preloading."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("faults in system calls need Linux and a C compiler")
    root = Path(tempfile.mkdtemp(prefix="children-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    library = root / "syscalls.so"
    source = Path(__file__).with_name("syscalls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lrt"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    pipe = subprocess.PIPE
    argv = [sys.executable, "-m", "tests.children"]
    return Server(subprocess.Popen(argv, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True), root)


# ---- the server ------------------------------------------------------------------------------------------------------


class _Forks:
    """The server's end."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(None)
        self._shim.fault_seen.restype = ctypes.POINTER(ctypes.c_long)
        self._seen: dict[int, Any] = {}
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of children become ours

    def start(self, request: dict[str, Any]) -> int | None:
        """The process id of the child; None in the child."""
        self._shim.fault_fresh()
        seen = self._shim.fault_seen()
        pid = os.fork()
        if pid:
            self._seen[pid] = seen
            return pid
        self._arm(request)
        return None

    def _arm(self, request: dict[str, Any]) -> None:
        fault, under = Fault(**request["fault"]), os.path.realpath(request["under"])
        _redirect(request["streams"])
        os.chdir(under)
        for name in request.get("ignore", ()):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
        if size := request.get("file_size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        op, how = OPS.index(fault.op), HOWS.index(fault.how)
        self._shim.fault_arm(under.encode(), op, ctypes.c_long(fault.k), how, fault.code, int(fault.sticky))

    def wait(self, pid: int) -> dict[str, Any]:
        hung = False

        def kill(*_: object) -> None:
            nonlocal hung
            hung = True
            os.kill(pid, signal.SIGKILL)

        signal.signal(signal.SIGALRM, kill)
        signal.alarm(_HANGS)
        _, status = os.waitpid(pid, os.WUNTRACED)
        signal.alarm(0)
        seen = self._seen[pid]
        code = None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        if code is not None:
            del self._seen[pid]
        counts = dict(zip(OPS, seen[: len(OPS)], strict=True))
        return {"code": code, "met": seen[len(OPS)], "counts": counts, "orphans": self._orphans(), "hung": hung}

    def _orphans(self) -> int:
        """Children that this server has and did not start."""
        found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return len({int(pid) for pid in found} - self._seen.keys())


def _redirect(streams: Mapping[str, str]) -> None:
    for number, path in sorted(streams.items()):
        fd = int(number)
        if not path:
            os.close(fd)
            setattr(sys, ("stdin", "stdout", "stderr")[fd], None)
            continue
        if path == "|":
            reader, opened = os.pipe()
            os.close(reader)
        else:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, fd)
        os.close(opened)


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """The pipe to the client, away from the standard streams that children redirect."""
    with os.fdopen(os.dup(1), "w") as pipe:
        yield pipe


def _import_all() -> None:
    """What a run imports on its way, and Hydra's search for plug-ins."""
    import pyarrow.parquet  # noqa: F401
    import torch  # noqa: F401

    import pipeline.fit
    import pipeline.run
    import pipeline.sink.npy
    import pipeline.sink.npz
    import pipeline.sink.parquet
    import pipeline.source.npy
    import pipeline.source.npz
    import pipeline.source.parquet
    import pipeline.transform.identity
    import pipeline.transform.standardize
    import pipeline.verify
    from pipeline.__main__ import main

    main(["--cfg=job"])
    pipeline.run._BETWEEN_COMMITS = None  # one after the other: the k-th call is the same one each time
    gc.collect()
    gc.freeze()  # pages of what is there stay shared


def serve() -> dict[str, Any] | None:
    """Answer requests until there are none; in a child, the request that it shall fulfil."""
    with _answers() as pipe:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _import_all()
        forks = _Forks()
        for request in _requests():
            match request.pop("do"):
                case "start":
                    answer: Any = forks.start(request)
                    if answer is None:
                        return request
                case "wait":
                    answer = forks.wait(request["pid"])
            pipe.write(json.dumps(answer) + "\n")
            pipe.flush()
    return None


def direct(format_: str) -> int:
    """The exit code of a small stage of this format, from `in.*` to `out*` in the current folder."""
    from pipeline.__main__ import complain, describe
    from pipeline.core import Sink, Source, Transform
    from pipeline.device.cpu import Cpu
    from pipeline.engine.local import Local
    from pipeline.run import Options, run
    from pipeline.sink import npy as npy_out
    from pipeline.sink import npz as npz_out
    from pipeline.sink import parquet as parquet_out
    from pipeline.source import npy as npy_in
    from pipeline.source import npz as npz_in
    from pipeline.source import parquet as parquet_in
    from pipeline.transform.identity import Identity
    from pipeline.transform.standardize import Standardize

    sources: dict[str, Source] = {
        "parquet": parquet_in.Parquet("in.parquet", split_rows=100),
        "npy": npy_in.Npy("in.npy"),
        "npz": npz_in.Npz("in.npz"),
    }
    sinks: dict[str, Sink] = {
        "parquet": parquet_out.Parquet("out"),
        "npy": npy_out.Npy("out.npy"),
        "npz": npz_out.Npz("out.npz"),
    }
    transform: Transform = Standardize() if format_ == "parquet" else Identity()
    try:
        options = Options(columns=["x"] if format_ == "parquet" else None, progress="none")
        given: dict[str, Any] = {"source": sources[format_], "transform": transform, "sink": sinks[format_]}
        run(**given, engine=Local(), device=Cpu(), options=options)
    except Exception as e:  # noqa: BLE001  (as the front door does)
        code, message = describe(e)
        complain(message, code)
        return code
    return 0


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        from pipeline.__main__ import main

        code = direct(asked["argv"]) if isinstance(asked["argv"], str) else main(asked["argv"])
        if asked.get("whole"):
            sys.exit(code)
        os._exit(code)
