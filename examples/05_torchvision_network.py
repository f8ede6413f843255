"""A network of torchvision on data of your own: protect a layer, keep multiples of 8, export."""

import tempfile
from pathlib import Path

import gymnasium as gym
import torch
from torch import nn
from torchvision.models import resnet18

import prune_gym

torch.manual_seed(0)
network = resnet18(num_classes=10)  # untrained here; bring yours, with its weights
network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
digits = prune_gym.DATASETS.get("digits")()
problem = prune_gym.make_problem(
    network=network,
    train=(digits.train.images, digits.train.labels),
    validation=(digits.validation.images[:100], digits.validation.labels[:100]),
    budgets={"params": 0.5, "macs": 0.5},
    ignore=["conv1"],  # the stem keeps its filters, and so does what is tied to it
    round_to=8,
)
env = gym.make("Prune-v0", problem=problem)
env.reset(seed=0)
terminated = False
while not terminated:
    _, accuracy, terminated, _, info = env.step([0.2])  # 60 % of each group goes
print(f"{len(problem.groups)} groups, costs {info['costs']}, within the limits: {info['feasible']}")
pruned = env.unwrapped.compact_network()
print("kept", sorted({m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d)}))

with tempfile.TemporaryDirectory() as folder:
    masks = env.unwrapped.last_masks()
    prune_gym.save_pruned(folder, pruned, problem, masks)  # safetensors and a plan, no pickle
    again = prune_gym.load_pruned(folder, network)
    same = torch.equal(again(digits.test.images[:5]), pruned(digits.test.images[:5]))
    print("saved", sorted(path.name for path in Path(folder).iterdir()), "loads alike:", same)
