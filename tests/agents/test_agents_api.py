import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import agents

MODULES = [f"agents.{module.name}" for module in pkgutil.iter_modules(agents.__path__)]


def test_import_is_lazy():
    heavy = {"torch", "numpy", "gymnasium", "stable_baselines3"}
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


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_never_imports_prune_gym(name):
    with open(importlib.import_module(name).__file__, encoding="utf-8") as file:
        assert "prune_gym" not in file.read()
