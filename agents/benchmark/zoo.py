"""Agents of the zoo as entries of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv

from agents.benchmark.counted import Env
from agents.benchmark.environments import MakeEnv
from agents.benchmark.ledger import EvaluationsSpent
from agents.benchmark.policies import Wrap
from agents.errors import AgentsError, UnfitEnvError
from agents.zoo.make import find_agent, make_agent
from agents.zoo.table import import_object


class ZooEntry:
    """Trains an agent of the zoo, with the zoo's values.

    Args:
        name: A key of `agents.AGENTS`.
        discrete_wrappers: Give environments discrete actions, ``"module:Class"``; for agents that
            take no others.
    """

    def __init__(self, name: str, discrete_wrappers: Sequence[str] = ()) -> None:
        self.name, self.spec = name, find_agent(name)
        self.discrete_wrappers = tuple(discrete_wrappers)

    def __call__(self, make_env: MakeEnv, seed: int, budget: int) -> tuple[Any, Wrap]:
        """Train; see `agents.benchmark`."""
        wrap = self._wrap(make_env())
        venv = DummyVecEnv([lambda: wrap(make_env()) for _ in range(self.spec.n_envs)])
        model = make_agent(self.name, venv, seed=seed, device="cpu")
        with suppress(EvaluationsSpent):
            model.learn(budget * make_env.n_steps)
        return model, wrap

    def _wrap(self, env: Env) -> Wrap:
        """What gives an environment the actions, and the wrapper, that the agent needs."""
        kinds = [] if self.spec.wrapper is None else [import_object(self.spec.wrapper)]
        if "Box" not in self.spec.action_spaces:
            kinds.insert(0, self._discrete(env))

        def wrap(env: Env) -> Env:
            for kind in kinds:
                env = kind(env)
            return env

        return wrap

    def _discrete(self, env: Env) -> Any:
        for path in self.discrete_wrappers:
            kind = import_object(path)
            with suppress(AgentsError, TypeError, ValueError):
                if type(kind(env).action_space).__name__ in self.spec.action_spaces:
                    return kind
        raise UnfitEnvError(
            f"{self.name} takes an action space of {' or '.join(self.spec.action_spaces)}, not "
            f"{env.action_space}."
        )
