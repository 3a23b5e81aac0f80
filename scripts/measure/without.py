"""The stage without some of what makes its output durable, to see what that costs: python -m measure.without WHAT ...

WHAT is `hash` (no SHA-256 of the output) or `manifest` (that, and neither journal, manifest nor report). Nothing of the
kind is offered to users: an output without them cannot be resumed or checked.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from pipeline import files, run
from pipeline.__main__ import main
from pipeline.manifest import Manifest

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
    """Replace what is to be left out, in this process."""
    _replace(files, "hashlib", SimpleNamespace(sha256=_Hash, file_digest=lambda *_: _Hash()))
    if what == "manifest":
        _replace(Manifest, "commit", lambda *_: None)
        _replace(Manifest, "finish", lambda *_: {})
        _replace(run, "_report", lambda *_: {"state": "done"})


def _replace(owner: object, name: str, by: object) -> None:
    if not hasattr(owner, name):
        sys.exit(f"measure.without: there is no {name} any more; what it measured has moved")
    setattr(owner, name, by)


if __name__ == "__main__":
    leave_out(sys.argv[1])
    code = main(sys.argv[2:])
    sys.exit(code if _Hash.asked else "measure.without: the output was hashed all the same; it is done elsewhere now")
