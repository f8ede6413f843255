"""TorchRL on PruneVGG-v0: PPO on the Lagrangian of reward and cost; `guests.py` runs it."""

from __future__ import annotations

import argparse

import torch
from guest_watch import ENV_ID, WATCHED, Row, episodes, run, summary
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs.utils import check_env_specs
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from prune_gym.adapters.torchrl import make_env

BATCH = 128  # steps, a multiple of the episodes' length
EPOCHS = 8
MULTIPLIER_LR = 4.0


def train(given: argparse.Namespace) -> Row:
    """Learn; the costs in the tensordicts are held against those of the environment."""
    env = make_env(ENV_ID, **given.env)
    check_env_specs(env)
    limit = env.unwrapped.cost_limit
    WATCHED[-1].episodes.clear()
    actor, critic = networks(env.observation_spec["observation"].shape[-1])
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-3)
    multiplier, total = 0.0, 0.0
    for _ in range(given.steps // BATCH):
        with torch.no_grad():
            batch = env.rollout(BATCH, actor, break_when_any_done=False)
        after = batch["next"]
        cost = after["cost"].sum() / after["done"].sum()
        total += float(after["cost"].sum())
        after["reward"] = (after["reward"] - multiplier * after["cost"]) / (1.0 + multiplier)
        for _ in range(EPOCHS):
            advantage(batch)
            losses = loss_of(batch)
            loss = sum(losses[f"loss_{part}"] for part in ("objective", "critic", "entropy"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        multiplier = max(0.0, multiplier + MULTIPLIER_LR * (float(cost) - limit))
    seen = episodes(WATCHED)
    return summary(
        "PPO, Lagrangian", seen, total / len(seen), seen[:, 1].mean(), multiplier=multiplier
    )


def networks(n_features: int) -> tuple[ProbabilisticActor, ValueOperator]:
    """A Gaussian actor squashed into [-1, 1], and a critic."""
    body = nn.Sequential(
        nn.Linear(n_features, 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.Tanh(),
        nn.Linear(64, 2),
        NormalParamExtractor(),
    )
    actor = ProbabilisticActor(
        TensorDictModule(body, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    value = nn.Sequential(nn.Linear(n_features, 64), nn.Tanh(), nn.Linear(64, 1))
    return actor, ValueOperator(value, in_keys=["observation"])


if __name__ == "__main__":
    run(["torchrl", "tensordict"], {"PPO": train})
