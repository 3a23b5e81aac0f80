"""The devices, and the way from a name to one of them."""

from __future__ import annotations

import difflib
import re

from pipeline.core import Device
from pipeline.errors import ConfigError


def resolve(name: str | None = None) -> Device:
    """The device of that name: cpu, mps, cuda or cuda:1. None takes the first there is of cuda, mps and cpu.

    Raises:
        ConfigError: the name means nothing, or the device is not there; the message lists what is.
    """
    present = available()
    name = present[0] if name is None else name
    known = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,3}))?", name)
    if known is None:
        raise ConfigError(f"device={name}: no such device{_guess(name)}; available: {', '.join(present)}")
    index = int(known[1] or 0)
    full = f"cuda:{index}" if name.startswith("cuda") else name
    if full not in present:
        raise ConfigError(f"device={name}: {_why_absent(name, present)}; available: {', '.join(present)}")
    return _make(full, index)


def available() -> tuple[str, ...]:
    """Names of the devices of this machine, the preferred one first."""
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return (*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu")


def _make(full: str, index: int) -> Device:
    if full == "mps":
        from pipeline.device.mps import Mps

        return Mps()
    if full == "cpu":
        from pipeline.device.cpu import Cpu

        return Cpu()
    from pipeline.device.cuda import Cuda

    return Cuda(index)


def _guess(name: str) -> str:
    near = difflib.get_close_matches(name.lower().strip(), ["cuda", "cpu", "mps"], n=1)
    return f", did you mean {near[0]}" if near else ""


def _why_absent(name: str, present: tuple[str, ...]) -> str:
    import torch

    if name == "mps":
        built = torch.backends.mps.is_built()
        return "this machine has no Metal GPU that torch can use" if built else "this torch build has no MPS"
    if present[0].startswith("cuda"):
        return "there is no CUDA device of that index"
    built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    return "no CUDA device or driver was found" if built else "this torch build has no CUDA"
