"""How the last run of each output ended, as a file that Prometheus' node exporter picks up (extra: metrics)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, PipelineError
from pipeline.files import write_bytes

log = logging.getLogger("pipeline")

Series = tuple[str, dict[str, str], float]
"""A name without prefix, labels, and the value."""

_SUCCESS = "success_timestamp_seconds"
_STATES = ("done", "nothing to do", "failed")
_WORDS = {
    "state": "1 for the state in which the last run of this output ended, 0 for the others",
    "exit_code": "Exit code of the last run of this output",
    "start_timestamp_seconds": "When the last run began",
    "end_timestamp_seconds": "When the last run ended",
    _SUCCESS: "When a run last ended well, whatever came after",
    "rows_in": "Rows of the input, those of earlier runs included",
    "rows": "Rows of the output, those of earlier runs included",
    "parts": "Parts of the output",
    "parts_made": "Parts that the last run made",
    "bytes": "Size of the output",
    "seconds": "Seconds of the last run from plan to report",
    "rows_per_second": "Rows that the last run made in a second",
}


@contextmanager
def measured(path: str, output: str, code_of: Callable[[BaseException], int]) -> Iterator[dict[str, Any]]:
    """Record how the block ends, well or not; without a path, nothing is.

    The block fills the value with ``code``, ``state`` and the numbers of the run, unless it fails. That the file cannot
    be written in the end is a warning: the output is what counts.

    Args:
        path: see `record`.
        output: see `record`.
        code_of: exit code of an exception.

    Raises:
        ConfigError: before the block: the library is missing, or the folder.
    """
    if not path:
        yield {}
        return
    _check(path)
    facts: dict[str, Any] = {"state": "failed", "start_timestamp_seconds": time.time()}
    try:
        yield facts
    except BaseException as e:
        facts["code"] = code_of(e)
        raise
    finally:
        try:
            record(path, output, facts | {"end_timestamp_seconds": time.time()})
        except PipelineError as e:
            log.warning("metrics.textfile=%s cannot be written: %s", path, e.__cause__ or e)


def record(path: str, output: str, facts: Mapping[str, Any]) -> None:
    """Replace the series of one output in the file, atomically; those of other outputs stay.

    Args:
        path: the file; the node exporter wants its name to end in ``.prom``.
        output: the label that tells series apart.
        facts: ``code``, ``state`` and numbers of the run. A failed one leaves the time of the last success as it was.

    Raises:
        PipelineError: the file cannot be written.
    """
    failed = facts["state"] == "failed"
    before = [each for each in _read(Path(path)) if each[1].get("output") != output or (failed and each[0] == _SUCCESS)]
    write_bytes(Path(path), _text([*before, *_series(output, facts)]))


def _check(path: str) -> None:
    try:
        import prometheus_client  # noqa: F401
    except ImportError as e:
        raise ConfigError("metrics.textfile needs prometheus-client: pip install 'tensor-etl-stage[metrics]'") from e
    if not Path(path).parent.is_dir():
        raise ConfigError(f"metrics.textfile={path!r}: there is no folder {str(Path(path).parent)!r}")


def _series(output: str, facts: Mapping[str, Any]) -> Iterator[Series]:
    yield "exit_code", {"output": output}, facts["code"]
    for state in _STATES:
        yield "state", {"output": output, "state": state}, state == facts["state"]
    if facts["state"] != "failed":
        yield _SUCCESS, {"output": output}, facts["end_timestamp_seconds"]
    for name in _WORDS.keys() & facts.keys() - {"state"}:
        if facts[name] is not None:
            yield name, {"output": output}, facts[name]


def _text(series: Iterable[Series]) -> bytes:
    """All series in the format of Prometheus, sorted."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for name, labels, value in sorted(series, key=lambda each: (list(_WORDS).index(each[0]), list(each[1].values()))):
        if name not in gauges:
            gauges[name] = Gauge(f"tensor_etl_{name}", _WORDS[name], list(labels), registry=registry)
        gauges[name].labels(**labels).set(value)
    return generate_latest(registry)


def _read(path: Path) -> Iterator[Series]:
    """What the file holds of ours; a damaged file, like none, holds nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    with suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            name = family.name.removeprefix("tensor_etl_")
            if name in _WORDS:
                yield from ((name, dict(sample.labels), sample.value) for sample in family.samples)
