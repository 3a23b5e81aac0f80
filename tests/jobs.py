"""Small runs of the stage, their output, and what is promised of it at any moment."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.children import NONE, Ending, Fault, server

_QUIET = ("log.progress=none", "device=cpu")
_PARQUET = (
    *("source=parquet", "source.path=in.parquet", "source.split_rows=100", "columns=[x]"),
    *("transform=standardize", "sink=parquet", "sink.path=out"),
)
_COMMANDS = {
    "parquet": _PARQUET,
    "npy": ("source=npy", "source.path=in.npy", "transform=identity", "sink=npy", "sink.path=out.npy"),
    "npz": ("source=npz", "source.path=in.npz", "transform=identity", "sink=npz", "sink.path=out.npz"),
}
FORMATS = tuple(_COMMANDS)
Values = dict[str, bytes]
_BOOKS = ("_manifest.json", "_SUCCESS", "identity.json", "fit.json", "fit.safetensors")
"""Bookkeeping that is the same whatever happened on the way."""


@functools.cache
def _root() -> Path:
    """In memory if that is there: thousands of runs shall not wait for a disk."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="jobs-", dir=memory if os.access(memory, os.W_OK) else None))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def new_folder() -> Path:
    """An empty folder that goes when the tests end."""
    return Path(tempfile.mkdtemp(dir=_root()))


@functools.cache
def inputs() -> Path:
    """A folder with two inputs of each format, of the same size."""
    folder = new_folder()
    for seed, name in enumerate(("in", "other")):
        x = np.random.default_rng(seed).normal(size=(400, 4)).astype(np.float32)
        table = pa.table({"id": np.arange(400), "x": x[:, 0], "word": [f"w{i % 7}" for i in range(400)]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=100, compression="none")
        np.save(folder / f"{name}.npy", x)
        np.savez(folder / f"{name}.npz", a=np.arange(400), b=x)
    return folder


@dataclass(frozen=True)
class Job:
    """One run in a folder of its own, which holds its input too; `hydra` is whether it goes through the front door."""

    format: str
    folder: Path
    hydra: bool = False

    @classmethod
    def make(cls, format_: str, *, hydra: bool = False) -> Job:
        """A job in a new folder; its input is the same file for all, so that keys and names are the same."""
        folder = new_folder()
        os.link(inputs() / f"in.{format_}", folder / f"in.{format_}")
        return cls(format_, folder, hydra)

    @property
    def argv(self) -> list[str] | str:
        """What stands behind `python -m pipeline`, or the format."""
        return [*_COMMANDS[self.format], *_QUIET] if self.hydra else self.format

    def start(self, fault: Fault = NONE, **how: Any) -> int:
        """As `Server.start`."""
        return server().start(self.argv, self.folder, fault, **how)

    def run(self, fault: Fault = NONE, **how: Any) -> Ending:
        """As `Server.run`."""
        return server().run(self.argv, self.folder, fault, **how)

    @property
    def input(self) -> Path:
        """The input file."""
        return self.folder / f"in.{self.format}"

    @property
    def state(self) -> Path:
        """Folder of the bookkeeping."""
        return self.folder / ("out/_pipeline" if self.format == "parquet" else f"out.{self.format}.run")

    @property
    def markers(self) -> Path:
        """Folder of the manifest."""
        return self.state.parent if self.format == "parquet" else self.state

    def data(self) -> dict[str, str]:
        """Digests of what a reader sees."""
        found = self.folder.glob("out/*") if self.format == "parquet" else self.folder.glob(f"out.{self.format}")
        return {p.name: _digest(p) for p in found if p.is_file() and not p.name.startswith(("_", "."))}

    def everything(self) -> dict[str, str]:
        """Digests of data and bookkeeping."""
        books = {
            p.name: _digest(p) for folder in {self.state, self.markers} for p in folder.glob("*") if p.name in _BOOKS
        }
        return {**self.data(), **books}

    def values(self) -> Values:
        """What a reader reads."""
        if self.format == "parquet":
            table = pq.read_table(self.folder / "out")
            return {name: table[name].to_numpy().tobytes() for name in ("id", "x")}
        loaded = np.load(self.folder / f"out.{self.format}")
        return {"": loaded.tobytes()} if self.format == "npy" else {name: loaded[name].tobytes() for name in loaded}

    def recorded(self) -> int:
        """Parts that the journal lists, of those whole lines that a run would believe."""
        journal = self.state / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        return sum(1 for line in lines if line.endswith(b"\n") and b'"key"' in line)

    def temporaries(self) -> list[str]:
        """Names that should be gone when no run is at work."""
        names = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*")]
        return [name for name in names if "/." in name or name.startswith(".")]

    def marked(self) -> bool:
        """Whether the output says that it is whole; what it says then is checked."""
        if not (self.markers / "_SUCCESS").exists():
            return False
        text = (self.markers / "_manifest.json").read_bytes()
        assert (self.markers / "_SUCCESS").read_text().strip() == hashlib.sha256(text).hexdigest()
        assert self.listed().items() <= self.data().items()
        return True

    def listed(self) -> dict[str, str]:
        """Digests of the files that the manifest names, if there is one."""
        manifest = self.markers / "_manifest.json"
        parts = json.loads(manifest.read_bytes())["parts"] if manifest.exists() else []
        return {f["path"]: f["sha256"] for part in parts for f in part["files"]}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Clean:
    """What an uninterrupted run leaves, and how it ended."""

    data: Mapping[str, str]
    everything: Mapping[str, str]
    ending: Ending


@functools.cache
def clean(format_: str, *, hydra: bool = False) -> Clean:
    """A run that nothing interrupts."""
    job = Job.make(format_, hydra=hydra)
    ending = job.run()
    assert ending.code == 0, ending.err
    return Clean(job.data(), job.everything(), ending)


def check_now(job: Job) -> None:
    """At any moment: each visible file is whole, and a marker is there only if all are."""
    expected = clean(job.format, hydra=job.hydra).data
    assert job.data().items() <= expected.items(), "torn or strange"
    if job.marked():
        assert job.data() == expected


def check_again(job: Job) -> None:
    """The same command once more leaves what an uninterrupted run leaves."""
    ending = job.run()
    assert ending.code == 0, ending.err
    assert job.everything() == clean(job.format, hydra=job.hydra).everything
    assert not job.temporaries()
    shutil.rmtree(job.folder)
