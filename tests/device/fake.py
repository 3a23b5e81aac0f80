"""A GPU that puts everything off: it finds races of streams, events and memory on a CPU.

A stream is a queue of thunks. Nothing in it runs before somebody waits: the host for an event, or another stream for
the event of this one. The host reads and writes at once, so whatever it touches too early or too late is wrong every
time, not once in a thousand runs. Memory behaves like torch's caching allocator: what was dropped goes to the next
taker of the same stream at once, even if work that reads it is still queued, unless `keep` was called.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.core import Array
from pipeline.device.cuda import Event, Runtime

POISON = 0xA5


@dataclass
class FakeStream:
    """Work in order: `queue` is still to do, of `given` thunks `done` are finished."""

    name: str
    queue: deque[Callable[[], object]] = field(default_factory=deque)
    given: int = 0
    done: int = 0

    def give(self, thunk: Callable[[], object]) -> None:
        self.queue.append(thunk)
        self.given += 1

    def drain(self, upto: int) -> None:
        while self.done < upto:
            self.queue.popleft()()
            self.done += 1


@dataclass(frozen=True)
class FakeEvent:
    """A point in a stream."""

    runtime: FakeRuntime
    stream: FakeStream
    position: int

    def synchronize(self) -> None:
        if self.runtime.skip != f"synchronize {self.stream.name}":
            self.reach()

    def reach(self) -> None:
        with self.runtime.lock, torch.inference_mode():
            self.stream.drain(self.position)


@dataclass(eq=False)
class Block:
    """Device memory, and the points that streams must reach before its next use."""

    memory: Array
    kept: list[FakeStream] = field(default_factory=list)
    pending: list[FakeEvent] = field(default_factory=list)


class FakeRuntime(Runtime):
    """A `Runtime` on the CPU; `skip` takes one guard away.

    "synchronize STREAM", "wait STREAM", "keep" make the call of that name do nothing (STREAM is copy_in, compute or
    copy_out); "fresh" makes `empty` hand out memory that is still in use.
    """

    def __init__(self, skip: str = "") -> None:
        self.device = torch.device("cpu")
        self.skip = skip
        self.lock = threading.RLock()
        self.pins: list[int] = []
        self.blocks: list[Block] = []
        self._names = iter(("copy_in", "compute", "copy_out"))
        self._current: FakeStream | None = None
        self._by_address: dict[int, Block] = {}
        self._dropped: dict[str, list[Block]] = {"copy_in": [], "compute": []}

    def stream(self) -> FakeStream:
        return FakeStream(next(self._names))

    @contextmanager
    def scope(self, stream: FakeStream) -> Iterator[None]:
        self._current = stream
        try:
            yield
        finally:
            self._current = None

    def pinned(self, nbytes: int) -> Tensor:
        self.pins.append(nbytes)
        return torch.full((nbytes,), POISON, dtype=torch.uint8)

    def empty(self, nbytes: int, stream: FakeStream) -> Tensor:
        with self.lock:
            block = self._reuse(nbytes, self._dropped[stream.name]) or self._allocate(nbytes)
        lease = block.memory[:]  # dies with the last tensor that uses it
        on_drop = self._dropped[stream.name].append
        if self.skip == "fresh":
            on_drop(block)
        else:
            weakref.finalize(lease, on_drop, block).atexit = False
        return torch.from_numpy(lease)[:nbytes]

    def copy(self, target: Tensor, source: Tensor, stream: FakeStream) -> None:
        if target.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError("Inplace update to inference tensor outside InferenceMode")  # as torch would, at once
        # As on a GPU, queued work has addresses and keeps nothing alive.
        target, source = self._unowned(target), self._unowned(source)
        with self.lock:
            stream.give(lambda: target.copy_(source))

    def record(self, stream: FakeStream) -> FakeEvent:
        with self.lock:
            return FakeEvent(self, stream, stream.given)

    def wait(self, stream: FakeStream, event: Event) -> None:
        assert isinstance(event, FakeEvent)
        if self.skip == f"wait {stream.name}":
            return
        with self.lock:
            if stream is not self._current:
                stream.give(event.reach)
                return
            # The transform follows, on the host and so at once. The copies win against what compute still has to do.
            event.reach()
            self.record(stream).reach()

    def peak(self) -> int:
        return 0  # nothing is counted

    def keep(self, tensor: Tensor, stream: FakeStream) -> None:
        block = self._by_address.get(tensor.untyped_storage().data_ptr())
        if block is not None and self.skip != "keep":
            block.kept.append(stream)

    def _allocate(self, nbytes: int) -> Block:
        block = Block(np.full(max(nbytes, 512), POISON, np.uint8))
        self.blocks.append(block)
        self._by_address[block.memory.ctypes.data] = block
        return block

    def _reuse(self, nbytes: int, dropped: list[Block]) -> Block | None:
        for block in dropped:
            block.pending += [self.record(stream) for stream in block.kept]
            block.kept.clear()
            if len(block.memory) >= nbytes and all(e.stream.done >= e.position for e in block.pending):
                dropped.remove(block)
                block.pending.clear()
                return block
        return None

    def _unowned(self, tensor: Tensor) -> Tensor:
        block = self._by_address.get(tensor.untyped_storage().data_ptr())
        if block is None or tensor.is_conj() or tensor.is_neg():
            return tensor
        whole = torch.from_numpy(block.memory)
        whole = whole[: len(whole) // tensor.element_size() * tensor.element_size()]
        return whole.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
