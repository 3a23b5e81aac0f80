"""The jobs of a sweep: each leaves its result in a file, and from the files comes what is told at the end.

That works the same whichever launcher runs the jobs, in this process, in others or on other machines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from pipeline import config
from pipeline.config import force
from pipeline.errors import PipelineError
from pipeline.secret import Mask
from pipeline.sweep import result
from pipeline.sweep.result import RUNNING, Result

log = logging.getLogger("pipeline")

_STOPPED = "stopped before its end"
_OWN = ("state", "error", "code")
_LONG = ("config", "columns", "command", "columns_transformed", "columns_carried")


class Watch(Callback):
    """Hydra tells it that a sweep begins, and where; `main` asks it what came of the jobs."""

    latest: ClassVar[Watch | None] = None
    folder: Path
    action: str
    before: dict[Path, tuple[int, int]]

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember which results are there already: those of this sweep are the others.

        The keys that a preset sweeps are spelled as the front door spells those of the command line, which then win.
        """
        del kwargs
        if params := config.hydra.sweeper.get("params"):
            with read_write(config), open_dict(config):
                config.hydra.sweeper.params = {force(f"{key}=")[:-1]: value for key, value in params.items()}
        self.folder = Path(config.hydra.sweep.dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.action = str(config.action.name)
        self.before = result.stamps(self.folder)
        Watch.latest = self

    def results(self) -> list[Result]:
        """What the jobs of this sweep have left, in their order; one that left nothing at its end has died."""
        new = [file for file, stamp in result.stamps(self.folder).items() if self.before.get(file) != stamp]
        found = [_settled(result.read(file)) for file in new]
        return sorted(found, key=lambda one: int(one.facts["number"]))

    def tell(self, *, drawn: bool) -> str:
        """Write sweep.csv and sweep.html; the table and where they are, for people."""
        from pipeline import compare

        results = self.results()
        if not results:
            return ""
        said = [*compare.lines(results), "", result.summary(results)]
        return "\n".join(said + (compare.write(self.folder, results, drawn=drawn) if self.action == "run" else []))


@contextmanager
def watching() -> Iterator[None]:
    """No sweep has begun yet; afterwards none is remembered."""
    Watch.latest = None
    try:
        yield
    finally:
        Watch.latest = None


def _settled(one: Result) -> Result:
    if one.state != RUNNING:
        return one
    return replace(one, state="died", code=1, error="it ended without a word: it was killed, or ran out of memory")


@dataclass
class Record:
    """The result of a job under way: its facts so far, and where they will be kept, if it is one of a sweep."""

    facts: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    begun: Result | None = None

    def leave(self, state: str, code: int, error: str) -> None:
        """Keep that the job ended without facts."""
        if self.file is not None and self.begun is not None:
            _write(self.file, replace(self.begun, state=state, code=code, error=error))


@contextmanager
def recorded(cfg: DictConfig, mask: Mask) -> Iterator[Record]:
    """Keep the result of a sweep's job in its file while the block runs, which puts the facts into the value.

    What `mask` knows as secret is left out of it.
    """
    record = Record()
    if not config.in_sweep():
        yield record
        return
    hydra = HydraConfig.get()
    told = config.overrides()
    job = config.job_folder(told)
    file = result.path(hydra.sweep.dir, job, cfg.action.name)
    known = {"number": hydra.job.num, "started": datetime.now(UTC).isoformat(timespec="seconds")}
    begun = Result(job, RUNNING, config.settings(map(mask.override, config.dated(told))), known)
    record.file, record.begun = file, begun
    _write(file, begun)
    _reset_peak_memory()
    try:
        yield record
    except BaseException as e:
        record.leave("stopped", e.code if isinstance(e, SystemExit) and isinstance(e.code, int) else 1, _STOPPED)
        raise
    _write(file, _ended(begun, mask.data(record.facts)))


def _ended(begun: Result, summary: dict[str, Any]) -> Result:
    """The result with what the job has to say; what a job with nothing to do had measured when it ran is kept."""
    report = result.reported(summary)
    facts = {k: v for k, v in {**begun.facts, **summary, **report}.items() if k not in (*_OWN, *_LONG)}
    code, error = int(summary.get("code", 0)), str(summary.get("error", ""))
    known = report.get("config", {})
    return replace(begun, state=str(summary["state"]), facts=facts, config=known, code=code, error=error)


def _write(file: Path, one: Result) -> None:
    """A record that cannot be kept fails no job."""
    try:
        result.write(file, one)
    except (OSError, PipelineError) as e:
        log.warning("the result of job %s is not recorded: %s", one.name, e)


def _reset_peak_memory() -> None:
    """Let the peak of this process be that of the job, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
