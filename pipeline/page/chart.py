"""Charts of runs as SVG text: parallel coordinates, a metric over an override, a run over time.

Colours of lines and words are names of CSS, so that a page decides them, in the dark too. Needs the extra `report`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.timeline import Course, Shares

SERIES = ("#2f7fc1", "#d1772b", "#1f9d74", "#b8609a", "#8f8a2a", "#7a6fd0")
"""Colours that are told apart on white and on black."""

LANES = {"at work": SERIES[0], "waiting for input": "#c9b458", "waiting for room": "#c4576a"}
"""What a lane does, with its colour."""

_MARKS = ("o", "s", "^", "D", "v", "P")
_LOW, _HIGH = (0x2F, 0x7F, 0xC1), (0xE0, 0x6A, 0x2B)
_INK, _FAINT = "#0a0b0c", "#0d0e0f"
_LOG = 16  # numbers that span more are shown on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """One thing that is known of every run: a number, or a word.

    Attributes:
        values: one for each run; None where a run has none.
        labels: the same for people.
        most: labels that are written on a pole; if there are more values, only the ends have theirs.
    """

    name: str
    values: Sequence[float | str | None]
    labels: Sequence[str]
    most: int = 6

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, (int, float)) for value in self.values if value is not None)

    @property
    def places(self) -> dict[Any, str]:
        """Each value once, in order, with its label."""
        known = [(value, label) for value, label in zip(self.values, self.labels, strict=True) if value is not None]
        return dict(sorted(known, key=lambda pair: pair[0])) if self.numeric else dict(known)

    @property
    def logarithmic(self) -> bool:
        """Whether the numbers span so much that only their ratios can be seen."""
        if not self.numeric or not self.places:
            return False
        low, high = min(self.places), max(self.places)
        return bool(low > 0 and high / low >= _LOG)


def parallel(axes: Sequence[Axis], colour: Axis) -> str:
    """A line for each run across all axes, coloured from low to high by one of them."""
    with _figure(max(8.0, 1.25 * len(axes)), 2.9) as figure:
        plot = figure.add_axes((0.05, 0.05, 0.86, 0.8))
        plot.set_axis_off()
        for x, axis in enumerate(axes):
            _pole(plot, x, axis)
        for share, *heights in zip(_heights(colour), *map(_heights, axes), strict=True):
            points = [(x, y) for x, y in enumerate(heights) if y is not None]
            plot.plot(*zip(*points, strict=True), "o-", color=_between(share), linewidth=1.6, alpha=0.85, ms=3)
        plot.set_xlim(-0.15, len(axes) - 0.55)
        return _svg(figure, "parallel")


def scatter(across: Axis, up: Axis, groups: Axis | None) -> str:
    """A point for each run; runs of one group share colour and mark."""
    with _figure(4.2, 2.6) as figure:
        plot = figure.add_axes((0.13, 0.17, 0.66, 0.7))
        _ruled(plot, across, up)
        for number, (name, points) in enumerate(_grouped(across, up, groups).items()):
            mark, colour = _MARKS[number % len(_MARKS)], SERIES[number % len(SERIES)]
            plot.plot(
                *zip(*points, strict=True), mark, color=colour, alpha=0.85, ms=6, label=f" {name}"
            )  # not "_x": left out of legends
        if groups is not None:
            words: Any = {"title": groups.name, "fontsize": 7, "title_fontsize": 7, "frameon": False}
            plot.legend(**words, loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.1, borderpad=0)
        return _svg(figure, f"{across.name}/{up.name}")


def _grouped(across: Axis, up: Axis, groups: Axis | None) -> dict[str, list[tuple[Any, Any]]]:
    """Points by the label of their group."""
    position = list(across.places)
    made: dict[str, list[tuple[Any, Any]]] = {} if groups is None else {label: [] for label in groups.places.values()}
    labels = [""] * len(up.values) if groups is None else groups.labels
    for x, y, label in zip(across.values, up.values, labels, strict=True):
        if x is not None and y is not None:
            made.setdefault(label, []).append((x if across.numeric else position.index(x), y))
    return {label: points for label, points in made.items() if points}


def _pole(plot: Any, x: int, axis: Axis) -> None:
    plot.plot([x, x], [0, 1], color=_FAINT, linewidth=1)
    plot.text(x, 1.1, axis.name, ha="center", fontsize=9, fontweight="bold")
    heights = {value: y for value, y in zip(axis.values, _heights(axis), strict=True) if y is not None}
    ends = list(axis.places.items())
    for value, label in ends if len(ends) <= axis.most else [ends[0], ends[-1]]:
        plot.text(x + 0.04, heights[value] - 0.015, label, fontsize=8)


def lanes(course: Course) -> str:
    """What each lane did over time: its threads at work, waiting for input, waiting for room."""
    with _figure(9.0, 0.55 + 0.5 * len(course.lanes)) as figure:
        plots = figure.subplots(len(course.lanes), 1, sharex=True, squeeze=False)[:, 0]
        for plot, lane in zip(plots, course.lanes, strict=True):
            _lane(plot, lane, course.width)
        plots[-1].set_xlabel("seconds since the start")
        figure.subplots_adjust(left=0.14, right=0.99, top=0.97, bottom=0.42 / figure.get_figheight(), hspace=0.35)
        return _svg(figure, "lanes")


def _lane(plot: Any, lane: Shares, width: float) -> None:
    floor = [0.0] * len(lane.busy)
    times = _edges(len(floor), width)
    for colour, shares in zip(LANES.values(), (lane.busy, lane.starved, lane.blocked), strict=True):
        top = [min(1.0, a + b) for a, b in zip(floor, shares, strict=True)]
        plot.stairs(top, times, baseline=floor, fill=True, color=colour)
        floor = top
    threads = f" ({lane.threads})" if lane.threads > 1 else ""
    plot.set(xlim=(0, times[-1]), ylim=(0, 1), yticks=[])
    plot.set_ylabel(f"{lane.lane}{threads}", rotation=0, ha="right", va="center", fontsize=9)
    plot.tick_params(axis="x", length=2)
    plot.spines[["top", "right", "left"]].set_visible(False)


def over_time(name: str, values: Sequence[float], width: float, unit: Callable[[float], str]) -> str:
    """A number over the time of a run, from zero up."""
    with _figure(4.6, 1.9) as figure:
        plot = figure.add_axes((0.15, 0.22, 0.82, 0.66))
        times = _edges(len(values), width)
        plot.stairs(values, times, fill=True, color=SERIES[0])
        plot.set(xlim=(0, times[-1]), ylim=(0, 1.08 * max(values, default=0) or 1), xlabel="seconds since the start")
        plot.set(axisbelow=True)
        plot.set_title(name, loc="left", fontsize=10)
        plot.yaxis.set_major_formatter(lambda value, _: unit(value))
        plot.locator_params(axis="y", nbins=4)
        plot.grid(axis="y", color=_FAINT, linewidth=0.6)
        plot.spines[["top", "right"]].set_visible(False)
        return _svg(figure, re.sub(r"\W", "-", name))


def _edges(bins: int, width: float) -> list[float]:
    return [i * width for i in range(bins + 1)]


def bars(counts: Sequence[int]) -> str:
    """A histogram the size of a word."""
    most, high = max(counts, default=0) or 1, 8.0
    steps = "".join(f"V{high * (1 - n / most):.2f}h1" for n in counts)
    return (
        f'<svg class="bars" viewBox="0 0 {len(counts)} {high:g}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="M0 {high:g}{steps}V{high:g}Z" fill="currentColor"/></svg>'
    )


def _heights(axis: Axis) -> list[float | None]:
    """Where each run stands on an axis, between 0 and 1."""
    from math import log

    places: list[Any] = list(axis.places)
    if not axis.numeric:
        last = max(1, len(places) - 1)
        return [None if value is None else places.index(value) / last for value in axis.values]
    values: list[Any] = [None if v is None else log(float(v)) if axis.logarithmic else float(v) for v in axis.values]
    low, high = min(v for v in values if v is not None), max(v for v in values if v is not None)
    return [None if v is None else (v - low) / (high - low) if high > low else 0.5 for v in values]


def _ruled(plot: Any, across: Axis, up: Axis) -> None:
    """Axes with names, ticks at the values that occur, and room above the highest point."""
    places = across.places
    if across.logarithmic:
        plot.set_xscale("log")
    if not across.numeric:
        plot.set_xticks(range(len(places)), list(places.values()))
        plot.set_xlim(-0.5, len(places) - 0.5)
    elif len(places) <= 6:
        plot.set_xticks(list(places), list(places.values()))
        plot.xaxis.minorticks_off()
    numbers = [value for value in up.values if isinstance(value, float)]
    plot.set_ylim(1.08 * min(0.0, *numbers), 1.08 * max(0.0, *numbers) or 1)
    plot.set(xlabel=across.name, axisbelow=True)
    plot.set_title(up.name, loc="left", fontsize=10)
    plot.margins(x=0.1)
    plot.yaxis.set_major_formatter(short)
    plot.grid(axis="y", color=_FAINT, linewidth=0.6)
    plot.spines[["top", "right"]].set_visible(False)


def short(value: float, _: int = 0) -> str:
    """A number on an axis: 12k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _between(share: float | None) -> str:
    part = 0.5 if share is None else share
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(_LOW, _HIGH, strict=True))


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK)
    settings: Any = {**ink, "svg.fonttype": "none", "svg.hashsalt": "sweep", "font.size": 8, "text.parse_math": False}
    with mpl.rc_context(settings):
        yield Figure(figsize=(width, height), facecolor="none")


def _svg(figure: Any, name: str) -> str:
    """The figure as one element of a page; the ids in it are its own, as several stand on one page."""
    for plot in figure.axes:
        plot.set_facecolor("none")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    own = re.sub(r"\W", "-", name)
    svg = re.sub(r'(id="|xlink:href="#|url\(#)', lambda m: f"{m[1]}{own}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1sans-serif", svg)
    return svg.replace(_INK, "currentColor").replace(_FAINT, "var(--faint)")
