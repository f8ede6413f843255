"""OmniSafe on PruneVGG-v0; `guests.py` runs it."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from guest_watch import ENV_ID, WATCHED, Row, episodes, run, summary

from prune_gym.adapters.omnisafe import configure, register

EPOCH = 128  # steps, a multiple of the episodes' length
MEAN_OF = 50  # episodes; OmniSafe does not read its `window_lens`
# 16 updates of the multiplier are few to begin at nothing
SHORT = {"lagrangian_multiplier_init": 5.0, "lambda_lr": 0.1}
OFF_POLICY = {
    "algo_cfgs": {
        "start_learning_steps": EPOCH,
        "update_cycle": 16,
        "update_iters": 16,
        "warmup_epochs": 0,  # 100 epochs without a multiplier otherwise
        "cost_normalize": False,
    },
    "lagrange_cfgs": {"lambda_lr": 0.05},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "PPOLag": {"lagrange_cfgs": SHORT},
    "FOCOPS": {"lagrange_cfgs": {**SHORT, "lagrangian_upper_bound": 20.0}},
    "SACLag": OFF_POLICY,
}


def train(algo: str, num_envs: int, given: argparse.Namespace) -> Row:
    """Learn; OmniSafe's mean cost of the last episodes is held against the environments'."""
    register(ENV_ID, **given.env)
    import omnisafe

    folder = str(given.out.parent / "runs")
    sections = {
        "train_cfgs": {
            "total_steps": given.steps,
            "vector_env_nums": num_envs,
            "torch_threads": 1,
        },
        "algo_cfgs": {"steps_per_epoch": EPOCH},
        "logger_cfgs": {"log_dir": folder, "use_wandb": False, "use_tensorboard": False},
    }
    for section, values in SETTINGS.get(algo, {}).items():
        sections[section] = {**sections.get(section, {}), **values}
    cfgs = configure(algo, ENV_ID, {"seed": 0, **sections})
    WATCHED.clear()
    agent = omnisafe.Agent(algo, ENV_ID, custom_cfgs=cfgs)
    reported = agent.learn()[1]
    seen = episodes(WATCHED[:num_envs])  # the last one evaluates
    return summary(algo, seen, reported, seen[-MEAN_OF:, 1].mean(), environments=num_envs)


if __name__ == "__main__":
    algorithms = [("PPOLag", 1), ("PPOLag", 4), ("CPO", 1), ("FOCOPS", 1), ("SACLag", 1)]
    run(
        ["omnisafe"],
        {f"{algo} {n}": partial(train, algo, n) for algo, n in algorithms},
    )
