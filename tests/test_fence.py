"""The fence admits what it names, and what that is decides where a thing was defined, not how it can be reached."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.fence import Fence, fence

AROUND = Fence(("torch.nn", "mylib"))


def refused(target: Any) -> list[str]:
    return list(AROUND.refuse({"_target_": target, "x": [{"y": 1}]}, "transform"))


@pytest.mark.parametrize(
    "target",
    ["pipeline.transform.identity.Identity", "pipeline.sink.npy.Npy", "torch.nn.Linear", "torch.nn.functional.relu"],
)
def test_our_own_and_the_named_modules_are_admitted(target: str) -> None:
    """With all that is beneath them."""
    assert refused(target) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("os.system", "'os.system' is refused"),
        ("torch.load", "'torch.load' is refused"),
        ("mylibrary.f", "'mylibrary.f' is refused"),
        ("pipeline.files.os.system", "'pipeline.files.os.system' is refused"),
        ("pipeline.source.npy.np.load", "is refused, since it is load of numpy"),
        ("pipeline.source.InputError", "is refused, since it is InputError of pipeline.errors"),
        ("torch.nn.modules.module.torch.load", "is refused, since it is load of torch.serialization"),
        ("torch.nn.modules.module.functools.partial", "is refused, since it is partial of functools"),
        ("${oc.env:X}", "'${oc.env:X}' is refused"),
        (3, "'3' is refused"),
    ],
)
def test_what_is_outside_is_refused_however_it_is_reached(target: Any, words: str) -> None:
    """Modules import one another, so a name inside may lead to anything."""
    (problem,) = refused(target)
    assert problem.startswith("transform._target_: ")
    assert words in problem
    assert "PIPELINE_ALLOW_TARGETS allows targets of this package and torch.nn, mylib alone" in problem


def test_targets_at_any_depth_are_refused_and_nothing_outside_is_imported() -> None:
    """Each with its key."""
    spec = {"_target_": "mylib.f", "steps": [{"of": {"_target_": "antigravity.f"}}, {"_target_": "this.f"}]}
    assert [line.split(": ")[0] for line in AROUND.refuse(spec, "transform")] == [
        "transform.steps.0.of._target_",
        "transform.steps.1._target_",
    ]
    assert not {"antigravity", "this"} & sys.modules.keys()


def test_the_section_of_hydra_is_looked_through() -> None:
    """Whatever Hydra or logging would import and call, interpolations followed; its own parts are admitted."""
    cfg = OmegaConf.create("""
evil: {_target_: os.system}
hydra:
  launcher: {_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher}
  callbacks: {one: "${evil}", two: {_target_: "${nowhere}"}, three: {_target_: "???"}, four: "${oc.create:${evil}}"}
  job_logging:
    formatters: {f: {"()": os.remove}, g: {format: "class"}}
    handlers: {h: {class: logging.StreamHandler, stream: "ext://sys.stderr"}, i: {stream: "ext://os.environ"}}
    filters: [{"()": logging.Filter}, {"()": shutil.rmtree}]
    file: "${hydra.runtime.output_dir}/x.log"
""")
    assert isinstance(cfg, DictConfig)
    found = [line.split(": ", 1) for line in AROUND.refuse_hydra(cfg)]
    assert {key: reason.split("'")[1] for key, reason in found} == {
        "hydra.callbacks.one._target_": "os.system",
        "hydra.callbacks.two._target_": "${nowhere}",
        "hydra.callbacks.four._target_": "os.system",
        "hydra.job_logging.formatters.f.()": "os.remove",
        "hydra.job_logging.handlers.i.stream": "os.environ",
        "hydra.job_logging.filters.1.()": "shutil.rmtree",
    }


@pytest.mark.parametrize(
    ("text", "modules"),
    [("", ()), ("a.b", ("a.b",)), ("a.b:c", ("a.b", "c")), (" a. , c ,", ("a", "c"))],
)
def test_the_variable_lists_modules(text: str, modules: tuple[str, ...]) -> None:
    """Empty is a fence around our own."""
    assert fence(text) == Fence(modules)
    assert fence(None) is None
