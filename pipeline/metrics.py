"""How the last run of each output ended, as a file that Prometheus' node exporter picks up (extra: metrics)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.files import write_bytes

if TYPE_CHECKING:
    from prometheus_client import Gauge

Series = tuple[str, dict[str, str], float]
"""A name without prefix, labels, and the value."""

_STATES = ("done", "nothing to do", "failed")
_WORDS = {
    "state": "1 for the state in which the last run of this output ended, 0 for the others",
    "exit_code": "Exit code of the last run of this output",
    "start_timestamp_seconds": "When the last run began",
    "end_timestamp_seconds": "When the last run ended",
    "success_timestamp_seconds": "When a run last ended well, whatever came after",
    "rows_in": "Rows of the input, those of earlier runs included",
    "rows": "Rows of the output, those of earlier runs included",
    "parts": "Parts of the output",
    "parts_made": "Parts that the last run made",
    "bytes": "Size of the output",
    "seconds": "Seconds of the last run from plan to report",
    "rows_per_second": "Rows that the last run made in a second",
}


def check(path: str) -> None:
    """Find out before a long run that nothing could be written after it.

    Raises:
        ConfigError: the library is missing, or the folder.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as e:
        raise ConfigError("metrics.textfile needs prometheus-client: pip install 'tensor-etl-stage[metrics]'") from e
    if not Path(path).parent.is_dir():
        raise ConfigError(f"metrics.textfile={path!r}: there is no folder {str(Path(path).parent)!r}")


def record(path: str, output: str, code: int, state: str, facts: Mapping[str, object]) -> None:
    """Replace the series of one output in the file, atomically; those of other outputs stay.

    Args:
        path: the file; the node exporter wants its name to end in ``.prom``.
        output: the label that tells series apart.
        code: exit code of the run.
        state: how it ended; a failed one keeps the time of the last success.
        facts: numbers of the run, of which those with a known name are written.

    Raises:
        PipelineError: the file cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    before = list(_read(Path(path)))
    values = {name: value for name, value in facts.items() if name in _WORDS and isinstance(value, (int, float))}
    new: list[Series] = [(name, {"output": output}, value) for name, value in {**values, "exit_code": code}.items()]
    new += [("state", {"output": output, "state": each}, float(each == state)) for each in _STATES]
    if state != "failed":
        new.append(("success_timestamp_seconds", {"output": output}, float(values["end_timestamp_seconds"])))
    kept = [each for each in before if each[1].get("output") != output or _outlives(each, state)]
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for name, labels, value in [*kept, *new]:
        gauge = gauges.get(name) or Gauge(f"tensor_etl_{name}", _WORDS[name], list(labels), registry=registry)
        gauges[name] = gauge
        gauge.labels(**labels).set(value)
    write_bytes(Path(path), generate_latest(registry))


def _outlives(series: Series, state: str) -> bool:
    return state == "failed" and series[0] == "success_timestamp_seconds"


def _read(path: Path) -> Iterator[Series]:
    """What the file holds of ours; a damaged file, like none, holds nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    with suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            name = family.name.removeprefix("tensor_etl_")
            if name in _WORDS:
                yield from ((name, dict(sample.labels), sample.value) for sample in family.samples)
