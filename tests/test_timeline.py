"""What happened when, in a bounded number of bins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream import Flow
from pipeline.timeline import BINS, Strip, Timeline

SPANS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4), st.floats(0, 1e6)), min_size=1, max_size=30)


@given(SPANS)
def test_nothing_is_lost_however_long_it_takes(spans: list[tuple[float, float, float]]) -> None:
    """The sum stays, and so does the number of bins."""
    strip = Strip()
    for begin, length, amount in spans:
        strip.add(begin, begin + length, amount)
    cells = strip.cells(strip.width, float("1e6"))
    assert sum(cells) == pytest.approx(sum(amount for _, _, amount in spans))
    assert len(cells) == BINS


def test_an_amount_is_spread_evenly() -> None:
    """Over the bins it touches, by the time in each."""
    strip = Strip()
    strip.add(0.005, 0.03, 2.5)
    assert strip.cells(0.01, 0.035) == pytest.approx([0.5, 1.0, 1.0, 0.0])


def test_bins_are_joined_by_the_largest_where_sums_mean_nothing() -> None:
    """Memory of two moments does not add up."""
    strip = Strip(max)
    strip.add(0.001, 0.001, 5)
    strip.add(0.012, 0.012, 7)
    strip.add(0.011, 0.011, 6)
    assert strip.cells(0.02, 0.019) == [7]


@pytest.mark.parametrize("depth", [0, 2])
def test_a_lane_over_time_adds_up_to_the_lane(depth: int) -> None:
    """Seconds of all bins together are those that the lane counted, with threads and without."""
    timeline = Timeline(lambda: 1)
    flow = Flow(depth, 0, timeline=timeline)
    numbers = flow.through("first", lambda items: (sum(range(n % 7 * 1000)) for n in items), iter(range(200)))
    for _ in flow.spread("second", lambda items: (n + 1 for n in items), numbers, 2, lambda n: n):
        timeline.advance(1)
    course = timeline.course(3600)
    assert [lane.lane for lane in course.lanes] == ["first", "second"]
    for shares, lane in zip(course.lanes, flow.lanes, strict=True):
        whole = course.width * lane.width
        assert sum(shares.blocked) * whole == pytest.approx(lane.blocked, abs=1e-6)
        assert sum(shares.starved) * whole == pytest.approx(lane.starved, abs=1e-6)
        assert sum(shares.busy) * whole >= lane.busy - 1e-6
    assert sum(course.rows) * course.width == pytest.approx(200)
    assert max(course.resident) == 1
