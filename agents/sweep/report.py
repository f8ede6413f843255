"""A sweep on a terminal: a table that is kept up to date, and the comparison at its end."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from agents.compare import compare
from agents.comparison.report import table
from agents.console import console, say
from agents.errors import AgentsError
from agents.files import write_json
from agents.ray_tasks import Cluster
from agents.runs.folder import RunFolder
from agents.stopping import EXIT_CODE, stop_requested, stopping
from agents.sweep.runs import SweepOutcome, SweepRun, read_sweep, sweep

DEFAULT_OUT = Path("runs/sweep")
SHOWN = 30  # rows of the table


def run_sweep(file: Path, out: Path | None, cluster: Cluster, *, trust: bool = False) -> None:
    """Run a sweep, show it, compare its finished runs.

    Args:
        file: See `agents.sweep.runs.read_sweep`.
        out: Folder of the runs; ``runs/sweep`` if left out.
        cluster: Where.
        trust: Whether code that folders name may run.

    Raises:
        AgentsError: If something does not fit (names the cure).
    """
    runs, folder = read_sweep(file), out or DEFAULT_OUT
    say(f"{len(runs)} runs, {cluster.workers} at once, in {folder}")
    on_cpu = [run for run in runs if run.config.device == "cpu"]
    on_cpu = [run for run in on_cpu if "device" not in run.config.env_kwargs]
    if cluster.gpus and on_cpu:
        say(
            f"--gpus-per-worker {cluster.gpus:g}: {len(on_cpu)} of the runs learn on the CPU, and "
            'hold a share of a GPU all the same; "device": "cuda" in the file puts agents there, '
            '"env_kwargs.device" environments.'
        )
    shown = _Table(runs, folder)
    stopped = False
    with shown.live, stopping("stopping; runs in work go on from their checkpoints"):
        for outcome in sweep(runs, folder, cluster, trust=trust, on_start=shown.start):
            shown.update(outcome)
        stopped = stop_requested()
    done = [folder / o.run.name for o in shown.ended.values() if o.is_finished]
    if stopped:
        say(f"stopped; {len(done)} of {len(runs)} runs are finished; the same command goes on.")
        raise SystemExit(EXIT_CODE)
    write_json(folder / "sweep.json", shown.to_json())
    if done:
        comparison = compare([*done], report=say)
        say(table(comparison))
    broken = [o for o in shown.ended.values() if not o.is_finished]
    if broken:
        first = broken[0]
        raise AgentsError(
            f"{len(broken)} of {len(runs)} runs have no result; the first is {first.run.name}: "
            f"{first.words} The same command tries them again."
        )


class _Table:
    """What every run is at; a live table in a terminal, a line per run elsewhere."""

    def __init__(self, runs: list[SweepRun], folder: Path) -> None:
        self.runs, self.folder = runs, folder
        self.ended: dict[str, SweepOutcome] = {}
        self._started: dict[str, tuple[int, int] | None] = {}  # what was there then
        self._looked = 0.0
        self._rows: list[tuple[str, str, str]] = []
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self.live = Live(
            console=console if self._is_live else None,
            get_renderable=self._rendered,
            refresh_per_second=2 if self._is_live else 0.001,
            auto_refresh=self._is_live,
            transient=not self._is_live,
        )

    def start(self, name: str) -> None:
        """Note that a run is handed to the cluster, where it may have to wait for a place."""
        self._started[name] = self._episodes(name)

    def update(self, outcome: SweepOutcome) -> None:
        """Show that a run has ended."""
        self.ended[outcome.run.name] = outcome
        if not self._is_live:
            state = "finished" if outcome.is_finished else "broken"
            say(f"{len(self.ended)}/{len(self.runs)} {state} {outcome.run.name}: {outcome.words}")

    def to_json(self) -> dict[str, dict[str, str | bool]]:
        """By run, what became of it."""
        return {
            name: {"finished": one.is_finished, "result": one.words}
            for name, one in self.ended.items()
        }

    def _rendered(self) -> Table:
        """The table; files are looked at every few seconds only."""
        if time.monotonic() - self._looked > 2.0:
            self._looked = time.monotonic()
            self._rows = [self._row(run) for run in self.runs]
        counts = Counter(state for _, state, _ in self._rows)
        title = ", ".join(f"{n} {state}" for state, n in counts.items())
        shown = Table("run", "state", "", title=title, title_justify="left", box=None)
        order = {"running": 0, "broken": 1, "finished": 2, "waiting": 3}
        for row in sorted(self._rows, key=lambda row: order[row[1]])[:SHOWN]:
            shown.add_row(*map(escape, row))
        return shown

    def _row(self, run: SweepRun) -> tuple[str, str, str]:
        ended = self.ended.get(run.name)
        if ended is not None:
            return run.name, "finished" if ended.is_finished else "broken", ended.words[:80]
        there = self._episodes(run.name)
        try:
            with RunFolder(self.folder / run.name).episodes.open("rb") as file:
                n_episodes = max(0, sum(1 for _ in file) - 1)
        except OSError:  # not there, or just brought back
            return run.name, "waiting", ""
        has_moved = run.name in self._started and there != self._started[run.name]
        return run.name, "running" if has_moved else "waiting", f"{n_episodes} episodes"

    def _episodes(self, name: str) -> tuple[int, int] | None:
        """Size and time of a run's file of episodes, which both change as it runs."""
        try:
            there = RunFolder(self.folder / name).episodes.stat()
        except OSError:
            return None
        return there.st_size, there.st_mtime_ns
