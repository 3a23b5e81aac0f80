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
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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

_undo: list[Callable[[], object]] = []
"""What is to be done once the functions are there, more than once if need be; nothing if they are."""
_entering = threading.Lock()
_here = threading.local()


def load() -> None:
    """Import torch without them, unless it is there, or is a version with which this was not tried."""
    if "torch" in sys.modules or not _tried() or (found := find_spec("torch")) is None:
        return
    _answer(found)
    sys.modules[_META] = _StandIn(_META, PathFinder.find_spec(_META, found.submodule_search_locations))
    try:
        torch: Any = import_module("torch")
    except BaseException:
        del sys.modules[_META]
        raise
    _stand_in(torch)
    _notice(torch)
    sys.meta_path.insert(0, _finder)


def complete() -> None:
    """Import them too, if torch is there without; other threads wait for it.

    Of two threads that begin with different modules of `_WITH` at once, one gets the error of a circle. A run tries its
    transform in one thread first.
    """
    if not _undo or getattr(_here, "importing", False):
        return
    with _entering:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
            del sys.modules[_META]
            sys.modules["torch"]._C._unregister_opaque_type("torch._C.Generator")  # noqa: SLF001
    _here.importing = True
    try:
        import_module(_META)
    finally:
        _here.importing = False
    for each in _undo:
        each()
    _undo.clear()


def _tried() -> bool:
    try:
        return version("torch").startswith(_TRIED)
    except PackageNotFoundError:
        return False


def _answer(found: ModuleSpec) -> None:
    """Tell `inspect` what it would find out by resolving the paths of all modules there are: 20 ms."""
    for name in _ASKS:
        parts = name.split(".")[1:]
        for folder in found.submodule_search_locations or ():
            inspect.modulesbyfile["/".join([folder, *parts]) + ".py"] = name


def _stand_in(torch: Any) -> None:
    """Put something in the place of what is not there; make torch.Generator ready as torch/_prims/rng_prims.py does."""
    torch._lazy_modules.update(("_decomp", "_prims", "_refs"))  # noqa: SLF001
    torch._prims_common.wrappers = _StandIn("torch._prims_common.wrappers")  # noqa: SLF001
    torch.utils._content_store = _StandIn("torch.utils._content_store")  # noqa: SLF001
    torch._C._set_generator_metaclass(import_module("torch._opaque_base").OpaqueBaseMeta)  # noqa: SLF001
    import_module("torch._library.opaque_object").register_opaque_type(torch.Generator, typ="reference")
    namespace: Any = torch._ops._OpNamespace  # noqa: SLF001

    class Words(namespace):  # type: ignore[misc]
        """Operators of which none is there yet."""

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("__"):
                complete()
            return namespace.__getattr__(self, name)  # this may be one by now

    for name in _WORDS:
        setattr(torch.ops, name, words := Words(name))
        _undo.append(partial(setattr, words, "__class__", namespace))


def _notice(torch: Any) -> None:
    """Stand before the operators that make a tensor on the device "meta", until the first call.

    And before who registers kernels of operators: they must come after those of torch to replace them.
    """
    library, plain = torch.library.Library, torch.library.Library.impl
    watch = library("aten", "IMPL")
    for name in _FIRST:
        packet, _, overload = name.partition(".")

        def make(*args: Any, packet: str = packet, overload: str = overload or "default", **kwargs: Any) -> Any:
            complete()
            watch._destroy()  # noqa: SLF001  (the way to take registrations back)
            return getattr(getattr(torch.ops.aten, packet), overload)(*args, **kwargs)

        watch.impl(name, make, "Meta")

    @wraps(plain)
    def impl(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.ns == "aten":
            complete()
        return plain(self, *args, **kwargs)

    library.impl = impl
    _undo.extend([watch._destroy, partial(setattr, library, "impl", plain)])  # noqa: SLF001


class _StandIn(ModuleType):
    """Is found in the place of a module that is not there yet; whoever looks for something in it has it."""

    def __init__(self, name: str, spec: ModuleSpec | None = None) -> None:
        super().__init__(name)
        if spec is not None:
            self.__spec__, self.__file__ = spec, spec.origin

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of each module that there is
            raise AttributeError(name)
        complete()
        return getattr(sys.modules[self.__name__], name)


class _Finder(MetaPathFinder):
    """Finds modules that come with the functions."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Asked for every module that is about to be imported, while no other thread can import."""
        spec = PathFinder.find_spec(name, path, target) if name in _WITH else None
        if spec is not None:
            spec.loader = _Together()
        return spec


class _Together(Loader):
    """Loads a module by bringing the functions in."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module, all of it."""
        complete()
        module = sys.modules[spec.name]
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing but to give it back its own specification."""
        module.__spec__ = self._spec


_finder = _Finder()
