import pickle

import numpy as np
import pytest
import torch

from pipeline.device.cpu import Cpu
from pipeline.errors import DTypeError, TransformError
from pipeline.testing.device import DeviceContract, identity, one_by_one


class TestCpu(DeviceContract):
    def make(self) -> Cpu:
        return Cpu()


def test_no_byte_is_copied_on_the_way_through() -> None:
    """An identity on the CPU hands out the memory that came in."""
    x = np.arange(10.0)
    (found,) = one_by_one(Cpu(), [{"x": x}], identity)
    assert found["x"].ctypes.data == x.ctypes.data


def test_a_tensor_left_elsewhere_is_an_error_of_the_transform() -> None:
    """The message names the column and both devices."""
    with pytest.raises(TransformError, match=r"column 'x' is on meta; .* must return tensors on cpu"):
        Cpu().leave({"x": torch.empty(3, device="meta")})


def test_bfloat16_is_refused_by_column() -> None:
    """NumPy has no bfloat16, so the column is named and the cast proposed."""
    with pytest.raises(DTypeError, match="column 'x' is bfloat16.*transform=cast"):
        one_by_one(Cpu(), [{"x": np.arange(3.0)}], lambda t: {"x": t["x"].bfloat16()})


def test_it_pickles() -> None:
    """A worker can be sent to another process with its device."""
    assert pickle.loads(pickle.dumps(Cpu())) == Cpu()
