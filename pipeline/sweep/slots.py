"""Child processes on slots: one job at a time on each GPU, or on each of some places of the CPU.

A slot is held by a lock on a file, and the child inherits the lock: the slot is free when the child is gone, however it
went and whatever became of its parent, and several sweeps on one machine share its devices. The standard input of a
child is a pipe that ends when its parent is gone (`tether`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TextIO

from pipeline.errors import ConfigError

log = logging.getLogger("pipeline")

_AGAIN = 0.5  # seconds until a slot that another sweep holds is tried again
_WELL = (0, 99)


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time: its name, and the GPUs that the job may see."""

    name: str
    visible: str


@dataclass(frozen=True)
class Job:
    """A command line, and how its output is marked."""

    name: str
    command: Sequence[str]


def slots(devices: Sequence[str | int] | str | None, count: Callable[[], int]) -> tuple[Slot, ...]:
    """The slots behind `hydra.launcher.devices`.

    Args:
        devices: GPUs as CUDA_VISIBLE_DEVICES names them, and ``cpu`` once for each job at a time on the CPU; None for
            all GPUs, or one slot of the CPU.
        count: how many GPUs there are; asked only if nothing is named.
    """
    if devices is None:
        devices = list(range(count())) or ["cpu"]
    names = [str(name).strip() for name in (devices.split(",") if isinstance(devices, str) else devices)]
    names = [name.removeprefix("cuda:") for name in names if name] or ["cpu"]
    gpus = [name for name in names if name != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise ConfigError(
            f"hydra.launcher.devices: a GPU is named twice in {', '.join(names)}; one job at a time has it"
        )
    places = [Slot(f"cpu:{i}", "") for i in range(names.count("cpu"))]
    return (*(Slot(f"cuda:{name}", name) for name in gpus), *places)


def lock_folder(given: str | None) -> Path:
    """The folder of the lock files: one for all sweeps of a user, unless another is named."""
    folder = Path(given) if given else Path(tempfile.gettempdir(), f"tensor-etl-slots-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@dataclass
class Crew:
    """Runs jobs on slots, passes on what they say, and ends them when it has to end.

    Attributes:
        locks: folder of the lock files.
        fail_fast: end all jobs when one has failed.
        codes: exit codes of the jobs that have ended, by their place; the others were not started.
    """

    slots: Sequence[Slot]
    locks: Path
    fail_fast: bool = False
    codes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._running: dict[Slot, _Child] = {}
        self._waiting: deque[tuple[int, Job]] = deque()

    def run(self, jobs: Sequence[Job]) -> dict[int, int]:
        """Run all jobs in their order, as slots are free. Returns when the last one has ended."""
        self._waiting = deque(enumerate(jobs))
        with selectors.DefaultSelector() as events:
            try:
                while self._waiting or self._running:
                    self._fill(events)
                    self._turn(events)
            except BaseException as e:
                self._end(signal.SIGINT if isinstance(e, KeyboardInterrupt) else signal.SIGTERM)
                while self._running:
                    self._turn(events)
                raise
        return self.codes

    def _fill(self, events: selectors.BaseSelector) -> None:
        for slot in self.slots:
            if not self._waiting or slot in self._running:
                continue
            held = _hold(self.locks / slot.name.replace("/", "-"))
            if held is None:
                continue
            number, job = self._waiting.popleft()
            try:
                child = _Child(number, job, slot, held)
            finally:
                os.close(held)  # the child has it
            self._running[slot] = child
            child.listen(events)

    def _turn(self, events: selectors.BaseSelector) -> None:
        """Wait for something to happen and take note of it."""
        blocked = bool(self._waiting) and len(self._running) < len(self.slots)
        for key, _ in events.select(_AGAIN if blocked else None):
            if key.data():
                events.unregister(key.fileobj)
        for slot, child in list(self._running.items()):
            if child.process.returncode is not None:
                del self._running[slot]
                child.close(events)
                self._ended(child)

    def _ended(self, child: _Child) -> None:
        self.codes[child.number] = child.process.returncode
        if self.fail_fast and child.process.returncode not in _WELL and (self._waiting or self._running):
            log.error(
                "%s failed; %d jobs are ended, %d not started", child.name, len(self._running), len(self._waiting)
            )
            self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        self._waiting.clear()
        for child in self._running.values():
            child.process.send_signal(number)


class _Child:
    """One job at work. Its lines on stderr are passed on marked; what it prints is passed on whole, when it ends."""

    def __init__(self, number: int, job: Job, slot: Slot, held: int) -> None:
        self.number = number
        self.name = job.name
        self._mark = f"[{job.name} {slot.name}] ".encode()
        self._printed = bytearray()
        self._said = bytearray()
        self.process = subprocess.Popen(  # noqa: S603  (our own command line)
            list(job.command),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": slot.visible},
            pass_fds=[held],
            start_new_session=True,  # Ctrl-C reaches it through us alone: a second signal would end it at once
        )
        self._gone = os.pidfd_open(self.process.pid)

    def listen(self, events: selectors.BaseSelector) -> None:
        """Have its output and its end noted."""
        for stream, buffer in self._streams():
            os.set_blocking(stream.fileno(), False)
            events.register(stream, selectors.EVENT_READ, partial(self._take, stream, buffer))
        events.register(self._gone, selectors.EVENT_READ, self._reap)

    def close(self, events: selectors.BaseSelector) -> None:
        """Take what is left of its output, though a process that it started may still hold the pipes, and let go."""
        for stream, buffer in self._streams():
            if stream in events.get_map():
                events.unregister(stream)
                buffer.extend(stream.read() or b"")
            stream.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        os.close(self._gone)
        _pass_on(sys.stderr, b"".join(self._mark + line + b"\n" for line in self._said.splitlines()))
        _pass_on(sys.stdout, self._printed)

    def _streams(self) -> tuple[tuple[IO[bytes], bytearray], ...]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return (self.process.stdout, self._printed), (self.process.stderr, self._said)

    def _take(self, stream: IO[bytes], buffer: bytearray) -> bool:
        """Read what is there; whether nothing more will come."""
        data = stream.read(1 << 16)
        buffer.extend(data or b"")
        if buffer is self._said:
            end = buffer.rfind(b"\n") + 1
            _pass_on(sys.stderr, b"".join(self._mark + line + b"\n" for line in buffer[:end].splitlines()))
            del buffer[:end]
        return data == b""

    def _reap(self) -> bool:
        self.process.wait()
        return True


def _hold(file: Path) -> int | None:
    """An open file that holds the lock of a slot, or None if another job has it."""
    fd = os.open(file, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _pass_on(stream: TextIO | None, data: bytes | bytearray) -> None:
    """Lines for whoever still listens."""
    if stream is None or not data:
        return
    with suppress(OSError, ValueError):
        stream.write(data.decode(errors="replace"))
        stream.flush()
