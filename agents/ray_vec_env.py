"""`RayVecEnv`: a vector of environments that step in processes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from agents.arguments import MOST_ENVS, whole_number
from agents.errors import InvalidValueError, UsageError
from agents.ray_crew import Crew, MakeEnv, Needs, close_all
from agents.ray_errors import check_share


class RayVecEnv(VecEnv):
    """Environments for Stable-Baselines3 whose steps are taken by workers of a Ray cluster.

    Each environment has random numbers of its own, so that results are those of ``DummyVecEnv``,
    whatever the number of workers. A worker that dies, or hangs, is replaced: its environments are
    made anew, and brought to where they were by the random numbers and the actions of their
    episodes, with what was set and called meanwhile. Of earlier episodes the last value of an
    attribute is set again, and the last call of a method (with as many arguments, of the same
    names) repeated: what others than setters do to an environment has to end with its episode.
    Where the last step then gives another observation or reward than it had given, as in an
    environment with random numbers of its own, a warning says so.

    Args:
        env_fns: Functions that make one environment each, in the worker.
        workers: How many processes; one per environment if left out.
        ray: The module, connected (``ray.init``).
        cpus: Cores of each worker: a share of one, or a whole number.
        gpus: GPUs of each, whole ones or a share; environments use them where they are told to.
        retries: How often a step is repeated whose worker died.
        timeout_s: Seconds that an environment may take to be made, for a step or a call, before
            its worker is ended: a worker has as many times that as it has environments.

    Raises:
        ClusterError: If the environments cannot be made there, or not brought to where they were,
            or the object store is full.
        InvalidTypeError: If ``env_fns``, or what a method is given, cannot be pickled.
        InvalidValueError: If a number is out of range.

    Example: ``PPO("MlpPolicy", RayVecEnv([make] * 8, 4, ray=ray))`` after ``ray.init()``.
    """

    def __init__(
        self,
        env_fns: Sequence[MakeEnv],
        workers: int | None = None,
        *,
        ray: Any,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
        timeout_s: float = 3600.0,
    ) -> None:
        n = len(env_fns)
        whole_number("the number of env_fns", n, 1, MOST_ENVS)
        count = min(n, n if workers is None else whole_number("workers", workers, 1, MOST_ENVS))
        whole_number("retries", retries, 0, 1000)
        if not 0.0 < timeout_s <= 1e9:
            raise InvalidValueError(f"timeout_s={timeout_s!r}: expected seconds above 0.")
        check_share("cpus", cpus)
        check_share("gpus", gpus)
        self._ray, self._crews = ray, list[Crew]()  # none = closed
        self._pending: list[tuple[Crew, list[Any]]] = []  # with actions
        needs = Needs(cpus, gpus, count, retries, timeout_s)
        try:
            for start in range(count):
                crew = Crew(ray, list(env_fns[start::count]), list(range(start, n, count)), needs)
                self._crews.append(crew)
                crew.hire()
            found = [crew.first() for crew in self._crews]
            observations, actions, self._mode = found[0]
            super().__init__(n, observations, actions)
            # what Stable-Baselines3 makes of observations, of any kind of space
            self._buffer = DummyVecEnv([lambda: _Spaces(observations, actions, self._mode)] * n)
        except BaseException:
            self.close()
            raise

    def reset(self) -> Any:
        """Reset all environments; gives their observations."""
        self._check_open("reset()")
        self._pending = []
        work = [
            (crew, [(self._seeds[i], self._options[i] or None) for i in crew.members])
            for crew in self._crews
        ]
        for crew, given in work:
            crew.send("reset", given)
        for crew, given in work:
            found = crew.receive("reset", given)
            for index, (observation, info, start) in zip(crew.members, found, strict=True):
                self.reset_infos[index] = info
                crew.past[index].begin(start, observation)
                self._buffer._save_obs(index, observation)
        self._reset_seeds()
        self._reset_options()
        return self._buffer._obs_from_buf()

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Hand the actions to the workers."""
        self._check_idle("step_async()")
        actions = np.array(actions)  # kept for a replay; the caller's array may change
        self._pending = [(crew, [actions[i] for i in crew.members]) for crew in self._crews]
        for crew, given in self._pending:
            crew.send("step", given)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all; a finished environment has begun its next episode."""
        if not self._pending:
            raise UsageError("step_wait(): no step is in work; call step_async(actions) first.")
        answers = [crew.receive("step", given) for crew, given in self._pending]
        pending, self._pending = self._pending, []
        rewards, dones = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for (crew, given), found in zip(pending, answers, strict=True):
            for index, action, one in zip(crew.members, given, found, strict=True):
                observation, rewards[index], dones[index], infos[index], begun = one
                if begun is None:
                    crew.past[index].step(action, observation, float(rewards[index]))
                else:
                    self.reset_infos[index], start = begun
                    crew.past[index].begin(start, observation)
                self._buffer._save_obs(index, observation)
        return self._buffer._obs_from_buf(), rewards, dones, infos

    def _check_open(self, call: str) -> None:
        """Raise after `close`."""
        if not self._crews:
            raise UsageError(f"{call}: close() has ended the workers; make a new RayVecEnv.")

    def _check_idle(self, call: str) -> None:
        """Raise while a step is in work: what a call finds or changes must not depend on it."""
        self._check_open(call)
        if self._pending:
            raise UsageError(f"{call}: a step is in work; call step_wait(), or reset(), first.")

    def close(self) -> None:
        """Close the environments, those of workers that answer in time, and end the workers."""
        self._pending = []
        crews, self._crews = self._crews, []
        close_all(self._ray, crews)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of environments."""
        return self._each("get", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of environments."""
        self._each("set", indices, attr_name, value, keep=True)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of environments."""
        return self._each("method", indices, method_name, args, kwargs, keep=True)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether environments are wrapped so."""
        return self._each("is_wrapped", indices, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray[Any, Any] | None]:
        """Pictures of all environments, where they show themselves."""
        if self._mode != "rgb_array":
            return [None] * self.num_envs
        return self._each("method", None, "render", (), {})

    def _each(self, way: str, indices: VecEnvIndices, *given: Any, keep: bool = False) -> list[Any]:
        self._check_idle(f"{way} of environments")
        found = []
        for index in self._get_indices(indices):
            crew = next(crew for crew in self._crews if index in crew.members)
            place = crew.members.index(index)
            crew.send(way, place, *given)
            found.append(crew.receive(way, place, *given))
            if keep:
                crew.past[index].log.append((way, given))
        return found


class _Spaces(gym.Env[Any, Any]):
    """Nothing but spaces, for what only looks at those."""

    def __init__(self, observations: Any, actions: Any, mode: str | None) -> None:
        self.observation_space, self.action_space, self.render_mode = observations, actions, mode
