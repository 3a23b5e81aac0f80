"""What every layer of torch.nn makes of fixed numbers, as digests by name: `python -m tests.layers [lean]`.

With `lean`, torch comes as a job has it (`pipeline.lean`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from pipeline import lean

ROWS, LINE, IMAGE, VOLUME = (3, 4), (2, 4, 6), (2, 4, 6, 6), (2, 4, 6, 6, 6)
SHAPES = {
    "1d": LINE, "2d": IMAGE, "3d": VOLUME, "GRU": LINE, "LSTM": LINE, "RNN": LINE, "MultiheadAttention": LINE,
    "Transformer": LINE, "TransformerDecoderLayer": LINE, "TransformerEncoderLayer": LINE, "ChannelShuffle": IMAGE,
    "PixelShuffle": IMAGE, "PixelUnshuffle": IMAGE, "Unfold": IMAGE, "Upsample": IMAGE, "LocalResponseNorm": IMAGE,
    "Fold": (2, 4, 9),
}  # fmt: skip
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Bilinear": (4, 4, 2), "ChannelShuffle": (2,), "CrossMapLRN2d": (2,), "Embedding": (5, 3), "EmbeddingBag": (5, 3),
    "Fold": ((4, 4), 2), "GRU": (6, 3), "GRUCell": (4, 3), "GroupNorm": (2, 4), "LSTM": (6, 3), "LSTMCell": (4, 3),
    "Linear": (4, 2), "LocalResponseNorm": (2,), "MultiheadAttention": (6, 2), "PixelShuffle": (2,),
    "PixelUnshuffle": (2,), "RNN": (6, 3), "RNNCell": (4, 3), "Threshold": (0.1, 0.2), "Transformer": (6, 2, 1, 1, 8),
    "TransformerDecoderLayer": (6, 2, 8), "TransformerEncoderLayer": (6, 2, 8), "Unflatten": (1, (2, 2)),
    "Unfold": (2,), "Upsample": (None, 2), "UpsamplingBilinear2d": (None, 2), "UpsamplingNearest2d": (None, 2),
}  # fmt: skip
KINDS = {
    "ConstantPad": (1, 0.5), "Pad": (1,), "Conv": (4, 2, 3), "Norm": (4,), "FractionalMaxPool": (2, 3),
    "LPPool": (2, 2), "Pool": (2,), "MaxUnpool": (2,),
}  # fmt: skip
TWO = ("Bilinear", "CosineSimilarity", "PairwiseDistance", "Transformer", "TransformerDecoderLayer")
OTHERS = {
    "Container", "DataParallel", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential",
    "TransformerDecoder", "TransformerEncoder", "RNNBase", "RNNCellBase",
    "SyncBatchNorm",
}  # fmt: skip
"""What holds layers, what they are made from, and what wants several processes."""


def names() -> list[str]:
    """All layers that compute, but for losses."""
    from torch import nn

    found = [name for name, value in vars(nn).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    return sorted(name for name in found if name not in OTHERS and not name.startswith("Lazy") and "Loss" not in name)


def arguments(name: str) -> tuple[Any, ...]:
    """What a layer is made with."""
    return ARGUMENTS.get(name) or next((given for kind, given in KINDS.items() if kind in name), ())


def inputs(name: str) -> Iterator[Any]:
    """What a layer is given."""
    import torch

    shape = SHAPES.get(name) or SHAPES.get(name[-2:], ROWS)
    if name.startswith("Embedding"):
        yield torch.arange(4).reshape(2, 2)
    elif name.startswith("MaxUnpool"):
        small = tuple(n if n < 6 else 3 for n in shape)
        yield numbers(small)
        yield (torch.arange(3) * 2).expand(small).contiguous()
    else:
        yield from [numbers(shape)] * (3 if name == "MultiheadAttention" else 1 + (name in TWO))


def numbers(shape: tuple[int, ...]) -> Any:
    """Some positive numbers below 1, different in each place."""
    import torch

    count = int(torch.tensor(shape).prod())
    return ((torch.arange(count) * 37 % 101 + 1) / 103).reshape(shape)


def digest(found: Any) -> str:
    """Of the bits of tensors, also nested."""
    if isinstance(found, tuple):
        return hashlib.sha256("".join(map(digest, found)).encode()).hexdigest()
    return hashlib.sha256(str(found.dtype).encode() + found.float().numpy().tobytes()).hexdigest()


def made(name: str) -> list[str]:
    """What a layer makes, also as a job with autocast has it."""
    import torch

    torch.manual_seed(0)
    layer = getattr(torch.nn, name)(*arguments(name)).eval()
    with torch.inference_mode():
        plain = digest(layer(*inputs(name)))
        try:
            with torch.autocast("cpu", torch.bfloat16):
                return [plain, digest(layer(*inputs(name)))]
        except RuntimeError as e:  # not every processor has it all
            return [plain, str(e)]


if __name__ == "__main__":
    if sys.argv[1:] == ["lean"]:
        lean.load()
    warnings.simplefilter("ignore")
    told = {name: made(name) for name in names()}
    print(json.dumps({"layers": told, "whole": not lean.lacking()}))
