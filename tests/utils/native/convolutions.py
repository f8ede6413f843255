"""Run by `test_native.py` in processes of their own, under glibc's heap checks.

``python convolutions.py shapes|odd|networks|harm THREADS`` prints each case before it runs, so that
the last line names the one that a dead process died of.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from prune_gym.utils.onednn import SoundConvolutions

LAYOUTS = ("first", "last", "images last", "weights last", "gradients last")


def shapes() -> None:
    """Every suspicious convolution, forward and backward, as the package runs them."""
    strides = (1, 2, 3, (1, 2), (2, 4))
    grid = itertools.product((1, 3), strides, range(1, 18), ("one", "two", "depthwise"), LAYOUTS)
    for kernel, stride, n_inputs, grouping, layout in grid:
        groups = {"one": 1, "two": 2, "depthwise": n_inputs}[grouping]
        if n_inputs % groups == 0 and (groups == 1 or layout == "last"):
            print(f"kernel {kernel}, stride {stride}, {n_inputs}/{groups} inputs, {layout}")
            convolution(kernel, stride, n_inputs, groups, layout)


def convolution(kernel, stride, n_inputs, groups, layout, n_images=8, size=10) -> None:
    last = torch.channels_last
    n_outputs = 8 * groups
    images = torch.randn(n_images, n_inputs, size, size)
    weight = torch.randn(n_outputs, n_inputs // groups, kernel, kernel)
    if layout in ("last", "images last"):
        images = images.to(memory_format=last)
    if layout in ("last", "weights last"):
        weight = weight.to(memory_format=last)
    images.requires_grad_()
    weight.requires_grad_()
    outputs = functional.conv2d(images, weight, None, stride, padding=kernel // 2, groups=groups)
    slopes = torch.randn_like(outputs)
    if layout == "gradients last":
        slopes = slopes.to(memory_format=last)
    with SoundConvolutions():
        torch.autograd.grad(outputs, [images, weight], slopes)
    with torch.inference_mode():
        functional.conv2d(images, weight, None, stride, padding=kernel // 2, groups=groups)


class Functional(nn.Module):
    """The fault's convolution as a function, on maps that a permutation lays channels-last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 2 * width, 3, padding=1)
        self.turn = nn.Linear(2 * width, width)
        self.weight = nn.Parameter(torch.randn(8, width, 1, 1))
        self.classifier = nn.Linear(8, 3)

    def forward(self, images):
        maps = self.turn(self.enter(images).relu().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maps = functional.conv2d(input=maps, weight=self.weight, stride=(2, 2))
        return self.classifier(maps.mean(dim=(2, 3)))


def _convolve(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.conv2d(maps, weight, None, [2, 2])


class Odd(nn.Module):
    """The fault's convolution where nothing but the operation itself can be seen."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, 8, 1, stride=2)
        self.classifier = nn.Linear(8, 3)
        self.kind = kind

    def forward(self, images):
        maps = self.enter(images).relu()
        if self.kind == "checkpoint":
            maps = checkpoint(self.down, maps, use_reentrant=False)
        elif self.kind == "operation":
            maps = torch.ops.aten.conv2d.default(maps, self.down.weight, self.down.bias, [2, 2])
        else:
            maps = torch.jit.script(_convolve)(maps, self.down.weight)
        return self.classifier(maps.mean(dim=(2, 3)))


def odd() -> None:
    """Steps of training, channels-last, of networks whose convolutions are hidden."""
    for width, kind in itertools.product(range(1, 9), ("checkpoint", "operation", "script")):
        print(f"{kind}({width})")
        network = Odd(width, kind).to(memory_format=torch.channels_last)
        images = torch.randn(8, 1, 16, 16).to(memory_format=torch.channels_last)
        for _ in range(2):
            loss = network(images).square().sum()
            with SoundConvolutions():
                loss.backward()


def networks() -> None:
    """Criteria with gradients and recoveries that train, on networks of the fault's widths."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import numpy as np
    import tiny

    from prune_gym.networks.residual import Bottleneck, ResNet

    def residual(width):
        return ResNet((width, width + 1, 9), (1, 1, 1), in_channels=1, n_classes=3)

    def bottleneck(width):
        return ResNet((width, width + 1), (1, 1), Bottleneck, in_channels=1, n_classes=3)

    def last(width):
        return residual(width).to(memory_format=torch.channels_last)

    for width, made in itertools.product((3, 5, 8), (residual, bottleneck, last, Functional)):
        print(f"{made.__name__}({width})")
        problem = tiny.make_tiny(
            tiny.randomised(made(width)),
            criterion="taylor",
            recovery="finetune",
            recovery_steps=2,
            budgets={"params": 0.99},
            ignore=["turn"] if made is Functional else (),
        )
        for n_cut in (1, 2):
            masks = [
                np.arange(group.n_filters) < max(1, group.n_filters - n_cut)
                for group in problem.groups
            ]
            problem.evaluate(masks)


def harm() -> None:
    """Write one byte past a tensor's memory, as the fault does: this process has to die."""
    print("harm")
    tensor = torch.empty(1001, dtype=torch.uint8)
    ctypes.memset(tensor.data_ptr(), 7, 1002)
    del tensor


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    {"shapes": shapes, "odd": odd, "networks": networks, "harm": harm}[sys.argv[1]]()
    print("survived")
