"""Which residual blocks of a network can go whole.

The network runs once, and every operation is written down with the tensors that it takes. A block
is an addition one side of which is a tensor, and the other side is made of that tensor alone, by
layers that nothing else uses. Of several that overlap, the inner ones are taken. Then it is tried:
without blocks the network must be what it is with all of their parameters at zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.blocks import Block, is_inside
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.equivalence import difference, half_masks, lively_copy
from prune_gym.pruning.groups import FilterGroup, blocks_gone
from prune_gym.pruning.layer_operations import operation_name
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.operations import tensors_in
from prune_gym.pruning.trace import own_randomness
from prune_gym.utils.trees import call, clone, device_of

# what gives numbers of 0 and above where it takes such
_KEEPS_SIGN = {
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean"),
    *("max_pool1d", "avg_pool1d", "max_pool3d_with_indices", "avg_pool3d", "clone", "view"),
    *("permute", "transpose", "reshape", "dropout", "native_dropout", "detach", "alias", "add"),
}


def with_blocks(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    examples: Sequence[Any],
    ignore: Collection[str] = (),
) -> tuple[FilterGroup, ...]:
    """The filter groups; those inside of a residual block that can go whole know it.

    Args:
        network: in evaluation mode; left untouched.
        groups: its filter groups.
        examples: input batches, on the network's device; with the last one, of several examples,
            it must run in training mode without the blocks, if it does so with them.
        ignore: names of layers, and of containers of layers, that no block that goes may hold.

    Raises:
        UnsupportedNetworkError: there is no such block.
    """
    found = [
        block
        for block in _candidates(network, examples[0])
        if any(_lies_in(group, block) for group in groups) and not _holds_any(block, ignore)
    ]
    found = _apart(found)
    offered = _offered(groups, found)
    if any(group.block for group in offered) and not _is_right(network, offered, examples):
        right = [b for b in found if _is_right(network, _offered(groups, [b]), examples)]
        offered = _offered(groups, right)
        if len(right) > 1 and not _is_right(network, offered, examples):
            offered = tuple(groups)
    if not any(group.block for group in offered):
        raise UnsupportedNetworkError(
            f"depth=True: {type(network).__name__} has no residual block that can go whole: none "
            "that adds what layers of its own, with filters of their own, make of its input to "
            "that input. Leave depth out."
        )
    return offered


def _offered(groups: Sequence[FilterGroup], blocks: Sequence[Block]) -> tuple[FilterGroup, ...]:
    """The groups, each with the block that it lies in."""
    made = []
    for group in groups:
        inside = [block for block in blocks if _lies_in(group, block)]
        made.append(replace(group, block=inside[0]) if inside else group)
    return tuple(made)


def _lies_in(group: FilterGroup, block: Block) -> bool:
    return bool(group.slices) and all(cut.tensor in block.tensors for cut in group.slices)


def _apart(blocks: Sequence[Block]) -> list[Block]:
    """Those that do not overlap, the smallest first taken, in their order."""
    found: list[Block] = []
    for block in sorted(blocks, key=lambda block: len(block.tensors)):
        if not any(block.tensors & other.tensors for other in found):
            found.append(block)
    return [block for block in blocks if block in found]


def _holds_any(block: Block, ignore: Collection[str]) -> bool:
    modules = {tensor.rpartition(".")[0] for tensor in block.tensors}
    return any(is_inside(module, ignore) for module in modules)


# -- trying them -----------------------------------------------------------------------------------


def _is_right(network: nn.Module, groups: Sequence[FilterGroup], examples: Sequence[Any]) -> bool:
    """Whether blocks can go, all and every other one, and leave what zeros in them leave."""
    blocks = list(dict.fromkeys(group.block for group in groups if group.block is not None))
    whole = [np.ones(group.n_filters, dtype=np.bool_) for group in groups]
    every = _without(groups, whole, blocks)
    lively, half = lively_copy(network), half_masks(groups)
    tries = [(network, every, examples[0])]
    for first in (0, 1):
        masks = _without(groups, half, blocks[first::2])
        tries.append((lively, masks, examples[-1]))
    return all(difference(*_with(groups, one)) is None for one in tries) and _trains(
        network, groups, every, examples[-1]
    )


def _with(
    groups: Sequence[FilterGroup], one: tuple[nn.Module, list[Mask], Any]
) -> tuple[nn.Module, Sequence[FilterGroup], list[Mask], Any]:
    return one[0], groups, one[1], one[2]


def _without(
    groups: Sequence[FilterGroup], masks: Sequence[Mask], blocks: Sequence[Block]
) -> list[Mask]:
    """The masks, but none of the groups of some blocks."""
    pairs = zip(groups, masks, strict=True)
    return [np.zeros_like(mask) if group.block in blocks else mask for group, mask in pairs]


def _trains(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask], batch: Any
) -> bool:
    """Whether a network without blocks holds none of their tensors, and trains if it did before."""
    smaller = compact(network, groups, masks)
    left = set(own_tensors(smaller))
    if any(left & block.tensors for block in blocks_gone(groups, masks)):
        return False
    return not _runs_in_training(rebuild(network, {}), batch) or _runs_in_training(smaller, batch)


def _runs_in_training(network: nn.Module, batch: Any) -> bool:
    try:
        with own_randomness(device_of(batch)), torch.no_grad():
            call(network.train(), clone(batch))
    except Exception:  # a network may raise anything
        return False
    return True


# -- finding them ----------------------------------------------------------------------------------


@dataclass
class _Node:
    """One operation of a forward, or an input of the network (``operation=""``)."""

    operation: str
    sources: list[int] = field(default_factory=list)  # nodes whose outcomes it takes, in order
    takes: set[str] = field(default_factory=set)  # parameters and buffers, by their first name
    users: set[int] = field(default_factory=set)
    is_data: bool = True  # whether it depends on the input
    is_positive: bool = False  # whether no number in it is below 0, whatever the weights


@dataclass
class _Use:
    """A call of a module: the nodes of its first input and of its output, and what it gives."""

    source: int | None
    made: int | None
    is_attention: bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down operations, and the calls of modules, while a network runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[_Node] = []
        self.uses: defaultdict[str, list[_Use]] = defaultdict(list)
        self.order: list[str] = []  # modules, as they end
        self.users: defaultdict[str, set[int]] = defaultdict(set)  # nodes, by tensor
        self._made: Any = WeakTensorKeyDictionary()  # node by tensor
        self._names: dict[int, str] = {}
        for name, tensor in own_tensors(network).items():
            self._names.setdefault(id(tensor), name)
        for name, module in network.named_modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(lambda m, given, made, name=name: self._leave(name, made))
        self._entered: list[int | None] = []

    def enter(self, tensors: Sequence[torch.Tensor]) -> None:
        """Know the inputs of the network."""
        for tensor in tensors:
            self._made[tensor] = len(self.nodes)
            self.nodes.append(_Node(""))

    def _enter(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._entered.append(self._node_of(given[0]) if given else None)

    def _leave(self, name: str, made: Any) -> None:
        is_pair = isinstance(made, tuple) and len(made) == 2
        tensor = made[0] if is_pair else made
        use = _Use(self._entered.pop(), self._node_of(tensor), is_pair)
        self.uses[name].append(use)
        self.order.append(name)

    def _node_of(self, value: Any) -> int | None:
        return self._made.get(value) if isinstance(value, torch.Tensor) else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        made: torch.Tensor = func(*args, **(kwargs or {}))
        node, number = _Node(operation_name(func)), len(self.nodes)
        for tensor in tensors_in([args, kwargs or {}]):
            if id(tensor) in self._names:
                node.takes.add(self._names[id(tensor)])
            elif tensor in self._made:
                node.sources.append(self._made[tensor])
        before = [self.nodes[source] for source in node.sources]
        node.is_data = any(source.is_data for source in before)
        node.is_positive = node.operation == "relu" or (
            node.operation in _KEEPS_SIGN
            and bool(before)
            and not node.takes
            and all(source.is_positive for source in before)
        )
        self.nodes.append(node)
        for source in before:
            source.users.add(number)
        for name in node.takes:
            self.users[name].add(number)
        for tensor in tensors_in([made]):
            self._made[tensor] = number
        return made


def _candidates(network: nn.Module, example: Any) -> list[Block]:
    """Blocks that may do, in the order in which they end; they may overlap."""
    watched = rebuild(network, {}).eval()
    recorder = _Recorder(watched)
    inputs = clone(example)
    recorder.enter(tensors_in(inputs))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer
    try:
        with (
            own_randomness(device_of(example)),
            torch.inference_mode(False),
            torch.no_grad(),
            recorder,
        ):
            call(watched, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return list(_Finder(watched, recorder).blocks())


class _Finder:
    """Reads blocks off what was written down."""

    def __init__(self, network: nn.Module, recorder: _Recorder) -> None:
        self._network, self._seen = network, recorder
        self._nodes = recorder.nodes
        names: defaultdict[int, list[str]] = defaultdict(list)
        for name, tensor in own_tensors(network).items():
            names[id(tensor)].append(name)
        self._shared = {name for several in names.values() if len(several) > 1 for name in several}
        self._held: defaultdict[str, set[str]] = defaultdict(set)  # tensors by module
        for name in own_tensors(network):
            self._held[name.rpartition(".")[0]].add(name)

    def blocks(self) -> Iterator[Block]:
        """A block for every addition that ends one."""
        for number, node in enumerate(self._nodes):
            if node.operation == "add" and len(node.sources) == 2:
                for skip, end in (node.sources, node.sources[::-1]):
                    inside = self._branch(end, skip, number)
                    block = self._block(inside, skip, number) if inside else None
                    if block is not None:
                        yield block

    def _branch(self, end: int, skip: int, addition: int) -> set[int]:
        """The nodes between a tensor and an addition; empty where others reach in or out."""
        inside: set[int] = set()
        stack = [end]
        while stack:
            number = stack.pop()
            if number == skip or number in inside:
                continue
            node = self._nodes[number]
            if node.is_data and number < skip:
                return set()  # it goes by what is not the shortcut
            if not node.operation:
                return set()
            inside.add(number)
            stack.extend(node.sources)
        allowed = {*inside, addition}
        leaves = any(self._nodes[n].is_data and not self._nodes[n].users <= allowed for n in inside)
        return set() if leaves else inside

    def _block(self, inside: set[int], skip: int, addition: int) -> Block | None:
        """The block of a branch; None where its layers are not its own."""
        taken = {name for number in inside for name in self._nodes[number].takes}
        owners = {name.rpartition(".")[0] for name in taken}
        if not owners or taken & self._shared or any(owner == "" for owner in owners):
            return None
        for owner in owners:
            if any(not self._seen.users[name] <= inside for name in self._held[owner]):
                return None
        whole = self._whole(owners, skip, addition)
        replaced = self._parts(owners) if whole is None else ((whole, "identity"),)
        if not replaced:
            return None
        gone = [name for name, _ in replaced]
        tensors = frozenset(n for n in own_tensors(self._network) if is_inside(n, gone))
        return Block(gone[-1], tensors, replaced)

    def _whole(self, owners: set[str], skip: int, addition: int) -> str | None:
        """The smallest module that gives its input, as the tensors of a branch are at zero."""
        first = next(iter(owners)).split(".")
        for length in range(len(first), 0, -1):
            name = ".".join(first[:length])
            uses = self._seen.uses[name]
            if self._owners_in(name) == owners and len(uses) == 1 and uses[0].source == skip:
                made = uses[0].made
                if made == addition and not uses[0].is_attention:
                    return name
                last = None if made is None else self._nodes[made]
                if last is not None and last.operation == "relu" and last.sources == [addition]:
                    return name if self._nodes[skip].is_positive else None
        return None

    def _parts(self, owners: set[str]) -> tuple[tuple[str, str], ...]:
        """The largest modules that hold tensors of a branch only; the last one gives zeros."""
        parts: set[str] = set()
        for owner in owners:
            steps = owner.split(".")
            names = [".".join(steps[:length]) for length in range(1, len(steps) + 1)]
            fitting = [name for name in names if self._owners_in(name) <= owners]
            called = [name for name in fitting if len(self._seen.uses[name]) == 1]
            if not called:
                return ()
            parts.add(called[0])
        parts = {one for one in parts if not is_inside(one, parts - {one})}
        ordered = sorted(parts, key=self._seen.order.index)
        last = ordered[-1]
        kind = "no_attention" if self._seen.uses[last][0].is_attention else "zeros"
        return (*((name, "identity") for name in ordered[:-1]), (last, kind))

    def _owners_in(self, name: str) -> set[str]:
        """The modules inside of one, itself included, that hold tensors."""
        return {owner for owner in self._held if is_inside(owner, [name])}
