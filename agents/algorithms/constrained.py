"""What every constrained algorithm has, whatever it does with its costs.

A mixin for algorithms of Stable-Baselines3. It watches the environment through a callback of its
own, keeps the multiplier on the model (so that it is saved), and moves it by the mean undiscounted
cost of finished episodes.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from agents.algorithms.model_file import SavedModel, StoredAlgorithm
from agents.algorithms.units import Units
from agents.costs import (
    EpisodeCosts,
    FloatArray,
    check_cost_limit,
    check_cost_limits,
    read_cost_limit,
    read_cost_limits,
    read_cost_names,
    read_cost_vectors,
    read_costs,
)
from agents.env_checks import (
    check_reward_scaling,
    check_truncation,
    check_unpenalised,
    explain_misfit,
)
from agents.errors import InvalidTypeError, InvalidValueError, ModelFileError
from agents.multipliers.rules import FixedMultiplier, VectorMultiplier, check_multiplier
from agents.wrappers import FixedPenalty, SauteBudget

_AS_SAVED = object()  # of an argument of load() that is not given


class Constrained(StoredAlgorithm):
    """Mixin: an algorithm that holds the mean episodic cost at or below a limit.

    The problem is ``max J_r(pi)`` subject to ``J_c(pi) <= d``, and its Lagrangian
    ``min over lambda >= 0, max over pi, of J_r(pi) / u_r - lambda * (J_c(pi) - d) / u_c``, with

    - ``pi``: the policy;
    - ``J_r``, ``J_c``: the expected undiscounted sums of reward and of cost in an episode;
    - ``d``: the limit, held at ``d - cost_margin * |d|``;
    - ``u_r``, ``u_c``: the units of reward, the root mean square of all returns so far, and of
      cost, the limit; see `Units` for the formula and for limits of zero. They change only where
      the multiplier moves, and stay in between;
    - ``lambda``: the multiplier. It moves by the violation, the mean cost of the episodes that
      finished since it last moved minus what it is held at, over ``u_c``; how, is the business of
      its rule, see `agents.multipliers.rules`.

    So lambda has no unit, and an agent does not care in which units rewards and costs come: with
    all rewards multiplied by one positive number, and all costs and the limit by another, it learns
    the same policies. With several costs there is one lambda and one ``u_c`` for each, and the term
    of cost is a sum over them.

    | logged | meaning |
    |---|---|
    | ``lagrange/cost`` | mean cost of the episodes that the multiplier moved by |
    | ``lagrange/violation_rate`` | fraction of these episodes that cost more than a limit |
    | ``lagrange/multiplier`` | the multiplier, lambda |
    | ``lagrange/price`` | ``lambda * u_r / u_c``: what a cost of 1 is worth in reward |
    | ``lagrange/reward_unit`` | ``u_r`` |
    | ``lagrange/violations`` | episodes of the training so far that cost more than a limit |
    | ``lagrange/cost_rate`` | mean cost of a step, of the training so far |

    With several costs there is a cost, a multiplier, a price and a cost rate for each, such as
    ``lagrange/cost_NAME``.

    Args:
        policy: As the algorithm takes it.
        env: The environment, or a vector of them; it reports ``info["cost"]`` on every step.
        *args: Further arguments of the algorithm.
        multiplier: The multiplier; `GradientMultiplier` with its defaults if left out. A sequence
            of them is one for each cost of ``info["costs"]``.
        cost_limit: Limit on the mean episodic cost (one for every multiplier of a sequence); if
            left out it is read from the environment, at every update of the multiplier.
        cost_margin: Fraction of the limit kept in reserve, in [0, 1). The multiplier holds the
            mean at ``cost_limit - cost_margin * |cost_limit|``; at the limit itself, about half
            of the episodes of a policy that varies would cost more.
        unit_free: Whether reward and costs are measured in units of their own, as above. If not,
            ``u_r`` and ``u_c`` are 1: the multiplier is a price in the environment's units, and
            its rule has to be chosen for them. If left out they are, unless the multiplier is a
            `FixedMultiplier` (or several of them), which is a price that the user knows; so
            ``FixedMultiplier(0.0)`` leaves the algorithm what it was.
        **kwargs: Further arguments of the algorithm.

    Attributes:
        multiplier: The multiplier.
        units: The units, see `Units`.
        episodes: Number of finished episodes of the training.
        violations: How many of them cost more than the limit.
        violation: Mean costs minus what they are held at, of the episodes by which the multiplier
            last moved, shape (n_costs,); None before.
    """

    refused: ClassVar[frozenset[str]] = frozenset()  # arguments of a parent that are none here
    __signature__: ClassVar[inspect.Signature]  # with the arguments behind *args and **kwargs
    rewards_are_scaled: bool = False  # whether VecNormalize may divide rewards by their spread

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        multiplier: Any = None,
        cost_limit: Any = None,
        cost_margin: float = 0.0,
        unit_free: bool | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            raise InvalidTypeError(
                f"env is a {type(env).__name__}, a vector of Gymnasium. Stable-Baselines3 takes "
                "its own, which keep the last step's info and its cost (SAME_STEP autoreset hides "
                "them): pass one environment, or DummyVecEnv([make_one, make_one])."
            )
        self.multiplier = check_multiplier(multiplier)
        self.cost_limit = self._checked_limit(cost_limit)
        if not 0.0 <= cost_margin < 1.0:
            raise InvalidValueError(
                f"cost_margin is {cost_margin!r}; it must be in [0, 1): a fraction of the limit "
                "kept in reserve. Try 0.05."
            )
        self.cost_margin = float(cost_margin)
        self.unit_free = _checked_unit_free(unit_free, self.multiplier)
        self.units = Units.of(self.n_costs)
        self.violation: FloatArray | None = None
        self.episodes = 0
        self.violations = 0
        self.cost_sum: FloatArray = np.zeros(self.n_costs)  # of the whole training
        self._charged_steps = 0  # of the whole training: learn() may set num_timesteps to 0
        self._finished: list[FloatArray] = []  # costs of episodes since the multiplier moved
        self._episode_costs: EpisodeCosts | None = None
        self._episode_returns: EpisodeCosts | None = None
        try:
            super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[call-arg]
        except AssertionError as error:  # Stable-Baselines3 checks its action spaces so
            raise explain_misfit(error) from error
        if _init_setup_model:
            self._setup_model()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A subclass is another algorithm: it loads its own models only."""
        super().__init_subclass__(**kwargs)
        if "made_by" not in vars(cls):
            cls.made_by = cls.__name__
        cls.__signature__ = _whole_signature(cls)

    @property
    def n_costs(self) -> int:
        """How many costs are constrained."""
        if isinstance(self.multiplier, VectorMultiplier):
            return len(self.multiplier.multipliers)
        return 1

    @property
    def weights(self) -> FloatArray:
        """The multipliers, float64 of shape (n_costs,): weights of cost against reward."""
        return np.atleast_1d(np.asarray(self.multiplier.value, dtype=np.float64))

    @property
    def prices(self) -> FloatArray:
        """What costs of 1 are worth in reward, float64 of shape (n_costs,): ``lambda * u_r / u_c``.

        The Lagrange multipliers of the problem in the environment's units.
        """
        return self.weights * self.units.reward / self.units.costs

    # -- limits and costs ----------------------------------------------------------------------

    def _checked_limit(self, cost_limit: Any) -> FloatArray | None:
        if cost_limit is None:
            return None
        if isinstance(self.multiplier, VectorMultiplier):
            return check_cost_limits(cost_limit, self.n_costs)
        return np.array([check_cost_limit(cost_limit)])

    def limits(self) -> FloatArray:
        """Return the limits that hold now, shape (n_costs,): those given, or the environment's.

        Raises:
            InvalidValueError: If there is no environment, or it has no limits.
        """
        if self.env is None:
            raise InvalidValueError(
                "env is None: the model was loaded without an environment. Call set_env(env) "
                "before learn, or load(path, env=env)."
            )
        if self.cost_limit is not None:
            return self.cost_limit
        if isinstance(self.multiplier, VectorMultiplier):
            return read_cost_limits(self.env, self.n_costs)
        return np.array([read_cost_limit(self.env)])

    def _read(self, infos: Any) -> FloatArray:
        """Return the costs of a step, shape (n_envs, n_costs)."""
        if isinstance(self.multiplier, VectorMultiplier):
            return read_cost_vectors(infos, self.n_costs)
        return read_costs(infos)[:, None]

    # -- Stable-Baselines3's hooks -------------------------------------------------------------

    def _setup_model(self) -> None:
        if self.env is not None:  # a model may be loaded without one
            self._check_env()
        super()._setup_model()  # type: ignore[safe-super]

    def _check_env(self) -> None:
        self.limits()
        if self.env is not None:
            check_unpenalised(self.env, FixedPenalty, SauteBudget)
            if not self.rewards_are_scaled:
                check_reward_scaling(self.env)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.env is None:
            self.limits()  # says what to do
        self._check_env()  # set_env may have brought another one
        reset = kwargs.get("reset_num_timesteps", args[2] if len(args) > 2 else True)
        if reset or self._last_obs is None or self._episode_costs is None:
            self._begin_episodes()
        return super()._setup_learn(*args, **kwargs)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks: list[BaseCallback] = [_Watch()]
        if isinstance(callback, list):
            callbacks += callback
        elif isinstance(callback, BaseCallback):
            callbacks.append(callback)
        elif callback is not None:
            callbacks.append(ConvertCallback(callback))
        return super()._init_callback(callbacks, progress_bar)

    # -- what happens during a rollout ---------------------------------------------------------

    def _begin_rollout(self) -> None:
        """Is called before the first step of a rollout."""

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        """Charge a step; ``scope`` holds the local variables of SB3's loop."""
        costs = self._read(scope["infos"])
        check_truncation(getattr(self, "gamma", 0.0), scope["infos"])
        self.cost_sum = self.cost_sum + costs.sum(axis=0)
        self._charged_steps += len(costs)
        rewards = np.asarray(scope["rewards"], dtype=np.float64)[:, None]
        if self._episode_costs is None or self._episode_returns is None:
            self._begin_episodes()  # learn() does; only its inner loop may be called alone
        finished = self._episode_costs.add(costs, scope["dones"])  # type: ignore[union-attr]
        returns = self._episode_returns.add(rewards, scope["dones"])  # type: ignore[union-attr]
        if finished:
            limits = self.limits()
            self.episodes += len(finished)
            self.violations += sum(bool((total > limits).any()) for total in finished)
            self._finished += finished
        if self.unit_free:
            for one, total in zip(returns, finished, strict=True):
                self.units.see(float(one[0]), total)
        return costs

    def _begin_episodes(self) -> None:
        self._episode_costs = EpisodeCosts(self.n_envs, self.n_costs)
        self._episode_returns = EpisodeCosts(self.n_envs)

    def _settle_units(self) -> None:
        """Measure reward and cost by the episodes so far, until this is called again."""
        costs, returns = self._episode_costs, self._episode_returns
        if self.unit_free and costs is not None and returns is not None:
            self.units.settle(self.limits(), (returns.running, costs.running))

    def _end_rollout(self, scope: dict[str, Any]) -> None:
        """Is called after the last step of a rollout, before the policy is updated."""

    def _move_multiplier(self) -> None:
        """Move the multiplier by the episodes that finished since it last moved, and log.

        The units are settled first. Nothing moves when none finished.
        """
        self._settle_units()
        names = [""]
        if isinstance(self.multiplier, VectorMultiplier) and self.env is not None:
            names = [f"_{name}" for name in read_cost_names(self.env, self.n_costs)]
        if self._finished:
            costs, limits = np.array(self._finished), self.limits()
            self._finished = []
            held_at = limits - self.cost_margin * np.abs(limits)
            self.violation = costs.mean(axis=0) - held_at
            self._update_multiplier(self.violation / self.units.costs)
            for name, cost in zip(names, costs.mean(axis=0), strict=True):
                self.logger.record(f"lagrange/cost{name}", float(cost))
            rate = float((costs > limits).any(axis=1).mean())
            self.logger.record("lagrange/violation_rate", rate)
        for name, weight, price in zip(names, self.weights, self.prices, strict=True):
            self.logger.record(f"lagrange/multiplier{name}", float(weight))
            self.logger.record(f"lagrange/price{name}", float(price))
        self.logger.record("lagrange/reward_unit", self.units.reward)
        self.logger.record("lagrange/violations", self.violations)
        for name, total in zip(names, self.cost_sum, strict=True):
            rate = float(total) / max(1, self._charged_steps)
            self.logger.record(f"lagrange/cost_rate{name}", rate)

    def _update_multiplier(self, violation: FloatArray) -> None:
        """Move the multiplier by a violation in units of cost, shape (n_costs,)."""
        if isinstance(self.multiplier, VectorMultiplier):
            self.multiplier.update(violation)
        else:
            self.multiplier.update(float(violation[0]))

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]
        cls, path: SavedModel, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model with its multiplier; see `StoredAlgorithm.load`.

        Args:
            path: The file, or one that is open.
            *args: ``env``, ``device`` and so on, see `StoredAlgorithm.load`.
            **kwargs: The same by name, and arguments of the constructor that replace those of the
                file.

        Raises:
            InvalidValueError: If the file is damaged or not trusted, was made by another algorithm
                or another version, or for another number of costs.
        """
        if "multiplier" in kwargs:
            kwargs["multiplier"] = check_multiplier(kwargs["multiplier"])
        limit = kwargs.pop("cost_limit", _AS_SAVED)
        model = super().load(path, *args, **kwargs)
        if model.n_costs != len(model.cost_sum):
            raise InvalidValueError(
                f"multiplier is for {model.n_costs} costs, but the model in path={str(path)!r} was "
                f"trained with {len(model.cost_sum)}. Give one for each of them."
            )
        if len(model.units.costs) != model.n_costs:  # those of an earlier version, or damaged ones
            if model.unit_free:
                raise ModelFileError(
                    f"path={str(path)!r} is no saved model (it has {len(model.units.costs)} units "
                    f"of cost for {model.n_costs} costs). Pass a file written by save()."
                )
            model.units = Units.of(model.n_costs)
        if limit is not _AS_SAVED:
            model.cost_limit = model._checked_limit(limit)
        return model


def _checked_unit_free(unit_free: Any, multiplier: Any) -> bool:
    if unit_free is None:
        rules = getattr(multiplier, "multipliers", [multiplier])
        return not all(isinstance(rule, FixedMultiplier) for rule in rules)
    if not isinstance(unit_free, bool):
        raise InvalidTypeError(
            f"unit_free is {unit_free!r}; it must be True or False, or None for True unless every "
            "multiplier is a FixedMultiplier."
        )
    return unit_free


def _whole_signature(cls: type[Constrained]) -> inspect.Signature:
    """Return all that a class takes: its own arguments, and those it passes on to its parents.

    `help` and editors show it; the constructors only pass on what they do not use themselves.
    """
    found: dict[str, inspect.Parameter] = {}
    for kind in cls.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
        for one in parameters:
            known = one.name in found or one.name in cls.refused or one.name.startswith("_")
            if known or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                continue
            positional = one.name in ("policy", "env")
            how = one.POSITIONAL_OR_KEYWORD if positional else one.KEYWORD_ONLY
            found[one.name] = one.replace(kind=how)
        if all(one.kind is not one.VAR_KEYWORD for one in parameters):
            break  # nothing is passed on
    return inspect.Signature(sorted(found.values(), key=lambda one: one.kind))


class _Watch(BaseCallback):
    """Hands what happens in SB3's loop to the model."""

    model: Constrained

    def _on_rollout_start(self) -> None:
        self.model._begin_rollout()

    def _on_step(self) -> bool:
        self.model._watch_step(self.locals)
        return True

    def _on_rollout_end(self) -> None:
        self.model._end_rollout(self.locals)
