"""What is installed elsewhere is all that is needed there, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import pipeline

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_module_configuration_and_data_file(wheel: Path) -> None:
    """Each file of pipeline/, hydra_plugins/ and conf/ travels, byte for byte; conf/ inside the package."""
    held = contents(wheel)
    for path in [*ROOT.glob("pipeline/**/*"), *ROOT.glob("hydra_plugins/**/*"), *ROOT.glob("conf/**/*")]:
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(ROOT).as_posix()
            assert held[f"pipeline/{name}" if name.startswith("conf/") else name] == path.read_bytes(), name
    assert {"pipeline/py.typed", "pipeline/conf/config.yaml", "pipeline/data/flights.parquet"} <= held.keys()


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    """No tests, scripts or caches: the package and its metadata only."""
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert tops == {"pipeline", "hydra_plugins", f"tensor_etl_stage-{pipeline.__version__}.dist-info"}


def test_the_wheel_has_the_console_script_and_the_licence(wheel: Path) -> None:
    """`pipeline` is a command after the installation, and the licence is told."""
    held = contents(wheel)
    folder = f"tensor_etl_stage-{pipeline.__version__}.dist-info"
    assert b"pipeline = pipeline.__main__:script" in held[f"{folder}/entry_points.txt"]
    assert held[f"{folder}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_constraints_lock_every_dependency() -> None:
    """constraints*.txt hold name==version lines only, among them all that pyproject.toml asks for."""
    lines = [line for file in ROOT.glob("constraints*.txt") for line in file.read_text(encoding="utf-8").splitlines()]
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {normal(re.split("[<>=]", line)[0]) for line in asked}
    assert names <= {normal(name) for name in locked}
    assert all(version[0].isdigit() and version.replace(".", "").isalnum() for version in locked.values())


def normal(name: str) -> str:
    """A package name as packages are compared."""
    return name.lower().replace("_", "-")
