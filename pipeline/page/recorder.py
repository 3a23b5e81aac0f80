"""What a page about a run shows beyond its report: lanes, rows and memory over time, values before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.memory import resident
from pipeline.page.glimpse import Glimpse, Look
from pipeline.timeline import Course, Timeline


@dataclass(frozen=True)
class Values:
    """Tensor columns before and after the transform: `pairs` of looks at columns of one name.

    Attributes:
        rows_in, rows_out: that were looked at.
        left_out: columns that were not.
    """

    pairs: Sequence[tuple[str, Look | None, Look | None]]
    rows_in: int
    rows_out: int
    left_out: int


class Recorder:
    """Listens to the lanes of a run.

    Args:
        start: when the run began, by `time.perf_counter`.
        opaque_in, opaque_out: tensor columns whose bits are those of another type.
    """

    def __init__(self, start: float, opaque_in: frozenset[str], opaque_out: frozenset[str]) -> None:
        self.timeline = Timeline(resident, start)
        self.before, self.after = Glimpse(opaque_in), Glimpse(opaque_out)

    def through(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """The same, which tells the timeline too."""

        def told(rows: int) -> None:
            self.timeline.advance(rows)
            advance(rows)

        return told

    def course(self, seconds: float) -> Course:
        """The run over time, until `seconds` after its start."""
        return self.timeline.course(seconds)

    def values(self) -> Values:
        """Each column before and after."""
        before, after = self.before.looks(), self.after.looks()
        pairs = [(name, before.get(name), after.get(name)) for name in {**before, **after}]
        return Values(pairs, self.before.rows, self.after.rows, max(self.before.left_out, self.after.left_out))
