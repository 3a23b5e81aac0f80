import pickle
import threading
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from pipeline.core import Tensors, Transform
from pipeline.device.cuda import Cuda
from pipeline.errors import ConfigError, DTypeError, TransformError
from pipeline.testing.device import (
    DRIVERS,
    DeviceContract,
    Driver,
    assert_same_bits,
    batch_by_batch,
    identity,
    in_threads,
    lane_by_lane,
    numbered,
    one_by_one,
)
from tests.device.fake import FakeRuntime


class TestCudaOnAFake(DeviceContract):
    def make(self) -> Cuda:
        return Cuda(runtime=FakeRuntime())


class TestCudaWithOneSlot(DeviceContract):
    def make(self) -> Cuda:
        return Cuda(slots=1, runtime=FakeRuntime())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestCuda(DeviceContract):
    def make(self) -> Cuda:
        return Cuda()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_tells_its_peak_since_it_was_last_asked() -> None:
    """What was taken and given back counts once."""
    device = Cuda()
    device.peak_memory()
    with device.compute():
        torch.empty(64 << 20, dtype=torch.uint8, device=device.name)
    assert device.peak_memory() >= 64 << 20
    assert device.peak_memory() < 64 << 20


def keeper(kept: list[torch.Tensor]) -> Transform:
    """A transform that does what it must not: it keeps its input."""

    def transform(tensors: Tensors) -> Tensors:
        kept.append(tensors["id"])
        return {"id": tensors["id"] + 0}

    return transform


@pytest.mark.parametrize(
    ("race", "skip", "drive"),
    [
        ("A: a pinned slot is filled again before its copy is done", "synchronize copy_in", lane_by_lane),
        ("B: the host reads before the copy out is done", "synchronize copy_out", one_by_one),
        ("C: compute reads before the copy in is done", "wait compute", one_by_one),
        ("C: the copy out reads before compute is done", "wait copy_out", batch_by_batch),
        ("C: memory goes to the next batch before compute is done", "keep", batch_by_batch),
        ("D: memory goes to the next batch while somebody holds it", "fresh", lane_by_lane),
    ],
)
def test_each_guard_is_needed(race: str, skip: str, drive: Driver) -> None:
    """Without the guard the fake GPU corrupts data; with it, it does not."""
    batches = numbered(8)
    assert_same_bits(drive(Cuda(runtime=FakeRuntime()), batches, identity), batches)
    with pytest.raises(AssertionError, match="other bits"):
        assert_same_bits(drive(Cuda(runtime=FakeRuntime(skip)), batches, identity), batches)


@pytest.mark.parametrize(("skip", "safe"), [("", True), ("fresh", False)])
def test_what_a_transform_keeps_is_not_overwritten(skip: str, safe: bool) -> None:
    """Race D: the buffer of a batch is not used again while a tensor on it lives."""
    kept: list[torch.Tensor] = []
    batches = numbered(6)
    one_by_one(Cuda(runtime=FakeRuntime(skip)), batches, keeper(kept))
    assert all(t.tolist() == b["id"].tolist() for t, b in zip(kept, batches, strict=True)) == safe


@pytest.mark.parametrize("drive", DRIVERS)
def test_a_transform_may_return_the_same_memory_each_time(drive: Driver) -> None:
    """Race D: a batch is packed before the transform can write to what it returned."""
    memory = torch.zeros(100, dtype=torch.int64)
    batches = [{"x": np.full(100, i)} for i in range(8)]
    found = drive(Cuda(runtime=FakeRuntime()), batches, lambda t: {"x": memory.copy_(t["x"])})
    assert_same_bits(found, batches)


def test_device_memory_is_reused() -> None:
    """Dropped buffers go to later batches: a long run needs no more memory than a short one."""
    runtime = FakeRuntime()
    one_by_one(Cuda(runtime=runtime), numbered(50, rows=1000), identity)
    assert len(runtime.blocks) <= 8


def test_pinned_slots_are_powers_of_two_and_made_once() -> None:
    """Three slots in and one out serve any number of batches; a larger batch makes them grow."""
    runtime = FakeRuntime()
    device = Cuda(runtime=runtime)
    small, large = {"x": np.zeros(3 << 17)}, {"x": np.zeros(5 << 17)}
    one_by_one(device, [small] * 10, identity)
    assert runtime.pins == [4 << 20] * 4
    one_by_one(device, [large] * 10, identity)
    assert runtime.pins == [4 << 20] * 4 + [8 << 20] * 4


def test_without_pinned_memory_it_is_only_slower(caplog: pytest.LogCaptureFixture) -> None:
    """Pageable memory takes its place, and the log says so once for each way."""

    class NoPins(FakeRuntime):
        def pinned(self, nbytes: int) -> NoReturn:
            raise RuntimeError("CUDA error: out of memory")

    batches = numbered(8)
    assert_same_bits(in_threads(Cuda(runtime=NoPins()), batches, identity), batches)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    assert "out of memory" in caplog.text


def test_a_tensor_left_elsewhere_is_an_error_of_the_transform() -> None:
    """The message names the column and both devices."""
    device = Cuda(index=1, runtime=FakeRuntime())
    with device.compute(), pytest.raises(TransformError, match=r"'x' is on meta; .* must return tensors on cuda:1"):
        device.leave({"x": torch.empty(3, device="meta")})


def test_dtypes_are_refused_by_column_on_both_ways() -> None:
    """Dates cannot go in, bfloat16 cannot come out."""
    device = Cuda(runtime=FakeRuntime())
    with pytest.raises(DTypeError, match="column 'when' is datetime64"):
        device.upload({"when": np.zeros(3, "M8[s]")})
    with pytest.raises(DTypeError, match="column 'x' is bfloat16"):
        one_by_one(device, [{"x": np.arange(3.0)}], lambda t: {"x": t["x"].bfloat16()})


def test_lazy_signs_and_gradients_are_resolved() -> None:
    """Conjugates, negatives and tensors with a gradient come out with their values."""
    z = np.array([1 + 2j, 3 - 4j])
    device = Cuda(runtime=FakeRuntime())
    (found,) = one_by_one(device, [{"z": z}], lambda t: {"z": t["z"].conj(), "y": t["z"].conj().imag})
    assert (found["z"].tolist(), found["y"].tolist()) == ([1 - 2j, 3 + 4j], [-2, 4])


def test_a_failure_leaves_the_device_usable() -> None:
    """After a transform that raised, the next batches keep their bits."""

    def fail(tensors: Tensors) -> NoReturn:
        raise ValueError("on purpose")

    device, batches = Cuda(runtime=FakeRuntime()), numbered(6)
    for drive in DRIVERS:
        with pytest.raises(ValueError, match="on purpose"):
            drive(device, batches, fail)
        assert_same_bits(drive(device, batches, identity), batches)


def test_it_opens_once_when_first_used() -> None:
    """Making or pickling one needs no GPU; threads that come at once share one set of streams."""
    opened: list[object] = []
    barrier = threading.Barrier(8)
    device = Cuda(runtime=FakeRuntime())

    def use() -> None:
        barrier.wait()
        opened.append(device._lanes)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(opened)) == 1
    assert len(opened) == 8
    assert pickle.loads(pickle.dumps(Cuda(index=1, slots=2)))._arguments == (1, 2, None)


@pytest.mark.parametrize(("arguments", "message"), [((-1,), "cuda:-1"), ((0, 0), "slots .* at least 1; got 0")])
def test_arguments_are_checked(arguments: tuple[Any, ...], message: str) -> None:
    """A negative index or no slots cannot work."""
    with pytest.raises(ConfigError, match=message):
        Cuda(*arguments)
