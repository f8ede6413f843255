"""`RayVecEnv`: a vector of environments that step in processes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from agents.arguments import MOST_ENVS, whole_number
from agents.errors import ClusterError
from agents.own_code import by_value

WAIT_S = 600.0  # for a worker's place: a cluster may have to start machines first
MakeEnv = Callable[[], gym.Env[Any, Any]]


class RayVecEnv(VecEnv):
    """Environments for Stable-Baselines3 whose steps are taken by workers of a Ray cluster.

    Each environment has random numbers of its own, so that results are those of ``DummyVecEnv``,
    whatever the number of workers. A worker that dies is replaced: its environments are made anew,
    and brought to where they were by the random numbers and the actions of their episodes.

    Args:
        env_fns: Functions that make one environment each, in the worker.
        workers: How many processes; one per environment if left out.
        ray: The module, connected (``ray.init``).
        cpus: Cores of each worker.
        retries: How often a step is repeated whose worker died.

    Raises:
        ClusterError: If the environments cannot be made there.

    Example: ``PPO("MlpPolicy", RayVecEnv([make] * 8, 4, ray=ray))`` after ``ray.init()``.
    """

    def __init__(
        self,
        env_fns: Sequence[MakeEnv],
        workers: int | None = None,
        *,
        ray: Any,
        cpus: float = 1.0,
        retries: int = 3,
    ) -> None:
        n = len(env_fns)
        whole_number("the number of env_fns", n, 1, MOST_ENVS)
        count = min(n, n if workers is None else whole_number("workers", workers, 1, MOST_ENVS))
        self._retries = retries
        self._crews = [
            _Crew(ray, list(env_fns[start::count]), list(range(start, n, count)), cpus, count)
            for start in range(count)
        ]
        observations, actions, mode = self._spaces()
        self._mode = mode
        super().__init__(n, observations, actions)
        # what Stable-Baselines3 makes of observations, of any kind of space
        self._buffer = DummyVecEnv([lambda: _Spaces(observations, actions, mode)] * n)
        self._pending: list[tuple[_Crew, Any]] = []

    def _spaces(self) -> tuple[Any, Any, str | None]:
        """Of the first environment, once all could be made."""
        try:
            found: list[tuple[Any, Any, str | None]] = [
                crew.first("spaces") for crew in self._crews
            ]
        except ClusterError:
            self.close()
            raise
        return found[0]

    def reset(self) -> Any:
        """Reset all environments; gives their observations."""
        work = [
            (crew, [(self._seeds[i], self._options[i] or None) for i in crew.members])
            for crew in self._crews
        ]
        for crew, found in self._all("reset", work):
            for index, (observation, info, start) in zip(crew.members, found, strict=True):
                self.reset_infos[index] = info
                crew.begin(index, start)
                self._buffer._save_obs(index, observation)
        self._reset_seeds()
        self._reset_options()
        return self._buffer._obs_from_buf()

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Hand the actions to the workers."""
        self._pending = [(crew, [actions[i] for i in crew.members]) for crew in self._crews]
        for crew, given in self._pending:
            crew.send("step", given)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all; a finished environment has begun its next episode."""
        rewards, dones = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for crew, given in self._pending:
            found = crew.receive("step", given, self._retries)
            for index, action, one in zip(crew.members, given, found, strict=True):
                observation, rewards[index], dones[index], infos[index], begun = one
                crew.note(index, action)
                if begun is not None:
                    self.reset_infos[index], start = begun
                    crew.begin(index, start)
                self._buffer._save_obs(index, observation)
        return self._buffer._obs_from_buf(), rewards, dones, infos

    def close(self) -> None:
        """End the workers."""
        for crew in self._crews:
            crew.close()

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
        found = {}
        for index in self._get_indices(indices):
            crew = next(crew for crew in self._crews if index in crew.members)
            call = (crew.members.index(index), *given)
            found[index] = crew.receive(way, call, self._retries, spread=True)
            if keep:
                crew.changes.append((way, call))
        return [found[index] for index in self._get_indices(indices)]

    def _all(self, way: str, work: list[tuple[_Crew, Any]]) -> Iterable[tuple[_Crew, Any]]:
        for crew, given in work:
            crew.send(way, given)
        return [(crew, crew.receive(way, given, self._retries)) for crew, given in work]


class _Spaces(gym.Env[Any, Any]):
    """Nothing but spaces, for what only looks at those."""

    def __init__(self, observations: Any, actions: Any, mode: str | None) -> None:
        self.observation_space, self.action_space, self.render_mode = observations, actions, mode


@dataclass
class _Episode:
    """How an environment's episode began, and the actions since."""

    start: Any = None
    actions: list[Any] = field(default_factory=list)


class _Crew:
    """One worker and its environments, as this process knows them."""

    def __init__(
        self, ray: Any, env_fns: list[MakeEnv], members: list[int], cpus: float, n: int
    ) -> None:
        self._ray, self.members = ray, members
        self._cpus, self._n = cpus, n  # of all crews
        with by_value():
            self._fns = ray.put(cloudpickle.dumps(env_fns))
        self._class = ray.remote(EnvWorker).options(
            num_cpus=cpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._episodes = {index: _Episode() for index in members}
        self.changes: list[tuple[str, Any]] = []
        self._actor = self._class.remote(self._fns)
        self._answer: Any = None

    def begin(self, index: int, start: Any) -> None:
        self._episodes[index] = _Episode(start)

    def note(self, index: int, action: Any) -> None:
        self._episodes[index].actions.append(action)

    def first(self, way: str) -> Any:
        """The answer of a worker that was just made."""
        try:
            return self._found(getattr(self._actor, way).remote(), timeout=WAIT_S)
        except self._ray.exceptions.GetTimeoutError:
            cores = self._ray.cluster_resources().get("CPU", 0.0)
            raise ClusterError(
                f"workers={self._n}: there was no place for one of them for {WAIT_S:g} s. They ask "
                f"for {self._cpus:g} cores each, and the cluster has {cores:g}: ask for fewer."
            ) from None
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ClusterError(
                f"a worker could not make its environments: {lines[-1][:300]} What they import "
                "must be on its machine: install it there, or send it along, "
                "ray.init(runtime_env={'py_modules': [...]})."
            ) from error

    def send(self, way: str, given: Any) -> None:
        self._answer = getattr(self._actor, way).remote(given)

    def receive(self, way: str, given: Any, retries: int, spread: bool = False) -> Any:
        """The answer; asked for anew from a new worker where the old one died."""
        answer, self._answer = self._answer, None
        for trial in range(retries + 1):
            try:
                if answer is None:
                    method = getattr(self._actor, way)
                    answer = method.remote(*given) if spread else method.remote(given)
                return self._found(answer)
            except self._ray.exceptions.RayError as error:
                if trial == retries:
                    raise ClusterError(
                        f"a worker of the environments died {retries + 1} times in one step: "
                        f"{' '.join(str(error).split())[:300]}"
                    ) from error
                answer = None
                self._renew()
        return None

    def _renew(self) -> None:
        self.close()
        self._actor = self._class.remote(self._fns)
        known = [
            (self._episodes[index].start, self._episodes[index].actions) for index in self.members
        ]
        self._actor.restore.remote(self.changes, known)

    def _found(self, answer: Any, timeout: float | None = None) -> Any:
        try:
            return self._ray.get(answer, timeout=timeout)
        except self._ray.exceptions.RayTaskError as error:  # the environment's own
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from error

    def close(self) -> None:
        self._ray.kill(self._actor, no_restart=True)


class EnvWorker:
    """What a worker runs: some environments, stepped one after another."""

    def __init__(self, env_fns: bytes) -> None:
        self._envs: list[gym.Env[Any, Any]] = [make() for make in cloudpickle.loads(env_fns)]

    def spaces(self) -> tuple[Any, Any, str | None]:
        """Spaces of observations and actions, and how the first one shows itself."""
        env = self._envs[0]
        return env.observation_space, env.action_space, env.render_mode

    def reset(self, given: list[tuple[int | None, Any]]) -> list[tuple[Any, Any, Any]]:
        """Reset all, each with a seed and options; observation, info and how it began."""
        return [self._begun(env, *one) for env, one in zip(self._envs, given, strict=True)]

    def step(self, actions: list[Any]) -> list[Any]:
        """Step all; those that have ended begin anew."""
        return [self._stepped(env, one) for env, one in zip(self._envs, actions, strict=True)]

    def restore(
        self, changes: list[tuple[str, Any]], episodes: list[tuple[Any, list[Any]]]
    ) -> None:
        """Bring environments to where others were: the same random numbers, the same actions."""
        for way, given in changes:
            getattr(self, way)(*given)
        for env, (start, actions) in zip(self._envs, episodes, strict=True):
            if start is None:
                continue
            state, seed, options = start
            env.reset()
            env.unwrapped.np_random.bit_generator.state = state
            env.reset(seed=seed, options=options)
            for action in actions:
                env.step(action)

    def get(self, index: int, name: str) -> Any:
        """An attribute."""
        return self._envs[index].get_wrapper_attr(name)

    def set(self, index: int, name: str, value: Any) -> None:
        """Set an attribute."""
        setattr(self._envs[index], name, value)

    def method(self, index: int, name: str, args: Any, kwargs: Any) -> Any:
        """Call a method."""
        return self._envs[index].get_wrapper_attr(name)(*args, **kwargs)

    def is_wrapped(self, index: int, wrapper: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        """Whether one is wrapped so."""
        return is_wrapped(self._envs[index], wrapper)

    @staticmethod
    def _begun(env: gym.Env[Any, Any], seed: int | None, options: Any) -> tuple[Any, Any, Any]:
        state = env.unwrapped.np_random.bit_generator.state
        observation, info = env.reset(seed=seed, **({"options": options} if options else {}))
        return observation, info, (state, seed, options)

    def _stepped(self, env: gym.Env[Any, Any], action: Any) -> Any:
        observation, reward, terminated, truncated, info = env.step(action)
        done, begun = terminated or truncated, None
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, reset_info, start = self._begun(env, None, None)
            begun = reset_info, start
        return observation, float(reward), done, info, begun
