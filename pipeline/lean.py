"""torch without its meta functions, which take a third of its import, until something wants them.

They tell the shape of a result without computing it, for tensors on the device "meta" (torch/_meta_registrations.py).
Tracing makes such tensors, that of torch.compile and of torch.export, and begins with the import of torch._dynamo; so
do programs that build a model before they have its weights. Whatever computes does not ask for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

_META = "torch._meta_registrations"
_TRACING = "torch._dynamo"


def load() -> None:
    """Import torch without them, unless it is there. What goes wrong, the next import finds again."""
    if "torch" in sys.modules:
        return
    stand_in = sys.modules[_META] = _StandIn(_META)
    with suppress(Exception):
        import_module("torch")
    stand_in.leave()
    sys.meta_path.insert(0, _finder)
    if _TRACING in sys.modules:
        complete()


def complete() -> None:
    """Import them too, if torch is there."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    if "torch" in sys.modules:
        import_module(_META)


class _StandIn(ModuleType):
    """Is found in their place while torch is imported; whoever looks for one of them has it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of each module that there is
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_META), name)

    def leave(self) -> None:
        """As if they had never been imported."""
        for owner, name in ((sys.modules, _META), (vars(sys.modules.get("torch", self)), _META.rpartition(".")[2])):
            if owner.get(name) is self:
                del owner[name]


class _Finder:
    """Finds nothing, but sees who is looked for."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        """Told of every module that is about to be imported."""
        if name == _TRACING:
            complete()


_finder = _Finder()
