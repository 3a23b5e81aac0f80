"""Lanes keep order, stay bounded, and leave no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.stream import Flow, prefetch


def _lanes() -> int:
    return sum(thread.name == "pipeline-lane" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_order_is_kept(depth: int) -> None:
    """The items are the same at any depth."""
    assert list(prefetch(iter(range(100)), depth)) == list(range(100))
    assert _lanes() == 0


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_arrives_after_the_items_before_it(depth: int) -> None:
    """The consumer sees what was produced, then the producer's own exception."""

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    got = []
    with pytest.raises(ValueError, match="third"):
        for item in prefetch(items(), depth):
            got.append(item)  # noqa: PERF402  (list() would lose what came before the error)
    assert got == [1, 2]
    assert _lanes() == 0


@pytest.mark.parametrize("depth", [0, 2])
def test_an_early_close_closes_every_lane(depth: int) -> None:
    """The innermost generator runs its clean-up, and no thread stays."""
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            n = 0
            while True:
                yield (n := n + 1)
        finally:
            closed.set()

    flow = Flow(depth, 0)
    items = flow.through("two", lambda up: (x * 2 for x in up), flow.through("one", lambda up: up, endless()))
    assert next(items) == 2
    items.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert _lanes() == 0


def test_no_more_items_wait_than_the_depth() -> None:
    """Production stops until somebody takes an item: one in hand, `depth` waiting."""
    made: list[int] = []
    enough = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for n in range(20):
            made.append(n)
            enough.release()
            yield n

    stream = prefetch(items(), 3)
    assert next(stream) == 0
    for _ in range(5):  # taken 1 + waiting 3 + in hand 1
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    stream.close()
    assert len(made) == 5


def test_no_more_bytes_wait_than_the_budget() -> None:
    """One item always may wait, however large; a second only within the budget."""
    enough = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for n in range(20):
            enough.release()
            yield n

    stream = prefetch(items(), 10, size=lambda _: 60, budget=100)
    next(stream)
    for _ in range(3):  # taken 1 + waiting 1 + in hand 1
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    stream.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_lanes_count_their_items_and_never_negative_time(depth: int) -> None:
    """Busy time leaves out the waiting for the lane before."""
    flow = Flow(depth, 0)
    one = flow.through("one", lambda up: up, iter(range(7)))
    assert list(flow.through("two", lambda up: up, one)) == list(range(7))
    assert [(lane.name, lane.items) for lane in flow.lanes] == [("one", 7), ("two", 7)]
    assert all(lane.busy >= 0 for lane in flow.lanes)
