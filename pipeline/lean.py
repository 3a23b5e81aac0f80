"""torch without its meta functions, which take a third of its import, until something wants them.

They tell the shape of a result without computing it, for tensors on the device "meta" (torch/_meta_registrations.py).
Tracing makes such tensors, that of torch.compile and of torch.export, and begins with the import of torch._dynamo; so
do programs that build a model before they have its weights. With them goes torch.Generator, which is made ready there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

_TRIED = "2.13."
"""Versions with which tests compare all layers of torch with and without; others are imported as they are."""

_META = "torch._meta_registrations"
_TRACING = "torch._dynamo"
_LOADED = ("_decomp", "_prims", "_refs")
"""Modules of torch that come with them."""


def load() -> None:
    """Import torch without them, unless it is there, or is a version with which this was not tried."""
    if "torch" in sys.modules or not _tried():
        return
    sys.modules[_META] = _StandIn(_META)
    sys.meta_path.insert(0, _finder)
    try:
        torch = import_module("torch")
    except BaseException:
        _leave()
        raise
    torch._lazy_modules.update(_LOADED)  # noqa: SLF001  (what else an attribute of torch finds by importing it)


def complete() -> None:
    """Import them too, if torch is there without."""
    if _leave():
        import_module(_META)


def _tried() -> bool:
    try:
        return version("torch").startswith(_TRIED)
    except PackageNotFoundError:
        return False


def _leave() -> bool:
    there = _finder in sys.meta_path
    if there:
        sys.meta_path.remove(_finder)
        del sys.modules[_META]
    return there


class _StandIn(ModuleType):
    """Is found in their place; whoever looks for one of them has it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of each module that there is
            raise AttributeError(name)
        complete()
        return getattr(sys.modules[_META], name)


class _Finder:
    """Finds nothing, but sees who is looked for."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        """Told of every module that is about to be imported."""
        if name == _TRACING:
            complete()


_finder = _Finder()
