"""The direction of imports, the size of modules and functions, and the words of the docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prune_gym
from prune_gym.envs import GRANULARITIES
from prune_gym.envs.observation import (
    BUDGET_FEATURES,
    LAYER_FEATURES,
    LIMIT_FEATURES,
    feature_names,
)

ROOT = Path(__file__).parents[2]

# A package imports from lower rows only; within a package modules may import each other, but never
# in a circle. Imports inside functions count.
LEVELS = {
    "prune_gym": [
        {"errors"},
        {"utils"},
        {"datasets", "pruning", "tasks"},
        {"networks", "training", "criteria"},
        {"budgets"},
        {"problem"},
        {"envs"},
        {"", "wrappers", "adapters", "tables"},
        {"cluster"},
        {"searches"},
        {"cli"},
        {"__main__"},
    ],
    "agents": [
        {"stopping", "search_path", "lazy"},
        {"", "errors", "ray_machines"},
        {"files", "costs", "toy", "arguments", "archive", "ray_cluster", "ray_errors", "own_code"},
        {"locking", "logs", "console", "ray_tasks", "ray_env_worker"},
        {"multipliers", "env_checks", "options", "ray_crew"},
        {"wrappers", "evaluation", "ray_vec_env"},
        {"algorithms"},
        {"zoo"},
        {"runs"},
        {"comparison"},
        {"train", "enjoy", "compare", "benchmark"},
        {"sweep", "__main__"},
    ],
}
APPLICATION = ("searches", "cli")  # what may build on agents
# how files are written, work is stopped and modules are looked up, which all may use; they load the
# standard library only
SHARED = (
    "agents.files",
    "agents.lazy",
    "agents.own_code",
    "agents.ray_cluster",
    "agents.ray_errors",
    "agents.ray_machines",
    "agents.stopping",
    "agents.search_path",
)


def modules() -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    found = {}
    for package in LEVELS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
EVERY_FILE = list(MODULES.values())


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(module: str) -> tuple[str, str]:
    """Top package and the room in it: ("prune_gym", "envs") of "prune_gym.envs.base".

    What ``python -m`` runs is a door to a command, wherever it lies.
    """
    parts = module.split(".")
    if parts[-1] == "__main__":
        return parts[0], parts[-1]
    return parts[0], parts[1] if len(parts) > 1 else ""


def level(module: str) -> int:
    package, name = room(module)
    return next(index for index, row in enumerate(LEVELS[package]) if name in row)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path) -> set[str]:
    """Modules of both packages that a file imports anywhere, but for its type checker."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if is_type_checking(node):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                joined = f"{node.module}.{alias.name}"
                found.add(joined if joined in MODULES else str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name in MODULES}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_every_room_has_a_level_and_every_level_its_rooms():
    for package, rows in LEVELS.items():
        named = [name for row in rows for name in row]
        assert len(named) == len(set(named))
        assert set(named) == {room(name)[1] for name in MODULES if room(name)[0] == package}
        assert len(rows) <= 12


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    for other in IMPORTS[name]:
        if room(other)[0] != room(name)[0]:
            assert room(name)[0] == "prune_gym", f"{name} imports {other}"
            assert room(name)[1] in APPLICATION or other in SHARED, f"{name} imports {other}"
        elif room(other) != room(name):
            assert level(other) < level(name), f"{name} imports {other}"


def test_there_are_no_circles():
    left = {name: set(others) - {name} for name, others in IMPORTS.items()}
    while done := {name for name, others in left.items() if not others}:
        left = {name: others - done for name, others in left.items() if name not in done}
    assert sorted(left) == []


def test_the_check_sees_imports(tmp_path):
    found = IMPORTS["prune_gym.envs.base"]
    assert {"prune_gym.envs.observation", "prune_gym.pruning.masks"} <= found
    late = tmp_path / "late.py"
    late.write_text("def show():\n    from prune_gym.envs import rendering\n", encoding="utf-8")
    assert imports(late) == {"prune_gym.envs.rendering"}


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_modules_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 420
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            words = ast.get_docstring(node, clean=False) or ""
            assert length - words.count("\n") <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_no_assert_and_no_global_randomness(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    drawn = {"random.default_rng", "random.Generator", "random.get_state", "random.set_state"}
    # these draw nothing: what users draw from is set aside while their code runs
    drawn |= {"random.BitGenerator", "random.get_bit_generator", "random.set_bit_generator"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("np.random."):
            assert ast.unparse(node).removeprefix("np.") in drawn


@pytest.mark.parametrize("package", ["prune_gym", "prune_gym.cli.main"])
def test_import_is_cheap(package):
    heavy = {"torch", "matplotlib", "stable_baselines3", "torchvision", "sklearn", "torch_pruning"}
    code = f"import sys, {package}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_making_an_environment_draws_nothing():
    code = (
        "import sys, gymnasium, prune_gym; gymnasium.make('PruneVGG-v0');"
        "print(sorted({'matplotlib', 'typer', 'stable_baselines3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_observation_table():
    rows = re.findall(r"^ *\| *(\d+) \| (\w+) \| (.+?) \| 0 \| 1 \|$", _page("layer"), re.MULTILINE)
    features = [*LAYER_FEATURES, *BUDGET_FEATURES, *LIMIT_FEATURES]
    assert rows == [(str(index), name, meaning) for index, (name, meaning) in enumerate(features)]
    assert f"({len(LAYER_FEATURES)} + {len(BUDGET_FEATURES)} * n_budgets,)" in _page("layer")
    names = feature_names(("params", "macs"))
    assert len(names) == len(set(names)) == len(LAYER_FEATURES) + 2 * len(BUDGET_FEATURES)
    assert feature_names(("params",), (0.1, 0.2)) == [*feature_names(("params",)), "limit"]


def _page(granularity: str) -> str:
    return inspect.getdoc(GRANULARITIES[granularity]) or ""


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_environments_are_documented(granularity):
    page = _page(granularity)
    assert "## Action space" in page
    assert "## Version history" in page
    if granularity == "layer":
        for part in (
            "Description",
            "Observation",
            "Reward",
            "Cost",
            "Info",
            "Episode",
            "Arguments",
        ):
            assert f"\n## {part}" in page
    else:
        assert "`LayerPruneEnv`" in page


@pytest.mark.parametrize("name", prune_gym.__all__)
def test_public_names_are_documented(name):
    value = getattr(prune_gym, name)
    assert inspect.getdoc(value)
    assert name in dir(prune_gym)


def test_public_names_are_listed():
    assert set(prune_gym.__all__) == {*prune_gym._PUBLIC, "register_envs"}
    assert prune_gym.__all__ == sorted(
        prune_gym.__all__, key=lambda name: (not name.isupper(), name)
    )
    with pytest.raises(AttributeError, match="module 'prune_gym' has no attribute 'nothing'"):
        prune_gym.nothing  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_public_definition_has_a_docstring(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
