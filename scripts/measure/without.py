"""The stage without some of what makes its output durable, to see what that costs: python -m measure.without WHAT ...

WHAT is `hash` (no SHA-256 of the output) or `manifest` (that, and neither journal, manifest nor report). Nothing of the
kind is offered to users: an output without them cannot be resumed or checked.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from pipeline import files, run
from pipeline.__main__ import main
from pipeline.manifest import Manifest

ZEROS = "0" * 64


class _Hash:
    """Takes bytes and looks at none."""

    def update(self, _: object) -> None:
        pass

    def hexdigest(self) -> str:
        return ZEROS


def leave_out(what: str) -> None:
    """Replace what is to be left out, in this process."""
    for target, name in ((files, "hashlib"), (Manifest, "commit"), (Manifest, "finish"), (run, "_report")):
        if not hasattr(target, name):
            sys.exit(f"measure.without: there is no {name} any more; what it measured has moved")
    nothing: dict[str, Any] = {"hashlib": SimpleNamespace(sha256=_Hash, file_digest=lambda *_: _Hash())}
    setattr(files, "hashlib", nothing["hashlib"])  # noqa: B010  (mypy knows it as a module)
    if what == "manifest":
        setattr(Manifest, "commit", lambda *_: None)  # noqa: B010
        setattr(Manifest, "finish", lambda *_: {})  # noqa: B010
        setattr(run, "_report", lambda *_: {"state": "done"})  # noqa: B010


if __name__ == "__main__":
    leave_out(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
