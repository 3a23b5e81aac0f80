"""NVIDIA (and ROCm) GPUs: pinned staging memory, three streams, and events between them.

A batch goes host arrays -> one pinned slot -> one device buffer -> transform -> one device buffer -> one pinned slot ->
host arrays. The three steps run on streams of their own, so that copies in, compute and copies out overlap. Four races
lie on the way; the line that closes each is marked with its letter:

    A   a pinned slot is filled again while its copy to the device is still under way
    B   the host reads a pinned slot before its copy from the device is done
    C   a stream uses memory before another stream has filled it, or after it was given to the next batch
    D   a batch is overwritten by a later one while somebody still holds it
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from pipeline.core import Arrays, Staged, Tensors
from pipeline.errors import ConfigError
from pipeline.tensors import check_device, to_array, to_tensors

log = logging.getLogger(__name__)

ALIGN = 512
"""Bytes between the starts of columns in a buffer: what the device allocator uses, and a multiple of every itemsize."""

SLOT_BYTES = 1 << 20
"""The smallest pinned slot."""

Stream: TypeAlias = Any
"""A ``torch.cuda.Stream``, or what a runtime in a test calls a stream."""


class Event(Protocol):
    """A point in the work of a stream."""

    def synchronize(self) -> None:
        """Block until the stream has done all work before this point."""


class Runtime:
    """All that `Cuda` asks of torch.cuda. A fake that delays its work finds the races without a GPU."""

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)

    def stream(self) -> Stream:
        """A new queue of work."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @contextmanager
    def scope(self, stream: Stream) -> Iterator[None]:
        """Make it the current stream of this thread. The host waits for nothing, the other stream for its turn."""
        outer = torch.cuda.current_stream(self.device)
        stream.wait_stream(outer)  # race C: weights that a setup moved
        with torch.cuda.stream(stream):
            yield
        outer.wait_stream(stream)  # race C: state of a fit, read after the scope

    def pinned(self, nbytes: int) -> Tensor:
        """Page-locked host memory. Raises RuntimeError if the system gives none."""
        with torch.cuda.device(self.device):  # else it opens a context on device 0 too
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def empty(self, nbytes: int, stream: Stream) -> Tensor:
        """Device memory that a stream may use at once; when it is dropped, the next taker of that stream gets it."""
        with torch.cuda.stream(stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Queue a copy and return."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def record(self, stream: Stream) -> Event:
        """Mark this point of a stream."""
        # Blocking: a thread that waits sleeps, since the cores are for decoding and encoding.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        """Let a stream go on only after the event."""
        stream.wait_event(event)

    def keep(self, tensor: Tensor, stream: Stream) -> None:
        """Let nobody have the memory of a dropped tensor before this stream has done what it was given so far."""
        tensor.record_stream(stream)

    def peak(self) -> int:
        """The most bytes that tensors took at once since the last call."""
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most


class Ring:
    """Pinned slots, used in turn. They grow to the batches they meet, and stay."""

    def __init__(self, runtime: Runtime, slots: int) -> None:
        self._runtime = runtime
        self._memory = [torch.empty(0, dtype=torch.uint8)] * slots
        self._busy: list[Event | None] = [None] * slots
        self._turn = 0
        self._warned = False

    def take(self, nbytes: int) -> Tensor:
        """The next slot, cut to size, once its last copy is done."""
        self._turn = (self._turn + 1) % len(self._memory)
        busy = self._busy[self._turn]
        if busy is not None:
            busy.synchronize()  # race A
        if self._memory[self._turn].numel() < nbytes:
            # The allocator of pinned memory rounds up to powers of two anyway; this way the rest can be used.
            self._memory[self._turn] = self._pinned(max(SLOT_BYTES, 1 << (nbytes - 1).bit_length()))
        return self._memory[self._turn][:nbytes]

    def release(self, event: Event) -> None:
        """Say when the slot that was taken last may be filled again."""
        self._busy[self._turn] = event

    def _pinned(self, nbytes: int) -> Tensor:
        try:
            return self._runtime.pinned(nbytes)
        except RuntimeError as error:
            if not self._warned:
                log.warning("no %d bytes of pinned memory, copies will be slower: %s", nbytes, error)
            self._warned = True
            return torch.empty(nbytes, dtype=torch.uint8)


@dataclass(frozen=True)
class Copied:
    """The bytes of a batch on the device, complete after the event."""

    buffer: Tensor
    event: Event


class Cuda:
    """Runs the transform on a GPU, overlapped with the copies of the batches before and after.

    A transform may keep or return whatever it likes, its input too: batches never share device memory. It opens the GPU
    when first used, and once in a process.

    Args:
        index: which GPU.
        slots: batches that may wait in pinned memory for their way in. The way out needs one: `download` empties it.
        runtime: for tests.
    """

    shares = False

    def __init__(self, index: int = 0, slots: int = 3, runtime: Runtime | None = None) -> None:
        if index < 0:
            raise ConfigError(f"device=cuda:{index}: the index must be at least 0")
        if slots < 1:
            raise ConfigError(f"slots of a cuda device must be at least 1; got {slots}")
        self.name = f"cuda:{index}"
        self._arguments = (index, slots, runtime)
        self._lock = threading.Lock()
        self._opened: _Lanes | None = None

    def __reduce__(self) -> tuple[type[Cuda], tuple[int, int, Runtime | None]]:
        return Cuda, self._arguments

    @property
    def _lanes(self) -> _Lanes:
        with self._lock:  # the first calls may come from three threads at once
            if self._opened is None:
                index, slots, runtime = self._arguments
                self._opened = _Lanes(runtime or Runtime(index), slots)
            return self._opened

    @torch.inference_mode(False)  # slots outlive the scope of a caller who computes in the same thread
    def upload(self, arrays: Arrays) -> Staged:
        """Pack the arrays into a pinned slot and start its copy. Waits if all slots are on their way."""
        lanes, runtime = self._lanes, self._lanes.runtime
        host = to_tensors(arrays, share=True)
        slot = lanes.staging_in.take(_size(host))
        for name, view in _carve(slot, host).items():
            view.copy_(host[name])
        buffer = runtime.empty(len(slot), lanes.copy_in)  # race D: never one that anybody can still see
        runtime.copy(buffer, slot, lanes.copy_in)
        event = runtime.record(lanes.copy_in)
        lanes.staging_in.release(event)
        return Staged(_carve(buffer, host), Copied(buffer, event))

    @contextmanager
    def compute(self) -> Iterator[None]:
        """Inference mode, on the stream of the transform."""
        with torch.inference_mode(), self._lanes.runtime.scope(self._lanes.compute):
            yield

    def ready(self, staged: Staged) -> Tensors:
        """The tensors, which the compute stream touches only when they have arrived."""
        lanes, copied = self._lanes, staged.token
        lanes.runtime.wait(lanes.compute, copied.event)  # race C: not before the copy in has filled it
        # Race C: the buffer belongs to the stream of the copies in, which would take it for the next batch as soon as
        # Python drops the last tensor on it, while kernels that read it are still waiting for their turn.
        lanes.runtime.keep(copied.buffer, lanes.compute)
        return staged.tensors

    def leave(self, tensors: Tensors) -> Staged:
        """Pack the tensors into one buffer, so that one copy takes them out."""
        lanes, runtime = self._lanes, self._lanes.runtime
        check_device(tensors, runtime.device, self.name)
        buffer = runtime.empty(_size(tensors), lanes.compute)
        packed = _carve(buffer, tensors)
        for name, view in packed.items():
            runtime.copy(view, tensors[name], lanes.compute)  # race D: the transform may write to what it returned
        return Staged(packed, Copied(buffer, runtime.record(lanes.compute)))

    @torch.inference_mode(False)  # as above
    def download(self, staged: Staged) -> Arrays:
        """Copy the tensors out, into memory of their own. Waits for the copy."""
        lanes, runtime, copied = self._lanes, self._lanes.runtime, staged.token
        slot = lanes.staging_out.take(len(copied.buffer))
        runtime.wait(lanes.copy_out, copied.event)  # race C: not before the compute stream has filled it
        runtime.copy(slot, copied.buffer, lanes.copy_out)
        event = runtime.record(lanes.copy_out)
        lanes.staging_out.release(event)
        event.synchronize()  # race B; race C: until here `staged` holds the buffer, so that no other batch gets it
        return {name: to_array(view, name).copy() for name, view in _carve(slot, staged.tensors).items()}

    def peak_memory(self) -> int:
        """The most bytes that tensors of this process took at once since the last call."""
        return self._lanes.runtime.peak()


class _Lanes:
    """What a process opens once: streams and staging memory."""

    def __init__(self, runtime: Runtime, slots: int) -> None:
        self.runtime = runtime
        self.copy_in, self.compute, self.copy_out = runtime.stream(), runtime.stream(), runtime.stream()
        self.staging_in, self.staging_out = Ring(runtime, slots), Ring(runtime, 1)


def _carve(buffer: Tensor, like: Tensors) -> Tensors:
    """Views of a byte buffer with the types and shapes of `like`, one after the other."""
    views, start = {}, 0
    for name, tensor in like.items():
        views[name] = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _aligned(tensor.nbytes)
    return views


def _size(tensors: Tensors) -> int:
    return sum(_aligned(tensor.nbytes) for tensor in tensors.values())


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN
