"""Which faults are injected, where, and the table of how that went."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

IS_LINUX = sys.platform.startswith("linux")
collect_ignore_glob = [] if IS_LINUX else ["*.py"]
OF_EACH = 1  # fault of each kind in the ordinary suite
ALL_FROM = 20  # faults that are worth a table


class Tally:
    """Faults by kind: how many were tried, how many survived."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()

    def begin(self, fault) -> None:
        self.tried[fault.kind] += 1

    def survived(self, fault) -> None:
        self.kept[fault.kind] += 1

    def failed(self, fault, error: BaseException) -> None:
        """Tell at once, in the file that FAULTS_LOG names: a whole campaign takes a while."""
        if "FAULTS_LOG" in os.environ:
            with open(os.environ["FAULTS_LOG"], "a", encoding="utf-8") as log:
                log.write(f"== {fault}\n{type(error).__name__}: {error}\n")

    def table(self) -> str:
        rows = [f"| {kind} | {n} | {self.kept[kind]} |" for kind, n in self.tried.items()]
        total = f"| together | {self.tried.total()} | {self.kept.total()} |"
        return "\n".join(["| kind | tried | survived |", "|---|---|---|", *rows, total])


_TALLY = Tally()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault, or some of each kind."""
    if "fault" not in metafunc.fixturenames:
        return
    from campaign import all_faults, some_faults

    seed = int(os.environ.get("FAULTS_SEED", "0"))
    if metafunc.config.getoption("--all", default=False):
        faults = all_faults(seed)
        marks = [pytest.mark.slow]
    else:
        faults, marks = some_faults(seed, OF_EACH), []
    rows = [pytest.param(fault, marks=marks, id=str(fault)) for fault in faults]
    metafunc.parametrize("fault", rows)


@pytest.fixture(scope="session")
def tally() -> Tally:
    return _TALLY


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory):
    """Where faults happen."""
    from commands import Commands
    from scene import Scene

    commands = Commands()
    yield Scene(tmp_path_factory.mktemp("faults"), commands)
    commands.close()


def pytest_terminal_summary(terminalreporter) -> None:
    """The table, after more than a few faults; FAULTS_TABLE names a file for it."""
    if _TALLY.tried.total() >= ALL_FROM:
        terminalreporter.write_line(_TALLY.table())
        if "FAULTS_TABLE" in os.environ:
            Path(os.environ["FAULTS_TABLE"]).write_text(_TALLY.table() + "\n", encoding="utf-8")
