"""Several labels an example, and token ids: a DataLoader, and a metric of torchmetrics."""

import torch
import torchmetrics
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import prune_gym

torch.manual_seed(0)


def train(network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, loss) -> nn.Module:
    """What you have done already: train a network."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(80):
        value = loss(network(inputs), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network.eval()


# -- several labels: which corners of an image are bright ------------------------------------------

labels = torch.randint(2, (320, 3))
images = 0.3 * torch.randn(320, 1, 8, 8)
for column, (down, right) in enumerate(((0, 0), (0, 4), (4, 0))):
    images[:, 0, down : down + 4, right : right + 4] += labels[:, column, None, None]
network = nn.Sequential(
    *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(4)),
    *(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)),
)
train(
    network,
    images[:160],
    labels[:160].float(),
    functional.binary_cross_entropy_with_logits,
)
loaders = [
    DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=32)
    for rows in torch.arange(320).split([160, 80, 80])
]
problem = prune_gym.make_problem(
    network,
    train=loaders[0],
    validation=loaders[1],
    test=loaders[2],
    metric="multilabel_f1",
    budgets={"params": 0.5},
)
best = prune_gym.search(problem, "random", evaluations=8).fine_tune(40)
print(f"F1 {best.validation_accuracy:.3f}, test {best.test_accuracy:.3f}, {best.costs}")


# -- text: whether a word is among the tokens ------------------------------------------------------


class Reader(nn.Module):
    """Embeds tokens; the embedding itself stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.first, self.second = nn.Conv1d(8, 24, 3, padding=1), nn.Conv1d(24, 16, 1)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2) of token ids (n, length)."""
        hidden = self.first(self.embed(tokens).transpose(1, 2)).relu()
        return self.head(self.second(hidden).relu().amax(dim=2))


tokens = torch.randint(8, 30, (320, 12))
says_so = torch.randint(2, (320,))
tokens[says_so == 1, 5] = 7
reader = train(Reader(), tokens[:160], says_so[:160], functional.cross_entropy)
problem = prune_gym.make_problem(
    reader,
    train=(tokens[:160], says_so[:160]),
    validation=(tokens[160:240], says_so[160:240]),
    test=(tokens[240:], says_so[240:]),
    metric=torchmetrics.classification.MulticlassMatthewsCorrCoef(num_classes=2),
    budgets={"params": 0.5},
)
best = prune_gym.search(problem, "random", evaluations=8).fine_tune(40)
print(f"{problem.task.metric.name} {best.test_accuracy:.3f}, {best.costs}")
