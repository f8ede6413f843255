"""Names that are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agents.lazy import lazy_names

HEAVY = {"torch", "matplotlib", "stable_baselines3", "sklearn", "torchvision", "torch_pruning"}


def loaded(code: str) -> str:
    """Heavy libraries that a fresh process has loaded after some code."""
    code = f"import sys\n{code}\nprint(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_names_are_found_where_they_live():
    get, names = lazy_names("prune_gym.utils", {"Registry": ".registry", "sqrt": "math"})
    assert get("Registry").__module__ == "prune_gym.utils.registry"
    assert get("sqrt")(9.0) == 3.0
    assert {"Registry", "sqrt", "__doc__"} <= set(names())
    with pytest.raises(
        AttributeError, match=r"module 'prune_gym\.utils' has no attribute 'rigistry'"
    ):
        get("rigistry")


@pytest.mark.parametrize("package", ["prune_gym.envs", "prune_gym.wrappers"])
def test_packages_cost_nothing_and_have_what_they_list(package):
    assert loaded(f"import {package}") == "[]"
    assert loaded("import prune_gym.envs.registration") == "[]"
    module = sys.modules.get(package) or __import__(package, fromlist=["__all__"])
    for name in module.__all__:
        assert getattr(module, name).__doc__
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
