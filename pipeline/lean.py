"""torch without its meta functions, which take a third of its import, until something wants them.

They tell the shape of a result without computing it, for tensors on the device "meta" (torch/_meta_registrations.py).
Whoever wants that makes such a tensor first: tracing (torch.compile, torch.export, FakeTensor), lists of any length
(jagged tensors), programs that build a model before they have its weights. The first one brings the functions in, and
so does the import of a module that comes with them.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_TRIED = "2.13."
"""Versions with which tests compare all of torch with and without; others are imported as they are."""

_META = "torch._meta_registrations"
_WITH = (
    "torch._decomp",
    "torch._prims",
    "torch._prims_common.wrappers",
    "torch._refs",
    "torch.utils._content_store",
)
"""Modules that come with them, and import each other in a circle: it must be entered where torch does."""
_ASKS = ("torch._native.registry", "torch.utils._debug_mode._mode")
"""Modules that ask `inspect` in which module a line of theirs is, while they are imported."""
_WORDS = ("debugprims", "prims", "rngprims")
"""Operators that come with them."""
_FIRST = ("empty.memory_format", "empty_strided", "tril_indices", "triu_indices")
"""What makes each tensor on the device "meta" that is not made of another one."""

_watch: list[Any] = []
"""Registrations that notice the first such tensor; none where the functions are there."""
_leaving = threading.Lock()


def load() -> None:
    """Import torch without them, unless it is there, or is a version with which this was not tried."""
    if "torch" in sys.modules or not _tried():
        return
    sys.modules[_META] = _StandIn(_META)
    _answer()
    try:
        torch: Any = import_module("torch")
    except BaseException:
        del sys.modules[_META]
        raise
    _put_in(torch)
    _notice(torch)


def complete() -> None:
    """Import them too, if torch is there without; other threads wait for it."""
    if not _watch:
        return
    with _leaving:
        if _finder in sys.meta_path:
            _take_out(sys.modules["torch"])
    import_module(_META)
    for each in _watch:
        each._destroy()  # noqa: SLF001  (the way to take registrations back)
    _watch.clear()


def _tried() -> bool:
    try:
        return version("torch").startswith(_TRIED)
    except PackageNotFoundError:
        return False


def _answer() -> None:
    """Tell `inspect` what it would find out by resolving the paths of all modules there are: 20 ms."""
    found = find_spec("torch")
    for folder in (found and found.submodule_search_locations) or ():
        for name in _ASKS:
            inspect.modulesbyfile[str(Path(folder, *name.split(".")[1:]).with_suffix(".py"))] = name


def _put_in(torch: Any) -> None:
    """What stands for what is not there; torch.Generator is made ready as in torch/_prims/rng_prims.py."""
    for name in _WORDS:
        setattr(torch.ops, name, _StandIn(name))
    torch._lazy_modules.update(("_decomp", "_prims", "_refs"))  # noqa: SLF001
    torch._C._set_generator_metaclass(import_module("torch._opaque_base").OpaqueBaseMeta)  # noqa: SLF001
    import_module("torch._library.opaque_object").register_opaque_type(torch.Generator, typ="reference")
    sys.meta_path.insert(0, _finder)


def _take_out(torch: Any) -> None:
    sys.meta_path.remove(_finder)
    del sys.modules[_META]
    for name in _WORDS:
        delattr(torch.ops, name)
    torch._C._unregister_opaque_type("torch._C.Generator")  # noqa: SLF001


def _notice(torch: Any) -> None:
    """Stand before the operators that make a tensor on the device "meta", until the first call."""
    _watch.append(watch := torch.library.Library("aten", "IMPL"))
    for name in _FIRST:
        packet, _, overload = name.partition(".")

        def make(*args: Any, packet: str = packet, overload: str = overload or "default", **kwargs: Any) -> Any:
            complete()
            return getattr(getattr(torch.ops.aten, packet), overload)(*args, **kwargs)

        watch.impl(name, make, "Meta")


class _StandIn(ModuleType):
    """Is found in the place of what is not there yet; whoever looks for something in it has it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of each module that there is
            raise AttributeError(name)
        complete()
        whole = sys.modules[_META] if self.__name__ == _META else getattr(sys.modules["torch"].ops, self.__name__)
        return getattr(whole, name)


class _Finder(MetaPathFinder):
    """Finds modules that come with the functions, by bringing these in."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Asked for every module that is about to be imported."""
        if name not in _WITH:
            return None
        complete()
        return ModuleSpec(name, _Loaded(sys.modules[name]))


class _Loaded(Loader):
    """Loads what is loaded already; importlib would load it again if it still had a specification."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__
        module.__spec__ = None

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing but to give it back its specification."""
        module.__spec__ = self._spec


_finder = _Finder()
