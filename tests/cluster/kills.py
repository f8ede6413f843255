"""What the tests of faults on a cluster share: workers that are killed, and warnings of Ray's."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

RAY_MARKS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
KILLS = 20


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is not only not yet waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def killing(folder: Path, killed: list[int], ended: threading.Event) -> None:
    """Kill a random worker now and then, of those that left their number in a folder."""
    generator = random.Random(0)
    while len(killed) < KILLS and not ended.wait(0.2):
        living = [pid for pid in map(int, sorted(os.listdir(folder))) if is_alive(pid)]
        if living:
            killed.append(generator.choice(living))
            os.kill(killed[-1], signal.SIGKILL)
