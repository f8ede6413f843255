"""`RayVecEnv`: a vector of environments that step in processes of a Ray cluster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from agents.arguments import MOST_ENVS, whole_number
from agents.errors import ClusterError, InvalidValueError, UsageError
from agents.own_code import by_value
from agents.ray_machines import PACKAGES, compared, versions

WAIT_S = 600.0  # for a worker's place: a cluster may have to start machines first
MakeEnv = Callable[[], gym.Env[Any, Any]]


class RayVecEnv(VecEnv):
    """Environments for Stable-Baselines3 whose steps are taken by workers of a Ray cluster.

    Each environment has random numbers of its own, so that results are those of ``DummyVecEnv``,
    whatever the number of workers. A worker that dies, or hangs, is replaced: its environments are
    made anew, and brought to where they were by the random numbers and the actions of their
    episodes, with what was set and called meanwhile. Of earlier episodes the last value of an
    attribute is set again, and the last call of a method (with as many arguments, of the same
    names) repeated: what others than setters do to an environment has to end with its episode.

    Args:
        env_fns: Functions that make one environment each, in the worker.
        workers: How many processes; one per environment if left out.
        ray: The module, connected (``ray.init``).
        cpus: Cores of each worker.
        gpus: GPUs of each, whole ones or a share; environments use them where they are told to.
        retries: How often a step is repeated whose worker died.
        timeout_s: Seconds that an environment may take for a step or a call, before its worker is
            ended.

    Raises:
        ClusterError: If the environments cannot be made there, or not brought to where they were.

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
        self._pending: list[tuple[_Crew, list[Any], Any]] = []  # with what will be the answer
        needs = _Needs(cpus, gpus, count, retries, timeout_s)
        self._crews = [
            _Crew(ray, list(env_fns[start::count]), list(range(start, n, count)), needs)
            for start in range(count)
        ]
        observations, actions, mode = self._spaces()
        self._mode = mode
        super().__init__(n, observations, actions)
        # what Stable-Baselines3 makes of observations, of any kind of space
        self._buffer = DummyVecEnv([lambda: _Spaces(observations, actions, mode)] * n)

    def _spaces(self) -> tuple[Any, Any, str | None]:
        """Of the first environment, once all could be made."""
        try:
            found = [crew.first() for crew in self._crews]
        except BaseException:
            self.close()
            raise
        return found[0]

    def reset(self) -> Any:
        """Reset all environments; gives their observations."""
        self._pending = []
        work = [
            (crew, [(self._seeds[i], self._options[i] or None) for i in crew.members])
            for crew in self._crews
        ]
        answers = [crew.send("reset", given) for crew, given in work]
        for (crew, given), answer in zip(work, answers, strict=True):
            found = crew.receive(answer, "reset", given)
            for index, (observation, info, start) in zip(crew.members, found, strict=True):
                self.reset_infos[index] = info
                crew.past[index].begin(start)
                self._buffer._save_obs(index, observation)
        self._reset_seeds()
        self._reset_options()
        return self._buffer._obs_from_buf()

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Hand the actions to the workers."""
        self._check_idle("step_async()")
        actions = np.array(actions)  # kept for a replay; the caller's array may change
        work = [(crew, [actions[i] for i in crew.members]) for crew in self._crews]
        self._pending = [(crew, given, crew.send("step", given)) for crew, given in work]

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all; a finished environment has begun its next episode."""
        if not self._pending:
            raise UsageError("step_wait(): no step is in work; call step_async(actions) first.")
        answers = [crew.receive(answer, "step", given) for crew, given, answer in self._pending]
        pending, self._pending = self._pending, []
        rewards, dones = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for (crew, given, _), found in zip(pending, answers, strict=True):
            for index, action, one in zip(crew.members, given, found, strict=True):
                observation, rewards[index], dones[index], infos[index], begun = one
                crew.past[index].log.append(("step", (action,)))
                if begun is not None:
                    self.reset_infos[index], start = begun
                    crew.past[index].begin(start)
                self._buffer._save_obs(index, observation)
        return self._buffer._obs_from_buf(), rewards, dones, infos

    def _check_idle(self, call: str) -> None:
        """Raise while a step is in work: what a call finds or changes must not depend on it."""
        if self._pending:
            raise UsageError(f"{call}: a step is in work; call step_wait(), or reset(), first.")

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
        self._check_idle(f"{way} of environments")
        found = []
        for index in self._get_indices(indices):
            crew = next(crew for crew in self._crews if index in crew.members)
            found.append(crew.receive(None, way, crew.members.index(index), *given))
            if keep:
                crew.past[index].log.append((way, given))
        return found


class _Spaces(gym.Env[Any, Any]):
    """Nothing but spaces, for what only looks at those."""

    def __init__(self, observations: Any, actions: Any, mode: str | None) -> None:
        self.observation_space, self.action_space, self.render_mode = observations, actions, mode


@dataclass
class _Past:
    """What brings a new environment to where another one is.

    Attributes:
        settings: Changes of earlier episodes: of each kind the last.
        start: How its episode began; None before the first.
        log: Actions since then, and changes in between.
    """

    settings: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    start: Any = None
    log: list[tuple[str, Any]] = field(default_factory=list)

    def begin(self, start: Any) -> None:
        """An episode begins."""
        for way, given in self.log:
            if way == "step":
                continue
            kind: tuple[Any, ...] = (way, given[0])
            if way == "method":
                kind = (*kind, len(given[1]), frozenset(given[2]))
            self.settings.pop(kind, None)  # it is the last one now
            self.settings[kind] = way, given
        self.start, self.log = start, []


@dataclass(frozen=True)
class _Needs:
    """Of workers: cores and GPUs of each, how many, and the arguments of `RayVecEnv`."""

    cpus: float
    gpus: float
    count: int
    retries: int
    timeout_s: float


class _Crew:
    """One worker and its environments, as this process knows them."""

    def __init__(self, ray: Any, env_fns: list[MakeEnv], members: list[int], needs: _Needs) -> None:
        self._ray, self.members, self._needs = ray, members, needs
        with by_value():
            self._fns = ray.put(cloudpickle.dumps(env_fns))
        self._class = ray.remote(EnvWorker).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self.past = {index: _Past() for index in members}
        self._told: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self._actor = self._class.remote()
        self._versions = self._actor.versions.remote()
        self._opened = self._actor.open.remote(self._fns)

    def first(self) -> tuple[Any, Any, str | None]:
        """See `ready`; a worker that dies before its environments are there is not replaced."""
        try:
            return self.ready()
        except self._ray.exceptions.RayError as error:
            raise _not_made(error) from error

    def ready(self) -> tuple[Any, Any, str | None]:
        """What the first environment is like, once the worker that was just made has them all."""
        exceptions = self._ray.exceptions
        try:
            there = self._ray.get(self._versions, timeout=WAIT_S)
            fault, notes = compared(versions(PACKAGES), there)
            if fault:
                raise ClusterError(fault)
            for words in set(notes) - self._told:
                warnings.warn(words, stacklevel=2)
            self._told.update(notes)
            found: tuple[Any, Any, str | None] = self._ray.get(self._opened, timeout=WAIT_S)
            return found
        except exceptions.GetTimeoutError:
            cores, gpus = map(self._ray.cluster_resources().get, ("CPU", "GPU"), (0.0, 0.0))
            raise ClusterError(
                f"workers={self._needs.count}: one of them was not there with its environments "
                f"after {WAIT_S:g} s. Each asks for {self._needs.cpus:g} CPU, {self._needs.gpus:g} "
                f"GPU, and the cluster has {cores:g} and {gpus:g}: ask for less."
            ) from None
        except exceptions.RayTaskError as error:
            raise _not_made(error) from error

    def send(self, way: str, *given: Any) -> Any:
        """Have the worker do something; gives what will be the answer."""
        return getattr(self._actor, way).remote(*given)

    def receive(self, answer: Any, way: str, *given: Any) -> Any:
        """An answer; asked for anew from a new worker where the old one died, or took too long.

        Args:
            answer: What `send` gave; None = it was not sent yet.
            way: What the worker is to do.
            given: With it.
        """
        seconds, said = self._needs.timeout_s * len(self.members), ""
        for trial in range(self._needs.retries + 1):
            try:
                if trial:
                    self._renew()
                if trial or answer is None:
                    answer = self.send(way, *given)
                return self._found(answer, seconds)
            except self._ray.exceptions.GetTimeoutError:
                said = f"took longer than {seconds:g} s"
            except self._ray.exceptions.RayError as error:
                said = f"died: {_last_line(error)}"
        raise ClusterError(
            f"{way} of environments failed in {self._needs.retries + 1} trials: the last worker "
            f"{said}"
        )

    def _renew(self) -> None:
        """Another worker, whose environments are where those of the old one were."""
        self.close()
        self._begin()
        self.ready()
        past = [self.past[index] for index in self.members]
        steps = 2 + sum(len(one.log) + len(one.settings) for one in past)
        answer = self.send("restore", past)
        try:
            self._found(answer, self._needs.timeout_s * steps)
        except self._ray.exceptions.RayError:
            raise
        except Exception as error:
            raise ClusterError(
                "a worker died, and its environments could not be brought to where they were: "
                f"{type(error).__name__}: {error}. The same random numbers and actions have to "
                "give the same steps again."
            ) from error

    def _found(self, answer: Any, timeout: float) -> Any:
        try:
            return self._ray.get(answer, timeout=timeout)
        except self._ray.exceptions.RayTaskError as error:  # the environment's own
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise ClusterError(f"an environment failed: {_last_line(error)}") from error

    def close(self) -> None:
        with suppress(Exception):  # it may be dead, or the connection
            self._ray.kill(self._actor, no_restart=True)


def _not_made(error: BaseException) -> ClusterError:
    return ClusterError(
        f"a worker could not make its environments: {_last_line(error)} What they import must be "
        "on its machine: install it there, or send it along, "
        "ray.init(runtime_env={'py_modules': [...]})."
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


class EnvWorker:
    """What a worker runs: some environments, stepped one after another."""

    def __init__(self) -> None:
        self._envs: list[gym.Env[Any, Any]] = []

    def versions(self) -> dict[str, str]:
        """See `agents.ray_machines.versions`."""
        return versions(PACKAGES)

    def open(self, env_fns: bytes) -> tuple[Any, Any, str | None]:
        """Make the environments; of the first its spaces, and how it shows itself."""
        self._envs = [make() for make in cloudpickle.loads(env_fns)]
        env = self._envs[0]
        return env.observation_space, env.action_space, env.render_mode

    def reset(self, given: list[tuple[int | None, Any]]) -> list[tuple[Any, Any, Any]]:
        """Reset all, each with a seed and options; observation, info and how it began."""
        return [self._begun(env, *one) for env, one in zip(self._envs, given, strict=True)]

    def step(self, actions: list[Any]) -> list[Any]:
        """Step all; those that have ended begin anew."""
        return [self._stepped(env, one) for env, one in zip(self._envs, actions, strict=True)]

    def restore(self, past: list[_Past]) -> None:
        """Bring environments to where others were: the same random numbers, the same actions."""
        for index, one in enumerate(past):
            for way, given in one.settings.values():
                getattr(self, way)(index, *given)
            env = self._envs[index]
            if one.start is not None:
                state, seed, options = one.start
                env.reset()
                env.unwrapped.np_random.bit_generator.state = state
                self._begun(env, seed, options)
            for way, given in one.log:
                if way == "step":
                    env.step(*given)
                else:
                    getattr(self, way)(index, *given)

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
