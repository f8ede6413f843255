"""Every keyword is shown, with its default, and described once: by `make_problem`."""

from __future__ import annotations

import inspect
import pydoc
from typing import get_type_hints

import gymnasium as gym
import pytest

from prune_gym import make_problem
from prune_gym.adapters.safety_gymnasium import make_six
from prune_gym.envs import (
    GRANULARITIES,
    FilterPruneEnv,
    LayerPruneEnv,
    NetworkPruneEnv,
    PruneEnv,
    base,
    make_env,
    make_vector_env,
)
from prune_gym.envs.arguments import EnvArguments, ProblemArguments, shows_keywords_of
from prune_gym.problem import make

CLASSES = (PruneEnv, LayerPruneEnv, FilterPruneEnv, NetworkPruneEnv)
OF_THE_PROBLEM = inspect.signature(make_problem).parameters
OF_THE_ENV = inspect.signature(PruneEnv).parameters


def described(parameters) -> dict:
    """Default and annotation by name."""
    return {name: (p.default, p.annotation) for name, p in parameters.items()}


@pytest.mark.parametrize("taker", [*CLASSES, make_env, make_vector_env, make_six])
def test_all_keywords_of_the_problem_are_shown(taker):
    shown = inspect.signature(taker).parameters
    assert described(OF_THE_PROBLEM).items() <= described(shown).items()
    assert not [p for p in shown.values() if p.kind is p.VAR_KEYWORD]
    text = pydoc.plain(pydoc.render_doc(taker))
    assert all(f"{name}:" in text for name in OF_THE_PROBLEM)


@pytest.mark.parametrize("maker", [make_env, make_vector_env, make_six])
def test_all_keywords_of_the_environment_are_shown(maker):
    shown = described(inspect.signature(maker).parameters)
    assert described(OF_THE_ENV).items() <= shown.items()
    assert {"granularity", "needs_network"} <= set(shown)


def test_type_checkers_are_told_the_same():
    hints = get_type_hints(make_problem)
    del hints["return"]
    assert get_type_hints(ProblemArguments) == hints
    for name, parameter in OF_THE_ENV.items():
        hints[name] = eval(parameter.annotation, {**vars(make), **vars(base)})
    assert get_type_hints(EnvArguments) == hints


def test_the_page_names_every_keyword():
    section = LayerPruneEnv.__doc__.split("## Arguments")[1]
    assert all(f"``{name}``" in section for name in OF_THE_ENV)


def test_gymnasium_finds_what_is_shown():
    spec = gym.spec("PruneVGG-v0")
    for path, maker in (
        (spec.entry_point, make_env),
        (spec.vector_entry_point, make_vector_env),
    ):
        assert gym.envs.registration.load_env_creator(path) is maker
    assert {name: env.granularity for name, env in GRANULARITIES.items()} == {
        name: name for name in ("layer", "filter", "network")
    }


def test_keywords_that_a_function_has_itself_stay_its_own():
    def build(width=1, depth=2): ...

    @shows_keywords_of(build)
    def build_deep(depth=3, **arguments): ...

    assert str(inspect.signature(build_deep)) == "(depth=3, *, width=1)"
