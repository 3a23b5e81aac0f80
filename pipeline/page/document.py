"""Pages of HTML in one file each: no script, no font, no image from elsewhere. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import Part
from pipeline.page import chart
from pipeline.page.chart import Axis
from pipeline.page.glimpse import Look
from pipeline.page.recorder import Values
from pipeline.plan import Plan, human
from pipeline.sweep import result
from pipeline.sweep.measure import MEASURES
from pipeline.sweep.result import Result
from pipeline.timeline import Course

_DRAWN = ("objective", "rows_per_second", "seconds", "peak_memory_bytes", "bytes")
_MOST = 4  # metrics, and overrides, that are drawn against each other
_MOST_GROUPS = 6
_MOST_LISTED = 100  # parts, and input files
_DAYS = 10  # that times must span for their days to tell them apart
_JOINED = 4  # bins of a timeline, where batches come in bursts


def sweep(results: Sequence[Result]) -> str:
    """The page of a sweep, or of any runs that are compared."""
    rows = result.settings(results)
    keys = result.varying(rows)
    same = {key: value for key, value in rows[0].items() if key not in keys} if results[0].overrides else {}
    metrics = [m for m in MEASURES if any(m.of(one) is not None for one in results)]
    drawn = [(row, one) for row, one in zip(rows, results, strict=True) if not one.failed]
    charts = _charts([row for row, _ in drawn], [one for _, one in drawn], keys)
    return _render(
        "sweep.html",
        title=f"{'Sweep' if results[0].overrides else 'Comparison'} of {result.summary(results)}",
        keys=keys,
        same=same,
        metrics=metrics,
        rows=list(zip(rows, results, strict=True)),
        charts=charts,
        failed=[one for one in results if one.failed],
        idle=any(one.state == "nothing to do" for one in results),
        difference=result.difference(results[0].config, results[1].config) if len(results) == 2 else [],
        pair=[one.name for one in results[:2]],
        versions=next((one.facts["versions"] for one in results if one.facts.get("versions")), {}),
    )


def missing() -> str:
    """The library that pages need and that is not there; empty if all are."""
    return next((name for name in ("jinja2", "matplotlib") if find_spec(name) is None), "")


def run(
    facts: Mapping[str, Any],
    plan: Plan,
    parts: Sequence[Part],
    course: Course,
    values: Values,
    hide: Callable[[str], str] = str,
) -> str:
    """The page of one run.

    Args:
        facts: the report, with secrets masked.
        plan: what was planned.
        parts: of the whole output.
        course: this run over time.
        values: some values of it.
        hide: takes secrets out of texts.
    """
    files = {split.path or split.id: split.version for split in plan.splits}
    inputs = [(hide(path), version) for path, version in files.items()]
    made = [(hide(f.path), f.rows, human(f.bytes), f.sha256[:12]) for part in parts for f in part.files]
    idle = [max(0.0, 1 - sum(means)) for means in _means(course)]
    return _render(
        "report.html",
        title=f"{hide(plan.names['transform'])} on {facts['device']}",
        facts=facts,
        head=_head(facts),
        lanes=chart.lanes(course) if course.lanes else "",
        colours=chart.LANES,
        shares=list(zip(course.lanes, _means(course), idle, strict=True)),
        charts=[
            chart.over_time("rows per second", _joined(course.rows), _JOINED * course.width, chart.short),
            chart.over_time("resident memory", _held(course.resident), course.width, human),
        ],
        nulls=_nulls(facts),
        columns=[
            *((name, [("before", _told(a)), ("after", _told(b))]) for name, a, b in values.pairs),
            *((look.name, [(_carried(look), _told(look))]) for look in values.carried),
        ],
        values=values,
        parts=made[:_MOST_LISTED],
        n_parts=len(made),
        inputs=inputs[:_MOST_LISTED],
        n_inputs=len(inputs),
        plan=hide(plan.text()),
        config=list(result.flat(facts["config"])),
        command=" ".join(facts["command"]),
    )


def _head(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that come first."""
    rate = facts["rows_per_second"]
    device = facts["memory"].get("device_peak_bytes")
    return [
        ("rows in", f"{facts['rows_in']:,}"),
        ("rows out", f"{facts['rows']:,}"),
        ("quarantined", f"{facts['quarantined']:,}"),
        ("seconds", f"{facts['seconds']:,.2f}"),
        ("rows/s", "-" if rate is None else f"{rate:,}"),
        ("peak memory", human(facts["peak_memory_bytes"])),
        *([("peak on the device", human(max(device)))] if device else []),
        ("parts", f"{facts['parts']:,}"),
        *([("made in this run", f"{facts['parts_made']:,}")] if facts["parts_made"] < facts["parts"] else []),
        ("output", human(facts["bytes"])),
    ]


def _means(course: Course) -> list[tuple[float, ...]]:
    """Shares of each lane over the whole run: at work, waiting for input, for room."""
    bins = max(1, len(course.rows))
    return [tuple(sum(each) / bins for each in (lane.busy, lane.starved, lane.blocked)) for lane in course.lanes]


def _joined(rates: Sequence[float]) -> list[float]:
    """Means of a few bins each."""
    return [sum(rates[i : i + _JOINED]) / _JOINED for i in range(0, len(rates), _JOINED)]


def _held(resident: Sequence[float]) -> list[float]:
    """Memory in each bin; where nobody looked, what was seen before."""
    seen: list[float] = []
    for value in resident:
        seen.append(value or (seen[-1] if seen else 0.0))
    return seen


def _nulls(facts: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    before, after = facts["nulls_in"], facts["nulls_out"]
    return [(name, before.get(name, 0), after.get(name, 0)) for name in {**before, **after}]


def _told(look: Look | None) -> dict[str, str] | None:
    """Numbers for people and a histogram; None for a column that is not there."""
    if look is None:
        return None
    numbers = {"least": look.low, "mean": look.mean, "deviation": look.std, "largest": look.high}
    plain = {name: "-" if value is None else _spelled(value, look, name) for name, value in numbers.items()}
    counts = ((look.odd or None, "NaN, inf"), (look.different, "different"))
    seen = ", ".join(f"{count:,} {what}" for count, what in counts if count is not None)
    return {**plain, "seen": seen, "bars": chart.bars(look.counts) if look.counts else ""}


def _spelled(value: float, look: Look, name: str) -> str:
    """A number for people; a time by its day, and by its minute where all lie within some days."""
    if look.of in {"value", "length", ""}:
        return f"{value:.4g}"
    second = (np.timedelta64(1, "s") / np.ones(1, f"m8[{look.of}]")).item()
    if name == "deviation":
        return f"{value / second / 86400:.4g} d" if value >= 86400 * second else f"{value / second:.4g} s"
    days = look.of == "D" or (look.high or 0) - (look.low or 0) > _DAYS * 86400 * second
    when = np.full(1, round(value)).astype(f"M8[{look.of}]").astype("M8[D]" if days else "M8[m]")
    return str(when[0]).replace("T", " ")


def _carried(look: Look) -> str:
    """What the numbers of a carried column are about."""
    return "carried, length" if look.of == "length" else "carried"


def _charts(rows: Sequence[dict[str, str]], results: Sequence[Result], keys: Sequence[str]) -> dict[str, Any]:
    """Whatever can be seen: overrides that differ, against numbers that differ."""
    across = [_override(key, rows) for key in keys]
    across = [axis for axis in across if len(axis.places) > 1][:_MOST]
    measured = {
        m.key: Axis(m.name, [m.of(one) for one in results], [m.cell(one) for one in results], most=2) for m in MEASURES
    }
    up = [measured[key] for key in _DRAWN if _differs(measured[key])][:_MOST]
    if not across or not up:
        return {}
    scatters = [chart.scatter(x, y, _groups(x, across)) for y in up for x in across]
    return {"parallel": chart.parallel([*across, *up], up[0]), "colour": up[0].name, "scatters": scatters}


def _differs(measure: Axis) -> bool:
    """Whether its numbers differ by more than they do by chance."""
    numbers = [value for value in measure.values if isinstance(value, float)]
    return bool(numbers) and max(numbers) - min(numbers) > 0.02 * max(map(abs, numbers))


def _override(key: str, rows: Sequence[dict[str, str]]) -> Axis:
    words = [row.get(key) for row in rows]
    labels = ["-" if word is None else word if len(word) <= 18 else f"...{word[-15:]}" for word in words]
    try:
        return Axis(key, [None if word is None else float(word) for word in words], labels)
    except ValueError:
        return Axis(key, words, labels)


def _groups(x: Axis, across: Sequence[Axis]) -> Axis | None:
    """Another override with few values, to tell points apart."""
    return next((axis for axis in across if axis is not x and len(axis.places) <= _MOST_GROUPS), None)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent / "html"
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)
    made.filters["drawn"] = Markup
    return made.get_template(template).render(style=style, **values)
