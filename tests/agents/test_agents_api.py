import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import agents

MODULES = [f"agents.{module.name}" for module in pkgutil.iter_modules(agents.__path__)]


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


def imported(tree):
    """Every module that a file imports, wherever in it, also by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


@pytest.mark.parametrize("name", ["agents", *MODULES])
def test_never_imports_prune_gym(name):
    with open(importlib.import_module(name).__file__, encoding="utf-8") as file:
        modules = set(imported(ast.parse(file.read())))
    assert modules
    assert not {module for module in modules if module.split(".")[0] == "prune_gym"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
