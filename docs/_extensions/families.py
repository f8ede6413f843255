"""The families of registered environments: what their pages say beside the docstrings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Environments that share a page.

    Attributes:
        name: of the page's file.
        title: of the page.
        ids: registered ids.
        env_class: whose docstring is the page.
        words: what is particular to the family, Markdown.
        code: makes ``env``, with ``render_mode="rgb_array"``; shown, and run for the picture.
        caption: what else must be said under the picture.
        module: in which ``env_class`` is.
    """

    name: str
    title: str
    ids: tuple[str, ...]
    env_class: str
    words: str
    code: str
    caption: str = ""
    module: str = "prune_gym.envs"


FAMILIES = (
    Family(
        name="PruneVGG",
        title="PruneVGG: a ratio per layer",
        ids=("PruneVGG-v0", "PruneVGG-v1"),
        env_class="LayerPruneEnv",
        words="""
The environment to start with. A VGG of eight convolutions that was trained on scikit-learn's digits
(16x16 pixels) comes with the package, data included, so that it works offline and at once. The
default budget is `{"params": 0.1}`: at most a tenth of the parameters may stay. What follows is
`-v0`, the paper's decision; `-v1` decides [beside the scan's network](PruneBeside.md), as searches
do unless they are told otherwise.
""",
        code="""
import gymnasium as gym
import prune_gym

env = gym.make("PruneVGG-v0", budgets={"params": 0.25}, render_mode="rgb_array")
env = prune_gym.ProjectionWrapper(env)  # sampled actions that keep the limit
""",
    ),
    Family(
        name="PruneVGGFilters",
        title="PruneVGGFilters: filter by filter",
        ids=("PruneVGGFilters-v0", "PruneVGGFilters-v1"),
        env_class="FilterPruneEnv",
        words="""
The same network and data; an action says of every filter of a group whether it stays.
`BinaryFilters` makes the action space `MultiBinary`, `BinaryToBox` brings that back to a `Box` for
agents that want one.
""",
        code="""
import gymnasium as gym
import prune_gym

env = gym.make("PruneVGGFilters-v0", budgets={"params": 0.25}, render_mode="rgb_array")
env = prune_gym.ProjectionWrapper(env)
""",
    ),
    Family(
        name="PruneBeside",
        title="The -v1 ids: beside the scan's network",
        ids=(),
        env_class="PriorLayerPruneEnv",
        words="""
`PruneVGG-v1`, or `decision="prior"` for any other environment: an action says by what factor a
group differs from the network that follows from the sensitivity scan, so that zeros play that
network. See [a decision worth learning](../../decision.md).
""",
        code="""
import gymnasium as gym
import prune_gym  # registers the environments

env = gym.make("PruneVGG-v1", budgets={"params": 0.25}, render_mode="rgb_array")
""",
    ),
    Family(
        name="PruneVGGNetwork",
        title="All ratios in one step",
        ids=(),
        env_class="NetworkPruneEnv",
        words="""
No id of its own: `granularity="network"` makes any of the environments a bandit, whose one action
is the vector of all prune ratios. It is the setting of random search, of evolution strategies and
of Bayesian optimisation.
""",
        code="""
import gymnasium as gym
import prune_gym

env = gym.make(
    "PruneVGG-v0", granularity="network", budgets={"params": 0.25}, render_mode="rgb_array"
)
env = prune_gym.ProjectionWrapper(env)
""",
    ),
    Family(
        name="PruneVGGLatency",
        title="PruneVGGLatency: a measured budget",
        ids=("PruneVGGLatency-v0", "PruneVGGLatency-v1"),
        env_class="LayerPruneEnv",
        words="""
The budget is `latency_ms`, the time of one forward on this machine: at most half of the unpruned
network's. It is measured, so the id is registered with `nondeterministic=True`: another process
measures another cost. While an episode goes on, the share of parameters stands in for the budget,
in the observation and in the picture; the cost is measured at its end.
""",
        code="""
import time

import gymnasium as gym
import prune_gym

# time of this thread alone, so that a busy machine measures the same; "latency_ms" takes all time
latency = prune_gym.latency_ms(32, clock=time.thread_time, error=0.2)
env = gym.make("PruneVGGLatency-v0", budgets={latency: 0.5}, render_mode="rgb_array")
""",
        caption="The latency was measured on the machine that built this page.",
    ),
    Family(
        name="PruneVGGAnyLimit",
        title="PruneVGGAnyLimit: a limit per episode",
        ids=("PruneVGGAnyLimit-v0", "PruneVGGAnyLimit-v1"),
        env_class="LayerPruneEnv",
        words="""
The limit is drawn at every reset (or given, `reset(options={"limit": 0.15})`) and stands in the
observation, so that one policy serves every limit: see [limits](../../limits.md). The keyword
`limit_range=(low, high)` makes any environment of one budget such an environment.
""",
        code="""
import gymnasium as gym
import prune_gym

env = gym.make("PruneVGGAnyLimit-v0", limit_range=(0.05, 0.4), render_mode="rgb_array")
env = prune_gym.ProjectionWrapper(env)
""",
    ),
    Family(
        name="PruneFamily",
        title="PruneFamily: another network in each episode",
        ids=("PruneFamily-v1",),
        env_class="FamilyPruneEnv",
        module="prune_gym.envs.family",
        words="""
Every episode draws a network from a family, and a limit; observations say nothing that depends on
the network's size, so that one policy fits all. See [a decision worth
learning](../../decision.md).
""",
        code="""
import gymnasium as gym
import prune_gym  # registers the environments

env = gym.make("PruneFamily-v1", render_mode="rgb_array")
""",
    ),
    Family(
        name="PruneTable",
        title="PruneTable: every network judged already",
        ids=("PruneTable-v1",),
        env_class="TablePruneEnv",
        module="prune_gym.tables.env",
        words="""
Networks are looked up in an exact table, so that an episode takes microseconds and the best network
within a limit is known. The spaces are those of `PruneVGG-v0`; see [exact tables](../../tables.md).
""",
        code="""
import gymnasium as gym
import prune_gym

env = gym.make("PruneTable-v1", budgets={"params": 0.25}, render_mode="rgb_array")
env = prune_gym.ProjectionWrapper(env)
""",
    ),
    Family(
        name="Prune",
        title="Prune: a problem of your own",
        ids=("Prune-v0", "Prune-v1"),
        env_class="LayerPruneEnv",
        words="""
Prunes what you bring: a problem of `prune_gym.make_problem`, or a network and data. See
[your own network](../../own_network.md).
""",
        code="""
import gymnasium as gym
import torch
from torch import nn

import prune_gym

network = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(24 * 8 * 8, 32),
    nn.ReLU(),
    nn.Linear(32, 10),
)
images, labels = torch.rand(96, 1, 16, 16), torch.arange(96) % 10
problem = prune_gym.make_problem(
    network, train=(images[:64], labels[:64]), validation=(images[64:], labels[64:])
)
env = gym.make("Prune-v0", problem=problem, render_mode="rgb_array")
env = prune_gym.ProjectionWrapper(env)
""",
        caption="The network is untrained and the images are random, so the accuracy is chance.",
    ),
    Family(
        name="CIFAR10",
        title="Networks of the literature on CIFAR-10",
        ids=(
            "PruneVGG11-CIFAR10-v0",
            "PruneVGG11-CIFAR10-v1",
            "PruneVGG16-CIFAR10-v0",
            "PruneVGG16-CIFAR10-v1",
            "PruneVGG19-CIFAR10-v0",
            "PruneVGG19-CIFAR10-v1",
            "PruneResNet18-CIFAR10-v0",
            "PruneResNet18-CIFAR10-v1",
            "PruneResNet50-CIFAR10-v0",
            "PruneResNet50-CIFAR10-v1",
            "PruneResNet56-CIFAR10-v0",
            "PruneResNet56-CIFAR10-v1",
        ),
        env_class="LayerPruneEnv",
        words="""
The networks of the pruning literature for 32x32 pixels. They need trained weights, which one
command makes (`prune-gym pretrain vgg16 --dataset cifar10`), and CIFAR-10, which is downloaded
once; `gym.make("PruneVGG16-CIFAR10-v0")` then finds both, and fails with that command otherwise.
See [real networks and real images](../../networks_and_data.md).
""",
        code="""
import gymnasium as gym
import torch

import prune_gym

network = prune_gym.NETWORKS.get("vgg11")(in_channels=3, n_classes=10)
images, labels = torch.rand(48, 3, 32, 32), torch.arange(48) % 10
env = gym.make(
    "Prune-v0",
    problem=prune_gym.make_problem(
        network, train=(images[:32], labels[:32]), validation=(images[32:], labels[32:])
    ),
    render_mode="rgb_array",
)
env = prune_gym.ProjectionWrapper(env)
""",
        caption="This page was built without weights and without CIFAR-10: the episode is one of "
        "an untrained VGG11 on random images, so the accuracy is chance. Spaces and pictures are "
        "those of `PruneVGG11-CIFAR10-v0`.",
    ),
)
