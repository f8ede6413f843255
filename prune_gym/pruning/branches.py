"""Forwards that take another way on another input, which the trace of one input cannot show.

What a network does is recorded operation by operation on several inputs: examples, the extremes
that zeros and negated examples are, a batch, other weights. Ways that differ are allowed where they
make the same filter groups, and where removal equals masking on each.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.equivalence import (
    cure,
    difference,
    find_wrong,
    half_masks,
    lively_copy,
    masked_copy,
)
from prune_gym.pruning.groups import FilterGroup, find_filter_groups
from prune_gym.pruning.trace import calling_line, own_randomness
from prune_gym.utils.trees import call, clone, device_of, joined, leaves, mapped
from prune_gym.utils.words import error_in_words

_REPEATS = 24  # of a network that draws random numbers, or counts: rare ways show up late
_READS = {"_local_scalar_dense", "equal", "nonzero"}  # values that Python sees, and may decide by
_LAYOUTS = {  # the same on all ways that matter: they only say how numbers lie in memory
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "clone", "contiguous", "detach"),
    *("alias", "_to_copy", "copy_", "expand", "as_strided", "lift_fresh"),
}


class Step(NamedTuple):
    """One operation of a forward.

    Attributes:
        operation: its name in torch.
        layers: whose tensors it takes.
        place: the line of code that asked for it, e.g. ``"net.py:12"``.
    """

    operation: str
    layers: tuple[str, ...]
    place: str

    @property
    def is_read(self) -> bool:
        """Whether Python gets a value to see."""
        return self.operation in _READS


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = own_tensors(network)
        self._layers = {id(tensor): name.rpartition(".")[0] for name, tensor in tensors.items()}
        self.steps: list[Step] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        operation = func._schema.name.rpartition("::")[2]
        if operation not in _LAYOUTS:
            layers = dict.fromkeys(self._layers[id(a)] for a in args if id(a) in self._layers)
            self.steps.append(Step(operation, tuple(layers), calling_line(sys._getframe(1))))
        made: torch.Tensor = func(*args, **(kwargs or {}))
        return made


def check_branches(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    inputs: Sequence[Any],
    ignore: Collection[str] = (),
) -> None:
    """Raise where a network takes ways on other inputs that the groups are wrong for.

    It costs one forward an input and five more, where no way differs.

    Args:
        network: in evaluation mode; left untouched.
        groups: its filter groups, as traced on the first input.
        inputs: batches of one example, as different as can be, on the network's device.
        ignore: as in `find_filter_groups`.

    Raises:
        UnsupportedNetworkError: names the line of code that decides, and the layers.
    """
    masks = half_masks(groups)
    with own_randomness(device_of(inputs[0])):
        ways, is_restless = _ways(network, masked_copy(network, groups, masks), inputs)
    usual = ways[0][0]
    others = [(way, example) for way, example in ways if _operations(way) != _operations(usual)]
    for way, example in others:
        if _layers(way) != _layers(usual) and (is_restless or example is None):
            _refuse_way(network, usual, way, "which layers run")
        if example is not None:
            problem = _other_groups(network, groups, example, ignore)
            if problem is not None:
                _refuse_way(network, usual, way, problem)
    reads = [step.place for way, _ in ways for step in way if step.is_read]
    for example in inputs if reads or others else ():
        problem = difference(network, groups, masks, example)
        if problem is not None:
            _refuse(network, "".join(reads[:1]), problem)


def check_training(
    network: nn.Module, groups: Sequence[FilterGroup], batch: Any, ignore: Collection[str] = ()
) -> None:
    """Raise where a network can be trained, but not once filters are removed.

    Layers that run in training only, instead of others, are in no trace of an evaluation.

    Args:
        network: in evaluation mode; left untouched.
        groups: its filter groups.
        batch: a few examples, on the network's device.
        ignore: what is kept whole already; part of the cure.

    Raises:
        UnsupportedNetworkError: names the groups that go wrong.
    """
    masks = half_masks(groups)
    if _why_untrainable(rebuild(network, {}), batch) is not None:
        return  # it wants labels, or larger batches: nothing is known
    problem = _why_untrainable(compact(network, groups, masks), batch)
    if problem is None:
        return

    def differs(numbers: Sequence[int]) -> str | None:
        some = [groups[number] for number in numbers]
        smaller = compact(network, some, [masks[number] for number in numbers])
        return _why_untrainable(smaller, batch)

    wrong = find_wrong(range(len(groups)), differs)
    raise UnsupportedNetworkError(
        f"{type(network).__name__} takes other ways in training: it cannot be trained once filters "
        f"are removed ({problem}). Let forward() run the same layers in training. "
        f"{cure(network, groups, sorted(wrong), ignore)}"
    )


def _why_untrainable(network: nn.Module, batch: Any) -> str | None:
    """What a network raises in training mode; None where it runs. The network may change."""
    try:
        with own_randomness(device_of(batch)), torch.no_grad():
            call(network.train(), clone(batch))
    except Exception as error:  # whatever the network raises
        return error_in_words(error)
    return None


def _ways(
    network: nn.Module, masked: nn.Module, inputs: Sequence[Any]
) -> tuple[list[tuple[list[Step], Any]], bool]:
    """Ways that a network takes, with the input of each where it alone leads there.

    Returns:
        The ways, the usual one first, and whether a forward draws random numbers or remembers.
    """
    walk = _Walk(network)
    ways: list[tuple[list[Step], Any]]
    ways = [(walk.steps(example), example) for example in inputs]
    for probe in _synthetic(inputs):
        ways += [(steps, probe) for steps in _if_it_runs(walk, probe)]
    for other in (lively_copy(network), masked):
        ways += [(steps, None) for steps in _if_it_runs(_Walk(other.eval()), inputs[0])]
    if walk.is_restless:
        ways += [(walk.steps(inputs[0]), None) for _ in range(_REPEATS)]
    return ways, walk.is_restless


class _Walk:
    """A copy of a network, watched while it runs on one input after the other."""

    def __init__(self, network: nn.Module) -> None:
        self._network = rebuild(network, {})
        self.is_restless = False

    def steps(self, example: Any) -> list[Step]:
        """What it does with an input."""
        with torch.inference_mode(False), torch.no_grad():
            before = _state(self._network)
            with _Recorder(self._network) as recorder:
                call(self._network, clone(example))
            self.is_restless = self.is_restless or _state(self._network) != before
        steps: list[Step] = recorder.steps
        return steps


def _state(network: nn.Module) -> tuple[Any, ...]:
    """What a forward changes that draws global random numbers, or remembers."""
    drawn: Any = np.random.get_state()  # noqa: NPY002 (a forward may draw from it)
    states = (random.getstate(), drawn[1].tobytes(), drawn[2], torch.get_rng_state().tolist())
    buffers = [
        (name, id(b), None if b.is_inference() else b._version)  # inference tensors have none
        for name, b in network.named_buffers()
    ]
    attributes = [
        (name, key, value)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | float | str | bool)
    ]
    return (states, buffers, attributes)


def _synthetic(inputs: Sequence[Any]) -> Iterator[Any]:
    """Extremes, and a batch: numbers only; nobody knows which whole numbers a network takes."""
    if all(tensor.is_floating_point() for tensor in leaves(inputs[0])):
        yield mapped(torch.zeros_like, inputs[0])
        yield mapped(torch.neg, inputs[-1])
    shapes = [[tensor.shape for tensor in leaves(example)] for example in inputs]
    if all(shape == shapes[0] for shape in shapes) and len(inputs) > 1:
        yield joined(inputs[:3])


def _if_it_runs(walk: _Walk, example: Any) -> list[list[Step]]:
    """A way, where there is one: a network may refuse what is no example of its data."""
    try:
        return [walk.steps(example)]
    except Exception:  # whatever the network raises
        return []


def _operations(way: Sequence[Step]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((step.operation, step.layers) for step in way)


def _other_groups(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    example: Any,
    ignore: Collection[str],
) -> str | None:
    """What differs where an input is traced; None where the groups are the same."""
    try:
        found = find_filter_groups(network, example, ignore)
    except UnsupportedNetworkError as error:
        return f"whether it can be pruned ({error})"
    return None if _slices(found) == _slices(groups) else "which filters hang together"


def _layers(way: Sequence[Step]) -> list[tuple[str, ...]]:
    return [step.layers for step in way if step.layers]


def _slices(groups: Sequence[FilterGroup]) -> set[frozenset[tuple[str, int, bytes]]]:
    return {
        frozenset((cut.tensor, cut.axis, cut.positions.tobytes()) for cut in group.slices)
        for group in groups
    }


def _deciding(usual: Sequence[Step], other: Sequence[Step]) -> str:
    """The line that read a value before two ways part, or at which they do."""
    same = 0
    for one, another in zip(_operations(usual), _operations(other), strict=False):
        if one != another:
            break
        same += 1
    reads = [step.place for step in usual[:same] if step.is_read]
    if reads:
        return reads[-1]
    parting = [step for way in (usual, other) for step in way[same : same + 1]]
    return max(parting, key=lambda step: len(step.layers)).place if parting else ""


def _refuse_way(
    network: nn.Module, usual: Sequence[Step], other: Sequence[Step], what: str
) -> None:
    apart = set(_layers(usual)) ^ set(_layers(other))
    only = sorted({name for layers in apart for name in layers})
    named = f" ({', '.join(map(repr, only))} on some ways only)" if only else ""
    _refuse(network, _deciding(usual, other), f"it decides {what}{named}")


def _refuse(network: nn.Module, place: str, problem: str) -> None:
    where = f" (at {place})" if place else ""
    raise UnsupportedNetworkError(
        f"{type(network).__name__} takes other ways on other inputs{where}: {problem}. Values, "
        "random numbers or a count must not decide in forward(): take one way always (in a wrapper "
        "of the network), or compute both and choose by torch.where."
    )
