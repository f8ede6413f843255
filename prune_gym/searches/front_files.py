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
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic_core import from_json

from agents.logs import LineLog
from prune_gym.errors import FileError, InvalidValueError, RunFolderError
from prune_gym.problem.archive import Candidate, Front
from prune_gym.utils.records import (
    Amount,
    Count,
    Record,
    Text,
    check,
    in_one_line,
    is_there,
    read_bytes,
)

_MOST_BYTES = 2**29
SAVING_SHARE = 0.05  # of the time of a search that saving the front may take


class FrontFiles:
    """``front.npz`` and ``front.jsonl``, a JSON object a line.

    Args:
        path: of the whole front.
        depth: whether networks may keep nothing of a filter group.
    """

    def __init__(self, path: Path, depth: bool = False) -> None:
        self.path, self.log = path, path.with_suffix(".jsonl")
        self._depth = depth
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
        saved = Front()
        if is_there(self.path, RunFolderError):
            saved = Front.load(self.path, RunFolderError, self._depth)
        return self._replayed(saved.until(until), logged, until)

    def _replayed(self, saved: Front, logged: list[Candidate], until: int) -> Front:
        self._saved = saved.newest
        first = next(iter([*saved, *logged]), None)
        for one in logged:
            if first is not None and (one.sizes, one.costs.keys()) != (
                first.sizes,
                first.costs.keys(),
            ):
                raise self._damaged(
                    InvalidValueError(f"network {one.number} has other groups or costs than others")
                )
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
                with LineLog(self.log, FileError) as log:
                    log.add(json.dumps(row))

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
        if not is_there(self.log, RunFolderError):
            return
        for line in read_bytes(self.log, RunFolderError, _MOST_BYTES).splitlines(keepends=True):
            if line.endswith(b"\n"):
                try:
                    row = from_json(line)
                    check(self.log, row, _Row, RunFolderError)
                    yield _candidate(row, self._depth)
                except ValueError as error:
                    raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RunFolderError:
        return RunFolderError(
            f"{self.log} is damaged ({in_one_line(error)}). Put it back as it was, or delete it: "
            "the search goes on without the networks that it names."
        )


class _Row(Record):
    """A line of the log."""

    number: Count
    accuracy: float
    costs: Annotated[dict[Text, Amount], Field(min_length=1)]
    sizes: Annotated[list[Count], Field(min_length=1)]
    bits: str


def _candidate(row: dict[str, Any], depth: bool) -> Candidate:
    """The network of a line that was checked (raises ValueError where its masks do not fit)."""
    sizes, costs = tuple(row["sizes"]), {k: float(cost) for k, cost in row["costs"].items()}
    bits = np.frombuffer(base64.b64decode(row["bits"], validate=True), dtype=np.uint8)
    if len(bits) != -(-sum(sizes) // 8):
        raise InvalidValueError(f"{len(bits)} bytes of masks for groups of {sizes} filters")
    one = Candidate(row["number"], float(row["accuracy"]), costs, bits, sizes)
    if not depth and not all(mask.any() for mask in one.masks):
        raise InvalidValueError(f"network {one.number} keeps nothing of a filter group")
    return one
