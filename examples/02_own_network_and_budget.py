"""Your own network, data and budget: any module, any function of it."""

import torch
from torch import nn

import prune_gym


class Net(nn.Module):
    """Two convolutions, a flatten and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.hidden = nn.Linear(24 * 8 * 8, 32)
        self.out = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10) of images (n, 1, 16, 16)."""
        features = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        return self.out(torch.relu(self.hidden(features.flatten(1))))


def widest_layer(network: nn.Module) -> float:
    """A black-box budget: the largest weight tensor."""
    return max(p.numel() for p in network.parameters())


digits = prune_gym.DATASETS.get("digits")()
torch.manual_seed(0)
problem = prune_gym.make_problem(
    network=Net(),  # untrained here; bring yours
    train=(digits.train.images, digits.train.labels),
    validation=(digits.validation.images, digits.validation.labels),
    budgets={"params": 0.5, widest_layer: 0.4},
    recovery="finetune",
    recovery_steps=20,
)
outcome = problem.evaluate(problem.masks_of([8, 16, 16]))
print("costs", outcome.costs, "feasible", outcome.feasible, f"accuracy {outcome.accuracy:.3f}")
print("groups", [(group.name, group.n_filters) for group in problem.groups])
