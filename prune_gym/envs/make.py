"""What ``gym.make`` and ``gym.make_vec`` call for the ids of `prune_gym.envs.registration`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from prune_gym.envs.arguments import EnvArguments, ProblemArguments, shows_keywords_of
from prune_gym.envs.base import PruneEnv
from prune_gym.envs.checks import check_max_episode_steps
from prune_gym.envs.filter import FilterPruneEnv
from prune_gym.envs.layer import LayerPruneEnv, NetworkPruneEnv
from prune_gym.envs.prior import PriorFilterPruneEnv, PriorLayerPruneEnv, PriorNetworkPruneEnv
from prune_gym.envs.registration import MAX_EPISODE_STEPS
from prune_gym.envs.vector import PruneVectorEnv
from prune_gym.errors import InvalidValueError
from prune_gym.utils.arguments import MOST_ENVS, MOST_THREADS, whole_number
from prune_gym.utils.registry import unknown_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

GRANULARITIES: dict[str, type[PruneEnv]] = {
    env.granularity: env for env in (LayerPruneEnv, FilterPruneEnv, NetworkPruneEnv)
}
PRIOR_GRANULARITIES: dict[str, type[PruneEnv]] = {
    env.granularity: env for env in (PriorLayerPruneEnv, PriorFilterPruneEnv, PriorNetworkPruneEnv)
}
DECISIONS = {"ratio": GRANULARITIES, "prior": PRIOR_GRANULARITIES}


@shows_keywords_of(PruneEnv)
def make_env(
    granularity: str = "layer",
    needs_network: bool = False,
    decision: str = "ratio",
    **arguments: Unpack[EnvArguments],
) -> PruneEnv:
    """The environment of a granularity: ``"layer"``, ``"filter"`` or ``"network"``.

    The entry point of the registered ids, so that ``gym.make("PruneVGG-v0",
    granularity="network")`` works.

    Args:
        granularity: what one step decides.
        needs_network: whether the user must say what is pruned, by ``problem`` or ``network``
            (``Prune-v0``, ``Prune-v1``).
        decision: what an action means: ``"ratio"``, the share of a group that is removed (the
            ``-v0`` ids), or ``"prior"``, by what factor it differs from the network of the
            sensitivity scan (the ``-v1`` ids; `prune_gym.envs.PriorLayerPruneEnv`).
        arguments: of the environment; see `PruneEnv` and `prune_gym.make_problem`.

    Raises:
        ValueError: an unknown granularity, nothing to prune with ``needs_network``, or more steps
            than an episode of the registered ids may have.
    """
    if granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, list(GRANULARITIES))
    if decision not in DECISIONS:
        raise unknown_name("decision", decision, list(DECISIONS))
    if needs_network and not {"problem", "network"} & set(arguments):
        env_id = "Prune-v1" if decision == "prior" else "Prune-v0"
        raise InvalidValueError(
            f"{env_id} prunes what you bring: gym.make({env_id!r}, problem=prune_gym.make_problem("
            "network=..., train=..., validation=...)), or network='vgg11', dataset='cifar10'."
        )
    env = DECISIONS[decision][granularity](**arguments)
    if env.steps_left > MAX_EPISODE_STEPS:
        name = type(env).__name__
        raise InvalidValueError(
            f"an episode has {env.steps_left:,} steps, but gym.make truncates it after "
            f"{MAX_EPISODE_STEPS:,}; say prune_gym.envs.{name}(problem), or granularity='network'."
        )
    return env


@shows_keywords_of(make_env)
def make_vector_env(
    num_envs: int = 1,
    threads: int | None = None,
    granularity: str = "layer",
    needs_network: bool = False,
    decision: str = "ratio",
    max_episode_steps: int | None = None,
    autoreset_mode: Any = "NextStep",
    **arguments: Unpack[EnvArguments],
) -> PruneVectorEnv:
    """Many environments around one problem: ``gym.make_vec("PruneVGG-v0", num_envs=8)``.

    Args:
        num_envs: number of environments.
        threads: see `PruneVectorEnv`.
        granularity: see `make_env`.
        needs_network: see `make_env`.
        decision: see `make_env`.
        max_episode_steps: of Gymnasium's `TimeLimit` around each; None = none.
        autoreset_mode: see `PruneVectorEnv`.
        arguments: of each environment; see `PruneEnv` and `prune_gym.make_problem`.
    """
    whole_number("num_envs", num_envs, 1, MOST_ENVS)
    if threads is not None:
        whole_number("threads", threads, 1, MOST_THREADS)
    steps = check_max_episode_steps(max_episode_steps)
    first = make_env(granularity, needs_network, decision, **arguments)
    of_problem = ProblemArguments.__optional_keys__
    alike: Any = {name: value for name, value in arguments.items() if name not in of_problem}
    alike["problem"] = first.problem
    envs: list[gym.Env[Any, Any]] = [first]
    envs += [make_env(granularity, decision=decision, **alike) for _ in range(num_envs - 1)]
    if steps is not None:
        envs = [gym.wrappers.TimeLimit(env, steps) for env in envs]
    return PruneVectorEnv(envs, threads, autoreset_mode)
