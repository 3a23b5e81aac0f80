"""Apple's Metal: plain copies, since its asynchronous ones corrupt data without a word (pytorch 139550, 189690)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.core import Arrays, Staged, Tensors
from pipeline.errors import DTypeError
from pipeline.tensors import check_device, to_array, to_tensors

_WIDE = (torch.float64, torch.complex128)


@dataclass(frozen=True)
class Mps:
    """Runs the transform on the GPU of a Mac. Each copy is done when the call returns; there is no float64.

    Attributes:
        device: where torch puts the tensors.
        copy_bytes: largest single copy. Copies of 4 GiB and more came out wrong (pytorch 124335).
    """

    device: torch.device = field(default_factory=lambda: torch.device("mps", 0))
    copy_bytes: int = 1 << 30
    name = "mps"
    shares = False

    def upload(self, arrays: Arrays) -> Staged:
        """Copy the arrays to the device."""
        host = to_tensors(arrays, share=True)
        for name, tensor in host.items():
            if tensor.dtype in _WIDE:
                narrow = "float32" if tensor.dtype == torch.float64 else "complex64"
                raise DTypeError(
                    f"column {name!r} is {str(tensor.dtype).removeprefix('torch.')}, which MPS does not have; run with "
                    f"device=cpu, or make it {narrow} first (device=cpu transform=cast), or carry it"
                )
        return Staged({name: self._copy(tensor, self.device) for name, tensor in host.items()})

    def compute(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()

    def ready(self, staged: Staged) -> Tensors:
        """The tensors."""
        return staged.tensors

    def leave(self, tensors: Tensors) -> Staged:
        """Make the tensors dense, with signs and conjugates applied: copies to the host ignored them."""
        check_device(tensors, self.device, self.name)
        return Staged({name: t.detach().resolve_conj().resolve_neg().contiguous() for name, t in tensors.items()})

    def download(self, staged: Staged) -> Arrays:
        """Copy the tensors to the host."""
        host = {name: self._copy(tensor, torch.device("cpu")) for name, tensor in staged.tensors.items()}
        return {name: to_array(tensor, name) for name, tensor in host.items()}

    @torch.inference_mode(False)
    def _copy(self, source: Tensor, device: torch.device) -> Tensor:
        source = source.contiguous()
        target = torch.empty(source.shape, dtype=source.dtype, device=device)
        step = max(self.copy_bytes // source.element_size(), 1)
        for ours, theirs in zip(torch.split(target.view(-1), step), torch.split(source.view(-1), step), strict=True):
            ours.copy_(theirs)
        return target
