"""Pages of HTML in one file each: no script, no font, no image from elsewhere. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import chart, result
from pipeline.chart import Axis
from pipeline.measure import MEASURES
from pipeline.result import Result

_DRAWN = ("objective", "rows_per_second", "seconds", "peak_memory_bytes", "bytes")
_MOST = 4  # metrics, and overrides, that are drawn against each other
_MOST_GROUPS = 6


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
