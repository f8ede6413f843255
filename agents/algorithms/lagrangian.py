"""Any algorithm of Stable-Baselines3, made constrained.

>>> from stable_baselines3 import PPO
>>> from agents import BudgetToyEnv, GradientMultiplier, constrain
>>> model = constrain(PPO, BudgetToyEnv(), multiplier=GradientMultiplier(), n_steps=64, seed=0)
>>> model = model.learn(512)
>>> model.multiplier.value > 1.0  # the first policy is too expensive, so the price of cost rose
True

The model is an ordinary model of its algorithm: ``learn``, ``save``, ``predict``, ``set_env`` are
those of Stable-Baselines3, and ``type(model).load(path)`` or ``constrained(PPO).load(path)`` loads
it again, multiplier included.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv

from agents.algorithms.constrained import Constrained
from agents.algorithms.model_file import reading, writing
from agents.algorithms.replay_buffer import CostReplayBuffer, buffer_class
from agents.algorithms.rollouts import RewrittenRollouts
from agents.archive import DamageError
from agents.costs import FloatArray
from agents.env_checks import check_env
from agents.errors import InvalidTypeError, InvalidValueError


class PenalisedRollouts(RewrittenRollouts):
    """Mixin for on-policy algorithms: the rollout's rewards are penalised before they are learned.

    The algorithm learns from the reward ``(r / u_r - lambda * c / u_c) / (1 + lambda)``, with ``r``
    and ``c`` reward and cost of a step, ``u_r`` and ``u_c`` their units and ``lambda`` the
    multiplier, see `Constrained`; with several costs ``lambda * c / u_c`` and ``lambda`` are sums
    over them. When a rollout is complete the multiplier moves by the episodes that finished in it;
    then all its rewards are penalised with that one multiplier, and the buffer computes returns and
    advantages again. The environment, ``Monitor`` and every logged return stay unpenalised. An
    entropy bonus is divided by ``1 + lambda`` too: it keeps its weight against the reward.

    - Paper: RCPO of Tessler et al. 2018, https://arxiv.org/abs/1805.11074: one critic of the
      penalised reward ``r - lambda * c``, and ``lambda`` moves by ``J_c - limit`` more slowly.
    - Ours: that, for any algorithm that fills a rollout buffer.
    - Deviations: the units; the division by ``1 + lambda``, which bounds the size of what is
      learned; the multiplier moves by the undiscounted sum, by whichever rule is handed in.
    - Logs: what `Constrained` does, and the algorithm's own; ``train/*`` is of penalised rewards.
    """

    def _end_rollout(self, scope: dict[str, Any]) -> None:
        self._move_multiplier()
        rewards = np.array(self._rewards, dtype=np.float32)
        costs = np.array(self._costs)  # (n_steps, n_envs, n_costs)
        weights = self.weights
        worth = rewards / self.units.reward - (costs / self.units.costs) @ weights
        self._rewrite(worth / (1.0 + weights.sum()), scope)


class PenalisedReplay(Constrained, OffPolicyAlgorithm):
    """Mixin for off-policy algorithms: a replay buffer that mixes reward and cost when sampled.

    The critics learn from the reward ``(r / u_r - lambda * c / u_c) / (1 + lambda)``, with ``r``
    and ``c`` reward and cost of a replayed step, and ``u_r`` and ``u_c``, their units, and
    ``lambda``, the multiplier, those *of today*, however old the step is; see `Constrained`, and
    `CostReplayBuffer` for how. The multiplier moves once per ``episodes_per_update`` finished
    episodes, by their mean cost, not before ``learning_starts``: episodes of random actions say
    nothing about the policy, though the units are measured on them.

    Where the algorithm weighs entropy by a coefficient ``ent_coef`` that is a number (SAC, TQC,
    CrossQ), it is trained with ``ent_coef / (1 + lambda)``. What is learned is then the objective
    ``r / u_r - lambda * c / u_c + ent_coef * entropy``, all of it divided by ``1 + lambda``: the
    temperature stays ``ent_coef`` in units of reward, whatever the multiplier, and what the critics
    learn stays bounded. A coefficient that is learned (``"auto"``) follows a target entropy, which
    no unit changes, and is left alone.

    - Paper: RCPO of Tessler et al. 2018, https://arxiv.org/abs/1805.11074, see `PenalisedRollouts`.
    - Ours: its penalised reward, computed when it is replayed.
    - Deviations: as in `PenalisedRollouts`; besides, the episodes that move the multiplier are
      those of the exploring policy, noise included.
    - Logs: what `Constrained` does, and the algorithm's own; ``train/*`` is of penalised rewards.

    Args:
        policy: As the algorithm takes it.
        env: The environment, or a vector of them.
        *args: Further arguments of the algorithm.
        episodes_per_update: Finished episodes between two moves of the multiplier, at least 1.
        **kwargs: Further arguments of `Constrained` and of the algorithm.
    """

    replay_buffer: CostReplayBuffer | None

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        episodes_per_update: int = 8,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(episodes_per_update, int) or episodes_per_update < 1:
            raise InvalidValueError(
                f"episodes_per_update is {episodes_per_update!r}; it must be an integer >= 1. "
                "Try 8."
            )
        self.episodes_per_update = episodes_per_update
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)
        given = self.replay_buffer_class
        if given is not None and not issubclass(given, CostReplayBuffer):
            raise InvalidTypeError(
                f"replay_buffer_class is {given.__name__}, which has no place for costs. Leave it "
                "out, or subclass agents.CostReplayBuffer. (Hindsight replay invents rewards for "
                "other goals, but cannot invent their costs.)"
            )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        chosen = self.replay_buffer_class
        if self.n_steps > 1 and chosen is not None and not issubclass(chosen, NStepReplayBuffer):
            raise InvalidValueError(
                f"n_steps is {self.n_steps}, but replay_buffer_class={chosen.__name__} samples "
                "single steps. Subclass CostNStepReplayBuffer of agents.algorithms.replay_buffer, "
                "or use n_steps=1."
            )
        if chosen is None and self.n_steps > 1 and isinstance(self.observation_space, spaces.Dict):
            raise InvalidValueError(
                f"n_steps is {self.n_steps}, but Stable-Baselines3 replays Dict observations in "
                "single steps only. Use n_steps=1."
            )
        if self.replay_buffer is None:
            self.replay_buffer = self._make_buffer(self.buffer_size)
        super()._setup_model()
        self.replay_buffer_class = chosen  # what SB3 chose in its place is not used

    def _make_buffer(self, buffer_size: int) -> CostReplayBuffer:
        chosen = self.replay_buffer_class
        kind: Any = chosen or buffer_class(self.observation_space, self.n_steps)
        kwargs = dict(self.replay_buffer_kwargs)
        if chosen is None and self.n_steps > 1:
            kwargs.update({"n_steps": self.n_steps, "gamma": self.gamma})
        made: CostReplayBuffer = kind(
            buffer_size,
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=self.n_envs,
            optimize_memory_usage=self.optimize_memory_usage,
            multiplier=self.multiplier,
            **kwargs,
        )
        made.units = self.units
        return made

    def save_replay_buffer(self, path: Any) -> None:
        """Save the buffer as arrays, without pickles.

        Args:
            path: The file, ``.npz`` if it has no suffix, or an open file.

        Raises:
            InvalidValueError: If the model has none.
        """
        if self.replay_buffer is None:
            raise InvalidValueError("replay_buffer is None: there is nothing to save.")
        with writing(path, ".npz") as file:
            self.replay_buffer.save(file)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Load a saved buffer; its samples are mixed with this model's multiplier.

        Args:
            path: The file, or one that is open.
            truncate_last_traj: Of hindsight replay; unused.

        Raises:
            ModelFileError: If it is damaged, holds no costs or not so many, or was filled by
                other environments; the model keeps the buffer it had.
        """
        with reading(path, ".npz", "saved replay buffer") as archive:
            data = archive.json()
            size, n_costs = data.get("buffer_size"), data.get("n_costs")
            if n_costs != self.n_costs:
                raise InvalidValueError(
                    f"path={str(path)!r} holds {n_costs} costs per step, the model "
                    f"{self.n_costs}. Load a buffer of the same number of multipliers."
                )
            if data.get("n_envs") != self.n_envs:
                raise InvalidValueError(
                    f"path={str(path)!r} was filled by {data.get('n_envs')} environments, the "
                    f"model has {self.n_envs}. Load the model with as many."
                )
            known = max(self.buffer_size // self.n_envs, len(archive.array("rewards")))
            if type(size) is not int or not 1 <= size <= known:
                raise DamageError(f"buffer_size is {size!r}; it must be an integer up to {known}")
            loaded = self._make_buffer(size * self.n_envs)
            loaded.restore(archive)
        self.replay_buffer = loaded

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        costs = super()._watch_step(scope)
        if self.replay_buffer is not None:  # whatever the model was given since
            self.replay_buffer.multiplier = self.multiplier
            self.replay_buffer.units = self.units
        if self.num_timesteps <= self.learning_starts:
            self._finished = []
            self._settle_units()
        elif len(self._finished) >= self.episodes_per_update:
            self._move_multiplier()
        return costs

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Make gradient steps, with a coefficient of entropy that the multiplier does not weaken.

        Args:
            gradient_steps: How many.
            batch_size: Of each.
        """
        given = getattr(self, "ent_coef_tensor", None)
        if given is None:  # no entropy in it, or a coefficient that is learned
            super().train(gradient_steps, batch_size)
            return
        self.ent_coef_tensor = given / (1.0 + float(self.weights.sum()))
        try:
            super().train(gradient_steps, batch_size)
        finally:
            self.ent_coef_tensor = given


def constrained(algorithm: type[BaseAlgorithm]) -> type[Any]:
    """Return the constrained class of an algorithm: `constrain` makes models of it.

    Args:
        algorithm: An on-policy or off-policy algorithm of Stable-Baselines3 or sb3-contrib.

    Raises:
        InvalidTypeError: If it is neither, or constrained already.
    """
    if not isinstance(algorithm, type) or not issubclass(algorithm, BaseAlgorithm):
        raise InvalidTypeError(
            f"algorithm is {algorithm!r}; it must be a class of Stable-Baselines3, such as PPO."
        )
    if issubclass(algorithm, Constrained):
        raise InvalidTypeError(f"algorithm is {algorithm.__name__}, which is constrained already.")
    return _constrained(algorithm)


@cache
def _constrained(algorithm: Any) -> type[Any]:
    """Make the class, once per algorithm, so that ``isinstance`` holds."""
    if issubclass(algorithm, OnPolicyAlgorithm):
        mixin: type[Constrained] = PenalisedRollouts
    elif issubclass(algorithm, OffPolicyAlgorithm):
        mixin = PenalisedReplay
    else:
        raise InvalidTypeError(
            f"algorithm is {algorithm.__name__}, which cannot be made constrained: it is neither "
            "on-policy nor off-policy, so that neither rollouts nor a replay buffer show the costs "
            "of single steps (ARS only sums up whole episodes). Use PPO, A2C, TRPO, RecurrentPPO, "
            "MaskablePPO, SAC, TD3, DDPG, DQN, TQC, CrossQ or QRDQN, or the wrapper "
            "agents.FixedPenalty, which needs nothing from the algorithm."
        )
    name = f"constrained({algorithm.__name__})"
    body = {
        "made_by": name,
        "__module__": __name__,
        "__doc__": f"{algorithm.__name__} under a cost limit; see `{mixin.__name__}`.",
    }
    return type(f"Constrained{algorithm.__name__}", (mixin, algorithm), body)


def constrain(
    algorithm: type[BaseAlgorithm],
    env: GymEnv | str,
    policy: Any = None,
    *,
    multiplier: Any = None,
    cost_limit: Any = None,
    cost_margin: float = 0.0,
    unit_free: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Make a model of any algorithm that keeps the mean episodic cost at or below a limit.

    One critic learns the penalised reward ``(r / u_r - multiplier * c / u_c) / (1 + multiplier)``,
    with ``u_r`` the size of returns and ``u_c`` the limit, see `Constrained`; the division keeps
    the size of a policy step bounded however large the multiplier grows. On-policy algorithms move
    the multiplier once per rollout, off-policy ones once per ``episodes_per_update`` finished
    episodes. For two critics see `PPOLagrangian`, `A2CLagrangian` and `TRPOLagrangian`.

    Args:
        algorithm: PPO, A2C, SAC, TD3, DDPG, DQN, or TRPO, RecurrentPPO, MaskablePPO, TQC, CrossQ,
            QRDQN of sb3-contrib, or one built like them.
        env: The environment, a vector of them, or the id of one; it reports ``info["cost"]`` on
            every step and has a ``cost_limit``.
        policy: As the algorithm takes it; if left out the one that fits the observations.
        multiplier: The multiplier, or a list of one for each cost of ``info["costs"]``;
            `GradientMultiplier` with its defaults if left out.
        cost_limit: Limit on the mean episodic cost; read from the environment if left out.
        cost_margin: Fraction of the limit kept in reserve, in [0, 1).
        unit_free: Whether reward and cost are measured in units of their own; if left out they are,
            unless the multiplier is a `FixedMultiplier`.
        **kwargs: All other arguments of the algorithm, and for off-policy ones
            ``episodes_per_update``, finished episodes between two moves of the multiplier.

    Returns:
        A model of the algorithm, ready to ``learn``.

    Raises:
        InvalidTypeError: If the algorithm cannot be made constrained (names the reason).
        InvalidValueError: If environment and algorithm do not fit (names what makes them fit).
    """
    kind = constrained(algorithm)
    if isinstance(env, str):
        env = gym.make(env)
    check_env(env)
    if policy is None:
        policy = fitting_policy(kind, env)
    return kind(
        policy,
        env,
        multiplier=multiplier,
        cost_limit=cost_limit,
        cost_margin=cost_margin,
        unit_free=unit_free,
        **kwargs,
    )


def fitting_policy(algorithm: type[BaseAlgorithm], env: Any) -> str:
    """Return the name of the algorithm's policy for the observations of ``env``."""
    space = getattr(env, "observation_space", None)
    if isinstance(space, spaces.Dict):
        kind = "MultiInput"
    else:
        kind = "Cnn" if space is not None and is_image_space(space) else "Mlp"
    recurrent = "MlpLstmPolicy" in algorithm.policy_aliases
    name = f"{kind}{'Lstm' if recurrent else ''}Policy"
    if name not in algorithm.policy_aliases:
        known = ", ".join(sorted(algorithm.policy_aliases))
        raise InvalidValueError(
            f"env: {algorithm.__name__} has no policy for observations of {space} (it has {known})."
            " Wrap each environment in gymnasium.wrappers.FlattenObservation."
        )
    return name
