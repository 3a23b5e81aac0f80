"""A stage that fails as told, once, for those who start it as a child process: its transform and its overrides."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Faulty:
    """Gives back what it gets, but for one call; `once` is a folder that remembers it over processes."""

    fault: str
    at: int
    once: str
    calls: list[int] = field(default_factory=list)

    def __call__(self, tensors: Any) -> Any:
        self.calls.append(1)
        if len(self.calls) == self.at and not Path(self.once).exists():
            Path(self.once).mkdir()
            FAULTS[self.fault]()
        return tensors


def ask(number: signal.Signals) -> None:
    """Tell the parent to end this process, and wait for that."""
    os.kill(os.getppid(), number)
    Event().wait()


def stubborn() -> None:
    """Ask to be ended, and do not listen."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ask(signal.SIGTERM)


def explode() -> None:
    """As a transform does that has met what it cannot do."""
    raise KeyError("boom")


FAULTS: dict[str, Callable[[], None]] = {
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "explode": explode,
    "stubborn": stubborn,
    "ask to stop": lambda: ask(signal.SIGTERM),
    "ask for the alarm": lambda: ask(signal.SIGALRM),
}


def prepare(folder: Path) -> None:
    """Input and configuration."""
    (folder / "in").mkdir()
    for i in range(4):
        np.save(folder / f"in/{i}.npy", np.arange(40, dtype=np.float32) + i)
    (folder / "conf/transform").mkdir(parents=True)
    yaml = f"_target_: tests.faulty.Faulty\nfault: ''\nat: 0\nonce: {folder}/once\n"
    (folder / "conf/transform/faulty.yaml").write_text(yaml)


def operator(folder: Path, fault: str = "", at: int = 0) -> dict[str, Any]:
    """Arguments of a `PipelineOperator`: four arrays of forty rows in batches of ten, one thread, so one part by one.

    The first call of the transform is the trial on no rows: call 11 is in the third part.
    """
    if not (folder / "in").exists():  # written again, they would be another input
        prepare(folder)
    overrides = {
        "source": "npy",
        "source.path": f"{folder}/in",
        "sink": "npy",
        "sink.path": f"{folder}/out, (1)'s/dt=2026-01-01",
        "transform": "faulty",
        "transform.fault": fault,
        "transform.at": at,
        "batch.rows": 10,
        "stream.depth": 0,
        "log.progress": "none",
    }
    return {
        "python": os.environ.get("ETL_PYTHON", "python"),
        "cwd": "/",
        "env": {"PYTHONPATH": os.fspath(ROOT)},
        "flags": ["--config-dir", f"{folder}/conf"],
        "overrides": overrides,
    }
