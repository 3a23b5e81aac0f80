"""Buffers come back when nobody has them any more, and not before."""

from __future__ import annotations

import pickle
import threading

import numpy as np

from pipeline.buffers import Buffers
from pipeline.tensors import to_array, to_tensor


def test_what_is_let_go_is_lent_again() -> None:
    """The same memory, with what was left in it."""
    buffers = Buffers()
    first = buffers.take(10, 4096)
    first[:] = 7
    place = first.ctypes.data
    del first
    again = buffers.take(4096, 4096)
    assert again.ctypes.data == place
    assert again[:10].tolist() == [7] * 10
    assert again.flags.writeable


def test_views_and_tensors_keep_theirs() -> None:
    """Whatever has become of an array: its memory is nobody else's."""
    buffers = Buffers()
    held = [
        buffers.take(4096, 4096)[8:16],
        buffers.take(4096, 4096).view(np.float32).reshape(4, -1, order="F"),
        to_tensor(buffers.take(4096, 4096), "x", share=True)[1:],
        to_array(to_tensor(buffers.take(4096, 4096), "x", share=True)[::2], "x"),
        buffers.take(4096, 4096).data,
    ]
    others = {buffers.take(4096, 4096).ctypes.data for _ in range(9)}
    assert len(others) == 1
    assert others.isdisjoint(np.asarray(each).ctypes.data // 4096 * 4096 for each in held)
    places = {np.asarray(each).ctypes.data // 4096 * 4096 for each in held} | others
    held.clear()
    again = [buffers.take(4096, 4096) for _ in range(6)]
    assert {each.ctypes.data for each in again} == places


def test_buffers_of_another_size_go() -> None:
    """Those that are out go when they come back."""
    buffers = Buffers()
    old = buffers.take(4096, 4096)
    large = buffers.take(8192, 8192)
    del old
    other = buffers.take(8192, 8192)  # what came back is too small for it
    large[:], other[:] = 1, 2
    assert large.tolist() == [1] * 8192


def test_threads_take_them_in_several_sizes() -> None:
    """A buffer never comes in another size than was asked for, though those of one size go when another is wanted."""
    buffers = Buffers()
    errors: list[Exception] = []

    def use(room: int) -> None:
        try:
            for _ in range(3000):
                held = [buffers.take(room, room) for _ in range(3)]
                assert {len(each) for each in held} == {room}
        except Exception as e:  # noqa: BLE001  (told in the thread of the test)
            errors.append(e)

    threads = [threading.Thread(target=use, args=(4096 << n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_threads_share_them() -> None:
    """No two have the same at once."""
    buffers = Buffers()
    wrong: list[int] = []

    def use(mark: int) -> None:
        for _ in range(200):
            mine = buffers.take(4096, 4096)
            mine[:] = mark
            if not (mine == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_they_stay_where_they_are() -> None:
    """A pickle has no memory in it."""
    buffers = Buffers()
    buffers.take(9, 4096)
    assert len(pickle.dumps(buffers)) < 200
