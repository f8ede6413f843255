"""The policy that comes with the package: trained on a family of networks, judged on unseen ones.

    python benchmarks/pretrain_policy.py train --data folder:DIR
    python benchmarks/pretrain_policy.py judge --data folder:DIR

``train`` trains some VGG- and ResNet-like networks of several widths and depths on digits, drawn
shapes and the images of CIFAR-10, then a policy on `prune_gym.envs.FamilyPruneEnv` of them all,
with limits drawn anew in every episode, and writes ``agents/zoo/data/pretrained.safetensors``.
``judge`` compares, on networks that no training saw, the first network that the policy gives with
that of the sensitivity scan, and searches from both on. Writes
``benchmarks/results/pretrained_policy.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from safetensors.torch import save_file
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import prune_gym
from agents import FixedMultiplier, make_agent
from agents.algorithms.schedules import LinearSchedule
from agents.files import write_json
from agents.zoo.values import PPO_BESIDE_PRIOR
from prune_gym.datasets import load_dataset
from prune_gym.envs.family import FamilyPruneEnv
from prune_gym.networks.residual import ResNet
from prune_gym.networks.vgg import VGG
from prune_gym.training.loop import Recipe, fit

HERE = Path(__file__).parent
POLICY = HERE.parent / "agents" / "zoo" / "data" / "pretrained.safetensors"
RESULTS = HERE / "results" / "pretrained_policy.json"
STEPS = {"digits": 400, "shapes": 400, "cifar": 1500}  # of the training of a network
SAMPLES = 500  # images that a network is judged on, at most
LIMITS = (0.03, 0.3)
# of PPO on a family: longer rollouts, and smaller steps, than on one network
VALUES = {
    **PPO_BESIDE_PRIOR,
    "multiplier": FixedMultiplier(0.0),
    "n_steps": 128,
    "batch_size": 256,
    "learning_rate": LinearSchedule(2e-3, 2e-4),
}


def vgg(*widths: int | str) -> Callable[..., Any]:
    return functools.partial(VGG, widths)


def resnet(widths: tuple[int, ...], depths: tuple[int, ...]) -> Callable[..., Any]:
    return functools.partial(ResNet, widths, depths)


# name: network and data; each is scored by bn_scale and by l1
TRAINED: dict[str, tuple[Callable[..., Any], str]] = {
    "vgg-a": (vgg(24, "M", 48, "M", 48, 48, "M", 96, 96), "digits"),
    "vgg-b": (vgg(32, "M", 64, "M", 128, "M", 128), "digits"),
    "vgg-c": (vgg(8, "M", 16, "M", 32, 32, "M", 64, 64, 64, 64), "digits"),
    "vgg-d": (vgg(16, 16, "M", 32, 32, "M", 64, 64, "M", 128), "shapes"),
    "vgg-e": (vgg(32, "M", 32, "M", 64, 96, "M", 96, 64), "shapes"),
    "resnet-a": (resnet((12, 24, 48), (2, 2, 2)), "digits"),
    "resnet-b": (resnet((16, 32), (2, 2)), "digits"),
    "resnet-c": (resnet((16, 32, 64), (1, 1, 1)), "shapes"),
    "resnet-d": (resnet((24, 48), (1, 2)), "shapes"),
    "vgg-f": (vgg(16, "M", 32, "M", 64, 64, "M", 96, 96), "cifar"),
    "vgg-g": (vgg(24, 24, "M", 48, "M", 64, "M", 96), "cifar"),
    "resnet-e": (resnet((8, 16, 32), (2, 2, 2)), "cifar"),
}
UNSEEN: dict[str, tuple[Callable[..., Any], str]] = {
    "vgg-wide": (vgg(20, "M", 40, "M", 80, 80, "M", 160, 96), "digits"),
    "vgg-deep": (vgg(16, "M", 32, 32, "M", 48, 48, 48, "M", 80, 80), "shapes"),
    "resnet-wide": (resnet((20, 40, 80), (1, 2, 1)), "digits"),
}


@functools.cache
def trained(name: str, images: str) -> tuple[Any, Any]:
    """A network, trained, and its data."""
    build, dataset = {**TRAINED, **UNSEEN}[name]
    data = load_dataset(images if dataset == "cifar" else dataset)
    torch.manual_seed(sum(map(ord, name)))
    network = build(in_channels=data.train.images.shape[1], n_classes=data.n_classes)
    generator = torch.Generator().manual_seed(0)
    steps = STEPS[dataset]
    fit(network, data.train, Recipe(), steps=steps, generator=generator, augment=data.augment)
    return network, data


def made(name: str, criterion: str, limit: float = 0.1, images: str = "") -> Any:
    """The problem of a network, which is trained first."""
    network, data = trained(name, images)
    return prune_gym.make_problem(
        network,
        data,
        criterion=criterion,
        budgets={"params": limit},
        evaluation_samples=min(SAMPLES, len(data.validation)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("--episodes", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--searches", type=int, default=5, help="seeds of the searches")
    parser.add_argument("--data", default="", help="images of CIFAR-10, as folder:DIR")
    parser.add_argument("--policy", type=Path, default=POLICY)
    asked = parser.parse_args()
    if asked.what == "train" and not asked.data:
        parser.error("train needs the images of CIFAR-10: --data folder:DIR")
    train(asked) if asked.what == "train" else judge(asked)


def train(asked: argparse.Namespace) -> None:
    """Train the policy and save its weights."""
    problems = []
    for name in TRAINED:
        for criterion in ("bn_scale", "l1"):
            problems.append(made(name, criterion, images=asked.data))
            score = problems[-1].sensitivity.unpruned
            print(f"{name} {criterion}: unpruned {score:.3f}", flush=True)
    venv = VecMonitor(
        DummyVecEnv([functools.partial(FamilyPruneEnv, problems, limit_range=LIMITS)] * 8)
    )
    steps = int(asked.episodes * np.mean([len(problem.groups) for problem in problems]))
    model = make_agent("ppo_lag", venv, seed=asked.seed, device="cpu", **VALUES)
    began, rewards = time.monotonic(), []

    def report(local: dict[str, Any], _: Any) -> bool:
        rewards.extend(info["episode"]["r"] for info in local["infos"] if "episode" in info)
        if len(rewards) % 400 < 8 and len(rewards) > 400:
            mean = np.mean(rewards[-400:])
            print(
                f"{len(rewards)} episodes, {mean:.4f}, {time.monotonic() - began:.0f} s", flush=True
            )
        return True

    model.learn(steps, callback=report)
    asked.policy.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.policy.state_dict().items()}
    save_file(state, asked.policy, metadata={"episodes": str(len(rewards)), "agent": "ppo_lag"})


def judge(asked: argparse.Namespace) -> None:
    """Compare on networks that no training saw."""
    rows = []
    for problem_name, problem in unseen(asked.data):
        for limit in (0.1, 0.05) if problem_name != "resnet20" else (0.5,):
            rows.append(
                {"problem": problem_name, "limit": limit, **compared(problem(limit), asked)}
            )
            print(json.dumps(rows[-1]), flush=True)
            write_json(RESULTS, {**origin(), "rows": rows}, indent=1)


def unseen(data: str) -> Any:
    """Names, and functions of a limit that make a problem."""
    for name in UNSEEN:
        yield name, functools.partial(made, name, "bn_scale")
    yield "small", lambda limit: prune_gym.make_problem(criterion="auto", budgets={"params": limit})
    yield (
        "tiny_resnet",
        lambda limit: prune_gym.make_problem(
            "tiny_resnet", criterion="auto", budgets={"params": limit}
        ),
    )
    if data:
        yield (
            "resnet20",
            lambda limit: prune_gym.make_problem(
                "resnet20",
                data,
                weights=HERE / "weights" / "resnet20.safetensors",
                criterion="auto",
                budgets={"macs": limit},
                evaluation_samples=1000,
            ),
        )


def compared(problem: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """The first networks of scan and policy, and what searches find after 50 and 100."""
    scans = problem.sensitivity.evaluations
    found: dict[str, Any] = {"scan_evaluations": scans}
    for name, evaluations in (("pretrained", scans + 50), ("evolution", scans + 100)):
        runs = [
            prune_gym.search(problem, name, evaluations=evaluations, seed=seed).networks
            for seed in range(asked.searches)
        ]
        best = [np.where(run["feasible"], run["accuracy"], 0.0) for run in runs]
        found[name] = [float(row.max()) for row in best]
        found.setdefault("scan", float(best[0][scans]))
        if name == "pretrained":
            found["policy"] = float(best[0][scans + 1])
    return found


if __name__ == "__main__":
    main()
