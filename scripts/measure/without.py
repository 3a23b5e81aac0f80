"""The stage without some of what makes its output durable, to see what that costs: python -m measure.without WHAT ...

WHAT is `hash` (no SHA-256 of the output) or `manifest` (that, and neither journal, manifest nor report). Nothing of the
kind is offered to users: an output without them cannot be resumed or checked.
"""

from __future__ import annotations

import atexit
import os
import sys
from types import SimpleNamespace
from typing import Any

from pipeline import config, files
from pipeline.__main__ import script

ZEROS = "0" * 64


class _Hash:
    """Takes bytes and looks at none."""

    asked = 0

    def update(self, _: object) -> None:
        pass

    def hexdigest(self) -> str:
        _Hash.asked += 1
        return ZEROS


def leave_out(what: str) -> None:
    """Replace what is to be left out, in this process: each when it is loaded, so that the start is that of a run."""
    _replace(files, "hashlib", SimpleNamespace(sha256=_Hash, file_digest=lambda *_: _Hash()))
    if what == "manifest":
        build = config.build

        def built(*args: Any) -> Any:
            _leave_out_manifest()
            return build(*args)

        _replace(config, "build", built)


def _leave_out_manifest() -> None:
    from pipeline import run
    from pipeline.manifest import Manifest

    _replace(Manifest, "commit", lambda *_: None)
    _replace(Manifest, "finish", lambda *_: {})
    _replace(run, "_report", lambda *_: {"state": "done"})


def _replace(owner: object, name: str, by: object) -> None:
    if not hasattr(owner, name):
        sys.exit(f"measure.without: there is no {name} any more; what it measured has moved")
    setattr(owner, name, by)


def _check() -> None:
    if not _Hash.asked:
        sys.stderr.write("measure.without: the output was hashed all the same; it is done elsewhere now\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    leave_out(sys.argv.pop(1))
    atexit.register(_check)
    script()
