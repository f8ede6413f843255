"""The registry: names, descriptions, suggestions, errors."""

from __future__ import annotations

import math

import pytest

import prune_gym
from prune_gym.errors import UnknownNameError
from prune_gym.searches.baselines import BASELINES
from prune_gym.utils.registry import Registry

REGISTRIES = {
    "network": prune_gym.NETWORKS,
    "dataset": prune_gym.DATASETS,
    "criterion": prune_gym.CRITERIA,
    "budget": prune_gym.BUDGETS,
    "recovery": prune_gym.RECOVERIES,
    "algorithm": BASELINES,
}


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register
    def square(side):
        """Area of a square.

        More about it.
        """
        return side * side

    @registry.register
    def circle(radius):
        """Area of a circle."""
        return math.pi * radius**2

    return registry


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registry(kind):
    registry = REGISTRIES[kind]
    assert registry.kind == kind
    assert registry.names() == sorted(registry.names()) == list(registry)
    for name, words in registry.describe().items():
        assert name in registry
        assert registry.get(name).__name__ == name
        assert words.endswith((".", ")"))
        assert len(words) < 110
    with pytest.raises(UnknownNameError, match=rf"unknown {kind} 'nonesuch'.* Known: "):
        registry.get("nonesuch")


def test_names_and_wildcards(shapes):
    assert shapes.names() == ["circle", "square"]
    assert shapes.names("*are") == ["square"]
    assert shapes.describe() == {"circle": "Area of a circle.", "square": "Area of a square."}
    assert "square" in shapes
    assert "cube" not in shapes


def test_an_unknown_name_is_answered_with_the_nearest(shapes):
    with pytest.raises(ValueError, match=r"^unknown shape 'sqare'\. Did you mean 'square'\? Known"):
        shapes.get("sqare")
    with pytest.raises(ValueError, match=r"^unknown shape 'zzz'\. Known: circle, square\.$"):
        shapes.get("zzz")
    with pytest.raises(ValueError, match=r"unknown shape 3\."):
        shapes.get(3)


def test_anything_importable(shapes):
    assert shapes.get("math:sqrt") is math.sqrt
    for path in ("math:nothing", "no_such_module:f", ":f", "math:"):
        with pytest.raises(UnknownNameError, match=rf"shape '{path}' cannot be imported"):
            shapes.get(path)
    with pytest.raises(UnknownNameError, match=r"'math:pi' is 3.14\d*, which cannot be called"):
        shapes.get("math:pi")


def test_a_name_is_taken_once(shapes):
    def square(side):
        """Another one."""

    with pytest.raises(ValueError, match=r"shape 'square' is registered already; choose another"):
        shapes.register(square)
    assert shapes.get("square")(3) == 9


def test_a_row_needs_a_docstring(shapes):
    def cube(side):
        return side**3

    with pytest.raises(ValueError, match=r"shape 'cube' needs a docstring: its first line"):
        shapes.register(cube)
    assert "cube" not in shapes
