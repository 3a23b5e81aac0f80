"""The engine of one process."""

from __future__ import annotations

from pipeline.core import Engine
from pipeline.engine.local import Local
from pipeline.testing.engine import EngineContract


class TestLocal(EngineContract):
    """Keeps the contract."""

    def make(self) -> Engine:
        return Local()
