"""What a check of the stage on the user's own input found, as facts for machines and a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.columns import describe
from pipeline.difference import Difference
from pipeline.errors import DataError, PipelineError, TransformError
from pipeline.plan import table
from pipeline.sample import Sample

AGAIN = "again"
"""Name of the check that runs the transform once more as before."""


@dataclass(frozen=True)
class Limits:
    """How much is compared, and what may differ.

    Attributes:
        rows, bytes: of the sample, at most.
        splits: that the sample is spread over, at most.
        atol, rtol: floating-point numbers of the transform may differ by ``atol + rtol * |expected|``.
    """

    rows: int = 100_000
    bytes: int = 256 << 20
    splits: int = 16
    atol: float = 0.0
    rtol: float = 1e-5


@dataclass(frozen=True)
class Check:
    """One comparison: what each column differs in, or why it was not made."""

    name: str
    columns: Mapping[str, Difference]
    skipped: str = ""

    @property
    def bad(self) -> dict[str, Difference]:
        """Columns that differ by more than they may."""
        return {name: found for name, found in self.columns.items() if not found.within}

    def facts(self) -> dict[str, Any]:
        """For machines."""
        if self.skipped:
            return {"check": self.name, "skipped": self.skipped}
        differing = {name: _facts(found) for name, found in self.columns.items() if found.what}
        return {"check": self.name, "columns": len(self.columns), "differing": differing}


@dataclass(frozen=True)
class Verdict:
    """What was compared and found. `checks` are those of the transform."""

    head: Mapping[str, str]
    sample: Sample
    limits: Limits
    identity: Check
    checks: Sequence[Check]
    kinds: Mapping[str, str]
    """The type of each column of the output."""

    def text(self) -> str:
        """The comparison for people."""
        schema = self.sample.schema()
        kinds = {f.name: describe(f) for f in schema.fields}
        rows = [(name, kinds.get(name, ""), _words(found)) for name, found in self.identity.columns.items()]
        made = [check for check in self.checks if not check.skipped]
        results = [(name, kind, *(_words(check.columns[name]) for check in made)) for name, kind in self.kinds.items()]
        notes = [("not run", f"{check.name}: {check.skipped}") for check in self.checks if check.skipped]
        head = [f"{name:<10} {value}" for name, value in [*self.head.items(), *notes]]
        first = table(["input column", "stored as", "identity"], rows)
        return "\n".join(
            [*head, "", *first, "", *table(["output column", "stored as", *(c.name for c in made)], results)]
        )

    def facts(self) -> dict[str, Any]:
        """The comparison for machines."""
        return {
            "rows": self.sample.rows,
            "splits": len(self.sample.pieces),
            "atol": self.limits.atol,
            "rtol": self.limits.rtol,
            "identity": self.identity.facts(),
            "transform": [check.facts() for check in self.checks],
        }

    def settle(self) -> dict[str, Any]:
        """The summary of a stage that keeps its promises.

        Raises:
            DataError: identity lost something of the input.
            TransformError: results depend on the batch size, the device or chance, beyond the tolerance.
        """
        error: PipelineError | None = None
        if self.identity.bad:
            error = DataError(f"identity does not give back the input: {_listed(self.identity)}")
        elif any(check.bad for check in self.checks):
            told = [f"{check.name}: {_listed(check)}" for check in self.checks if check.bad]
            error = TransformError(
                f"the transform differs beyond verify.atol={self.limits.atol:g} and verify.rtol={self.limits.rtol:g}; "
                f"{'; '.join(told)}. {_advice([check.name for check in self.checks if check.bad])}"
            )
        if error is None:
            return {"state": "verified", **self.facts()}
        error.facts = self.facts()
        raise error


def _facts(found: Difference) -> dict[str, Any]:
    numbers = {"absolute": found.absolute, "relative": found.relative}
    plain = {key: str(n) if n is not None and not math.isfinite(n) else n for key, n in numbers.items()}
    return {"within": found.within, **plain, "what": found.what}


def _words(found: Difference) -> str:
    if not found.what:
        return "same bits"
    distance = "" if found.absolute is None else f"abs {found.absolute:.3g}, rel {found.relative:.3g}"
    return distance if found.within else " ".join(each for each in ("DIFFERS", distance, f"({found.what})") if each)


def _listed(check: Check) -> str:
    told = [f"{name!r} ({found.what})" for name, found in list(check.bad.items())[:3]]
    return ", ".join(told) + (f" and {len(check.bad) - 3} more" if len(check.bad) > 3 else "")


def _advice(names: Sequence[str]) -> str:
    if AGAIN in names:
        return "It gives other results each time it runs: use torch's random numbers alone, which run.seed fixes"
    if any(name.endswith("a batch") for name in names):
        return (
            "A row depends on the rows beside it, so on batch.*: compute it row by row, learn what it needs from all "
            "rows (a fit), or give the transform the attribute rowwise=False if that is meant"
        )
    return "Devices round in their own ways: raise the tolerance if that is all it is"
