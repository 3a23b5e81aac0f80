"""Laws of a device. Subclass `DeviceContract`, return yours from `make`, and let pytest collect it.

The drivers push batches through a device in the orders that a worker may choose; each returns the results in order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeAlias

import numpy as np
import torch

from pipeline.core import Arrays, Device, Staged, Tensors, Transform, apply

Driver: TypeAlias = Callable[[Device, Iterable[Arrays], Transform], list[Arrays]]

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
SHAPES = ((0,), (1,), (7,), (0, 3), (3, 0), (5, 3), (2, 0, 4), (4, 1, 3, 2))


def one_by_one(device: Device, batches: Iterable[Arrays], transform: Transform) -> list[Arrays]:
    """Each batch is on the host again before the next is uploaded."""
    return [device.download(_through(device, device.upload(batch), transform)) for batch in batches]


def batch_by_batch(device: Device, batches: Iterable[Arrays], transform: Transform) -> list[Arrays]:
    """All batches are uploaded and transformed, one after the other, before the first is downloaded."""
    left = [_through(device, device.upload(batch), transform) for batch in batches]
    return [device.download(staged) for staged in left]


def lane_by_lane(device: Device, batches: Iterable[Arrays], transform: Transform) -> list[Arrays]:
    """All batches are uploaded before the first is transformed, and all transformed before the first is downloaded."""
    uploaded = [device.upload(batch) for batch in batches]
    left = [_through(device, staged, transform) for staged in uploaded]
    return [device.download(staged) for staged in left]


def in_threads(device: Device, batches: Iterable[Arrays], transform: Transform) -> list[Arrays]:
    """Upload, compute and download run in three threads at once, as far apart as they like."""
    uploaded: queue.SimpleQueue[Staged | None] = queue.SimpleQueue()
    left: queue.SimpleQueue[Staged | None] = queue.SimpleQueue()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(_feed, map(device.upload, batches), uploaded)
        second = pool.submit(_feed, (_through(device, staged, transform) for staged in iter(uploaded.get, None)), left)
        third = pool.submit(lambda: [device.download(staged) for staged in iter(left.get, None)])
        first.result()
        second.result()
        return third.result()


DRIVERS: tuple[Driver, ...] = (one_by_one, batch_by_batch, lane_by_lane, in_threads)


def _through(device: Device, staged: Staged, transform: Transform) -> Staged:
    with device.compute():
        tensors = device.ready(staged)
        rows = min((len(tensor) for tensor in tensors.values()), default=0)
        return device.leave(apply(transform, tensors, {}, rows).tensors)


def _feed(items: Iterable[Staged], target: queue.SimpleQueue[Staged | None]) -> None:
    try:
        for item in items:
            target.put(item)
    finally:
        target.put(None)  # else the next thread waits forever when this one fails


def random_bits(dtype: str, shape: Sequence[int], seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """An array of any bits that the dtype can hold: NaN payloads, infinities and subnormals among them."""
    data = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * np.dtype(dtype).itemsize, np.uint8)
    return (data & 1 if dtype == "bool" else data).view(dtype).reshape(shape)


def numbered(count: int, rows: int = 1000) -> list[Arrays]:
    """Batches that no other batch can be mistaken for, of different sizes and types."""
    return [
        {
            "id": np.arange(rows + i, dtype=np.int64) + 1_000_000 * i,
            "image": random_bits("float32", (rows + i, 3), seed=i),
            "flag": random_bits("bool", (rows + i,), seed=i),
            "byte": random_bits("uint8", (rows + i,), seed=i),
        }
        for i in range(count)
    ]


def assert_same_bits(found: Sequence[Arrays], expected: Sequence[Arrays]) -> None:
    """Names, order, dtypes, shapes and bytes are equal."""
    assert [list(batch) for batch in found] == [list(batch) for batch in expected]
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, array in ours.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape), (i, name)
            assert array.tobytes() == theirs[name].tobytes(), f"batch {i}, column {name!r}: other bits"


def identity(tensors: Tensors) -> Tensors:
    """The tensors as they are."""
    return tensors


class DeviceContract:
    """What the worker relies on. Inherit, define `make`, and adjust the attributes to what the device can do.

    Attributes:
        dtypes: NumPy dtypes that the device holds.
    """

    dtypes: ClassVar[tuple[str, ...]] = DTYPES

    def make(self) -> Device:
        """A fresh device."""
        raise AssertionError("define make() in the subclass")

    def test_every_dtype_and_shape_comes_back_bit_for_bit(self) -> None:
        """An identity changes nothing, not even NaN payloads, for no rows as for many, flat or n-dimensional."""
        batches = [{dtype: random_bits(dtype, shape) for dtype in self.dtypes} for shape in SHAPES]
        assert_same_bits(one_by_one(self.make(), batches, identity), batches)

    def test_batches_keep_their_bits_however_many_are_in_flight(self) -> None:
        """No order of the calls, and no number of batches on their way, lets one batch disturb another."""
        device, batches = self.make(), numbered(12)
        for drive in DRIVERS:
            assert_same_bits(drive(device, batches, identity), batches)

    def test_threads_change_nothing(self) -> None:
        """Three threads compute the same bits as one."""

        def transform(tensors: Tensors) -> Tensors:
            return {"sum": tensors["id"] * 3 + tensors["flag"], "flipped": tensors["image"].t().contiguous().t()}

        device, batches = self.make(), numbered(12)
        assert_same_bits(in_threads(device, batches, transform), one_by_one(device, batches, transform))

    def test_a_transform_may_write_to_its_input(self) -> None:
        """What is written in place comes back, and the next batch does not see it."""

        def transform(tensors: Tensors) -> Tensors:
            tensors["x"] += 1
            return tensors

        found = one_by_one(self.make(), [{"x": np.full(5, i, np.int32)} for i in range(6)], transform)
        assert [batch["x"].tolist() for batch in found] == [[i + 1] * 5 for i in range(6)]

    def test_any_memory_layout_goes_in(self) -> None:
        """Reversed, strided, byte-swapped, broadcast and read-only arrays arrive with their values."""
        plain = np.arange(12, dtype=np.int32)
        batch = {
            "reversed": plain[::-1],
            "strided": plain.repeat(2)[::2],
            "swapped": plain.astype(">i4"),
            "broadcast": np.broadcast_to(np.int32(7), (12,)),
            "read_only": np.frombuffer(plain.tobytes(), np.int32),
            "fortran": np.asfortranarray(plain.repeat(3).reshape(12, 3)),
        }
        expected = {name: np.ascontiguousarray(array, np.int32) for name, array in batch.items()}
        assert_same_bits(one_by_one(self.make(), [batch], identity), [expected])

    def test_any_memory_layout_comes_out(self) -> None:
        """Transposed, expanded, negated and sliced tensors leave with their values."""

        def transform(tensors: Tensors) -> Tensors:
            x = tensors["x"]
            return {"transposed": x.t(), "expanded": x[:, :1].expand(4, 3), "sliced": x[:, ::2], "empty": x[:, :0]}

        x = np.arange(16, dtype=np.float32).reshape(4, 4)
        expected = {"transposed": x.T.copy(), "expanded": x[:, :1].repeat(3, 1), "sliced": x[:, ::2].copy()}
        (found,) = one_by_one(self.make(), [{"x": x}], transform)
        assert_same_bits([found], [{**expected, "empty": x[:, :0].copy()}])

    def test_a_batch_without_columns_passes(self) -> None:
        """Nothing in, nothing out: all columns of a table may be carried."""
        for drive in DRIVERS:
            assert drive(self.make(), [{}, {}], identity) == [{}, {}]

    def test_uploaded_arrays_are_the_callers_again(self) -> None:
        """Unless the device shares them, arrays may be overwritten as soon as `upload` has returned."""
        device, array = self.make(), np.arange(1000)
        if device.shares:
            return
        staged = device.upload({"x": array})
        array[:] = -1
        with device.compute():
            left = device.leave(device.ready(staged))
        assert device.download(left)["x"].tolist() == list(range(1000))

    def test_the_compute_scope_belongs_to_the_thread_that_enters_it(self) -> None:
        """It turns autograd off there, in any thread, and nowhere else."""
        device, seen = self.make(), []

        def enter() -> None:
            with device.compute():
                seen.append(torch.is_inference_mode_enabled())
            seen.append(torch.is_inference_mode_enabled())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert seen == [True, False]

    def test_inference_mode_of_the_caller_changes_nothing(self) -> None:
        """A device that was first used under inference mode goes on working outside of it."""
        device, batches = self.make(), numbered(6)
        with torch.inference_mode():
            assert_same_bits(one_by_one(device, batches, identity), batches)
        assert_same_bits(one_by_one(device, batches, identity), batches)

    def test_a_transform_may_ask_for_autograd(self) -> None:
        """Inside `torch.inference_mode(False)` its input can have a gradient, and the result comes out."""

        @torch.inference_mode(False)
        def transform(tensors: Tensors) -> Tensors:
            x = tensors["x"].clone().requires_grad_()
            (slope,) = torch.autograd.grad((x * x).sum(), x)
            return {"slope": slope, "x": x}

        x = np.arange(4, dtype=np.float32)
        for drive in DRIVERS:
            assert_same_bits(drive(self.make(), [{"x": x.copy()}], transform), [{"slope": 2 * x, "x": x}])
