"""What a page about a run shows beyond its report: lanes, rows and memory over time, values before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.memory import resident
from pipeline.page.glimpse import Glimpse, Look, Passing
from pipeline.timeline import Course, Timeline


@dataclass(frozen=True)
class Values:
    """Tensor columns before and after the transform, and those that are carried past it.

    Attributes:
        pairs: looks at columns of one name, before and after.
        carried: looks at columns that come out as they went in.
        rows_in, rows_out: that were looked at.
        left_out: columns that were not.
    """

    pairs: Sequence[tuple[str, Look | None, Look | None]]
    carried: Sequence[Look]
    rows_in: int
    rows_out: int
    left_out: int


class Recorder:
    """Listens to the lanes of a run.

    Args:
        start: when the run began, by `time.perf_counter`.
        opaque_in, opaque_out: tensor columns whose bits are those of another type.
        carried: names of the columns that are carried.
    """

    def __init__(
        self, start: float, opaque_in: frozenset[str], opaque_out: frozenset[str], carried: Sequence[str] = ()
    ) -> None:
        self.timeline = Timeline(resident, start)
        self.before, self.after = Glimpse(opaque_in), Glimpse(opaque_out)
        self.past = Passing(carried)

    def through(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """The same, which tells the timeline too."""

        def told(rows: int) -> None:
            self.timeline.advance(rows)
            advance(rows)

        return told

    def beside(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """The same for rows that do not count as done: of them the timeline is told the memory alone."""

        def told(rows: int) -> None:
            self.timeline.look()
            advance(rows)

        return told

    def course(self, seconds: float) -> Course:
        """The run over time, until `seconds` after its start."""
        return self.timeline.course(seconds)

    def values(self) -> Values:
        """Each column before and after."""
        before, after = self.before.looks(), self.after.looks()
        pairs = [(name, before.get(name), after.get(name)) for name in {**before, **after}]
        left_out = max(self.before.left_out, self.after.left_out) + self.past.left_out
        return Values(pairs, list(self.past.looks().values()), self.before.rows, self.after.rows, left_out)
