"""Tracing: a network runs once, and every operation tells what its numbers hang together with."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.attention import is_odd_attention
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.labels import Facet, Facets, Labels, Rectangle, along, axes_of, settle
from prune_gym.pruning.layer_operations import operation_name, rule_of
from prune_gym.pruning.layer_rules import output_axes
from prune_gym.pruning.numbers import NumberWatch, OwnNumber, ShapeNumber, own_numbers
from prune_gym.pruning.operations import Call, tensors_in
from prune_gym.utils import trees
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.trees import call, clone, device_of, in_words, leaves
from prune_gym.utils.words import message

PRODUCERS = (nn.modules.conv._ConvNd, nn.Linear)
_LIBRARY = tuple(
    f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__, trees.__file__)
)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)  # their gates are laid out by numbers of their own


class Axis(NamedTuple):
    """One axis of one tensor of a network.

    Attributes:
        tensor: its first name in ``network.state_dict()``.
        axis: which axis of it.
        first: label of its first index; those of the others follow.
        length: of the axis.
    """

    tensor: str
    axis: int
    first: int
    length: int


@dataclass
class Trace:
    """What hangs together in a network.

    Attributes:
        labels: the sets of labels.
        axes: all axes with labels, in the order of the network's tensors.
        blocks: sets of labels that code lays out by numbers: (labels by place, axis that is cut).
    """

    labels: Labels = field(default_factory=Labels)
    axes: list[Axis] = field(default_factory=list)
    blocks: list[tuple[Rectangle, int]] = field(default_factory=list)


def trace(network: nn.Module, example: Any, whole: Collection[str] = ()) -> Trace:
    """Follow the labels of every tensor of a network through one forward.

    A copy is traced, without hooks, in evaluation mode; branches that only run in training, such as
    auxiliary classifiers, are followed as well where they can be.

    Args:
        network: left untouched.
        example: one input batch, (n, ...), on the network's device.
        whole: names of layers whose outputs stay.

    Raises:
        UnsupportedNetworkError: the network cannot be copied or run.
    """
    found = Trace()
    follower = _Follower(rebuild(network, {}).eval(), found)
    with own_randomness(device_of(example)):
        try:
            follower.run(example)
        except UnsupportedNetworkError:
            raise
        except Exception as error:  # whatever the network raises
            raise UnsupportedNetworkError(
                f"{type(network).__name__} cannot be traced with an input of shape "
                f"{in_words(example)}: {type(error).__name__}: {message(error)}"
            ) from error
        if follower.idle():
            for module in follower.network.modules():  # containers believe that they are trained
                module.training = any(True for _ in module.children())
            with contextlib.suppress(Exception):  # it may want labels, or a larger example
                follower.run(example)
    idle = follower.idle()
    for axis in found.axes:
        layer, _, tensor = axis.tensor.rpartition(".")
        module = follower.network.get_submodule(layer)
        n_axes = getattr(module, tensor).ndim
        row = torch.arange(axis.first, axis.first + axis.length)
        if axis.tensor in idle:
            found.labels.keep([row], "never used")
        if layer in whole and axis.axis in output_axes(module, tensor, n_axes):
            found.labels.keep([row], "in `ignore`")
    found.blocks = settle(found.labels, follower.rectangles)
    while _join_by_number(found):
        found.blocks = settle(found.labels, follower.rectangles)
    return found


def _join_by_number(found: Trace) -> bool:
    """Join what the same number of a module lays out in several places; whether there was any."""
    lines: dict[tuple[str, str], Facet] = {}
    joined = False
    for rectangle, axis in found.blocks:
        number = rectangle.numbers[axis]
        if isinstance(number, OwnNumber):
            rows = np.moveaxis(rectangle.labels, axis, 0).reshape(rectangle.labels.shape[axis], -1)
            line = torch.from_numpy(np.ascontiguousarray(rows[:, 0]))
            first = lines.setdefault((number.module, number.attribute), line)
            if len(first) != len(line):
                found.labels.keep([first, line], f"numbered at {rectangle.place}")
            elif (found.labels.sets(first.numpy()) != found.labels.sets(line.numpy())).any():
                found.labels.join(first, line)
                joined = True
    return joined


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


@contextlib.contextmanager
def step_by_step() -> Iterator[None]:
    """Without torch's shortcut through whole layers of attention, of one operation each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def calling_line(frame: FrameType | None) -> str:
    """The innermost line of code that is not a library's, e.g. ``"net.py:12"``."""
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries facets from operation to operation while a network runs."""

    def __init__(self, network: nn.Module, found: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network, self._found = network, found
        self.rectangles: list[Rectangle] = []
        self._watch = NumberWatch(self._of)
        self._facets: Any = WeakTensorKeyDictionary()
        self._owners: dict[int, nn.Module] = {}
        self._names: dict[int, str] = {}
        self._used: set[str] = set()
        for name, tensor in own_tensors(network).items():
            if id(tensor) not in self._names:
                self._enter(name, tensor)

    def _enter(self, name: str, tensor: torch.Tensor) -> None:
        """Give a parameter or buffer its labels."""
        owner = self.network.get_submodule(name.rpartition(".")[0])
        self._names[id(tensor)], self._owners[id(tensor)] = name, owner
        if not tensor.is_floating_point():
            return
        facets = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                first = self._found.labels.allocate(length)
                self._found.axes.append(Axis(name, axis, first, length))
                facets.append(along(first, length, axis, tensor.shape))
        if isinstance(owner, _RECURRENT) or is_odd_attention(owner):
            self._found.labels.keep(facets, f"{type(owner).__name__} stays whole")
        self._facets[tensor] = tuple(facets)

    def run(self, example: Any) -> None:
        """Run the network; what it gives out stays whole."""
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            step_by_step(),
            own_numbers(self.network, self._of) as self._watch,
            self,
        ):
            outputs = call(self.network, clone(example))
        for tensor in leaves(outputs):
            self._found.labels.keep(self._of(tensor), "an output of the network")

    def idle(self) -> set[str]:
        """Names of tensors with labels that no operation took."""
        return {axis.tensor for axis in self._found.axes} - self._used

    def _of(self, tensor: Any) -> Facets:
        facets: Facets = self._facets.get(tensor, ()) if isinstance(tensor, torch.Tensor) else ()
        return facets

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        kwargs = kwargs or {}
        made: torch.Tensor = func(*args, **kwargs)
        taken = tensors_in([args, kwargs])
        self._used.update(self._names[id(tensor)] for tensor in taken if id(tensor) in self._names)
        outputs = tensors_in([made])
        numbers = any(isinstance(number, ShapeNumber) for number in self._watch.arguments)
        if outputs and (numbers or any(self._of(tensor) for tensor in taken)):
            self._follow(func, args, kwargs, outputs)
        return made

    def _follow(self, func: Any, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
        check_stop()
        call = Call(
            name=operation_name(func),
            args=args,
            kwargs=kwargs,
            outputs=outputs,
            labels=self._found.labels,
            rectangles=self.rectangles,
            facets_of=self._of,
            owner_of=lambda tensor: self._owners.get(id(tensor)),
            place=calling_line(sys._getframe(2)),
            numbers=self._watch.arguments,
            function=func,
        )
        for tensor in tensors_in([args, kwargs]):  # what lies along no axis cannot go by itself
            call.keep([facet for facet in self._of(tensor) if not axes_of(facet)])
        result = rule_of(func)(call)
        several = result if isinstance(result, list) else [result] * len(outputs)
        for tensor, facets in zip(outputs, several, strict=True):
            self._facets[tensor] = self._found.labels.alive(facets)
