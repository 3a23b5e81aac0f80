"""How one job ended, in a small file of its own: what is known of a sweep hangs on no process and no launcher.

multirun/_jobs/<job>.json          written when a job begins and again when it ends
multirun/_jobs/<job>.plan.json     the same of a dry run, which replaces no result
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import write_json

FOLDER = "_jobs"
RUNNING = "running"


@dataclass(frozen=True)
class Result:
    """One job, or one run that stands alone.

    Attributes:
        name: folder of the job, or the output.
        state: ``running``, ``done``, ``nothing to do``, ``failed``, ``stopped``, ``planned``, ...
        overrides: what the job was told, as key to value; empty for a run that stands alone.
        facts: numbers and names, such as those of report.json.
        config: the resolved configuration, of runs that have a report.
        code: exit code, 0 if it went well.
    """

    name: str
    state: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0
    error: str = ""

    @property
    def ended(self) -> str:
        """The state for people, with the exit code of a failure."""
        return f"{self.state} ({self.code})" if self.code and self.state != "nothing to do" else self.state

    @property
    def failed(self) -> bool:
        """Whether its output is not there."""
        return bool(self.error)


def write(path: Path, result: Result) -> None:
    """Replace the file of a result atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, json.loads(json.dumps(asdict(result), default=str)), durable=False)


def read(path: Path) -> Result:
    """The result in a file of `write`."""
    try:
        return Result(**json.loads(path.read_bytes()))
    except OSError as e:
        raise InputError(f"{str(path)!r} cannot be read: {e.strerror}") from e
    except (TypeError, ValueError) as e:
        raise InputError(f"{str(path)!r} is no result of a job: {e}. Delete it and run the sweep again") from e


def read_report(report: Path, name: str) -> Result:
    """The result of a finished run from its report.json."""
    try:
        facts = json.loads(report.read_bytes())
        config = facts.pop("config")
    except OSError as e:
        raise InputError(f"{str(report)!r} cannot be read: {e.strerror}") from e
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{str(report)!r} is no report of a run: {e}") from e
    code, error = int(facts.pop("code", 0)), str(facts.pop("error", ""))
    return Result(name, str(facts.get("state")), facts=facts, config=config, code=code, error=error)


def reported(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the report that a run names: those of the run that made the output, if this one had nothing to do."""
    with suppress(OSError, ValueError, KeyError):
        found: dict[str, Any] = json.loads(Path(summary["report"]).read_bytes())
        return found
    return {}


def path(sweep: str | os.PathLike[str], job: str, action: str = "run") -> Path:
    """Where the result of a job lies."""
    return Path(sweep, FOLDER, f"{job}.json" if action == "run" else f"{job}.{action}.json")


def stamps(sweep: Path) -> dict[Path, tuple[int, int]]:
    """Result files of a sweep, with what changes when one is written again: no clocks are compared."""
    found = {}
    for file in sorted((sweep / FOLDER).glob("[!.]*.json")):
        stat = file.stat()
        found[file] = (stat.st_mtime_ns, stat.st_ino)
    return found


def flat(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a configuration, for comparing two."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config if isinstance(config, str) else json.dumps(config)


def settings(results: Sequence[Result]) -> list[dict[str, str]]:
    """What may tell results apart: overrides if each has some, else configurations without the place of the output."""
    if all(r.overrides for r in results):
        return [dict(r.overrides) for r in results]
    return [{k: v for k, v in flat(r.config) if k != "sink.path"} for r in results]


def varying(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values differ among the rows, in the order in which they first come."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def summary(results: Sequence[Result]) -> str:
    """How many there are, by how they ended."""
    states = dict.fromkeys(one.state for one in results)
    parts = [f"{sum(one.state == state for one in results)} {state}" for state in states]
    return f"{len(results)} {'job' if len(results) == 1 else 'jobs'}: {', '.join(parts)}"


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted keys in which two configurations differ, with both values; - where a key is missing."""
    first, second = dict(flat(one)), dict(flat(other))
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    return [(key, first.get(key, "-"), second.get(key, "-")) for key in keys]
