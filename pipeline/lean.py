"""torch without its meta functions, which take a third of its import, until something wants them.

They tell the shape of a result without computing it, for tensors on the device "meta" (torch/_meta_registrations.py).
Whoever wants that makes such a tensor first: tracing (torch.compile, torch.export, FakeTensor), lists of any length
(jagged tensors), programs that build a model before they have its weights. The first one brings the functions in, and
so does who looks for something in a module that comes with them: until then a stand-in is all that is there of it.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points, version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_TRIED = re.compile(r"2\.13\.\d+(\+[\w.]+)?")
"""Releases with which tests compare all of torch with and without; others are imported as they are."""

_WITH = (
    "torch._decomp",
    "torch._prims",
    "torch._prims.debug_prims",
    "torch.utils._content_store",
    "torch._prims.rng_prims",
    "torch._prims_common.wrappers",
    "torch._decomp.decompositions",
    "torch._refs",
    "torch._refs._conversions",
    "torch._refs.fft",
    "torch._refs.linalg",
    "torch._refs.nn",
    "torch._refs.nn.functional",
    "torch._refs.special",
    "torch._meta_registrations",
)
"""What torch imports for them, in the order in which it begins with their own lines."""
_BESIDE = "torch.testing._internal.common_dtype"
"""What else it imports for them."""
_ASKS = ("torch._native.registry", "torch.utils._debug_mode._mode")
"""Modules that ask `inspect` in which module a line of theirs is, while they are imported."""
_DRAWS = "torch._prims.rng_prims"
"""The one that makes torch.Generator what torch.ops knows."""
_WORDS = ("debugprims", "prims", "rngprims")
"""Operators that come with them."""
_SPACES = ("aten", "mkl", "mkldnn", "onednn", "quantized", *_WORDS)
"""Where operators are that they register kernels of."""
_FIRST = ("empty.memory_format", "empty_strided", "tril_indices", "triu_indices", "_make_dep_token")
"""What makes each tensor on the device "meta" that is not made of another one, but for `torch.func.functionalize`."""
_ASKED = (
    "decompose",
    "_can_decompose",
    "has_kernel_for_dispatch_key",
    "has_kernel_for_any_dispatch_key",
    "_get_dispatch",
)
"""What tells of an operator which kernels there are."""


def load() -> None:
    """Import torch without them, unless it is there, or was not tried so: another version, or one with plug-ins."""
    if "torch" in sys.modules or not _tried() or (found := find_spec("torch")) is None:
        return
    if not found.submodule_search_locations:  # none that could lack something
        return
    folder = found.submodule_search_locations[0]
    try:
        stand_ins = {name: _StandIn(name, folder) for name in _WITH}
    except ModuleNotFoundError:  # a build that comes with something else
        return
    for name in _ASKS:  # `inspect` would find it out by resolving the paths of all modules there are: 20 ms
        inspect.modulesbyfile[str(Path(folder, *name.split(".")[1:]).with_suffix(".py"))] = name
    sys.modules.update(stand_ins)
    try:
        torch: Any = import_module("torch")
    except BaseException:
        for name in _WITH:
            del sys.modules[name]
        raise
    undo: list[Callable[[], object]] = []
    try:
        import_module(_BESIDE)
        for name in _WITH:
            _bind(name)
        for some in (_make_ready(torch), _notice(torch)):
            undo.extend(some)
    except BaseException as e:  # a release that is not like the others, or a signal: all of it, then
        _completion.undo = [*undo, _nothing]
        complete()
        if isinstance(e, Exception):
            return
        raise
    _completion.undo = undo
    if hasattr(os, "register_at_fork"):
        told = {"after_in_parent": _completion.forked, "after_in_child": _completion.born}
        os.register_at_fork(before=_completion.forks, **told)


def complete() -> None:
    """Import them too, if torch is there without; whoever wants them meanwhile waits.

    Raises:
        RuntimeError: their import failed, now or before.
    """
    if lacking():
        _completion.wait()


def lacking() -> bool:
    """Whether torch is there without them."""
    return bool(_completion.undo)


class _Completion:
    """The import of what is lacking, once, in a thread of its own.

    There it meets no mode of torch, no signal and no deep stack. Nor does it wait for anybody who waits for it: modules
    are filled where they stand, without the lock that whoever imports one holds.
    """

    def __init__(self) -> None:
        self.undo: list[Callable[[], object]] = []
        """What is to be done once the functions are there; nothing if they are."""
        self.first: dict[str, Callable[[], object]] = {}
        """What is to be done right before one of the modules is imported."""
        self._begins = threading.Lock()
        self._begun = False
        self._by: threading.Thread | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._here = threading.local()
        self._filled: set[str] = set()

    @property
    def _inside(self) -> bool:
        return getattr(self._here, "inside", False)

    def wait(self) -> None:
        """Return when it has been done.

        Where no thread is to be had, and at the end of the interpreter, which starts none any more, it is done here.
        """
        if self._inside:
            return
        if not self._begun:
            with suppress(RuntimeError, MemoryError):
                if not sys.is_finalizing():
                    threading.Thread(target=self._run, name="pipeline-torch-rest", daemon=True).start()
                    self._started.wait(1)
            self._run()
        while not self._ended.wait(1):
            died = sys.is_finalizing() or (self._by and not self._by.is_alive())
            if died and not self._ended.is_set():  # it may have been done meanwhile
                raise RuntimeError("torch lacks the rest of itself: the thread that was to import it has died")
        if self._error is not None:
            raise RuntimeError(f"torch could not import the rest of itself: {self._error}") from self._error

    def _run(self) -> None:
        with self._begins:
            if self._begun:
                return
            self._by, self._begun = threading.current_thread(), True
        self._here.inside = True
        self._started.set()
        try:
            modules = [sys.modules[name] for name in _WITH]
            for module in modules:
                self.fill(module)
            for module in modules:
                module.__class__ = ModuleType
            for each in self.undo:
                each()
            self.undo = []
        except BaseException as e:  # noqa: BLE001  (raised again where somebody waits; half of it cannot be mended)
            self._error = e
        finally:
            self._here.inside = False
            self._ended.set()

    def need(self, module: ModuleType, name: str) -> None:
        """Return when a module has this attribute, if it is to have it; in this thread, when it has been begun."""
        if name.startswith("__") and name != "__all__":  # asked of each module that there is
            return
        if self._inside:
            self.fill(module)
        elif self.undo:
            self.wait()

    def fill(self, module: ModuleType) -> None:
        """Import it into what stands in its place."""
        name, spec = module.__name__, module.__spec__
        if name not in self._filled:
            self._filled.add(name)
            assert spec is not None, name
            assert spec.loader is not None, name
            self.first.pop(name, _nothing)()
            spec.loader.exec_module(module)
            _bind(name)

    def forks(self) -> None:
        """Wait until the process can be doubled: a child has no thread that would go on.

        What is raised here, Python prints, and it forks all the same; so what a signal raises does not end the wait.
        """
        interrupt: BaseException | None = None
        held = False
        while not held:
            try:
                if not self._rests():
                    self._ended.wait(1)
                held = self._begins.acquire()
                if not self._rests():
                    self._begins.release()
                    held = False
            except BaseException as e:  # noqa: BLE001  (raised when it rests)
                interrupt = e
        if interrupt is not None:
            raise interrupt

    def _rests(self) -> bool:
        """Whether nothing is being imported, or only for whoever asks, or nothing ever will be."""
        return not self._begun or self._ended.is_set() or self._inside or sys.is_finalizing()

    def forked(self) -> None:
        """Go on."""
        self._begins.release()

    def born(self) -> None:
        """Go on as a child, in which nobody waits."""
        if not self._begun:
            self._started, self._ended = threading.Event(), threading.Event()
        self._begins.release()


class _StandIn(ModuleType):
    """Stands where a module will be; who looks for something in it waits until it is there."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        spec = PathFinder.find_spec(name, [str(Path(folder, *name.split(".")[1:-1]))])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        vars(self).update(vars(module_from_spec(spec)))

    def __getattribute__(self, name: str) -> Any:
        _completion.need(self, name)
        return ModuleType.__getattribute__(self, name)  # by now it may be one

    def __setattr__(self, name: str, value: Any) -> None:
        _completion.need(self, name)
        ModuleType.__setattr__(self, name, value)


def _bind(name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    vars(sys.modules[parent])[leaf] = sys.modules[name]


def _nothing() -> None:
    """There is nothing to be done."""


def _tried() -> bool:
    if sys.platform == "darwin":  # they register a kernel for MPS, too, which computes
        return False
    try:
        return bool(_TRIED.fullmatch(version("torch"))) and not entry_points(group="torch.backends")
    except Exception:  # noqa: BLE001  (no metadata, or damaged ones, of which torch itself asks nothing)
        return False


def _before(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> Callable[[], None]:
    """Bring them in before this is called, when its arguments are such; what is returned takes that back."""
    plain = getattr(owner, name)

    @wraps(plain)
    def first(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            complete()
        return plain(*args, **kwargs)

    def give_back() -> None:
        if vars(owner).get(name) is first:  # nobody has put something before it
            setattr(owner, name, plain)

    setattr(owner, name, first)
    return give_back


def _make_ready(torch: Any) -> Iterator[Callable[[], object]]:
    """Give torch.Generator what torch/_prims/rng_prims.py gives it, and each name of operators a place."""
    torch._C._set_generator_metaclass(import_module("torch._opaque_base").OpaqueBaseMeta)  # noqa: SLF001
    import_module("torch._library.opaque_object").register_opaque_type(torch.Generator, typ="reference")
    _completion.first[_DRAWS] = partial(torch._C._unregister_opaque_type, "torch._C.Generator")  # noqa: SLF001
    namespace: Any = torch._ops._OpNamespace  # noqa: SLF001

    class Words(namespace):  # type: ignore[misc]
        """Operators of which none is there yet."""

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("__"):
                complete()
            return namespace.__getattr__(self, name)  # this may be one by now

        def __iter__(self) -> Iterator[str]:
            complete()
            return iter(namespace.__iter__(self))

    for name in _WORDS:
        setattr(torch.ops, name, words := Words(name))
        torch.ops._dir.append(name)  # noqa: SLF001
        yield partial(setattr, words, "__class__", namespace)


def _notice(torch: Any) -> Iterator[Callable[[], object]]:
    """Stand before the operators that make a tensor on the device "meta", until the first call.

    And before who asks of an operator which kernels there are, and who registers kernels: they must come after those of
    torch to replace them.
    """
    watch = torch.library.Library("aten", "IMPL")
    for name in _FIRST:
        packet, _, overload = name.partition(".")

        def make(*args: Any, packet: str = packet, overload: str = overload or "default", **kwargs: Any) -> Any:
            complete()
            watch._destroy()  # noqa: SLF001  (the way to take registrations back)
            return getattr(getattr(torch.ops.aten, packet), overload)(*args, **kwargs)

        watch.impl(name, make, "Meta")
        _kept.append(torch.library.get_kernel(f"aten::{name}", "Meta"))
    torch.library._impls.difference_update(watch._op_impls)  # noqa: SLF001  (it counts who replaces kernels of torch)
    watch._op_impls.clear()  # noqa: SLF001

    yield watch._destroy  # noqa: SLF001
    yield _before(torch.library.Library, "impl", lambda library, *_, **__: library.ns in _SPACES)
    functions = import_module("torch._functorch.eager_transforms")
    yield _before(functions, "_func_increment_nesting")
    yield from (_before(torch, name) for name in ("_enable_functionalization", "_to_functional_tensor"))
    yield from (_before(torch._ops.OpOverload, name) for name in _ASKED)  # noqa: SLF001
    yield _before(type(torch.ops), "load_library")


_completion = _Completion()
_kept: list[object] = []
"""Kernels that stood before those of torch: another thread may be about to call one that is taken back."""
