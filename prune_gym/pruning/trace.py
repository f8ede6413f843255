"""Tracing: which positions of which layers hang together; the one adapter over Torch-Pruning.

Torch-Pruning (MIT, DepGraph: Fang et al., CVPR 2023, arXiv 2301.12900) runs a network once, reads
the graph of its layers off autograd, and knows how positions map along every edge (concatenation,
split, flatten, slice). Nothing else of it is used, and nothing else here knows of it. Its own
groups lose what several filters share, such as the two halves of a gate, so the edges are followed
here.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.copying import rebuild
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.words import message

PRODUCERS = (nn.modules.conv._ConvNd, nn.Linear)


class Sets:
    """Disjoint sets of root filters: filters that can only go together share a set."""

    def __init__(self, members: list[int]) -> None:
        self._parent = {member: member for member in members}

    def of(self, member: int) -> int:
        """The member that stands for the whole set: its lowest."""
        while self._parent[member] != member:
            self._parent[member] = member = self._parent[self._parent[member]]
        return member

    def join(self, one: int, other: int) -> None:
        """Make one set of two."""
        low, high = sorted((self.of(one), self.of(other)))
        self._parent[high] = low

    def numbered(self) -> dict[int, int]:
        """Number of the set by member; sets are numbered in the order of their lowest members."""
        number = {lowest: i for i, lowest in enumerate(sorted(set(map(self.of, self._parent))))}
        return {member: number[self.of(member)] for member in self._parent}


class Reach(NamedTuple):
    """One side of one layer that traced filters reach.

    Attributes:
        name: the layer, or the parameter that belongs to no layer.
        module: the layer, or that parameter.
        to_output: whether positions are of its outputs; layers that keep every channel apart, as
            norms do, and parameters have outputs only.
        roots: root filter by position.
    """

    name: str
    module: nn.Module | nn.Parameter
    to_output: bool
    roots: dict[int, int]


@dataclass(frozen=True)
class Traced:
    """Everything that the filters of one layer, the root, hang together with.

    Attributes:
        reaches: the layers.
        sets: root filters that can only go together.
        is_output: whether an output of the network is among what they reach.
        is_lost: whether they reach positions that no layer has, so that the map must be wrong.
    """

    reaches: list[Reach]
    sets: Sets
    is_output: bool
    is_lost: bool

    @property
    def layers(self) -> set[str]:
        """Layers whose outputs are reached."""
        return {reach.name for reach in self.reaches if reach.to_output}

    @property
    def producers(self) -> set[str]:
        """Layers whose own filters are reached."""
        produced = [r for r in self.reaches if r.to_output and isinstance(r.module, PRODUCERS)]
        return {reach.name for reach in produced}


def trace(network: nn.Module, example: torch.Tensor) -> Iterator[Traced]:
    """Follow the filters of every layer through the network.

    A copy is traced, without hooks, in evaluation mode; branches that only run in training, such as
    auxiliary classifiers, are followed as well where they can be.

    Args:
        network: left untouched.
        example: one input batch, (n, ...), on the network's device.

    Raises:
        UnsupportedNetworkError: the network cannot be copied or run.
    """
    graph = _graph(network, example)
    names: dict[Any, str] = {module: name for name, module in graph.model.named_modules()}
    names |= {parameter: name for name, parameter in graph.model.named_parameters()}
    longest = max((max(p.shape, default=0) for p in network.parameters()), default=0)
    done: dict[Any, set[int]] = {}
    for module, node in graph.module2node.items():
        check_stop()
        if not isinstance(module, PRODUCERS):
            continue
        channels = range(graph.get_pruner_of_module(module).get_out_channels(module))
        roots = [channel for channel in channels if channel not in done.get(node, ())]
        if not roots:
            continue
        reached, sets, is_lost = _follow(graph, node, roots, longest)
        reaches: list[Reach] = []
        is_output = False
        for (target, handler), positions in reached.items():
            to_output = graph.is_out_channel_pruning_fn(handler)
            if to_output:
                done.setdefault(target, set()).update(positions)
                is_output = is_output or not target.outputs  # nothing comes after
            if target.module in names:
                name = names[target.module]
                reaches.append(Reach(name, target.module, to_output, positions))
        yield Traced(reaches, sets, is_output, is_lost)


def output_tensors(outputs: Any) -> list[torch.Tensor]:
    """Every tensor in what a network gives out: one, or tuples, lists and dicts of them."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for output in outputs for tensor in output_tensors(output)]
    return []


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the global random states of Python, NumPy, the CPU and a device as they are."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (users draw from it)
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type  # without devices it means nothing
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


class _Index(NamedTuple):
    """A position in a layer and its root filter, by the names that Torch-Pruning's mappings use."""

    idx: int
    root_idx: int


def _follow(
    graph: Any, node: Any, roots: list[int], longest: int
) -> tuple[dict[tuple[Any, Any], dict[int, int]], Sets, bool]:
    """Follow filters of one layer along all edges.

    Where a position is reached from several roots, these can only go together. Positions beyond the
    longest axis of the network are not followed, as wrong mappings can make them grow for ever.

    Returns:
        Root by position, per (node, side) reached; sets of roots; whether positions were given up.
    """
    is_lost = False
    side = graph.get_pruner_of_module(node.module).prune_out_channels
    sets = Sets(roots)
    reached = {(node, side): {root: root for root in roots}}
    waiting = [(node, side, [_Index(root, root) for root in roots])]
    while waiting:
        node, side, indices = waiting.pop()
        for edge in node.dependencies:
            if not edge.is_triggered_by(side):
                continue
            try:
                moved = indices
                for mapping in edge.index_mapping:
                    moved = moved if mapping is None else mapping(moved)
            except IndexError:  # a split that was mapped wrongly
                is_lost = True
                continue
            known = reached.setdefault((edge.target, edge.handler), {})
            fresh = []
            for index in moved:
                if index.idx >= longest or index.root_idx is None:
                    is_lost = True
                elif index.idx not in known:
                    known[index.idx] = index.root_idx
                    fresh.append(index)
                elif known[index.idx] != index.root_idx:
                    sets.join(known[index.idx], index.root_idx)
            if fresh:
                waiting.append((edge.target, edge.handler, fresh))
    return {key: positions for key, positions in reached.items() if positions}, sets, is_lost


def _graph(network: nn.Module, example: torch.Tensor) -> Any:
    """Torch-Pruning's graph of a copy of the network."""
    graph = _run(network, example, branches=False)
    if _n_reached(graph) < sum(isinstance(module, PRODUCERS) for module in network.modules()):
        try:
            more = _run(network, example, branches=True)
        except UnsupportedNetworkError:  # in training it may want labels, or a larger example
            return graph
        graph = more if _n_reached(more) > _n_reached(graph) else graph
    return graph


def _n_reached(graph: Any) -> int:
    return sum(isinstance(module, PRODUCERS) for module in graph.module2node)


def _run(network: nn.Module, example: torch.Tensor, *, branches: bool) -> Any:
    """Trace a copy; with ``branches``, containers (but no layers) believe that they are trained."""
    import torch_pruning as tp

    ran = False

    def forward(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
        nonlocal ran
        for module in model.modules() if branches else ():
            module.training = any(True for _ in module.children())
        outputs = output_tensors(model(images))
        ran = True
        # a copy of each marks it as an output even where later layers use it, too
        return [output.clone() for output in outputs if output.requires_grad]

    with own_randomness(example.device), torch.inference_mode(False), torch.enable_grad():
        traced = _learning_copy(network)
        graph = tp.DependencyGraph()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph.build_dependency(traced, example.clone(), forward_fn=forward, verbose=False)
        except Exception as error:  # whatever the network, or its analysis, raises
            what = (
                "runs, but its channels cannot be followed (is there a channel shuffle?)"
                if ran
                else f"cannot be traced with an input of shape {tuple(example.shape)}"
            )
            raise UnsupportedNetworkError(
                f"{type(network).__name__} {what}: {type(error).__name__}: {message(error)}"
            ) from error
    return graph


def _learning_copy(network: nn.Module) -> nn.Module:
    """A copy whose parameters all want gradients: a frozen one would silently cut the graph."""
    copied = rebuild(network, {})
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return copied
