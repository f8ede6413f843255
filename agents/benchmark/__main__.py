"""``python -m agents.benchmark``: see `agents.benchmark.program`."""

from __future__ import annotations

from agents.benchmark.program import app
from agents.console import plain_warnings

if __name__ == "__main__":
    plain_warnings()
    app(prog_name="python -m agents.benchmark")
