"""Where faults happen: folders of finished and unfinished runs, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from commands import Commands, Ended

from prune_gym.networks.checkpoints import save_weights

# Calls of a budget before the search: the unpruned network and the smallest one, the smallest one
# again for the environment that checks the arguments (twice), and for each environment of an agent.
SETUP = {"random": 4, "ppo_lag": 12}
N = 8  # networks of a search by a baseline
N_GROUPS = 3
MEGABYTES = 1800.0  # a process may have in memory; the imports alone are about 700
WORDS = 1200  # characters of an error
OK, NOTHING_FOUND, WRONG, STOPPED, KILLED = 0, 1, 2, 130, -9


@dataclass
class Scene:
    """A place for faults; see `prune` and `templates`.

    Attributes:
        place: a folder of one's own.
        commands: what runs them.
        options: which options a command of today's has.
    """

    place: Path
    commands: Commands
    options: dict[str, set[str]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A network's weights, and what it takes to trust a run folder."""
        self.place.mkdir(parents=True, exist_ok=True)
        self.weights = self.place / "weights.safetensors"
        save_weights(tiny.build("vgg"), self.weights)
        self.made: dict[str, Path] = {}
        self.number = 0
        self.trusts = True

    @property
    def canary(self) -> Path:
        """A file that is there once something was executed that must not be."""
        return self.place / "canary"

    def fresh(self) -> Path:
        """An empty folder."""
        self.number += 1
        folder = self.place / f"{os.getpid()}-{self.number}"
        folder.mkdir()
        return folder

    def run(self, *words: object, folder: Path, **settings: Any) -> Ended:
        """Run a command in a folder; its budgets note their calls in ``ledger`` there."""
        variables = {"LEDGER": str(folder / "ledger"), "CANARY": str(self.canary)}
        variables |= settings.pop("variables", {})
        return self.commands.run(*words, folder=folder, variables=variables, **settings)

    def trusting(self, module: str, *command: str) -> list[str]:
        """``["--trust"]`` where a command has this option."""
        if not self.trusts:
            return []
        key = " ".join((module, *command))
        if key not in self.options:
            said = self.commands.run(module, *command, "--help", folder=self.place).output
            self.options[key] = set(re.findall(r"--[a-z-]+", said))
        return ["--trust"] if "--trust" in self.options[key] else []

    @contextlib.contextmanager
    def without_trust(self) -> Iterator[None]:
        """No command is told to trust a folder meanwhile."""
        self.trusts = False
        try:
            yield
        finally:
            self.trusts = True

    def duration(self, algo: str, words: Sequence[object]) -> float:
        """Seconds that a search takes where nothing goes wrong."""
        if algo not in self.durations:
            began = time.monotonic()
            check_ended(self.run(*words, folder=self.fresh(), variables={"PAUSE": "0.04"}), [OK])
            self.durations[algo] = time.monotonic() - began
        return self.durations[algo]

    # -- prune --------------------------------------------------------------------------------

    def prune(self, algo: str = "random", n: int = N, **more: object) -> list[str]:
        """Words of a small search into ``run``."""
        given: dict[str, object] = {
            "network": "tiny:cli_network",
            "dataset": "tiny:cli_dataset",
            "weights": self.weights,
            "budget": "faulty:ledger=0.9",
            "algo": algo,
            "timesteps": n * N_GROUPS,
            "finetune-steps": 6,
            "seed": 1,
            "out": "run",
            **{key.replace("_", "-"): value for key, value in more.items()},
        }
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        return ["prune_gym", "prune", *words]

    def resume(self, folder: Path, *more: object, **settings: Any) -> Ended:
        """Go on with ``run``."""
        trust = self.trusting("prune_gym", "prune")
        words = ["prune_gym", "prune", "--resume", "run", *trust, *more]
        return self.run(*words, folder=folder, **settings)

    def template(self, name: str) -> Path:
        """A fresh copy of a folder in which a command has made its run."""
        if name not in self.made:
            self.made[name] = self._make(name)
        copy = self.fresh()
        shutil.copytree(self.made[name], copy, dirs_exist_ok=True, symlinks=True)
        return copy

    def _make(self, name: str) -> Path:
        folder = self.fresh()
        train = ["agents.train", "--algo", "ppo_lag", "--env", "agents.toy:BudgetToy-v0"]
        words: dict[str, list[str]] = {
            "finished": self.prune(),
            "agent's": self.prune("ppo_lag", 16),
            "off-policy": self.prune("sac_lag", 16),
            "data": [
                *("prune_gym", "prune", "--budget", "params=0.9", "--algo", "random"),
                *("--evaluation-samples", "20", "--timesteps", "32", "--finetune-steps", "2"),
                *("--out", "run"),
            ],
            "training": [*train, "--timesteps", "64", "--out", "run"],
            "normalised": [*train, "--timesteps", "64", "--normalize", "--out", "run"],
        }
        if name == "unfinished":
            ended = self.run(
                *self.prune(), folder=folder, variables={"FAULT": f"kill@{SETUP['random'] + 5}"}
            )
            assert ended.code == KILLED, ended
        else:
            ended = self.run(*words[name], folder=folder)
            assert ended.code == OK, ended
        return folder


# -- what must hold --------------------------------------------------------------------------------


def check_ended(ended: Ended, codes: Sequence[int]) -> None:
    """The exit code is one of these, an error one line; no traceback, no hang, little memory."""
    assert not ended.hung, f"hung; it said {ended.output[-2000:]!r}"
    assert "Traceback (most recent call last)" not in ended.output, ended.output[-4000:]
    assert ended.code in codes, f"exit code {ended.code}, {codes} are right; {ended.output[-2000:]}"
    assert ended.megabytes < MEGABYTES, f"{ended.megabytes:.0f} MB"
    if ended.code in (NOTHING_FOUND, WRONG):
        errors = re.findall(r"^(?:error: .*|.*Error .*|Usage: .*)$", ended.output, re.MULTILINE)
        assert errors, f"no error line in {ended.output[-2000:]!r}"
        assert all(len(error) < WORDS for error in errors), max(map(len, errors))


def rows_of(run: Path) -> list[dict[str, str]]:
    """Whole rows of the log of a search."""
    file = run / "episodes.csv"
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


def check_finished(run: Path, n: int, before: list[dict[str, str]]) -> None:
    """A search is complete: no row is lost, none counted twice, what it gives is the best of them.

    Args:
        run: its folder.
        n: networks that it was to judge.
        before: rows that were there already when it was resumed.
    """
    rows = rows_of(run)
    assert [row["episode"] for row in rows] == [str(1 + i) for i in range(n)]
    assert rows[: len(before)] == before
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["evaluations"] == n
    assert metrics["feasible"] is True
    best = max(float(row["accuracy"]) for row in rows if row["feasible"] == "1")
    assert metrics["accuracy"]["recovered_validation"] == best
    with np.load(run / "front.npz") as front:
        assert set(front["numbers"].tolist()) <= set(range(1, n + 1))
        assert max(front["accuracies"].tolist()) >= best
    assert (run / "report.html").is_file()


def check_goes_on(scene: Scene, folder: Path, n: int, setup: int = 0) -> None:
    """Whatever happened to ``run`` in a folder, it goes on to its end; or it never began.

    Args:
        scene: the scene.
        folder: in which ``run`` lies.
        n: networks that it was to judge.
        setup: calls of the budget, noted in ``ledger``, before the first network was judged; 0 =
            they are not looked at. One network may be lost: the one in work.
    """
    run = folder / "run"
    if not (run / "config.json").exists():
        assert not rows_of(run)
        return
    before = rows_of(run)
    ledger = folder / "ledger"
    judged = len(ledger.read_text().splitlines()) - setup if setup and ledger.exists() else 0
    is_over = (run / "metrics.json").exists() or len(before) == n
    if not is_over:
        assert len(before) >= judged - 1, f"{judged} networks judged, {len(before)} recorded"
    ended = scene.resume(folder)
    check_ended(ended, [OK])
    check_finished(run, n, before)
