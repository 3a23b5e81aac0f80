"""A run that ends with the process that started it, even if that one is killed: `python -m pipeline.sweep.tether ARGS`.

Standard input is the tether. Nothing ever comes through it; when whoever holds its other end is gone, however it went,
it ends. That works on every system, and there is no moment in which the end of the parent is missed.
"""

from __future__ import annotations

import os
import signal
import threading


def tie() -> None:
    """Send SIGTERM to this process when its standard input ends; what reads that finds it empty from now on."""
    tether = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_hold, args=(tether,), name="pipeline-tether", daemon=True).start()


def _hold(tether: int) -> None:
    while os.read(tether, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    tie()
    from pipeline.__main__ import script

    script()
