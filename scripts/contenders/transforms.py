"""What is done to the rows of each workload, in plain torch. Every contender that runs torch calls these."""

from __future__ import annotations

from pathlib import Path

import torch
from constants import CHANNEL_MEAN, CHANNEL_STD, MEAN, STD
from safetensors.torch import load_file
from torch import Tensor, nn

# Shapes: N rows, F features, C channels, H height, W width


def scale(x_NF: Tensor) -> Tensor:
    """W1, W3: each feature around 0, at most 5 away."""
    mean, std = torch.tensor(MEAN, device=x_NF.device), torch.tensor(STD, device=x_NF.device)
    return (x_NF - mean).mul_(1 / std).clamp_(-5, 5)


def scale_one(x_N: Tensor, feature: int) -> Tensor:
    """The same for one feature."""
    return (x_N - MEAN[feature]).mul_(1 / STD[feature]).clamp_(-5, 5)


def embedding(folder: str | Path) -> nn.Module:
    """W2: from 256 numbers to 64, with the weights that lie beside the data."""
    module = nn.Sequential(nn.Linear(256, 64), nn.GELU())
    module.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return module.eval()


def unit(x_NF: Tensor) -> Tensor:
    """W4: rows of length 1."""
    return nn.functional.normalize(x_NF, dim=1)


def shrink(image_NCHW: Tensor) -> Tensor:
    """W5: pixels of 0 to 255 to normalised channels of half the height and width, in float16."""
    mean, std = (torch.tensor(c, device=image_NCHW.device).view(3, 1, 1) for c in (CHANNEL_MEAN, CHANNEL_STD))
    x_NCHW = image_NCHW.float().div_(255).sub_(mean).div_(std)
    return nn.functional.avg_pool2d(x_NCHW, 2).half()
