"""Memory that is used again and again: fresh pages are dear, and what was just read stays in the cache."""

from __future__ import annotations

import mmap

import numpy as np

from pipeline.core import Array


class Buffers:
    """Buffers of one size. Each comes back by itself, once no array, view or tensor is left on it.

    They are mapped, not allocated: NumPy asks for huge pages for what is large, and the system, which clears them one
    by one, takes several times as long to give them.
    """

    def __init__(self) -> None:
        self._kept: tuple[int, list[mmap.mmap]] = 0, []

    def take(self, size: int, room: int) -> Array:
        """`size` bytes in a buffer of `room`, uint8; they hold what the last user left. Buffers of another size go."""
        kept = self._kept  # size and list are looked up at once: other threads take buffers of other sizes
        if room != kept[0]:
            self._kept = kept = room, []
        idle = kept[1]
        try:
            memory = idle.pop()
        except IndexError:
            memory = mmap.mmap(-1, room)
        return np.asarray(_Lent(memory, size, idle))

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        """Memory does not travel."""
        return Buffers, ()


class _Lent:
    """What NumPy keeps as the base of all arrays on a buffer; it dies with the last of them."""

    def __init__(self, memory: mmap.mmap, size: int, idle: list[mmap.mmap]) -> None:
        self._memory = memory
        self._idle = idle
        self.__array_interface__ = np.frombuffer(memory, np.uint8, size).__array_interface__

    def __del__(self) -> None:
        self._idle.append(self._memory)
