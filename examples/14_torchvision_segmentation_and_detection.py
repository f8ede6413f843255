"""torchvision's segmentation and detection networks, with metric and trainer of one's own.

The data are bright squares on noise, made here; the networks are small only in their inputs, and
start from random weights (give yours weights). A detector takes a list of images, trains on losses
that it gives itself, and is judged by the boxes that it finds.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import detection, segmentation
from torchvision.ops import box_iou

import prune_gym

SIZE = 64
torch.manual_seed(0)


def squares(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, SIZE, SIZE) of one square each, and its corners (n, 4): left, top, ..."""
    corners = torch.randint(4, SIZE // 2 - 4, (n, 2))
    images = 0.1 * torch.randn(n, 3, SIZE, SIZE)
    for image, (left, top) in zip(images, corners.tolist(), strict=True):
        image[:, top : top + SIZE // 2, left : left + SIZE // 2] += 1.0
    return images, torch.cat([corners, corners + SIZE // 2], dim=1).float()


def masks_of(images: torch.Tensor) -> torch.Tensor:
    """Which pixels are bright, (n, SIZE, SIZE)."""
    return (images.mean(1) > 0.5).long()


def report(name: str, problem: prune_gym.PruningProblem) -> None:
    """Search a little, train as the problem says, and say what came out."""
    best = prune_gym.search(problem, "random", evaluations=2).fine_tune(2)
    print(f"{name}: {len(problem.groups)} groups, {best.validation_accuracy:.3f}, {best.costs}")


# -- segmentation: a dict of outputs ---------------------------------------------------------------


def train_segmenter(network: nn.Module, train: Any, steps: int, generator: Any) -> None:
    """A loop of one's own; it gets what it asks for by name, and a network in training mode."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        images, masks = train.fresh(train.order(generator)[:4], generator)
        loss = functional.cross_entropy(network(images)["out"], masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


images, corners = squares(12)
masks = masks_of(images)
network = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
problem = prune_gym.make_problem(
    network.eval(),
    train=(images[:8], masks[:8]),
    validation=(images[8:], masks[8:]),
    output="out",
    metric="mean_iou",
    fine_tune=train_segmenter,
    budgets={"params": 0.5},
)
report("lraspp", problem)


# -- detection: a list of images, and boxes --------------------------------------------------------


class Squares(torch.utils.data.Dataset):
    """Items as torchvision's detectors take them: an image, and a dict of boxes and labels."""

    def __init__(self, images: torch.Tensor, corners: torch.Tensor) -> None:
        self.images, self.corners = images, corners

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.images[row], {"boxes": self.corners[row, None], "labels": torch.tensor([1])}


def listed(items: list) -> tuple[list, list]:
    """A batch is a list of images and a list of targets: nothing is stacked."""
    return [image for image, _ in items], [target for _, target in items]


def best_overlap(outputs: list, targets: list) -> float:
    """How well the best of the boxes found covers the true one, in the mean over the images."""
    found = [
        float(box_iou(output["boxes"], target["boxes"]).max()) if len(output["boxes"]) else 0.0
        for output, target in zip(outputs, targets, strict=True)
    ]
    return sum(found) / len(found)


def train_detector(network: nn.Module, train: Any, steps: int, generator: Any) -> None:
    """In training mode the network takes the targets, and gives its losses."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        losses = network(*train.fresh(train.order(generator)[:4], generator))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


detector = detection.ssdlite320_mobilenet_v3_large(
    weights=None, weights_backbone=None, num_classes=2
)
problem = prune_gym.make_problem(
    detector.eval(),
    train=Squares(images[:8], corners[:8]),
    validation=Squares(images[8:], corners[8:]),
    collate=listed,
    metric=prune_gym.Metric(best_overlap, lowest=0.0, highest=1.0),
    fine_tune=train_detector,
    budgets={"params": 0.5},
)
report("ssdlite320_mobilenet_v3_large", problem)
