"""The results file of `peers.py`: rows of several machines, before and after fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from origin import processor
from result_rows import ResultRows, Row

KEY = ("problem", "method", "seed")  # of a row


class Table(ResultRows):
    """Pruned networks (``rows``), and their fine-tunings (``tuned``)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rows", "tuned")

    def merge(self, path: Path) -> None:
        """Add the rows of another file that are not here, and latencies that are not."""
        other = Table(path)
        for kind, key in (("rows", KEY), ("tuned", (*KEY, "epochs"))):
            there = {tuple(row[name] for name in key): row for row in self.of[kind]}
            for row in other.of[kind]:
                known = there.get(tuple(row[name] for name in key))
                if known is None:
                    origin = self.place(other.origins[row["origin"]])
                    self.of[kind].append({**row, "origin": origin})
                elif known.get("masks") == row.get("masks") and known.get("latency", 0) is None:
                    known |= {k: row[k] for k in ("latency", "latency_on") if k in row}
        self.write()

    def measure_again(self, problem: str, bench: Any, anew: bool = True) -> None:
        """Latency of all networks of a problem, or of those that have none."""
        for row in self.of["rows"]:
            is_asked = row["problem"] == problem and row["masks"] is not None
            if is_asked and (anew or row["latency"] is None):
                row["latency"] = bench.latency(bench.compact(row))
                row["latency_on"] = processor()
                print(problem, row["method"], row["seed"], row["latency"], flush=True)
                self.write()

    def row(self, problem: str, method: str, seed: int) -> Row:
        """The pruned network of a method; all seeds of one that draws nothing are the same."""
        own = [r for r in self.of["rows"] if (r["problem"], r["method"]) == (problem, method)]
        return next((row for row in own if row["seed"] == seed), own[0])
