"""Safety-Gymnasium: steps of six values, and ids that its own `make` accepts.

Safety-Gymnasium 1.0 wants Python 3.10 or older and gymnasium 0.28. `benchmarks/guests.py` says
what it takes on newer ones. `SixTuple` needs no library at all.

    import safety_gymnasium
    from prune_gym.adapters.safety_gymnasium import register
    register()
    env = safety_gymnasium.make("SafetyPruneVGG-v0", cost_mode="dense")
    observation, reward, cost, terminated, truncated, info = env.step(env.action_space.sample())
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from prune_gym.adapters.base import registered_ids, require
from prune_gym.envs import make_env
from prune_gym.envs.arguments import EnvArguments, shows_keywords_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

INSTALL = "safety-gymnasium  # Python 3.8 to 3.10"
PREFIX = "Safety"


class SixTuple(gym.Wrapper[Any, Any, Any, Any]):
    """``step`` gives ``(observation, reward, cost, terminated, truncated, info)``.

    Args:
        env: gives ``info["cost"]`` at every step.
    """

    def step(self, action: Any) -> Any:
        """Step; the cost stands third."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, info["cost"], terminated, truncated, info


@shows_keywords_of(make_env)
def make_six(
    granularity: str = "layer", needs_network: bool = False, **arguments: Unpack[EnvArguments]
) -> SixTuple:
    """What `prune_gym.envs.make_env` makes of the same arguments, with steps of six values."""
    return SixTuple(make_env(granularity, needs_network, **arguments))


def register(*env_ids: str) -> list[str]:
    """Register ``"Safety" + id`` with Safety-Gymnasium; calling it again changes nothing.

    Args:
        env_ids: that make pruning environments; default: all there are.

    Returns:
        The ids for ``safety_gymnasium.make``.

    Raises:
        MissingLibraryError: Safety-Gymnasium is missing; says how to install it.
    """
    library = require("safety_gymnasium", "Safety-Gymnasium", INSTALL)
    names = []
    for env_id in env_ids or registered_ids():
        names.append(f"{PREFIX}{env_id}")
        if names[-1] not in gym.registry:
            kwargs = dict(gym.spec(env_id).kwargs)
            library.register(id=names[-1], entry_point=partial(make_six, **kwargs))
    return names
