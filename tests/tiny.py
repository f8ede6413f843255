"""Small networks with random BatchNorm statistics, random data, and the helpers of the tests.

Everything here is at module level, so that it can be pickled.
"""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from typer.testing import CliRunner

import prune_gym
from prune_gym.cli.main import app
from prune_gym.networks.residual import ResNet
from prune_gym.networks.vgg import VGG

N_CLASSES = 3
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Dense(nn.Module):
    """A dense block: two concatenations, a norm after the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(9)
        self.third = nn.Conv2d(9, 6, 1)
        self.classifier = nn.Linear(15, N_CLASSES)

    def forward(self, images):
        first = self.first(images).relu()
        both = self.norm(torch.cat([first, self.second(first)], dim=1)).relu()
        every = torch.cat([both, self.third(both).relu()], dim=1)
        return self.classifier(every.mean(dim=(2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip connection by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(5)
        self.join = nn.Conv2d(9, 6, 3, padding=1)
        self.classifier = nn.Linear(6, N_CLASSES)

    def forward(self, images):
        skip = self.norm(self.enter(images)).relu()
        risen = self.up_norm(self.up(self.down(skip).relu())).relu()
        return self.classifier(self.join(torch.cat([risen, skip], dim=1)).relu().mean(dim=(2, 3)))


class Mobile(nn.Module):
    """A depthwise convolution between two pointwise ones, with a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(1, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.depth_norm = nn.BatchNorm2d(6)
        self.act = nn.PReLU(6)
        self.project = nn.Conv2d(6, 5, 1)
        self.classifier = nn.Linear(5, N_CLASSES)

    def forward(self, images):
        hidden = self.norm(self.expand(images)).relu()
        hidden = self.act(self.depth_norm(self.depthwise(hidden)))
        return self.classifier(self.project(hidden).relu().mean(dim=(2, 3)))


class Flat(nn.Module):
    """A flattened feature map into hidden linear layers with a one-dimensional norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 4 * 4, 7)
        self.hidden_norm = nn.BatchNorm1d(7)
        self.second = nn.Linear(7, 5)
        self.classifier = nn.Linear(5, N_CLASSES)

    def forward(self, images):
        hidden = self.norm(self.conv(images)).relu().flatten(1)
        hidden = self.hidden_norm(self.hidden(hidden)).relu()
        return self.classifier(self.second(hidden).relu())


class Segmenter(nn.Module):
    """Gives an image: concatenation, a residual add across it, transposed convolution, resize."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.mix = nn.Conv2d(9, 9, 3, padding=1)
        self.mix_norm = nn.BatchNorm2d(9)
        self.head = nn.Conv2d(9, N_CLASSES, 1)

    def forward(self, images):
        skip = self.enter(images).relu()
        risen = self.up(self.norm(self.down(skip)).relu()).relu()
        both = torch.cat([risen, skip], dim=1)
        both = both + self.mix_norm(self.mix(both)).relu()
        return nn.functional.interpolate(self.head(both), scale_factor=2.0, mode="nearest")


def vgg() -> nn.Module:
    return VGG((4, "M", 6, 8), in_channels=1, n_classes=N_CLASSES)


def residual() -> nn.Module:
    return ResNet((4, 6), (2, 2), in_channels=1, n_classes=N_CLASSES)


BUILDERS = {
    "vgg": vgg,
    "residual": residual,
    "dense": Dense,
    "unet": UNet,
    "mobile": Mobile,
    "flat": Flat,
}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """``network`` with random norms and PReLU slopes, as if trained: masks then matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0.0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
            if isinstance(module, NORMS) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0.0, 0.5, generator=generator)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.5, generator=generator)
    return network.eval()


def build(name: str, seed: int = 0) -> nn.Module:
    """A small network with fixed random weights; the global random state stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomised(BUILDERS[name](), seed)


def images_of(n: int, seed: int = 0, size: int = 8) -> torch.Tensor:
    """(n, 1, size, size) random images."""
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def data_of(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and labels of three classes."""
    return images_of(n, seed), torch.arange(n) % N_CLASSES


def make_tiny(network: str | nn.Module = "vgg", **arguments) -> prune_gym.PruningProblem:
    """A pruning problem that is evaluated in about a millisecond."""
    module = build(network) if isinstance(network, str) else network
    arguments = {"budgets": {"params": 0.5}, **arguments}
    return prune_gym.make_problem(
        network=module, train=data_of(64, 1), validation=data_of(40, 2), **arguments
    )


def random_masks(problem: prune_gym.PruningProblem, seed: int, keep: float = 0.5):
    """Random keep masks, none of them empty."""
    generator = np.random.default_rng(seed)
    masks = []
    for size in problem.sizes:
        mask = generator.random(size) < keep
        mask[generator.integers(size)] = True
        masks.append(mask)
    return tuple(masks)


def group_masks(groups, seed: int, keep: float = 0.6) -> list[np.ndarray]:
    """Random keep masks of filter groups, none of them empty."""
    generator = np.random.default_rng(seed)
    masks = []
    for group in groups:
        mask = generator.random(group.n_filters) < keep
        mask[generator.integers(group.n_filters)] = True
        masks.append(mask)
    return masks


def masked(network: nn.Module, groups, masks) -> nn.Module:
    """The slow reference: a dense copy whose dropped filters are zero in producers and norms.

    What consumes the filters stays as it is, so that nothing but zeros may reach it.
    """
    twin = copy.deepcopy(network)
    norms: dict[nn.Module, dict[int, torch.Tensor]] = {}
    parameters = twin.named_parameters(remove_duplicate=False)
    tensors = {**dict(parameters), **dict(twin.named_buffers())}
    for group, mask in zip(groups, masks, strict=True):
        for cut in group.slices:
            name, _, kind = cut.tensor.rpartition(".")
            layer = twin.get_submodule(name)
            outputs = int(getattr(layer, "transposed", False)) if kind == "weight" else 0
            if kind == "weight" and isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                axes = norms.setdefault(layer, {})
                keep = axes.setdefault(cut.axis, torch.ones(layer.weight.shape[cut.axis]).bool())
                keep[torch.from_numpy(cut.dropped(mask))] = False
            consumes = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and (
                name not in group.producers or cut.axis != outputs
            )
            if not consumes and kind != "running_var":
                dropped = torch.from_numpy(cut.dropped(mask))
                tensors[cut.tensor].data.index_fill_(cut.axis, dropped, 0.0)
    for layer, axes in norms.items():
        if isinstance(layer, nn.LayerNorm) or layer.num_groups == 1:
            layer.forward = _norm_of_kept(layer, axes)
    return twin


def _norm_of_kept(layer, axes):
    """A forward of a norm over all channels whose statistics are of those that stay."""

    def forward(maps):
        first = 1 if isinstance(layer, nn.GroupNorm) else maps.ndim - layer.weight.ndim
        kept, weight, bias = maps, layer.weight, layer.bias
        for axis, keep in axes.items():
            rows = keep.nonzero().flatten()
            kept = kept.index_select(first + axis, rows)
            weight, bias = weight.index_select(axis, rows), bias.index_select(axis, rows)
        if isinstance(layer, nn.GroupNorm):
            made = nn.functional.group_norm(kept, 1, weight, bias, layer.eps)
        else:
            made = nn.functional.layer_norm(kept, weight.shape, weight, bias, layer.eps)
        for axis, keep in axes.items():
            shape = list(made.shape)
            shape[first + axis] = len(keep)
            rows = keep.nonzero().flatten()
            made = torch.zeros(shape).index_copy(first + axis, rows, made)
        return made

    return forward


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference / largest absolute value of ``other``."""
    return float((one - other).abs().max() / other.abs().max())


def numbers_by_hand(network, images) -> list[float]:
    """Parameters, multiply-adds and bytes, counted in another way than the package does."""
    macs = 0

    def hook(module, inputs, output):
        nonlocal macs
        if isinstance(module, nn.Linear):
            macs += output[0].numel() * module.in_features
        else:
            grid = inputs[0] if module.transposed else output
            per_place = np.prod(module.kernel_size) * module.in_channels * module.out_channels
            macs += int(per_place) // module.groups * grid[0, 0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    network(images)
    for handle in handles:
        handle.remove()
    tensors = [*network.parameters(), *network.buffers()]
    return [
        sum(p.numel() for p in network.parameters()),
        macs,
        sum(t.numel() * t.element_size() for t in tensors),
    ]


def rollout(env: gym.Env, episodes: int = 1, *, seed: int | None = 0, options=None) -> list:
    """Every observation, reward, end and info of seeded episodes with seeded actions."""
    env.action_space.seed(seed)
    seen: list = []
    for episode in range(episodes):
        first = seed if episode == 0 else None
        observation, info = env.reset(seed=first, options=options)
        seen.append((observation, 0.0, False, False, info))
        while not seen[-1][2]:
            seen.append(env.step(env.action_space.sample()))
    return seen


def assert_identical(left, right) -> None:
    """Bit-identical, types included, through tuples, lists, dicts and arrays."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_identical(left[key], right[key])
    elif isinstance(left, tuple | list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_identical(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


def total_cost(seen: list) -> float:
    """Episodic sum of ``info["cost"]`` of a one-episode rollout."""
    return sum(step[4]["cost"] for step in seen)


def snapshot(network: nn.Module) -> dict:
    """Everything that must not change when a network is pruned."""
    return {
        "tensors": {name: value.clone() for name, value in network.state_dict().items()},
        "training": [module.training for module in network.modules()],
        "hooks": [
            (list(module._forward_hooks), list(module._forward_pre_hooks))
            for module in network.modules()
        ],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grad": [parameter.grad is None for parameter in network.parameters()],
        "gradients": [id(parameter.grad) for parameter in network.parameters()],
        "all_hooks": [
            {key: list(value) for key, value in vars(module).items() if "hooks" in key and value}
            for module in network.modules()
        ],
        "shapes": repr(network),
    }


def assert_unchanged(network: nn.Module, before: dict) -> None:
    """The network is what `snapshot` saw."""
    after = snapshot(network)
    tensors, expected = after.pop("tensors"), dict(before)
    for name, value in expected.pop("tensors").items():
        assert torch.equal(value, tensors[name]), name
    assert after == expected


# -- for the command line: --network tiny:cli_network --dataset tiny:cli_dataset -------------------


def cli_network(*, in_channels: int = 1, n_classes: int = N_CLASSES) -> nn.Module:
    """The small VGG, with fixed weights."""
    return build("vgg")


def cli_dataset() -> prune_gym.Dataset:
    """Random data of three classes, test split included."""
    splits = [prune_gym.Split(*data_of(n, seed)) for n, seed in ((64, 1), (40, 2), (30, 3))]
    return prune_gym.Dataset("cli", *splits, n_classes=N_CLASSES)


def cli_criterion(evidence: prune_gym.Evidence) -> list:
    """A criterion of the user's: all filters are alike."""
    return [np.ones(group.n_filters) for group in evidence.groups]


def cli_lavish(network: nn.Module) -> float:
    """A budget that no pruning lowers."""
    return 5.0


RISEN: list[bool] = []


def tell_it_to_rise() -> None:
    """From now on `rises_when_told` finds every network ten times as large."""
    RISEN.append(True)


def rises_when_told(network: torch.nn.Module) -> float:
    """A budget that changes its mind, as a noisy one does."""
    size = float(sum(parameter.numel() for parameter in network.parameters()))
    return 10.0 * size if RISEN else size


def cli_own_network() -> nn.Module:
    """A user's function without arguments."""
    return build("residual")


def _widest(network: nn.Module) -> float:
    return float(max(parameter.numel() for parameter in network.parameters()))


CLI_SHRINKS = prune_gym.Budget("widest", _widest)  # a black box that goes by another name


def call(*arguments, code=0):
    """Run ``prune-gym`` in this process; its standard output, or standard error if it failed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code in (0, 130) else result.stderr
