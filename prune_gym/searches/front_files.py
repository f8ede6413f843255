"""The front of a run on disk: saved as a whole now and then, its newest networks one by one.

The whole front may be large. What enters it between two savings goes to a log, masks and all,
before its row goes to ``episodes.csv``: a process that is killed loses no network.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.errors import InvalidValueError, RunFolderError
from prune_gym.problem.archive import Candidate, Front

SAVING_SHARE = 0.05  # of the time of a search that saving the front may take


class FrontFiles:
    """``front.npz`` and ``front.jsonl``, a JSON object a line.

    Args:
        path: of the whole front.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path.with_suffix(".jsonl")
        self._saved = 0  # number of the last network that changed the saved front
        self._due = 0.0

    def restore(self, saved: Front, until: int) -> Front:
        """The saved front with the networks of the log.

        Args:
            saved: as it was saved.
            until: number of the last evaluation that counts.

        Raises:
            RunFolderError: the log is damaged; a last line that was cut off is left out.
        """
        return self._replayed(saved, list(self._logged()), until)

    def read(self, until: int) -> Front:
        """What is on disk, while a search may write it; empty where there is nothing.

        Raises:
            RunFolderError: a file is damaged.
        """
        logged = list(self._logged())  # first: what is not in the log any more is in the front
        saved = Front.load(self.path, RunFolderError) if self.path.is_file() else Front()
        return self._replayed(saved.until(until), logged, until)

    def _replayed(self, saved: Front, logged: list[Candidate], until: int) -> Front:
        self._saved = saved.newest
        for one in logged:
            if saved.newest < one.number <= until:
                saved.add(one.number, one.accuracy, one.costs, one.masks)
        return saved

    def note(self, front: Front, number: int) -> None:
        """Log the network of an evaluation, if it is in the front."""
        for one in front:
            if one.number == number:
                row = {
                    "number": one.number,
                    "accuracy": one.accuracy,
                    "costs": one.costs,
                    "sizes": one.sizes,
                    "bits": base64.b64encode(one.bits.tobytes()).decode(),
                }
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

    def save(self, front: Front, *, now: bool = True) -> None:
        """Save the whole front if it has changed; without ``now``, if it is time to."""
        if front.newest == self._saved or not (now or time.monotonic() >= self._due):
            return
        began = time.monotonic()
        front.save(self.path)
        self.log.unlink(missing_ok=True)
        self._saved = front.newest
        self._due = time.monotonic() + (time.monotonic() - began) / SAVING_SHARE

    def _logged(self) -> Iterator[Candidate]:
        if not self.log.is_file():
            return
        try:
            for line in self.log.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    yield _candidate(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"{self.log} is damaged ({error}). Put it back as it was, or delete it: the search "
                "goes on without the networks that it names."
            ) from error


def _candidate(row: dict[str, Any]) -> Candidate:
    sizes = tuple(int(size) for size in row["sizes"])
    costs = {str(name): float(cost) for name, cost in row["costs"].items()}
    bits = np.frombuffer(base64.b64decode(row["bits"], validate=True), dtype=np.uint8)
    if min(sizes, default=0) < 1 or len(bits) != -(-sum(sizes) // 8):
        raise InvalidValueError(f"{len(bits)} bytes of masks for groups of {sizes} filters")
    return Candidate(int(row["number"]), float(row["accuracy"]), costs, bits, sizes)
