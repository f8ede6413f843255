"""The part of a search in which an agent learns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from prune_gym.searches.algorithms import PRETRAINED, agent_of, make_config_env
from prune_gym.searches.saved_agent import load_agent, save_agent
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.threads import Workers

if TYPE_CHECKING:
    from agents import Constrained
    from prune_gym.searches.search import Search

N_ENVS = 8
SAVE_EVERY_S = 15.0


def learn(search: Search, workers: Workers) -> None:
    """Let an agent choose networks until the evaluations of a search are spent.

    Args:
        search: in whose archive they are put; the sensitivity scan, where there is one, is over.
        workers: that judge them.
    """
    config, archive, problem = search.config, search.archive, search.scanned

    def add(env: gym.Env[Any, Any]) -> None:
        """Record the network that an environment has just judged, if it is still asked for."""
        if len(archive.trials) < search.evaluations:
            pruning: Any = env.unwrapped
            archive.add(pruning.last_masks(), pruning.last_outcome())

    venv = ThreadVecEnv(
        [lambda: make_config_env(config, search.judging()) for _ in range(N_ENVS)], workers, add
    )
    # A resumed search goes on with other noise; the same would repeat the same networks.
    venv.seed(config.seed + len(archive.trials))
    try:
        model = _agent(search, venv)
        if config.algo == PRETRAINED and len(archive.trials) == search.before_agent:
            add(_played(search, model))
        if len(archive.trials) < search.evaluations:
            n_groups = len(problem.groups)
            # steps of episodes that were broken off have judged nothing
            model.num_timesteps = len(archive.trials) * n_groups
            # whole episodes of all environments, which begin anew: the callback ends with the last
            # one needed
            episodes = -(-(search.evaluations - len(archive.trials)) // N_ENVS) * N_ENVS
            steps = max(config.timesteps - model.num_timesteps, episodes * n_groups)
            try:
                model.learn(steps, callback=_callback(search), reset_num_timesteps=False)
            finally:  # a budget that raises must not cost what was learned
                if search.folder is not None:
                    save_agent(model, search.folder)
    finally:
        venv.close()


def _agent(search: Search, venv: ThreadVecEnv) -> Constrained:
    from agents import AGENTS, FixedMultiplier, load_pretrained, make_agent

    config, name = search.config, str(agent_of(search.config.algo))
    if search.folder is not None and search.folder.agent.is_file():
        model = load_agent(search.folder, name, venv)
        model.set_random_seed(config.seed + len(search.archive.trials))
    else:
        given: dict[str, Any] = {"seed": config.seed, "device": "cpu"}
        is_kept = config.hard or (config.decision == "prior" and search.scanned.allocation.is_known)
        if is_kept and AGENTS[name].multiplier is not None:
            # limits are kept anyway: no price on cost
            given["multiplier"] = FixedMultiplier(0.0)
        if config.algo == PRETRAINED:
            model = load_pretrained(venv, **given)
        else:
            model = make_agent(name, venv, **given)
    search.multiplier = float(model.multiplier.value)
    return model


def _played(search: Search, model: Constrained) -> gym.Env[Any, Any]:
    """An environment that has judged the network which the policy gives without chance."""
    env = make_config_env(search.config, search.scanned)
    observation, _ = env.reset(seed=search.config.seed)
    ended = False
    while not ended:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, ended, _, _ = env.step(action)
    return env


def _callback(search: Search) -> Any:
    """An SB3 callback that ends a search, and saves its agent now and then."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Record(BaseCallback):
        saved = time.monotonic()

        def _on_step(self) -> bool:
            self._read_multiplier()
            search.rivals.take(search.archive.front)
            return not search.stop and len(search.archive.trials) < search.evaluations

        def _read_multiplier(self) -> None:
            search.multiplier = float(self.model.multiplier.value)  # type: ignore[attr-defined]

        def _on_rollout_start(self) -> None:
            self._read_multiplier()  # it moves between rollouts
            if search.folder and time.monotonic() - self.saved > SAVE_EVERY_S:
                save_agent(self.model, search.folder)
                self.saved = time.monotonic()

    return Record()
