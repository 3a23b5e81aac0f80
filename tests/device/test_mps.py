import pickle

import numpy as np
import pytest
import torch

from pipeline.device.mps import Mps
from pipeline.errors import DTypeError, TransformError
from pipeline.testing.device import DTYPES, DeviceContract, identity, one_by_one

NARROW = tuple(dtype for dtype in DTYPES if dtype not in ("float64", "complex128"))
CPU = torch.device("cpu")


class TestMpsLogicOnTheCpu(DeviceContract):
    """The same code with small copies and the CPU for a GPU."""

    dtypes = NARROW

    def make(self) -> Mps:
        return Mps(device=CPU, copy_bytes=100)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")
class TestMps(DeviceContract):
    dtypes = tuple(dtype for dtype in NARROW if dtype not in ("uint16", "uint32", "uint64"))

    def make(self) -> Mps:
        return Mps()


@pytest.mark.parametrize(("dtype", "narrow"), [("float64", "float32"), ("complex128", "complex64")])
def test_what_metal_does_not_have_is_refused_by_column(dtype: str, narrow: str) -> None:
    """It is found before the device is touched, and the message names the way out."""
    with pytest.raises(DTypeError, match=rf"column 'x' is {dtype}.*device=cpu.*{narrow}.*transform=cast"):
        Mps().upload({"x": np.zeros(3, dtype)})


def test_a_large_column_goes_in_several_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No single copy is larger than `copy_bytes`."""
    sizes: list[int] = []
    real = torch.Tensor.copy_

    def copy(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        sizes.append(source.nbytes)
        return real(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    x = np.arange(100, dtype=np.int64)
    (found,) = one_by_one(Mps(device=CPU, copy_bytes=300), [{"x": x}], identity)
    assert found["x"].tolist() == x.tolist()
    assert max(sizes) <= 300
    assert sum(sizes) == 2 * x.nbytes


def test_signs_and_conjugates_are_applied_before_the_copy() -> None:
    """Copies from Metal ignored the lazy bits of a tensor."""
    z = np.array([1 + 2j, 3 - 4j], np.complex64)
    device = Mps(device=CPU)
    left = device.leave({"z": torch.from_numpy(z).conj(), "y": torch.from_numpy(z).conj().imag})
    assert not left.tensors["z"].is_conj()
    assert not left.tensors["y"].is_neg()
    found = device.download(left)
    assert (found["z"].tolist(), found["y"].tolist()) == ([1 - 2j, 3 + 4j], [-2, 4])


def test_a_tensor_left_elsewhere_is_an_error_of_the_transform() -> None:
    """The message names the column and both devices."""
    with pytest.raises(TransformError, match="column 'x' is on cpu; .* must return tensors on mps"):
        Mps().leave({"x": torch.zeros(3)})


def test_it_pickles() -> None:
    """A worker can be sent to another process with its device."""
    assert pickle.loads(pickle.dumps(Mps())) == Mps()
