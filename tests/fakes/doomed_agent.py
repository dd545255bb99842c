"""Runs the agent and kills it, with SIGKILL, right after its update record says a state for the first time.

`python -m tests.fakes.doomed_agent STATE MARK run --config FILE`: the record is durable, nothing that follows from it
is done. MARK is a file that is made at that moment; while it is there the agent is left alone. The agent's own code is
untouched: what is watched is the rename by which every record is saved.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from edge_agent.update.record_file import NAME


def doom(state: str, mark: Path) -> None:
    """Ends this process once a record with `state` has been renamed into place."""
    real = os.replace

    def replace(source: Any, target: Any, **more: Any) -> None:
        real(source, target, **more)
        path = Path(target)
        if path.name == NAME and not mark.exists() and json.loads(path.read_bytes())["state"] == state:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


if __name__ == "__main__":
    doom(sys.argv[1], Path(sys.argv[2]))
    sys.argv = ["ahs-edge", *sys.argv[3:]]
    from edge_agent.cli import app

    app()
