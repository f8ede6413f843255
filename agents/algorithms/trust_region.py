"""Trust-region methods with two critics, on TRPO of sb3-contrib."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO
from sb3_contrib.common.utils import conjugate_gradient_solver, flat_grad
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv

from agents.algorithms.cost_critic import mix_advantages
from agents.algorithms.model_file import SavedModel
from agents.algorithms.two_critics import CriticArray, TwoCritics
from agents.costs import FloatArray
from agents.errors import InvalidTypeError
from agents.multipliers.rules import VectorMultiplier
from agents.multipliers.solved import SolvedMultiplier


class TRPOLagrangian(TwoCritics, TRPO):
    """TRPO with a Lagrangian and two critics; see `TwoCritics` for what it does.

    Maximises ``mean(ratio * A)`` subject to ``mean KL <= target_kl``, with ``ratio`` the
    probability of an action under the policy over that under the policy of the rollout, ``KL`` the
    divergence between the two in a state, and ``A`` the mixed advantage of `TwoCritics`.

    - Paper: TRPO-Lagrangian of Ray et al. 2019, "Benchmarking Safe Exploration in Deep
      Reinforcement Learning": one natural gradient step on the surrogates' mixture
      ``(L(A_r) - multiplier * L(A_c)) / (1 + multiplier)``, and a line search.
    - Ours: TRPO of sb3-contrib on the surrogate of the mixed advantage, which is the same mixture,
      as nothing is clipped.
    - Deviations: A_c is centred; the multiplier follows whichever rule is handed in.
    - Logs: what `TwoCritics` does, and TRPO's ``train/*``.
    """

    made_by = "TRPOLagrangian"


class Dual(NamedTuple):
    """Solution of CPO's linear-quadratic problem; see `solve_dual`.

    Attributes:
        multiplier: Price of the constraint on cost, nu; infinite where it cannot be kept.
        trust: Price of the trust region, lambda.
        feasible: Whether a step within the trust region keeps the constraint.
    """

    multiplier: float
    trust: float
    feasible: bool


def solve_dual(q: float, r: float, s: float, violation: float, max_kl: float) -> Dual:
    """Solve ``max g.x`` subject to ``violation + b.x <= 0`` and ``x.H.x / 2 <= max_kl``.

    The step is ``x = H^-1 (g - nu b) / lambda``, and there are four cases:

    - no step keeps the constraint (or there is no reward to gain while it is broken): recovery, the
      step that lowers the cost most, ``x = -sqrt(2 max_kl / s) H^-1 b``;
    - every step of the trust region keeps it: nu = 0;
    - the best step without the constraint keeps it: nu = 0;
    - else the best step is where both meet: ``lambda^2 = (q - r^2 / s) / (2 max_kl -
      violation^2 / s)`` and ``nu = (r + lambda * violation) / s``.

    Args:
        q: ``g.H^-1.g``.
        r: ``g.H^-1.b``.
        s: ``b.H^-1.b``.
        violation: Amount by which the constraint is broken before the step.
        max_kl: Size of the trust region, positive.

    Returns:
        nu and lambda, and whether the problem has a solution.
    """
    within_reach = violation**2 < 2.0 * max_kl * s  # the boundary of the constraint
    if violation > 0.0 and not (within_reach and q > 0.0):
        return Dual(math.inf, math.inf, feasible=False)
    trust = math.sqrt(max(q, 0.0) / (2.0 * max_kl))
    if not within_reach or r + trust * violation <= 0.0:
        return Dual(0.0, trust, feasible=True)
    across = max(q - r * r / s, 0.0)  # of g, what is not along b
    trust = math.sqrt(across / (2.0 * max_kl - violation**2 / s))
    return Dual(max(0.0, (r + trust * violation) / s), trust, feasible=True)


class CPO(TwoCritics, TRPO):
    """Constrained Policy Optimization with two critics: a multiplier that is solved for.

    - Paper: Achiam et al. 2017, https://arxiv.org/abs/1705.10528. Maximise ``g.x`` subject to
      ``J_c - limit + b.x <= 0`` and ``x.H.x / 2 <= target_kl``, with g and b the gradients of the
      surrogates of reward and cost and H the Fisher matrix. Its dual has a closed form, and the
      step is ``H^-1 (g - nu b) / lambda``; where no step keeps the constraint it is along
      ``-H^-1 b``. A line search then checks reward, cost and KL divergence.
    - Ours: that step is the one TRPO makes with the advantages ``(A_r - nu A_c) / (1 + nu)``, or
      ``-A_c`` where no step keeps the constraint. So nu is solved for on the rollout, in closed
      form, with products with H and conjugate gradients of TRPO; all else is TRPO's.
    - Deviations: TRPO's line search asks the *mixed* surrogate to improve and the KL divergence to
      be small; it does not check the cost on its own. A step after which the cost is too high is
      answered by the next one.

    Unit: a limit is on the sum over an episode, advantages are per step. To first order
    ``J_c(new) = J_c + T * mean(ratio * A_c)``, T the mean length of an episode, so the violation is
    divided by T, measured as steps per finished episode. That holds for the undiscounted sum:
    leave ``cost_gamma`` at 1.0 where episodes are short. Where no episode finished, the violation
    and T of earlier ones are used; before the first, the step is TRPO's.

    There is nothing to tune and nothing that moves the multiplier; ``multiplier`` is no argument.
    ``model.multiplier.value`` is nu, a price in units of reward (as every multiplier here); while
    no step keeps the constraint it stays as it was. One cost.

    | logged | meaning |
    |---|---|
    | ``lagrange/recovery`` | 1 if no step keeps the constraint, so that the step lowers the cost |
    | ``lagrange/multiplier`` | nu of the update before |
    | the others of ``lagrange/*``, ``train/*`` | see `TwoCritics` and TRPO |

    Args:
        policy: As in `TwoCritics`.
        env: The environment; it reports ``info["cost"]`` on every step.
        *args: Further arguments of TRPO.
        **kwargs: Further arguments of TRPO and, but for ``multiplier``, of `TwoCritics`.

    Example:
        >>> from agents import BudgetToyEnv
        >>> model = CPO("MlpPolicy", BudgetToyEnv(), n_steps=128, seed=0, device="cpu")
        >>> model.learn(256).multiplier.violation > 0.0
        True
    """

    made_by = "CPO"
    refused = frozenset({*TwoCritics.refused, "multiplier"})
    multiplier: SolvedMultiplier

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if "multiplier" in kwargs:
            raise InvalidTypeError(_refusal(kwargs["multiplier"]))
        self._steps = 0  # since the violation was last measured
        self._episode_length = 1.0  # mean, in steps
        super().__init__(policy, env, *args, multiplier=SolvedMultiplier(), **kwargs)  # type: ignore[arg-type]

    @classmethod
    def load(  # type: ignore[override]
        cls, path: SavedModel, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; see `Constrained.load`. There is no multiplier to choose."""
        if "multiplier" in kwargs:
            raise InvalidTypeError(_refusal(kwargs["multiplier"]))
        return super().load(path, *args, **kwargs)

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        costs = super()._watch_step(scope)
        self._steps += len(costs)
        return costs

    def _end_rollout(self, scope: dict[str, Any]) -> None:
        if self._finished:
            self._episode_length = self._steps / len(self._finished)
            self._steps = 0
        super()._end_rollout(scope)

    def mix_advantages(
        self, reward_advantages: CriticArray, cost_advantages: CriticArray
    ) -> CriticArray:
        """Return what TRPO follows, at the price that CPO solves for; see `TwoCritics`."""
        mix = partial(
            mix_advantages,
            reward_advantages,
            cost_advantages,
            normalize=self.normalize_reward_advantage,
        )
        alone = mix(np.zeros(1))
        if self.multiplier.violation is None:
            return alone
        centred: CriticArray = cost_advantages[..., 0] - cost_advantages.mean()
        violation = self.multiplier.violation / self._episode_length
        dual = solve_dual(*self._curvature(alone, centred), violation, self.target_kl)
        self.logger.record("lagrange/recovery", float(not dual.feasible))
        if not dual.feasible:
            return -centred
        self.multiplier.value = dual.multiplier
        return mix(np.array([dual.multiplier]))

    def _curvature(self, reward: CriticArray, cost: CriticArray) -> tuple[float, float, float]:
        """Return q, r and s of `solve_dual` for advantages of shape (n_steps, n_envs)."""
        flatten = self.rollout_buffer.swap_and_flatten
        columns = (self.rollout_buffer.actions, reward[..., None], cost[..., None])
        actions, rewards, costs = (
            th.as_tensor(flatten(x), dtype=th.float32, device=self.device) for x in columns
        )
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        observations = self._flat_observations()
        with th.no_grad():  # a copy, as the policy hands out one object that it fills anew
            old_distribution = copy.copy(self.policy.get_distribution(observations))
        distribution = self.policy.get_distribution(observations)
        log_prob = distribution.log_prob(actions)
        parameters, g, grad_kl, _ = self._compute_actor_grad(
            kl_divergence(distribution, old_distribution).mean(),
            (rewards.flatten() * log_prob).mean(),
        )
        b = flat_grad((costs.flatten() * log_prob).mean(), parameters, retain_graph=True)
        product = partial(self.hessian_vector_product, parameters, grad_kl)

        def natural(gradient: th.Tensor) -> th.Tensor:
            size: th.Tensor = gradient.norm() + 1e-30  # the solver's tolerance is absolute
            unit = gradient / size
            solution: th.Tensor = conjugate_gradient_solver(product, unit, self.cg_max_steps)
            return solution * size

        with th.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            natural_g, natural_b = natural(g), natural(b)  # TRPO's random numbers stay its own
        return float(g @ natural_g), float(g @ natural_b), float(b @ natural_b)


def _refusal(multiplier: Any) -> str:
    several = isinstance(multiplier, VectorMultiplier | list | tuple)
    return (
        "multiplier is not an argument of CPO, which solves for its own. Leave it out"
        + (", and constrain one cost, info['cost']: for several take " if several else ", or take ")
        + "TRPOLagrangian or PPOLagrangian."
    )
