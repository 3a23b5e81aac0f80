import pytest
import torch

from pipeline.device import available, resolve
from pipeline.errors import ConfigError

no_cuda = pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a CUDA device")


def test_cpu_is_always_there() -> None:
    """It is the last choice, and its own name."""
    assert available()[-1] == "cpu"
    assert resolve("cpu").name == "cpu"


def test_null_takes_the_best_device() -> None:
    """The default runs anywhere."""
    assert resolve(None).name == available()[0]


@pytest.mark.parametrize(
    ("name", "guess"), [("cudo", "cuda"), ("CPU", "cpu"), ("cuda:", "cuda"), ("mp", "mps"), ("gpu", ""), ("", "")]
)
def test_a_misspelled_device_is_one_clear_line(name: str, guess: str) -> None:
    """It says what it looks like and what there is."""
    with pytest.raises(ConfigError, match=f"^device={name}: no such device.*{guess}.*; available: .*cpu$"):
        resolve(name)


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_an_absent_cuda_says_why(name: str) -> None:
    """A torch without CUDA is a different thing from a machine without a driver."""
    built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    why = "no CUDA device or driver was found" if built else "this torch build has no CUDA"
    with pytest.raises(ConfigError, match=f"^device={name}: {why}; available: .*cpu$"):
        resolve(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_an_absent_mps_says_why() -> None:
    """One line, with what is available."""
    with pytest.raises(ConfigError, match="^device=mps: .*(MPS|Metal).*; available: .*cpu$"):
        resolve("mps")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="no CUDA device")
def test_cuda_by_name_and_by_index() -> None:
    """cuda is the first one; an index beyond the last is refused."""
    assert resolve("cuda").name == resolve("cuda:0").name == resolve(None).name == "cuda:0"
    with pytest.raises(ConfigError, match="device=cuda:99: there is no CUDA device of that index"):
        resolve("cuda:99")
