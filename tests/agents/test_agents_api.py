import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import agents
from agents import AgentsError
from agents.algorithms.lagrangian import PenalisedReplay, PenalisedRollouts

MODULES = [module.name for module in pkgutil.walk_packages(agents.__path__, "agents.")]


def test_import_is_lazy():
    heavy = {"torch", "numpy", "gymnasium", "stable_baselines3", "sb3_contrib"}
    code = f"import agents, sys; print({heavy} & set(sys.modules) or 'nothing')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "nothing"


@pytest.mark.parametrize("name", agents.__all__)
def test_public_names_exist_and_are_documented(name):
    value = getattr(agents, name)
    assert value.__doc__ or not callable(value)
    assert name in dir(agents)


def test_all_is_what_can_be_imported():
    assert sorted(agents._HOME) == sorted(agents.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'agents' has no attribute 'nothing'"):
        agents.nothing  # noqa: B018


# what is shared with it knows its commands by name, and its environments are as safe as our own;
# workers compare versions of both
SHARED = {"agents.search_path", "agents.stopping", "agents.runs.trust", "agents.ray_machines"}


@pytest.mark.parametrize("name", sorted({"agents", *MODULES} - SHARED))
def test_never_knows_of_prune_gym(name):
    """Neither in imports (see the architecture's tests) nor in words."""
    source = inspect.getsource(importlib.import_module(name))
    assert "prune_gym" not in source


@pytest.mark.parametrize("name", ["wrappers", "costs", "toy", "console", "files", "compare"])
def test_what_needs_no_algorithm_loads_none(name):
    heavy = {"torch", "stable_baselines3", "sb3_contrib", "matplotlib"}
    code = f"import agents.{name}, sys; print({heavy} & set(sys.modules) or 'nothing')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "nothing"


@pytest.mark.parametrize("kind", AgentsError.__subclasses__())
def test_errors_are_of_the_built_in_types_too(kind):
    assert AgentsError.exit_code == kind.exit_code == 2
    assert kind.__mro__[2].__module__ == "builtins"


@pytest.mark.parametrize("name", agents.AGENTS)
def test_constructors_show_what_they_take(name):
    constructor = agents.AGENTS[name].constructor
    shown = inspect.signature(constructor).parameters
    assert list(shown)[:2] == ["policy", "env"]
    assert all(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in shown.values())
    assert {"learning_rate", "gamma", "seed"} <= shown.keys()
    if issubclass(constructor, agents.Constrained):
        assert {"cost_limit", "cost_margin"} <= shown.keys()
        assert ("multiplier" in shown) == (name != "cpo")
        assert not constructor.refused & shown.keys()


@pytest.mark.parametrize(
    "kind",
    [
        *(agents.PPOLagrangian, agents.A2CLagrangian, agents.TRPOLagrangian, agents.CPO),
        *(agents.FOCOPS, agents.P3O, agents.IPO, PenalisedReplay, PenalisedRollouts),
    ],
)
def test_algorithms_say_what_they_do(kind):
    words = inspect.getdoc(kind)
    for part in ("- Paper: ", "- Ours: ", "- Deviations: "):
        assert part in words
    assert "- Logs: " in words or "| logged | meaning |" in words
    assert "``mean(" in words or " / " in words  # a formula


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
