"""Mutated files through the stage. Run as a program, it takes seeds such as npy-7 and prints what came of each.

Many seeds share a process, which dies of an abort or a hang; the parent knows from the last line which seed did it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_MEMORY = 12 << 30
_SECONDS = 30

Mutation = Callable[[random.Random, bytearray], None]


def flip_a_bit(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_near_an_end(rng: random.Random, data: bytearray) -> None:
    """Headers and footers, where one bit decides about all that follows."""
    at = rng.randrange(min(512, len(data)))
    data[at if rng.random() < 0.5 else -1 - at] ^= 1 << rng.randrange(8)


def set_bytes(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.randint(1, 16)] = rng.choice((b"\x00", b"\xff", b"\x80", b"'")) * rng.randint(1, 16)


def set_a_number(rng: random.Random, data: bytearray) -> None:
    """A length or an offset that is huge, negative or nearly right."""
    number = rng.choice((0, 1, 2**31 - 1, -1, 2**31, 2**63 - 1, rng.randrange(2**16), len(data)))
    at = rng.randrange(max(1, len(data) - 8))
    data[at : at + 8] = struct.pack("<q", number)


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 64)]


def repeat(rng: random.Random, data: bytearray) -> None:
    at, size = rng.randrange(len(data)), rng.randint(1, 256)
    data[at:at] = data[at : at + size]


def move(rng: random.Random, data: bytearray) -> None:
    """What stands in one place also stands in another."""
    a, b, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.randint(1, 128)
    data[a : a + size] = data[b : b + size]


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit, flip_near_an_end, flip_near_an_end, set_bytes, set_a_number, cut, cut_out, repeat, move,
)  # fmt: skip


def mutated(seed: str) -> bytes:
    """The file of this seed, from one of several layouts."""
    rng = random.Random(seed)
    data = bytearray(_whole(seed.partition("-")[0], rng.randrange(4)))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            rng.choice(MUTATIONS)(rng, data)
    return bytes(data)


def _whole(format_: str, layout: int) -> bytes:
    x = np.random.default_rng(layout).normal(size=(100, 3))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"x.{format_}")
        if format_ == "npy":
            np.save(file, [x, x.astype(">f4"), np.asfortranarray(x), np.arange(100, dtype=np.uint8)][layout])
        elif format_ == "npz":
            save = np.savez_compressed if layout % 2 else np.savez
            save(file, a=np.arange(100), b=x if layout < 2 else np.asfortranarray(x))
        else:
            words = [None if i % 9 == 4 else f"w{i % 7}" for i in range(100)]
            table = pa.table(
                {"id": np.arange(100), "x": x[:, 0], "word": words, "list": [[i] * (i % 3) for i in range(100)]}
            )
            codec = ("none", "snappy", "zstd", "gzip")[layout]
            pq.write_table(
                table, file, row_group_size=40, compression=codec, write_page_checksum=True, use_dictionary=layout > 1
            )
        return file.read_bytes()


def outcome(format_: str, folder: Path) -> tuple[int, str]:
    """Exit code and message of the stage on `in.*`."""
    from pipeline.__main__ import describe
    from pipeline.device.cpu import Cpu
    from pipeline.engine.local import Local
    from pipeline.run import Options, run
    from pipeline.sink.npy import Npy as NpyOut
    from pipeline.sink.npz import Npz as NpzOut
    from pipeline.sink.parquet import Parquet as ParquetOut
    from pipeline.source.npy import Npy
    from pipeline.source.npz import Npz
    from pipeline.source.parquet import Parquet
    from pipeline.transform.identity import Identity

    path, out = f"{folder}/in.{format_}", f"{folder}/out.{format_}"
    try:
        source: Any = {"npy": Npy, "npz": Npz, "parquet": Parquet}[format_](path)
        sink: Any = {"npy": NpyOut, "npz": NpzOut, "parquet": ParquetOut}[format_](out)
        options = Options(progress="none", stream_depth=0)
        run(source=source, transform=Identity(), sink=sink, engine=Local(), device=Cpu(), options=options)
    except Exception as e:  # noqa: BLE001  (what the front door would make of it)
        return describe(e)
    return 0, ""


def trouble(format_: str, folder: Path, code: int, message: str) -> str:
    """What is wrong with an outcome; empty if nothing."""
    file, out = folder / f"in.{format_}", folder / f"out.{format_}"
    if code != 0:
        if code not in (65, 66) or str(file) not in message or "\n" in message:
            return f"exit code {code}: {message}"
        return "a part was published" if out.exists() else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "" if _same(format_, file, out) else "the output differs from what the library reads"
        except Exception as e:  # noqa: BLE001
            return f"accepted, and the library says {type(e).__name__}: {e}"


def _same(format_: str, file: Path, out: Path) -> bool:
    if format_ == "parquet":
        expected, found = (pq.read_table(p, page_checksum_verification=True) for p in (file, out))
        return bool(expected.num_rows == found.num_rows and expected.equals(found))
    if format_ == "npy":
        return _equal(np.load(file), np.load(out))
    with np.load(file) as expected, np.load(out) as found:
        return expected.files == found.files and all(_equal(expected[n], found[n]) for n in expected.files)


def _equal(a: Any, b: Any) -> bool:
    if a.ndim == 0:  # travels as one row
        a = a.reshape(1)
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def main(seeds: list[str]) -> None:
    """Before each seed its number, so that the parent knows the one that ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    for seed in seeds:
        format_ = seed.partition("-")[0]
        print(json.dumps({"seed": seed}), flush=True)
        folder = Path(tempfile.mkdtemp(prefix="hostile-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        (folder / f"in.{format_}").write_bytes(mutated(seed))
        signal.alarm(_SECONDS)
        kept = os.dup(2)
        os.dup2(null, 2)
        code, message = outcome(format_, folder)
        os.dup2(kept, 2)
        os.close(kept)
        print(json.dumps({"seed": seed, "code": code}), flush=True)
        found = trouble(format_, folder, code, message)
        signal.alarm(0)
        print(json.dumps({"seed": seed, "code": code, "trouble": found, "message": message}), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
