"""The numbers of a run that are told, compared and drawn."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan import human
from pipeline.sweep.result import Result


@dataclass(frozen=True)
class Measure:
    """A number of a run, how people call it, and in which unit it is written."""

    key: str
    name: str
    unit: str = ""

    def of(self, one: Result) -> float | None:
        """Its value in a run that has one."""
        value = one.facts.get(self.key)
        return float(value) if isinstance(value, (int, float)) else None

    def cell(self, one: Result) -> str:
        """Its value for people."""
        value = one.facts.get(self.key)
        if not isinstance(value, (int, float)):
            return "-"
        if self.unit == "bytes":
            return human(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


MEASURES = (
    Measure("rows", "rows"),
    Measure("parts", "parts"),
    Measure("batches", "batches"),
    Measure("seconds", "seconds"),
    Measure("rows_per_second", "rows/s"),
    Measure("peak_memory_bytes", "memory", "bytes"),
    Measure("memory_bytes", "memory (estimate)", "bytes"),
    Measure("bytes", "output", "bytes"),
    Measure("objective", "objective"),
)
