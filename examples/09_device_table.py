"""Latency of a device that is not here: looked up, layer by layer, in a table."""

import torch
from torch import nn

import prune_gym

# Microseconds of a 3x3 convolution by multiples of 32 input and output channels. These are made up:
# measure yours on the device once, or take what its maker gives.
TABLE = torch.tensor(
    [
        [11.0, 19.0, 27.0, 36.0, 44.0, 52.0, 61.0, 69.0],
        [19.0, 35.0, 51.0, 68.0, 84.0, 100.0, 117.0, 133.0],
        [27.0, 51.0, 76.0, 100.0, 125.0, 149.0, 173.0, 198.0],
        [36.0, 68.0, 100.0, 133.0, 166.0, 198.0, 231.0, 264.0],
        [44.0, 84.0, 125.0, 166.0, 206.0, 247.0, 288.0, 329.0],
        [52.0, 100.0, 149.0, 198.0, 247.0, 296.0, 345.0, 394.0],
        [61.0, 117.0, 173.0, 231.0, 288.0, 345.0, 403.0, 460.0],
        [69.0, 133.0, 198.0, 264.0, 329.0, 394.0, 460.0, 525.0],
    ]
)


def device_us(network: nn.Module) -> float:
    """Microseconds of all convolutions; the device rounds channels up to multiples of 32."""
    total = 0.0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            row, column = (-(-n // 32) - 1 for n in (layer.in_channels, layer.out_channels))
            total += float(TABLE[row, column])
    return total


# A table gives equal networks equal numbers, and fewer channels never cost more: it may be charged
# step by step (cost_mode="dense"), and is not measured again before a network is handed over.
device = prune_gym.Budget("device_us", device_us, unit="us", deterministic=True, monotone=True)
problem = prune_gym.make_problem(budgets={device: "400us", "params": 0.5})
print(f"unpruned: {problem.unpruned_values[0]:.0f} us; limits {problem.limits}")
for ratio in (0.3, 0.5, 0.6):
    outcome = problem.evaluate(problem.masks_of(problem.kept_counts([ratio] * 8)))
    print(
        f"cut by {ratio:.0%}: {outcome.values['device_us']:.0f} us, "
        f"accuracy {outcome.accuracy:.3f}, feasible {outcome.feasible}"
    )
