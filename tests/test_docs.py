"""What docs/sweeps.md and docs/runs.md show works as it is written there."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.documents import ROOT, blocks, commands, run

PAGE = "docs/sweeps.md"
EXTRAS = {
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=submitit": "hydra_plugins.hydra_submitit_launcher",
    "experiment=tune": "hydra_plugins.hydra_optuna_sweeper",
}
SLOW = ("hydra/launcher=", "experiment=tune")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hydra configures the root logger; put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with data under the names of the page."""
    here = tmp_path_factory.mktemp("user")
    shutil.copy(ROOT / "pipeline/data/flights.parquet", here / "features.parquet")
    shutil.copy(ROOT / "pipeline/data/digits.npy", here / "digits.npy")
    assert run("python -m pipeline log.progress=none", here).returncode == 0
    return here


def parameters() -> Iterator[object]:
    for command in dict.fromkeys(commands(PAGE) + commands("docs/runs.md")):
        slow = [
            pytest.mark.launchers,
            pytest.mark.timeout(300),
            pytest.mark.filterwarnings("default"),
        ]  # Optuna 2 is old
        marks = slow if any(word in command for word in SLOW) else []
        yield pytest.param(command, marks=marks)


@pytest.mark.parametrize("command", list(parameters()))
def test_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command line ends well; one that needs what is not installed names the extra."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    missing = [extra for word, extra in EXTRAS.items() if word in command and find_spec(extra) is None]
    done = run(command, folder)
    assert done.returncode == (2 if missing else 0), done.stderr
    assert not missing or "pip install 'tensor-etl-stage[" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_kind_of_command_is_there() -> None:
    """The list above is not empty by accident."""
    text = "\n".join(commands(PAGE))
    for part in ("action=plan", "compare multirun", "launcher=device", "launcher=joblib", "experiment=tune", "schema"):
        assert part in text


def test_the_preset_on_the_page_is_the_one_that_is_there() -> None:
    """Word for word, but for comments."""
    shown = next(text for kind, text in blocks(PAGE) if kind == "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "conf/experiment/batches.yaml").read_text())


def test_completion_works_in_bash(tmp_path: Path) -> None:
    """The line of the page, then Tab."""
    line = next(text for kind, text in blocks(PAGE) if kind == "sh").strip()
    (tmp_path / "pipeline").write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n')
    (tmp_path / "pipeline").chmod(0o755)
    script = f"""
{line}
tab() {{
    COMP_LINE=$1 COMP_POINT=${{#1}} COMP_WORDS=($1) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
    $(complete -p pipeline | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    echo "${{COMPREPLY[@]}}"
}}
tab "pipeline transform=identity batch."
"""
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["batch.bytes= batch.rows="], done.stderr
