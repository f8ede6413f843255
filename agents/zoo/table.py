"""The table of the zoo's agents: one row each, no code beyond looking up a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from types import MappingProxyType
from typing import Any

from agents.algorithms.constrained import Constrained
from agents.algorithms.lagrangian import constrained
from agents.errors import MissingLibraryError
from agents.multipliers.penalties import BarrierMultiplier, PenaltyMultiplier
from agents.multipliers.rules import AdamMultiplier, GradientMultiplier, Multiplier, PIDMultiplier
from agents.zoo import values


def import_object(path: str) -> Any:
    """Import ``"module:name"``; where sb3-contrib is missing, say how to install it."""
    module, name = path.split(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "sb3_contrib":
            raise
        raise MissingLibraryError(
            f"{name} is built on sb3-contrib, which is not installed. "
            'pip install "prune-gym[agents]" installs it.',
            name=error.name,
        ) from error


ANY = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
DISCRETE = ("Discrete", "MultiDiscrete", "MultiBinary")


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """One row of `AGENTS`.

    Attributes:
        description: One line.
        algorithm: Where its class is, ``"module:Class"``.
        action_spaces: Names of the action spaces it takes.
        multiplier: Makes the multiplier, a new one for every agent; None where there is none to
            choose.
        multiplier_kwargs: Its arguments.
        kwargs: Arguments of the algorithm.
        rollout_size: Steps per rollout, all environments together; None for off-policy algorithms.
        n_envs: How many environments at once it was tuned with.
        noise: Spread of the exploration noise in units of the action, for deterministic policies.
        wrapper: A wrapper that each environment needs, ``"module:Class"``.
        timesteps: How long it was trained.
        tuned: Other values by environment id, or by a pattern of ids (``"PruneVGG*-v1"``): these
            fields by name, ``kwargs`` key by key.
    """

    description: str
    algorithm: str
    action_spaces: tuple[str, ...] = ANY
    multiplier: Callable[..., Multiplier] | None = GradientMultiplier
    multiplier_kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kwargs: Mapping[str, Any]
    rollout_size: int | None = 128
    n_envs: int = 8
    noise: float | None = None
    wrapper: str | None = None
    timesteps: int = 12_000
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def constructor(self) -> type[Any]:
        """The class of its models.

        Raises:
            MissingLibraryError: If it needs a package that is not installed (says how to).
        """
        kind = import_object(self.algorithm)
        own = issubclass(kind, Constrained) or self.wrapper is not None  # the wrapper constrains
        return kind if own else constrained(kind)

    def tuned_for(self, env_id: str) -> AgentSpec:
        """Return the row with the values for an environment id; as it is where it has none."""
        fitting = [own for pattern, own in self.tuned.items() if fnmatchcase(env_id, pattern)]
        changes = dict(fitting[0]) if fitting else {}
        changes["kwargs"] = {**self.kwargs, **changes.get("kwargs", {})}
        return replace(self, **changes)


# Multipliers have no unit (see `Constrained`): an optimal one is the elasticity of the best return
# at the limit, between 0.1 and 1 on pruning problems.
_PRICE = MappingProxyType({"learning_rate": 0.02, "initial": 0.5})
_PRICE_OFF = MappingProxyType({"learning_rate": 0.1, "initial": 0.5})
_PID = MappingProxyType({"kp": 0.1, "ki": 0.02, "kd": 0.0, "initial": 0.5, "ema": 0.8})

_ROWS: dict[str, AgentSpec] = {
    "ppo_lag": AgentSpec(
        description="PPO with two critics, multiplier by projected gradient ascent",
        algorithm="agents.algorithms.two_critics:PPOLagrangian",
        multiplier_kwargs=_PRICE,
        kwargs=values.PPO_TWO_CRITICS,
    ),
    "ppo_pid": AgentSpec(
        description="PPO with two critics, multiplier by PID control",
        algorithm="agents.algorithms.two_critics:PPOLagrangian",
        multiplier=PIDMultiplier,
        multiplier_kwargs=_PID,
        kwargs=values.PPO_TWO_CRITICS,
    ),
    "ppo_adam": AgentSpec(
        description="PPO with two critics, multiplier by Adam on a softplus: the paper's",
        algorithm="agents.algorithms.two_critics:PPOLagrangian",
        multiplier=AdamMultiplier,
        multiplier_kwargs=MappingProxyType({"learning_rate": 0.05, "initial": 0.5}),
        kwargs=values.PPO_TWO_CRITICS,
    ),
    "ppo_penalised": AgentSpec(
        description="PPO with one critic of the penalised reward",
        algorithm="stable_baselines3:PPO",
        multiplier_kwargs=_PRICE,
        kwargs=values.PPO_ONE_CRITIC,
    ),
    "ppo_saute": AgentSpec(
        description="PPO that sees the budget left and earns nothing good once it is spent",
        algorithm="agents.algorithms.saute_ppo:SautePPO",
        multiplier=None,
        kwargs=values.PPO_PLAIN,
        wrapper="agents.wrappers:SauteBudget",
    ),
    "p3o": AgentSpec(
        description="PPO with two critics, an exact penalty of cost in its loss",
        algorithm="agents.algorithms.penalty_loss:P3O",
        multiplier=PenaltyMultiplier,
        multiplier_kwargs=MappingProxyType({"kappa": 2.0}),
        kwargs=values.PPO_TWO_CRITICS,
    ),
    "ipo": AgentSpec(
        description="PPO with two critics, a logarithmic barrier at the limit in its loss",
        algorithm="agents.algorithms.penalty_loss:IPO",
        multiplier=BarrierMultiplier,
        multiplier_kwargs=MappingProxyType({"t": 20.0, "upper_bound": 3.0}),
        kwargs=values.PPO_TWO_CRITICS,
    ),
    "focops": AgentSpec(
        description="first-order constrained optimisation in policy space",
        algorithm="agents.algorithms.focops:FOCOPS",
        multiplier_kwargs=_PRICE,
        kwargs=values.FOCOPS,
    ),
    "recurrent_ppo_lag": AgentSpec(
        description="PPO with an LSTM, one critic of the penalised reward",
        algorithm="sb3_contrib:RecurrentPPO",
        multiplier_kwargs=_PRICE,
        kwargs=values.PPO_RECURRENT,
    ),
    "maskable_ppo_lag": AgentSpec(
        description="PPO that takes action masks, one critic of the penalised reward",
        algorithm="sb3_contrib:MaskablePPO",
        action_spaces=DISCRETE,
        multiplier_kwargs=_PRICE,
        kwargs=values.PPO_MASKABLE,
    ),
    "a2c_lag": AgentSpec(
        description="A2C with two critics",
        algorithm="agents.algorithms.two_critics:A2CLagrangian",
        multiplier_kwargs=_PRICE,
        kwargs=values.A2C,
        rollout_size=64,
    ),
    "trpo_lag": AgentSpec(
        description="TRPO with two critics",
        algorithm="agents.algorithms.trust_region:TRPOLagrangian",
        multiplier_kwargs=_PRICE,
        kwargs=values.TRPO,
    ),
    "cpo": AgentSpec(
        description="constrained policy optimisation on TRPO",
        algorithm="agents.algorithms.trust_region:CPO",
        multiplier=None,
        kwargs=values.TRPO,
    ),
    "sac_lag": AgentSpec(
        description="SAC, replayed rewards penalised at today's price",
        algorithm="stable_baselines3:SAC",
        action_spaces=("Box",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.SAC,
        rollout_size=None,
    ),
    "tqc_lag": AgentSpec(
        description="TQC, replayed rewards penalised at today's price",
        algorithm="sb3_contrib:TQC",
        action_spaces=("Box",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.TQC,
        rollout_size=None,
    ),
    "crossq_lag": AgentSpec(
        description="CrossQ, replayed rewards penalised at today's price",
        algorithm="sb3_contrib:CrossQ",
        action_spaces=("Box",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.CROSSQ,
        rollout_size=None,
    ),
    "td3_lag": AgentSpec(
        description="TD3, replayed rewards penalised at today's price",
        algorithm="stable_baselines3:TD3",
        action_spaces=("Box",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.TD3,
        rollout_size=None,
        noise=0.4,
    ),
    "ddpg_lag": AgentSpec(
        description="DDPG, replayed rewards penalised at today's price",
        algorithm="stable_baselines3:DDPG",
        action_spaces=("Box",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.DDPG,
        rollout_size=None,
        noise=0.4,
    ),
    "dqn_lag": AgentSpec(
        description="DQN, replayed rewards penalised at today's price",
        algorithm="stable_baselines3:DQN",
        action_spaces=("Discrete",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.DQN,
        rollout_size=None,
    ),
    "qrdqn_lag": AgentSpec(
        description="quantile-regression DQN, replayed rewards penalised at today's price",
        algorithm="sb3_contrib:QRDQN",
        action_spaces=("Discrete",),
        multiplier_kwargs=_PRICE_OFF,
        kwargs=values.DQN,
        rollout_size=None,
    ),
}

AGENTS: Mapping[str, AgentSpec] = MappingProxyType(
    {
        name: replace(row, tuned={"BudgetToy-v0": values.TOY[name], **values.PRIOR.get(name, {})})
        for name, row in _ROWS.items()
    }
)
