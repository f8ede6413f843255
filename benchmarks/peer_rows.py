"""The results file of `peers.py`: rows of several machines, each with where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from origin import origin, processor

from agents.files import write_json

KEY = ("problem", "method", "seed")  # of a row
Row = dict[str, Any]


class Table:
    """The rows of a results file, written as they come; each names its place in ``origins``."""

    def __init__(self, path: Path) -> None:
        self._path, self._here = path, origin()  # of the code that is running
        found = json.loads(path.read_text()) if path.is_file() else {}
        self.rows: list[Row] = found.get("rows", [])
        self.tuned: list[Row] = found.get("tuned", [])
        self.origins: list[Row] = found.get("origins", [])

    def add(self, kind: str, key: Row, make: Any, *words: Any) -> None:
        """Make a row and write it, unless it is there."""
        rows = getattr(self, kind)
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **make(key, *words), "origin": self._origin(self._here)})
            self._write()
            print({name: value for name, value in rows[-1].items() if name != "masks"}, flush=True)

    def merge(self, path: Path) -> None:
        """Add the rows of another file that are not here, and latencies that are not."""
        other = Table(path)
        for kind, key in (("rows", KEY), ("tuned", (*KEY, "epochs"))):
            own = getattr(self, kind)
            there = {tuple(row[name] for name in key): row for row in own}
            for row in getattr(other, kind):
                known = there.get(tuple(row[name] for name in key))
                if known is None:
                    own.append({**row, "origin": self._origin(other.origins[row["origin"]])})
                elif known.get("masks") == row.get("masks") and known.get("latency", 0) is None:
                    known |= {k: row[k] for k in ("latency", "latency_on") if k in row}
        self._write()

    def measure_again(self, problem: str, bench: Any, anew: bool = True) -> None:
        """Latency of all networks of a problem, or of those that have none."""
        for row in self.rows:
            is_asked = row["problem"] == problem and row["masks"] is not None
            if is_asked and (anew or row["latency"] is None):
                row["latency"] = bench.latency(bench.compact(row))
                row["latency_on"] = processor()
                print(problem, row["method"], row["seed"], row["latency"], flush=True)
                self._write()

    def row(self, problem: str, method: str, seed: int) -> Row:
        """The pruned network of a method; all seeds of one that draws nothing are the same."""
        own = [r for r in self.rows if (r["problem"], r["method"]) == (problem, method)]
        return next((row for row in own if row["seed"] == seed), own[0])

    def _origin(self, wanted: Row) -> int:
        """Place of an origin, which is added if it is new."""
        if wanted not in self.origins:
            self.origins.append(wanted)
        return self.origins.index(wanted)

    def _write(self) -> None:
        found = {"origins": self.origins, "rows": self.rows, "tuned": self.tuned}
        write_json(self._path, found, indent=1)
