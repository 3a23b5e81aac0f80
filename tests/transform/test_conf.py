"""One YAML for each class."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from pipeline.target import locate

CONF = Path(__file__).parents[2] / "conf" / "transform"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_lists_every_argument_with_its_default(path: Path) -> None:
    """In the order of the class; what has no default is mandatory, or an example."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    parameters = inspect.signature(locate(spec.pop("_target_"))).parameters
    assert list(spec) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert spec[name] == parameter.default
        else:
            assert spec[name] == "???" or (path.stem, name) == ("compose", "steps")


def test_every_transform_has_one() -> None:
    """And none is left over."""
    modules = {p.stem for p in (CONF.parents[1] / "pipeline" / "transform").glob("[!_]*.py")}
    assert {p.stem for p in CONF.glob("*.yaml")} == modules
