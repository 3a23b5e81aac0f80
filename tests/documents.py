"""What pages of the documentation show, taken out of them and run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str, marked: str = "") -> list[str]:
    """Command lines of a page that start one of our modules, without comments; those marked with some words, or all."""
    lines = [line for kind, text in blocks(page) if kind == "bash" for line in text.splitlines() if line]
    lines = [line for line in lines if marked in line]
    plain = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [line for line in plain if line.startswith("python -m pipeline")]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(command: str, folder: Path) -> Done:
    """Run a command line in this process, which has torch loaded."""
    _, _, module, *args = shlex.split(command)
    main = import_module("pipeline.__main__" if module == "pipeline" else module).main
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(errors):
        code = main(args)
    return Done(code, out.getvalue(), errors.getvalue())
