import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import agents
from agents import AgentsError

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


@pytest.mark.parametrize("name", ["agents", *MODULES])
def test_never_knows_of_prune_gym(name):
    """Neither in imports nor in words."""
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


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
