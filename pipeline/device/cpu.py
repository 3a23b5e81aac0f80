"""The CPU: tensors use the memory of the arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from pipeline.core import Arrays, Staged, Tensors
from pipeline.tensors import check_device, to_array, to_tensors


@dataclass(frozen=True)
class Cpu:
    """Runs the transform on the CPU, without a copy on the way in or out.

    A transform that writes in place writes to the arrays, and one that returns the same memory for every batch
    overwrites what is still being stored.
    """

    name = "cpu"
    shares = True
    concurrent = True
    advice = "+device=cuda, or in long jobs transform=compiled: small steps over the same rows took a sixth"

    def upload(self, arrays: Arrays) -> Staged:
        """Wrap the arrays as tensors."""
        return Staged(to_tensors(arrays, share=True))

    def compute(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()

    def ready(self, staged: Staged) -> Tensors:
        """The tensors."""
        return staged.tensors

    def leave(self, tensors: Tensors) -> Staged:
        """Check that the transform left its tensors here."""
        check_device(tensors, torch.device("cpu"), self.name)
        return Staged(tensors)

    def download(self, staged: Staged) -> Arrays:
        """Wrap the tensors as arrays."""
        return {name: to_array(tensor, name) for name, tensor in staged.tensors.items()}
