"""The number that a job hands to a sweeper which optimizes: one of its report, or a statistic of an output column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

NUMBERS = (
    "rows_per_second", "bytes_per_second", "seconds", "peak_memory_bytes", "bytes", "rows", "rows_in", "parts"
)  # fmt: skip
STATISTICS = ("mean", "std", "min", "max", "sum", "nulls")


def check(objective: str) -> None:
    """Refuse what can be no objective, before anything runs."""
    column, _, statistic = objective.rpartition(".")
    if objective not in NUMBERS and not (column and statistic in STATISTICS):
        raise ConfigError(
            f"sweep.objective={objective}: expected one of {', '.join(NUMBERS)}, or a column with a statistic, as in "
            f"dep_delay.mean ({', '.join(STATISTICS)})"
        )


def value(objective: str, facts: Mapping[str, Any]) -> float:
    """The objective of a job that went well. A statistic reads the column from the output, in the order of its parts.

    Raises:
        DataError: there is no such number: nothing was measured, or the column holds none.
    """
    if objective in NUMBERS:
        if facts.get(objective) is None:
            raise DataError(f"sweep.objective={objective}: this run has not measured it")
        return float(facts[objective])
    column, _, statistic = objective.rpartition(".")
    found = _statistics(str(facts["output"]), column)[statistic]
    if not math.isfinite(found):
        raise DataError(
            f"sweep.objective={objective} is {found}: column {column!r} holds no values, or some that are not finite"
        )
    return found


def _statistics(output: str, column: str) -> dict[str, float]:
    """All statistics of a column in one pass, in float64; means and deviations of pieces are merged."""
    count, mean, squares, nulls = 0, math.nan, 0.0, 0
    low, high = math.inf, -math.inf
    for values, missing in _pieces(output, column):
        nulls += missing
        if not values.size:
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        own = float(values.mean())
        step = own - (mean if count else own)
        total = count + values.size
        squares += float(((values - own) ** 2).sum()) + step * step * count * values.size / total
        mean, count = (mean if count else own) + step * values.size / total, total
    std = math.sqrt(squares / count) if count else math.nan
    return {"mean": mean, "std": std, "min": low, "max": high, "sum": mean * count, "nulls": float(nulls)}


def _pieces(output: str, column: str) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.float64]], int]]:
    """The numbers of a column in the order of the parts, and how many nulls were between them."""
    import numpy as np

    from pipeline import schema
    from pipeline.layout import VALID, layout
    from pipeline.manifest import read_manifest
    from pipeline.policy import Conversion

    root = Path(output)
    folder = root if root.is_dir() else root.parent
    for part in read_manifest(output)["parts"]:
        for file in part["files"]:
            source = schema.source(str(folder / file["path"]))
            names = source.schema().names
            if column not in names:
                raise ConfigError(f"sweep.objective: {column!r} is no column of the output; it has {', '.join(names)}")
            chosen = layout(source.schema(), [column], "none", Conversion().with_nulls("mask"))
            for chunk in (chunk for split in source.splits() for chunk in source.read(split)):
                arrays = chosen.enter(chunk)
                values, valid = arrays[column].astype(np.float64), arrays.get(VALID + column)
                yield (values, 0) if valid is None else (values[valid], int((~valid).sum()))
