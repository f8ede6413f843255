"""Trust-region methods with two critics, on TRPO of sb3-contrib."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO
from sb3_contrib.common.utils import conjugate_gradient_solver, flat_grad
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs

from agents.algorithms.cost_critic import mix_advantages
from agents.algorithms.model_file import SavedModel
from agents.algorithms.step_constraint import StepConstraint
from agents.algorithms.two_critics import CriticArray, TwoCritics
from agents.errors import InvalidTypeError
from agents.multipliers.rules import VectorMultiplier
from agents.multipliers.solved import SolvedMultiplier

PARALLEL = 1e-6  # share of g across b, squared, that is taken for rounding


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
        trust: Price of the trust region, lambda; 0.0 where reward and cost pull along one line.
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
      violation^2 / s)`` and ``nu = (r + lambda * violation) / s``. Where g and b are parallel there
      is nothing left of g across b: lambda is 0, ``g - nu b`` too, and the best step is the one
      along b that just meets the constraint, ``x = -violation / s * H^-1 b``.

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
    across = q - r * r / s  # of g, what is not along b
    if across <= PARALLEL * q:  # but for rounding, nothing
        return Dual(r / s, 0.0, feasible=True)
    trust = math.sqrt(across / (2.0 * max_kl - violation**2 / s))
    return Dual(max(0.0, (r + trust * violation) / s), trust, feasible=True)


@dataclass(frozen=True)
class Step:
    """What a step of `CPO` is judged by: the rollout, of n steps, flattened.

    Attributes:
        observations: Of n states.
        actions: What was done in them.
        log_probs: By the policy of the rollout, shape (n,).
        rewards: Advantages of reward, (n,).
        costs: Advantages of cost, centred, (n,).
        violation: Of the rollout, per step.
        checks_reward: Whether the surrogate of reward has to improve.
    """

    observations: PyTorchObs
    actions: th.Tensor
    log_probs: th.Tensor
    rewards: th.Tensor
    costs: th.Tensor
    violation: float = 0.0
    checks_reward: bool = False

    def is_allowed(self, policy: ActorCriticPolicy) -> bool:
        """Whether a policy keeps the cost, and improves the reward where it has to."""
        log_prob = policy.get_distribution(self.observations).log_prob(self.actions)
        change = th.exp(log_prob - self.log_probs) - 1.0
        cost, reward = float((change * self.costs).mean()), float((change * self.rewards).mean())
        return cost <= max(0.0, -self.violation) and (reward > 0.0 or not self.checks_reward)


class CPO(StepConstraint, TRPO):
    """Constrained Policy Optimization with two critics: a multiplier that is solved for.

    - Paper: Achiam et al. 2017, https://arxiv.org/abs/1705.10528. Maximise ``g.x`` subject to
      ``J_c - limit + b.x <= 0`` and ``x.H.x / 2 <= target_kl``, with g and b the gradients of the
      surrogates of reward and cost and H the Fisher matrix. Its dual has a closed form, and the
      step is ``H^-1 (g - nu b) / lambda``; where no step keeps the constraint it is along
      ``-H^-1 b``. A line search shortens it until the KL divergence is small, the surrogate of
      reward has improved (where the limit holds) and that of cost has grown by no more than the
      limit leaves: ``mean(ratio * A_c) <= max(0, -violation)``.
    - Ours: that step is the one TRPO makes with the advantages ``(A_r - nu A_c) / (1 + nu)``, or
      ``-A_c`` where no step keeps the constraint. So nu is solved for on the rollout, in closed
      form, with products with H and conjugate gradients of TRPO. TRPO's line search looks at the KL
      divergence and at the surrogate of the mixture; where it ends, the line search goes on, by the
      same factor, until reward and cost are as above, or the policy is what it was.
    - Deviations: the surrogate of the mixture has to improve too, which is what TRPO asks. Where g
      and b are parallel, the mixture is nothing but rounding: the step then follows ``A_r``, or
      ``-A_c`` where the limit is broken, in a trust region that ends at the limit.

    The violation is per step and A_c in units of cost; see `StepConstraint`. Before the first
    episode has finished, the step is TRPO's.

    There is nothing to tune and nothing that moves the multiplier; ``multiplier`` is no argument.
    ``model.multiplier.value`` is nu (as every multiplier here, see `Constrained`); while no step
    keeps the constraint it stays as it was. One cost.

    | logged | meaning |
    |---|---|
    | ``lagrange/recovery`` | 1 if no step keeps the constraint, so that the step lowers the cost |
    | ``lagrange/step`` | what the search for the cost left of TRPO's step: 1 all, 0 nothing |
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
        super().__init__(policy, env, *args, multiplier=SolvedMultiplier(), **kwargs)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: SavedModel, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; see `Constrained.load`. There is no multiplier to choose."""
        if "multiplier" in kwargs:
            raise InvalidTypeError(_refusal(kwargs["multiplier"]))
        return super().load(path, *args, **kwargs)

    def train(self) -> None:
        """Update the policy by the step that CPO solves for, then fit the cost critic."""
        target_kl = self.target_kl
        self._step: Step | None = None
        before = [parameter.detach().clone() for parameter in self._actor_parameters()]
        try:
            super().train()
        finally:
            self.target_kl = target_kl  # which a step that ends at the limit has lowered
        if self._step is not None:
            self.logger.record("lagrange/step", self._search_cost(before, self._step))
            self._step = None

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
        data = self._step_data(alone, centred)
        q, r, s = self._curvature(data)
        dual = solve_dual(q, r, s, violation, self.target_kl)
        self.logger.record("lagrange/recovery", float(not dual.feasible))
        step = self._step = replace(data, violation=violation)
        if not dual.feasible:
            return -centred
        self.multiplier.value = dual.multiplier
        if dual.multiplier > 0.0 and dual.trust == 0.0:  # parallel: no further than to the limit
            self.target_kl = min(self.target_kl, violation**2 / (2.0 * s))
            return -centred if violation > 0.0 else alone
        if dual.multiplier > 0.0 and violation <= 0.0:
            self._step = replace(step, checks_reward=True)
        return mix(np.array([dual.multiplier]))

    def _actor_parameters(self) -> list[th.nn.Parameter]:
        """Return what TRPO's line search moves: it knows the critics by their names."""
        return [value for name, value in self.policy.named_parameters() if "value" not in name]

    def _search_cost(self, before: list[th.Tensor], step: Step) -> float:
        """Shorten the step that was made until its cost and reward are as CPO asks.

        Args:
            before: Parameters of the actor before the step.
            step: What it is judged by.

        Returns:
            What is left of the step, in [0, 1].
        """
        parameters = self._actor_parameters()
        moves = [now.detach() - old for now, old in zip(parameters, before, strict=True)]
        share = 1.0
        with th.no_grad():
            for _ in range(self.line_search_max_iter):
                if step.is_allowed(self.policy):
                    return share
                share *= self.line_search_shrinking_factor
                for now, old, move in zip(parameters, before, moves, strict=True):
                    now.copy_(old + share * move)
            for now, old in zip(parameters, before, strict=True):
                now.copy_(old)
        return 0.0

    def _step_data(self, reward: CriticArray, cost: CriticArray) -> Step:
        """Return the rollout, flattened; the advantages have shape (n_steps, n_envs)."""
        flatten = self.rollout_buffer.swap_and_flatten
        buffer = self.rollout_buffer
        columns = (buffer.actions, buffer.log_probs, reward, cost)
        actions, log_probs, rewards, costs = (
            th.as_tensor(
                flatten(x if x.ndim > 2 else x[..., None]), dtype=th.float32, device=self.device
            )
            for x in columns
        )
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        return Step(
            self._flat_observations(),
            actions,
            log_probs.flatten(),
            rewards.flatten(),
            costs.flatten(),
        )

    def _curvature(self, data: Step) -> tuple[float, float, float]:
        """Return q, r and s of `solve_dual` on a rollout."""
        observations, actions = data.observations, data.actions
        with th.no_grad():  # a copy, as the policy hands out one object that it fills anew
            old_distribution = copy.copy(self.policy.get_distribution(observations))
        distribution = self.policy.get_distribution(observations)
        log_prob = distribution.log_prob(actions)
        parameters, g, grad_kl, _ = self._compute_actor_grad(
            kl_divergence(distribution, old_distribution).mean(),
            (data.rewards * log_prob).mean(),
        )
        b = flat_grad((data.costs * log_prob).mean(), parameters, retain_graph=True)
        product = partial(self.hessian_vector_product, parameters, grad_kl)

        def natural(gradient: th.Tensor) -> th.Tensor:
            size: th.Tensor = gradient.norm() + 1e-30  # the solver's tolerance is absolute
            unit = gradient / size
            solution: th.Tensor = conjugate_gradient_solver(product, unit, self.cg_max_steps)
            return solution * size

        with th.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            natural_g, natural_b = natural(g), natural(b)  # TRPO's random numbers stay its own
        return float(g @ natural_g), float(g @ natural_b), float(b @ natural_b)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_step"]


def _refusal(multiplier: Any) -> str:
    several = isinstance(multiplier, VectorMultiplier | list | tuple)
    return (
        "multiplier is not an argument of CPO, which solves for its own. Leave it out"
        + (", and constrain one cost, info['cost']: for several take " if several else ", or take ")
        + "TRPOLagrangian or PPOLagrangian."
    )
