"""What a run did, as facts for machines and a summary for people."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from pipeline.check.rules import Outcome, warnings
from pipeline.core import Part
from pipeline.memory import Memory, peak
from pipeline.plan import Plan, counted, human

LIBRARIES = ("torch", "numpy", "pyarrow", "hydra-core", "omegaconf", "safetensors")


class LaneTimes(Protocol):
    """Seconds of one lane, as `stream.Lane` counts them."""

    name: str
    width: int
    items: int
    starved: float
    blocked: float

    @property
    def busy(self) -> float:
        """Seconds of work of its own."""


@dataclass(frozen=True)
class Report:
    """Facts of a finished run. Rows, nulls and bytes are those of the whole output; times those of this run."""

    plan: Plan
    parts: Sequence[Part]
    made: int
    rows_made: int
    seconds: float
    lanes: Sequence[LaneTimes]
    fit_lanes: Sequence[LaneTimes]
    output: str
    device: str
    memory: Memory
    outcomes: Sequence[Outcome] = ()
    advice: Mapping[str, str] = field(default_factory=dict)
    """By lane, one measured way to make it quicker."""

    @property
    def bottleneck(self) -> str | None:
        """The lane that worked longest, with its share of the run."""
        if not self.lanes or not self.made:
            return None
        slowest = max(self.lanes, key=_load)
        return f"{slowest.name} ({_load(slowest) / self.seconds:.0%} of the time)" if self.seconds else slowest.name

    @property
    def verdict(self) -> str:
        """The slowest lane and its share, and what was measured to make it quicker (docs/performance.md)."""
        if self.bottleneck is None:
            return "nothing to do"
        advice = self.advice.get(max(self.lanes, key=_load).name)
        return f"{self.bottleneck}; {advice}" if advice else self.bottleneck

    def facts(self) -> dict[str, Any]:
        """Numbers for report.json."""
        return {
            "rows_in": sum(p.rows_in for p in self.parts),
            "rows": sum(p.rows_out for p in self.parts),
            "quarantined": quarantined(self.parts),
            "warnings": len(warnings(self.outcomes)),
            "checks": [outcome.facts() for outcome in self.outcomes],
            "parts": len(self.parts),
            "parts_made": self.made,
            "bytes": sum(f.bytes for p in self.parts for f in p.files),
            "bytes_in": sum(s.bytes for s in self.plan.splits),
            "nulls_in": self._nulls("nulls_in"),
            "nulls_out": self._nulls("nulls_out"),
            "columns_transformed": [r.name for r in self.plan.layout.routes],
            "columns_carried": list(self.plan.layout.carried),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_made / self.seconds) if self.seconds else None,
            "bytes_per_second": self._bytes_per_second(),
            "bottleneck": self.bottleneck,
            "verdict": self.verdict,
            "lanes": [_lane(lane) for lane in self.lanes],
            "fit_lanes": [_lane(lane) for lane in self.fit_lanes],
            "peak_memory_bytes": peak(),
            "memory": self.memory.facts(),
            "batch_rows": self.plan.batch_rows,
            "batch_trials": [{"rows": rows, "rows_per_second": round(rate)} for rows, rate in self.plan.trials],
            "device": self.device,
        }

    def _checks(self) -> str:
        held = counted(len(self.outcomes), "check")
        return (
            f"{held}, {quarantined(self.parts):,} rows quarantined, {counted(len(warnings(self.outcomes)), 'warning')}"
        )

    def _nulls(self, which: str) -> dict[str, int]:
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(getattr(part, which))
        return dict(sorted(total.items()))

    def _bytes_per_second(self) -> int | None:
        rows = sum(p.rows_in for p in self.parts)
        if not self.seconds or not rows:
            return None
        return round(sum(s.bytes for s in self.plan.splits) * (self.rows_made / rows) / self.seconds)

    def text(self, report: str) -> str:
        """The summary for people."""
        f = self.facts()
        rate = f"{f['rows_per_second']:,} rows/s" if f["rows_per_second"] else "no time taken"
        nulls_in, nulls_out = sum(f["nulls_in"].values()), sum(f["nulls_out"].values())
        kept = f" ({self.made:,} made now, the others were there)" if self.made < len(self.parts) else ""
        lines = [
            ("slowest", self.verdict),
            ("rows", f"{f['rows_in']:,} in, {f['rows']:,} out"),
            ("nulls", f"{nulls_in:,} in, {nulls_out:,} out"),
            *([("checks", self._checks())] if self.outcomes else []),
            *(
                [("batches", f"{self.plan.batch_rows:,} rows, the quickest of {len(f['batch_trials'])} sizes")]
                if self.plan.trials
                else []
            ),
            ("columns", f"{len(f['columns_transformed'])} transformed, {len(f['columns_carried'])} carried"),
            ("parts", f"{len(self.parts):,}, {human(f['bytes'])}{kept}"),
            ("time", f"{self.seconds:.2f} s, {rate}, peak memory {human(f['peak_memory_bytes'])}"),
            ("output", self.output),
            ("report", report),
        ]
        return "\n".join(f"  {name:<8} {value}" for name, value in lines)


def quarantined(parts: Sequence[Part]) -> int:
    """Rows that checks took out."""
    return sum(sum(part.quarantined.values()) for part in parts)


def _load(lane: LaneTimes) -> float:
    """Seconds of work for each of its threads."""
    return lane.busy / lane.width


def _lane(lane: LaneTimes) -> dict[str, Any]:
    seconds = {"busy": lane.busy, "waited_for_input": lane.starved, "waited_for_room": lane.blocked}
    return {
        "lane": lane.name,
        "threads": lane.width,
        "items": lane.items,
        **{k: round(v, 4) for k, v in seconds.items()},
    }


@cache  # reading them takes longer than all else that is done before the first row
def versions() -> Mapping[str, str]:
    """Versions of the libraries that decide results, of Python, and of the machine."""
    found = {"python": platform.python_version()}
    for name in ("tensor-etl-stage", *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    system = os.uname()  # platform.platform() starts a process to ask for the processor
    name = f"{system.sysname}-{system.release}-{system.machine}"
    return {**found, "platform": name, "cpus": str(os.cpu_count())}
