"""Problems that many tests share; a problem is frozen, so one per session is enough."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # render_mode="human" must open no window
ROOT = Path(__file__).parent.parent
# two files named conftest.py cannot both be read for doctests; there are none in them
collect_ignore_glob = ["*conftest.py"]
# pytest puts tests/ on the path, where tests/agents would hide the package `agents`
sys.path.insert(0, str(ROOT))

import cloudpickle  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

import prune_gym  # noqa: E402
from prune_gym.problem.make import shared_problem  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores; their threads would fight for them

# other processes would find only one of the files named conftest.py: send classes, not names
cloudpickle.register_pickle_by_value(sys.modules[__name__])


EVERY = 5  # one of so many rows of a sampled test runs, unless all are asked for


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--all``: every row of the sampled tests."""
    parser.addoption("--all", action="store_true", help="run every row of the sampled tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first, sixth, ... row of tests that are marked as sampled."""
    if config.getoption("--all", default=False):
        return
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            name = item.nodeid.partition("[")[0]
            if seen[name] % EVERY:
                left_out.append(item)
            seen[name] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test sees, or writes to, the checkpoints of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PRUNE_GYM_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def default_problem(own_cache: Path) -> prune_gym.PruningProblem:
    """What ``gym.make("PruneVGG-v0")`` stands on."""
    return shared_problem()


@pytest.fixture(scope="session")
def tiny_problem() -> prune_gym.PruningProblem:
    """A VGG of three convolutions, random data."""
    return tiny.make_tiny()


@pytest.fixture(scope="session")
def residual_problem() -> prune_gym.PruningProblem:
    """A residual network of two stages, random data."""
    return tiny.make_tiny("residual")


@pytest.fixture(scope="session")
def known_options() -> set[str]:
    """Every long option of the commands, the benchmarks, `python -m agents.*` and the tables."""
    from typer.main import get_command

    from agents import compare, enjoy, train
    from agents.benchmark import program
    from prune_gym.cli import tables
    from prune_gym.cli.main import app

    groups = [get_command(app), get_command(tables.app)]
    of_groups = [command for group in groups for command in group.commands.values()]
    of_agents = [get_command(module.app) for module in (train, enjoy, compare, program)]
    commands = [*groups, *of_groups, *of_agents]
    known = {"--help"} | {
        o for c in commands for p in c.params for o in (*p.opts, *p.secondary_opts)
    }
    for script in (ROOT / "benchmarks").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        known |= set(re.findall(r'(?:add|add_argument)\(\s*"(--[a-z-]+)"', text))
    return known
