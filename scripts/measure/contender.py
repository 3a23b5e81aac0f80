"""Who takes part: this stage, scripts as one would write them, and other libraries if they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure.workload import Workload

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts" / "contenders"

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: as it was asked for, and as it stands in the tables.
        script: in `scripts/contenders`; this stage has none.
        package: that must be installed; "" for what is always there.
        workloads: that the script can do.
        checkout: of this project, whose package runs.
        overrides: more of them for this stage.
        start: what the interpreter is told to run for this stage.
    """

    name: str
    script: str = ""
    package: str = ""
    workloads: Sequence[str] = ("W1", "W2", "W3", "W4", "W5")
    checkout: Path = ROOT
    overrides: Sequence[str] = ()
    start: Sequence[str] = ("-m", "pipeline")

    @property
    def ours(self) -> bool:
        """Whether it is this stage."""
        return not self.script

    def command(self, python: str, workload: Workload, place: Path, out: Path) -> list[str]:
        """The command line that reads the input in `place` and writes into the folder `out`."""
        if self.script:
            return [python, str(SCRIPTS / self.script), workload.name, str(place), str(out)]
        single = workload.suffix == ".npy"
        more = [f'transform.weights="{place / "weights.safetensors"}"'] if workload.name == "W2" else []
        paths = [f'source.path="{place / "in"}"', f'sink.path="{out / "out.npy" if single else out}"']
        preset = ["--config-dir", str(SCRIPTS / "conf"), f"experiment={workload.name}"]
        return [python, *self.start, *preset, "+device=cpu", *paths, *more, *self.overrides]

    def env(self, folder: Path, short: Path) -> Mapping[str, str]:
        """What its environment needs: caches go to a folder of the run, sockets to one with a name short enough."""
        places = {"HF_HOME": str(folder / "hf"), "RAY_TMPDIR": str(short), "TMPDIR": str(short)}
        return {**QUIET, **places, "PYTHONPATH": f"{self.checkout}{os.pathsep}{SCRIPTS.parent}"}


_ALL = (
    Contender("ours"),
    Contender("hand_tuned", "hand_tuned.py"),
    Contender("naive_memory", "naive_memory.py"),
    Contender("naive_stream", "naive_stream.py"),
    Contender("dataloader", "torch_dataloader.py"),
    Contender("ray", "ray_data.py", "ray"),
    Contender("hf", "hf_datasets.py", "datasets", ("W1", "W3", "W4")),
    Contender("daft", "daft_udf.py", "daft", ("W1", "W2", "W3", "W4")),
    Contender("dask", "dask_blocks.py", "dask"),
    Contender("polars", "polars_lazy.py", "polars", ("W1", "W3")),
    Contender("duckdb", "duckdb_sql.py", "duckdb", ("W1", "W3")),
)
LIMIT = Contender("limit", "limit.py")
CONTENDERS = {contender.name: contender for contender in _ALL}


def parse(text: str) -> Contender:
    """`NAME`, or for this stage `ours[@CHECKOUT][:OVERRIDE;OVERRIDE...]`."""
    start, _, overrides = text.partition(":")
    name, _, checkout = start.partition("@")
    if name not in CONTENDERS or name not in {text, "ours"}:
        sys.exit(
            f"scripts/bench: {text!r} is no contender; there are {', '.join(CONTENDERS)}, and variants of ours: "
            "ours@/path/to/a/checkout, 'ours:stream.depth=0;batch.bytes=65536'"
        )
    found = replace(CONTENDERS[name], name=text)
    if overrides:
        found = replace(found, overrides=overrides.split(";"))
    return replace(found, checkout=Path(checkout).resolve()) if checkout else found


def present(contender: Contender, python: str) -> bool:
    """Whether the interpreter has what the contender needs."""
    if not contender.package:
        return True
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    done = subprocess.run([python, "-c", look, contender.package], env=_bare(), check=False, cwd=SCRIPTS / "conf")
    return done.returncode == 0


def _bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
