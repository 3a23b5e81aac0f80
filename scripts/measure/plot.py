"""A picture of a race."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from measure.race import Heat

CORES = os.cpu_count() or 1
OURS, OTHERS, LIMIT = "#c2410c", "#94a3b8", "#0f172a"


def check() -> None:
    """End before anything is measured if there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        sys.exit("scripts/bench: --plot needs matplotlib: pip install 'tensor-etl-stage[bench]', or leave it out")


def draw(heats: Sequence[Heat], path: Path) -> None:
    """A bar for each contender, as long as its median wall time; a line where the machine can go no faster."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, sum(0.6 + 0.3 * len(h.running) for h in heats)), layout="constrained")
    axes = figure.subplots(len(heats), 1, squeeze=False, height_ratios=[2 + len(h.running) for h in heats])
    for h, axis in zip(heats, axes[:, 0], strict=True):
        shown = [e for e in h.running if e.laps and not e.wrong][::-1]
        names = [e.contender.name + (" (order not kept)" if e.moved else "") for e in shown]
        colours = [OURS if e.contender.ours else OTHERS for e in shown]
        bars = axis.barh(names, [median(e.walls) for e in shown], color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.axvline(h.limit / CORES, color=LIMIT, linestyle=":", label=f"limit on {CORES} cores")
        axis.set_title(f"{h.workload.name}, seconds", loc="left")
        axis.margins(x=0.1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
