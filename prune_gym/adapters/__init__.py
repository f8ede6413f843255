"""The environments in the terms of other constrained-RL libraries: a module per library.

None of them is needed by `prune_gym`; each is imported when a function of its module is called.

| library | module | what to call |
|---|---|---|
| OmniSafe | `prune_gym.adapters.omnisafe` | ``register()``, ``configure(algo, env_id)`` |
| FSRL | `prune_gym.adapters.fsrl` | ``vector_env(env_id, n_envs)`` |
| RLlib | `prune_gym.adapters.rllib` | ``register()``, ``log_cost`` |
| TorchRL | `prune_gym.adapters.torchrl` | ``make_env(env_id)`` |
| Safety-Gymnasium | `prune_gym.adapters.safety_gymnasium` | ``register()`` |
"""

from __future__ import annotations
