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
from prune_gym.envs.coarse import GRANULARITIES
from prune_gym.envs.observation import (
    BUDGET_FEATURES,
    LAYER_FEATURES,
    LIMIT_FEATURES,
    feature_names,
)

ROOT = Path(__file__).parents[2]

# A module imports from lower levels only (inside a package: from its own modules as well).
LEVELS = [
    [
        "cache",
        "console",
        "devices",
        "files",
        "memory",
        "onednn",
        "options",
        "parallel",
        "registry",
        "rendering",
    ],
    ["pruning", "pruning.masks", "search"],
    [
        "formats",
        "networks",
        "datasets",
        "pruning.layers",
        "pruning.skeleton",
        "pruning.trace",
        "pruning.groups",
    ],
    [
        "pruning.compact",
        "pruning.check",
        "pruning.inference",
        "pruning.sizes",
        "training",
        "recovery",
        "evaluation",
        "criteria",
        "budgets",
    ],
    ["outcome", "arguments"],
    ["problem"],
    ["export", "handover", "pretrained"],
    ["make", "safety", "sharing", "search.archive", "search.confirm", "search.threads"],
    ["envs.observation", "envs.arguments", "envs.costs", "search.controls", "search.folder"],
    ["envs.base"],
    ["envs.coarse", "envs.fine", "envs.vector", "envs", "projection", "wrappers"],
    ["search.drive"],
    ["adapters"],
    ["search.finish", "report", "search.pick", "search.sitting", "pretraining"],
    ["", "cli", "__main__"],
]
# Packages whose modules are one level: their inner order is `base` first, `__init__` last.
WHOLE = ("networks", "datasets", "criteria", "budgets", "adapters")
# Within a level: what stands on the right-hand side may be imported.
BESIDE = {
    "recovery": {"training"},
    "pruning.skeleton": {"pruning.layers"},
    "pruning.trace": {"pruning.skeleton"},
    "pruning.groups": {"pruning.layers", "pruning.skeleton", "pruning.trace"},
    "pruning.check": {"pruning.compact"},
    "pruning.inference": {"pruning.check"},
    "evaluation": {"pruning.inference"},
    "export": {"pretrained"},
    "handover": {"export", "pretrained"},
    "envs.coarse": {"envs.fine"},
    "envs.vector": {"envs.coarse"},
    "envs": {"envs.coarse", "envs.fine"},
    "search.confirm": {"search.archive"},
    "search.sitting": {"search.finish", "report"},
    "search.pick": {"search.finish", "search.sitting"},
    "cli": {""},
    "__main__": {"cli"},
}


def modules() -> dict[str, Path]:
    """Dotted name below prune_gym -> file."""
    found = {}
    for path in sorted((ROOT / "prune_gym").rglob("*.py")):
        parts = list(path.relative_to(ROOT / "prune_gym").with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
AGENT_FILES = sorted((ROOT / "agents").glob("*.py"))
EVERY_FILE = [*MODULES.values(), *AGENT_FILES]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def level_of(name: str) -> int:
    whole = name.split(".")[0]
    name = whole if whole in WHOLE else name
    return next(level for level, names in enumerate(LEVELS) if name in names)


# The same for `agents`, whose package module imports nothing before it is used.
AGENT_LEVELS = [
    ["", "checks", "files", "options", "origin", "values"],
    ["command", "costs", "model_state", "replayable", "run_folders", "toy"],
    ["cost_critic", "evaluation", "episode_log", "fit", "multipliers", "penalties", "wrappers"],
    ["callbacks", "checkpoint", "constraint", "replay"],
    ["comparison", "lagrangian", "two_critics"],
    ["compare_report", "focops", "table", "trust_region"],
    ["compare", "zoo"],
    ["runs"],
    ["training"],
    ["train"],
    ["enjoy"],
]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, *, inside_functions: bool) -> set[str]:
    """Dotted names of the modules a file imports (names are resolved to submodules)."""
    found: set[str] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if is_type_checking(node):
            return
        if inside == inside_functions or not inside_functions:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:
                    joined = f"{node.module}.{alias.name}".removeprefix("prune_gym.")
                    known = joined in MODULES and node.module.startswith("prune_gym")
                    found.add(f"prune_gym.{joined}" if known else node.module)
        for child in ast.iter_child_nodes(node):
            deeper = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if deeper and not inside_functions:
                continue
            visit(child, deeper)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def own(names: set[str]) -> set[str]:
    """The part of imported names that lies in prune_gym, without the prefix."""
    mine = {name for name in names if name.split(".")[0] == "prune_gym"}
    return {name.removeprefix("prune_gym").removeprefix(".") for name in mine}


def test_every_module_has_a_level():
    named = [name for level in LEVELS for name in level]
    assert len(named) == len(set(named))
    for name in MODULES:
        assert level_of(name) >= 0, name
    assert {name for name in named if name not in MODULES} == set()


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    level, package = level_of(name), name.split(".")[0]
    for other in own(imports(MODULES[name], inside_functions=False)):
        if package in WHOLE and other.split(".")[0] == package:
            continue
        allowed = level_of(other) < level or other in BESIDE.get(name, set())
        assert allowed, f"{name or '__init__'} imports {other or '__init__'}"


def test_the_check_sees_imports():
    found = own(imports(MODULES["envs.base"], inside_functions=False))
    assert {"envs.observation", "problem", "pruning.masks"} <= found
    assert "rendering" not in found
    assert own(imports(MODULES["envs.base"], inside_functions=True)) == {"rendering"}


@pytest.mark.parametrize("path", AGENT_FILES, ids=short)
def test_agents_never_import_prune_gym(path):
    for inside_functions in (False, True):
        assert not own(imports(path, inside_functions=inside_functions))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(str(name).startswith("prune_gym") for name in names)


def test_every_module_of_agents_has_a_level():
    named = [name for level in AGENT_LEVELS for name in level]
    assert sorted(named) == sorted(path.stem.replace("__init__", "") for path in AGENT_FILES)


@pytest.mark.parametrize("path", AGENT_FILES, ids=short)
def test_imports_of_agents_point_downwards(path):
    def level(module: str) -> int:
        name = module.removeprefix("agents").removeprefix(".")
        return next(level for level, names in enumerate(AGENT_LEVELS) if name in names)

    here = level(path.stem.replace("__init__", ""))
    found = imports(path, inside_functions=False)
    for other in {name for name in found if name.split(".")[0] == "agents"}:
        assert level(other) < here, f"{path.stem} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_prune_gym_imports_agents_in_functions_of_the_composition_root_only(name):
    assert "agents" not in {
        other.split(".")[0] for other in imports(MODULES[name], inside_functions=False)
    }
    inside = {other.split(".")[0] for other in imports(MODULES[name], inside_functions=True)}
    assert "agents" not in inside or name in ("search.drive", "cli", "report")


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_modules_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            words = ast.get_docstring(node, clean=False) or ""
            assert length - words.count("\n") <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_no_assert_and_no_global_randomness(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    drawn = {"random.default_rng", "random.Generator"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("np.random."):
            assert ast.unparse(node).removeprefix("np.") in drawn


@pytest.mark.parametrize("package", ["prune_gym", "prune_gym.cli"])
def test_import_is_cheap(package):
    heavy = {"torch", "matplotlib", "stable_baselines3", "torchvision", "sklearn", "torch_pruning"}
    code = f"import sys, {package}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_making_an_environment_draws_nothing():
    code = (
        "import sys, gymnasium, prune_gym; gymnasium.make('PruneVGG-v0');"
        "print(sorted({'matplotlib', 'typer', 'agents'} & set(sys.modules)))"
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
    module = importlib.import_module(f"prune_gym.{name}".rstrip("."))
    assert doctest.testmod(module).failed == 0
