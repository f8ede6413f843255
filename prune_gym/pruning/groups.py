"""Filter groups of any network: the one adapter over Torch-Pruning's dependency graph.

A filter group is a set of filters (output channels) that must be kept or dropped together, across
all the tensors that share them: the producing convolutions, their BatchNorms, and the input
channels of every consumer. Torch-Pruning (MIT, DepGraph: Fang et al., CVPR 2023, arXiv 2301.12900)
traces a network and finds them; nothing else of it is used, and nothing else here knows of it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.masks import Mask

_PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)


class UnsupportedNetworkError(ValueError):
    """A network, or a layer of it, that cannot be pruned; the message names the layer."""


@dataclass(frozen=True)
class Slice:
    """One axis of one tensor that a filter group runs along.

    Attributes:
        tensor: name in ``network.state_dict()``.
        axis: the axis along which filters are laid out.
        positions: (n_filters, width) int64; row i holds the positions that belong to filter i
            (``width`` is above 1 where a flattened feature map feeds a linear layer).
    """

    tensor: str
    axis: int
    positions: NDArray[np.int64]

    def dropped(self, mask: Mask) -> NDArray[np.int64]:
        """Positions along the axis that go when the filters outside ``mask`` go."""
        return self.positions[~mask].ravel()


@dataclass(frozen=True)
class FilterGroup:
    """Filters that stay or go together.

    Attributes:
        name: the first layer that produces them, e.g. ``"features.0"``.
        n_filters: how many there are (for ``structure="weight"``: single weights of the layer).
        producers: all the layers whose output channels they are.
        slices: every tensor axis they run along; empty for ``structure="weight"``.
    """

    name: str
    n_filters: int
    producers: tuple[str, ...]
    slices: tuple[Slice, ...] = ()


def find_filter_groups(
    network: nn.Module, example: torch.Tensor, ignore: Collection[str] = ()
) -> tuple[FilterGroup, ...]:
    """All prunable filter groups of a network, in the order of its layers.

    The network is traced as a copy and comes back untouched. Groups that reach an output of the
    network, or a layer named in ``ignore``, are left out.

    Args:
        network: any module that Torch-Pruning can trace.
        example: one input batch, (n, ...), on the network's device.
        ignore: names of layers whose outputs must stay whole.

    Raises:
        UnsupportedNetworkError: nothing prunable, or a layer that cannot be followed.
    """
    names = dict(network.named_modules())
    for name in ignore:
        if name not in names:
            raise ValueError(
                f"ignore: the network has no layer {name!r}; see the names with "
                "`[name for name, _ in network.named_modules()]`."
            )
    order = {name: index for index, name in enumerate(names)}
    found = [_read_group(n, items, order) for n, items in _trace(network, example, ignore)]
    if not found:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} has no prunable layer: no convolution or linear layer "
            "whose output is not the network's own output (or all are in `ignore`)."
        )
    return tuple(sorted(found, key=lambda group: order[group.name]))


def find_weight_groups(network: nn.Module, ignore: Collection[str] = ()) -> tuple[FilterGroup, ...]:
    """One group per convolution, of its single weights: the paper's unstructured variant."""
    groups = tuple(
        FilterGroup(name=name, n_filters=module.weight.numel(), producers=(name,))
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and name not in ignore
    )
    if not groups:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} has no convolution whose weights could be pruned."
        )
    return groups


_RawItem = tuple[nn.Module, str, bool, list[int], list[int]]


def _trace(
    network: nn.Module, example: torch.Tensor, ignore: Collection[str]
) -> Iterator[tuple[int, list[_RawItem]]]:
    """Yield (n_filters, items) per traced group, in Torch-Pruning's terms.

    An item is (module, name, whether its output channels are meant, positions, filters).
    """
    import torch_pruning as tp

    traced = copy.deepcopy(network).eval()
    for module in traced.modules():  # hooks are the owner's; tracing must not fire them
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    for parameter in traced.parameters():
        parameter.requires_grad_(True)  # frozen parameters would silently yield no groups
    modules = dict(traced.named_modules())
    names = {module: name for name, module in modules.items()}
    graph = tp.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(traced, example_inputs=example, verbose=False)
            groups = list(
                graph.get_all_groups(
                    ignored_layers=[modules[name] for name in ignore],
                    root_module_types=_PRODUCERS,
                )
            )
    except Exception as error:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} cannot be traced with an input of shape "
            f"{tuple(example.shape)}: {type(error).__name__}: {error}"
        ) from error
    for group in groups:
        if any(
            not dep.target.outputs and graph.is_out_channel_pruning_fn(dep.handler)
            for dep, _ in group
        ):
            continue  # nothing comes after: the network's own output
        items: list[_RawItem] = []
        for item in group:
            module = item.dep.target.module
            if isinstance(module, nn.Parameter):
                raise UnsupportedNetworkError(
                    f"parameter {graph._param_to_name.get(module)!r} belongs to no layer and "
                    f"shares filters with {names.get(group[0].dep.target.module)!r}; protect that "
                    "layer with ignore=[...]."
                )
            if module in names and any(True for _ in _own_tensors(module)):
                to_output = graph.is_out_channel_pruning_fn(item.dep.handler)
                items.append((module, names[module], to_output, item.idxs, item.root_idxs))
        yield len(group[0].idxs), items


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _read_group(n_filters: int, items: list[_RawItem], order: dict[str, int]) -> FilterGroup:
    slices: list[Slice] = []
    producers: list[str] = []
    for module, name, to_output, positions, filters in items:
        if to_output and isinstance(module, _PRODUCERS):
            producers.append(name)
        table = _positions_table(name, n_filters, positions, filters)
        slices.extend(Slice(tensor, axis, table) for tensor, axis in _axes(module, name, to_output))
    producers = sorted(set(producers), key=order.__getitem__)  # Torch-Pruning's root may be later
    unique = {(s.tensor, s.axis): s for s in slices}
    return FilterGroup(producers[0], n_filters, tuple(producers), tuple(unique.values()))


def _positions_table(
    name: str, n_filters: int, positions: list[int], filters: list[int]
) -> NDArray[np.int64]:
    counts = np.bincount(np.asarray(filters), minlength=n_filters)
    if len(counts) != n_filters or (counts != counts[0]).any():
        raise UnsupportedNetworkError(
            f"layer {name!r} uses the filters of one group unevenly; protect its producers with "
            "ignore=[...]."
        )
    by_filter = np.argsort(np.asarray(filters), kind="stable")
    return np.asarray(positions, dtype=np.int64)[by_filter].reshape(n_filters, -1)


def _axes(module: nn.Module, name: str, to_output: bool) -> list[tuple[str, int]]:
    """Tensor names and axes along which the channels of a layer are laid out."""
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return []  # one slope for all channels
    if isinstance(module, _NORMS):
        own: dict[str, Any] = {**module._parameters, **module._buffers}
        return [(prefix + key, 0) for key, value in own.items() if value is not None and value.ndim]
    if not isinstance(module, _PRODUCERS):
        raise UnsupportedNetworkError(
            f"layer {name!r} ({type(module).__name__}) cannot be pruned; protect the layers that "
            "feed it with ignore=[...]."
        )
    groups = getattr(module, "groups", 1)
    depthwise = groups > 1 and groups == module.in_channels == module.out_channels
    if groups > 1 and not depthwise:
        raise UnsupportedNetworkError(
            f"layer {name!r} is a convolution with groups={groups}; only groups=1 and depthwise "
            "convolutions can be pruned. Protect it and the layers that feed it with ignore=[...]."
        )
    swapped = isinstance(module, nn.ConvTranspose2d)
    if not to_output and not depthwise:
        return [(prefix + "weight", 0 if swapped else 1)]
    axes = [(prefix + "weight", 1 if swapped and not depthwise else 0)]
    if module.bias is not None:
        axes.append((prefix + "bias", 0))
    return axes
