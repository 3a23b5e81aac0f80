"""The fence around `_target_`, for installations that run configurations of others.

`PIPELINE_ALLOW_TARGETS` in the environment lists modules, with `:` or `,` between them; what a configuration names must
come from one of them, or be one of our own sources, transforms, sinks and engines. A configuration can neither read nor
change it. Without the variable there is no fence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import ConfigError
from pipeline.target import locate

VARIABLE = "PIPELINE_ALLOW_TARGETS"

_OURS = ("pipeline.source", "pipeline.transform", "pipeline.sink", "pipeline.engine")
_HYDRA = (
    "hydra._internal.core_plugins",
    "hydra_plugins",
    "logging",
    "pipeline.log",
    "pipeline.sweep.rehearsal",
    "pipeline.sweep.watch",
)
"""What the section `hydra` names by itself: sweepers, launchers, handlers of logs, our callbacks."""

_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_CALLED = ("_target_", "()", "class")
"""Keys whose value Hydra, or `logging.config`, imports and calls."""


@dataclass(frozen=True)
class Fence:
    """The modules that targets may come from, submodules included."""

    modules: tuple[str, ...]

    def refuse(self, spec: Any, key: str) -> Iterator[str]:
        """What of a plain specification is outside, one line each with its key. Imports nothing that is outside."""
        for inner, name in _targets(spec, key):
            if reason := self._reason(name, (*_OURS, *self.modules)):
                yield f"{inner}: {reason}"

    def refuse_hydra(self, cfg: DictConfig) -> Iterator[str]:
        """The same for the section `hydra` of a composed configuration, before Hydra acts on it."""
        for key, name in _called(cfg.hydra, "hydra"):
            if reason := self._reason(name, (*_HYDRA, *self.modules)):
                yield f"{key}: {reason}"

    def _reason(self, name: str, allowed: tuple[str, ...]) -> str:
        """Why a target is refused, or nothing. A name inside that leads to a thing outside is refused too."""
        if not _within(name, allowed):
            return f"{name!r} is refused. {self._words()}"
        try:
            found = locate(name)
        except ConfigError:
            return ""  # said where targets are prepared
        module = str(getattr(found, "__module__", None) or type(found).__module__)
        if _within(module, allowed):
            return ""
        return f"{name!r} is refused, since it is {getattr(found, '__qualname__', found)} of {module}. {self._words()}"

    def _words(self) -> str:
        more = f" and {', '.join(self.modules)}" if self.modules else ""
        return (
            f"{VARIABLE} allows targets of this package{more} alone; who runs this installation may add a module to it"
        )


def fence(text: str | None) -> Fence | None:
    """The fence that the variable asks for; none if it is not set, our own targets alone if it is empty."""
    if text is None:
        return None
    return Fence(tuple(name for each in re.split("[:,]", text) if (name := each.strip().rstrip("."))))


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _targets(spec: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every `_target_` with its key."""
    if isinstance(spec, list):
        for i, item in enumerate(spec):
            yield from _targets(item, f"{key}.{i}")
    elif isinstance(spec, dict):
        if "_target_" in spec:
            yield f"{key}._target_", str(spec["_target_"])
        for name, inner in spec.items():
            yield from _targets(inner, f"{key}.{name}")


def _called(node: DictConfig | ListConfig, key: str) -> Iterator[tuple[str, str]]:
    """Every name that would be imported, with its key; an interpolation that does not resolve stands for itself."""
    for name in range(len(node)) if isinstance(node, ListConfig) else list(node):
        inner = f"{key}.{name}"
        try:
            value = None if OmegaConf.is_missing(node, name) else node[name]
        except OmegaConfBaseException:
            raw: Any = OmegaConf.to_container(node, resolve=False)
            value = raw[name]
        if isinstance(value, DictConfig | ListConfig):
            yield from _called(value, inner)
        elif name in _CALLED and value is not None:
            yield inner, str(value)
        elif isinstance(value, str) and value.startswith("ext://") and value not in _STREAMS:
            yield inner, value.removeprefix("ext://")
