"""OmniSafe: the environments as its CMDP, and its configuration with the environment's limit.

OmniSafe pins old packages and asks for `safety_gymnasium`, which recent Pythons cannot import. It
needs that name for its own environments only, so an empty module stands in for it here (call
`register` before ``import omnisafe``):

    pip install --no-deps omnisafe
    pip install gdown matplotlib moviepy pandas pyyaml rich scipy seaborn tensorboard
    pip install tqdm typer wandb

    from prune_gym.adapters.omnisafe import configure, register
    register("PruneVGG-v0", cost_mode="dense", budgets={"params": 0.25})
    import omnisafe
    cfgs = configure("PPOLag", "PruneVGG-v0", {"train_cfgs": {"total_steps": 40_960}})
    omnisafe.Agent("PPOLag", "PruneVGG-v0", custom_cfgs=cfgs).learn()
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from prune_gym.adapters.base import cost_limit_of, registered_ids, require
from prune_gym.adapters.tensors import TensorEnvs
from prune_gym.errors import InvalidValueError
from prune_gym.utils.registry import unknown_name

INSTALL = (
    "--no-deps omnisafe && pip install gdown matplotlib moviepy pandas pyyaml rich scipy seaborn "
    "tensorboard tqdm typer wandb"
)
LIMITS = ("cost_limit", "safety_budget", "upper_budget")
# arguments by id; OmniSafe keeps this very dict as the list of ids
ARGUMENTS: dict[str, dict[str, Any]] = {}


class RegisteredEnvs(TensorEnvs):
    """`TensorEnvs` with the arguments of `register`; those given here (``env_cfgs``) go before."""

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        **env_arguments: Any,
    ) -> None:
        super().__init__(env_id, num_envs, device, **{**ARGUMENTS.get(env_id, {}), **env_arguments})


def register(*env_ids: str, **env_arguments: Any) -> None:
    """Make ids known to OmniSafe; the last call for an id holds.

    Args:
        env_ids: registered with Gymnasium; default: every id that makes a pruning environment.
        env_arguments: what ``gym.make`` takes for these ids. OmniSafe has ``env_cfgs`` for them,
            but lets few algorithms have it, and wants it JSON-able.

    Raises:
        MissingLibraryError: OmniSafe is missing; says how to install it.
    """
    core = _omnisafe("omnisafe.envs.core")
    for name in env_ids or registered_ids():
        if name not in ARGUMENTS or env_ids or env_arguments:
            ARGUMENTS[name] = env_arguments
    if "PruneCMDP" not in core.ENV_REGISTRY._class:
        members = {"_support_envs": ARGUMENTS}
        core.env_register(type("PruneCMDP", (RegisteredEnvs, core.CMDP), members))


def configure(
    algo: str, env_id: str, custom_cfgs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """OmniSafe's ``custom_cfgs`` with the environment's own cost limit (its default is 25).

    Args:
        algo: OmniSafe's name of the algorithm, e.g. ``"PPOLag"``.
        env_id: an id given to `register`.
        custom_cfgs: what else to set; it has the last word.

    Raises:
        MissingLibraryError: OmniSafe is missing; says how to install it.
        UnknownNameError: it has no such algorithm.
        ValueError: ``env_cfgs`` for an algorithm that has none.
    """
    kinds = _omnisafe("omnisafe.algorithms").ALGORITHM2TYPE
    if algo not in kinds:
        raise unknown_name("algo", algo, sorted(kinds))
    config = _omnisafe("omnisafe.utils.config")
    defaults = config.get_default_kwargs_yaml(algo, env_id, kinds[algo]).todict()
    configured = dict(custom_cfgs or {})
    if "env_cfgs" in configured and "env_cfgs" not in defaults:
        raise InvalidValueError(
            f"OmniSafe's {algo} has no env_cfgs; give the arguments of the environment to "
            f"register({env_id!r}, ...)."
        )
    envs: Any = RegisteredEnvs(env_id, **configured.get("env_cfgs", {}))
    envs.reset()
    found = of_the_env(defaults, cost_limit_of(envs.envs[0]), envs.envs[0].unwrapped.steps_left)
    envs.close()
    for section, values in found.items():
        configured[section] = {**values, **configured.get(section, {})}
    return configured


def of_the_env(
    defaults: Mapping[str, Any], cost_limit: float, n_steps: int
) -> dict[str, dict[str, Any]]:
    """The settings among an algorithm's defaults that the environment knows better.

    >>> defaults = {"seed": 0, "algo_cfgs": {"gamma": 0.99, "cost_limit": 25.0, "max_ep_len": 1000}}
    >>> of_the_env(defaults, 0.1, 8)
    {'algo_cfgs': {'cost_limit': 0.1, 'max_ep_len': 8}}
    """
    known = {**dict.fromkeys(LIMITS, cost_limit), "max_ep_len": n_steps}
    sections = {name: values for name, values in defaults.items() if isinstance(values, Mapping)}
    found = {
        name: {key: known[key] for key in values if key in known}
        for name, values in sections.items()
    }
    return {name: values for name, values in found.items() if values}


def _omnisafe(module: str) -> Any:
    """Import a module of OmniSafe, with a stand-in where `safety_gymnasium` does not import."""
    name = "safety_gymnasium"
    try:
        import_module(name)
    except Exception:  # it is missing, or stumbles over a newer Python or Gymnasium
        sys.modules[name] = stand_in = ModuleType(name)
    else:
        return require(module, "OmniSafe", INSTALL)
    try:
        return require(module, "OmniSafe", INSTALL)
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
