"""A results file of rows that are made once, written as they come, each with where it is from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from origin import origin

from agents.files import write_json

Row = dict[str, Any]


class ResultRows:
    """Rows of one or several kinds; each names its place in the file's ``origins``.

    Args:
        path: of the file, which need not be there.
        kinds: names of the lists of rows in it.
    """

    def __init__(self, path: Path, *kinds: str) -> None:
        self._path, self._here = path, origin()  # of the code that is running
        found = json.loads(path.read_text()) if path.is_file() else {}
        self.of: dict[str, list[Row]] = {kind: found.get(kind, []) for kind in kinds}
        self.origins: list[Row] = found.get("origins", [])

    def add(self, kind: str, key: Row, make: Callable[[], Row]) -> None:
        """Make a row and write it, unless one with that key is there."""
        rows = self.of[kind]
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **make(), "origin": self.place(self._here)})
            self.write()
            print({name: value for name, value in rows[-1].items() if name != "masks"}, flush=True)

    def place(self, wanted: Row) -> int:
        """Place of an origin, which is added if it is new."""
        if wanted not in self.origins:
            self.origins.append(wanted)
        return self.origins.index(wanted)

    def write(self) -> None:
        """Write the file."""
        write_json(self._path, {"origins": self.origins, **self.of}, indent=1)
