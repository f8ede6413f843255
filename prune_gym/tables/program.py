"""A network as steps that a walk over its compact networks can take, each as early as it can be.

The filters of every group are laid out by importance, the most important ones first, so that the
compact network that keeps n of them has the first n channels. A step follows from the decisions on
some groups only; it is placed behind the last one of these.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.problem.problem import PruningProblem
from prune_gym.training.recovery import BN_IMAGES, bn
from prune_gym.utils.words import message

Values = dict[str, torch.Tensor]  # by the name of the step that made them
Channels = tuple[int, int]  # from the first of these filters to before the second

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# what treats every channel alike, and by itself
_ALIKE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten),
)
_FUNCTIONS: dict[Any, Any] = {
    **{f: f for f in (torch.relu, torch.sigmoid, torch.tanh, torch.flatten, torch.add, torch.mul)},
    **{f: f for f in (operator.add, operator.mul, functional.adaptive_avg_pool2d)},
    **{f: f for f in (functional.relu, functional.relu6, functional.leaky_relu, functional.elu)},
    **{f: f for f in (functional.gelu, functional.silu, functional.mish, functional.hardswish)},
    **{f: f for f in (functional.avg_pool2d, functional.max_pool2d, functional.dropout)},
    operator.iadd: operator.add,  # what is shared between networks is not changed in place
    operator.imul: operator.mul,
}
_METHODS = {
    **{name: name for name in ("relu", "sigmoid", "tanh", "flatten", "mean", "add", "mul", "amax")},
    **{"contiguous": "contiguous", "relu_": "relu", "add_": "add", "mul_": "mul"},
}


class Run(Protocol):
    """What a step does."""

    def __call__(
        self, values: Values, kept: Sequence[int], channels: Channels | None = None
    ) -> torch.Tensor:
        """The step's value.

        Args:
            values: made before.
            kept: filters that stay, of the groups decided so far.
            channels: of the input that alone are to be summed over; None = all that stay.
        """


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: of its value.
        run: makes the value.
        is_sum: whether the value is a running sum over the levels of the group that the step is
            behind.
    """

    name: str
    run: Run
    is_sum: bool = False


@dataclass(frozen=True)
class _Known:
    """What is known of a value before there is one.

    Attributes:
        group: whose filters its channels are; None where nothing is removed from it.
        depth: last group whose decision it follows from; -1 = none.
    """

    group: int | None
    depth: int

    @property
    def is_cut(self) -> bool:
        """Whether the decision on its own group is known when it is made."""
        return self.group is not None and self.group <= self.depth


@dataclass
class Program:
    """The steps of one problem's networks.

    Attributes:
        steps: those before the first group is decided, then those behind each group.
        input: name of the network's input.
        output: name of its output.
        n_recovery: first rows of the inputs, on which the recovery computes its statistics; 0 where
            it does nothing.
        known: what is known of every value.
    """

    steps: list[list[Step]]
    input: str = ""
    output: str = ""
    n_recovery: int = 0
    known: dict[str, _Known] = field(default_factory=dict, repr=False)


def program_of(problem: PruningProblem) -> Program:
    """The steps of a problem's networks.

    Raises:
        UnsupportedNetworkError: a network with an operation that the walk does not know.
    """
    try:
        traced = fx.symbolic_trace(problem.network)
        ShapeProp(traced).propagate(problem.example)
    except Exception as error:  # whatever forward() does with a stand-in for a tensor
        raise UnsupportedNetworkError(
            f"{type(problem.network).__name__} cannot be traced by torch.fx ({message(error)}), so "
            "no table can be made of it; let forward() not depend on its inputs' values."
        ) from error
    n_recovery = min(BN_IMAGES, len(problem.data.train)) if problem.recovery is bn else 0
    program = Program([[] for _ in range(len(problem.groups) + 1)], n_recovery=n_recovery)
    _Tracer(problem, traced, program).fill()
    return program


class _Tracer:
    """Makes the steps out of the nodes of a traced network."""

    def __init__(self, problem: PruningProblem, traced: fx.GraphModule, program: Program) -> None:
        self.program, self.sizes = program, problem.sizes.tolist()
        self.modules = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        self.tensors, self.owners = _by_importance(problem)

    def fill(self) -> None:
        """Put a step for every node into the program."""
        norms = [node for node in self.nodes if isinstance(self._module_of(node), _NORMS)]
        last_norm = norms[-1] if norms else None
        for node in self.nodes:
            module = self._module_of(node)
            if node.op == "placeholder":
                self.program.input = node.name
                self.program.known[node.name] = _Known(None, -1)
            elif node.op == "output":
                self.program.output = node.args[0].name
            elif isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                self._add_layer(node, module)
            elif isinstance(module, _NORMS):
                self._add_norm(node, module, node is last_norm)
            elif isinstance(module, _ALIKE):
                self._add_alike(node, module)
            else:
                self._add_function(node)

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _add(self, node: fx.Node, run: Run, known: _Known, is_sum: bool = False) -> None:
        self.program.known[node.name] = known
        self.program.steps[known.depth + 1].append(Step(node.name, run, is_sum))

    def _source(self, node: fx.Node) -> tuple[str, _Known]:
        name = node.all_input_nodes[0].name
        return name, self.program.known[name]

    def _add_layer(self, node: fx.Node, module: nn.Module) -> None:
        source, known = self._source(node)
        group = known.group
        if getattr(module, "groups", 1) != 1 or getattr(module, "padding_mode", "zeros") != "zeros":
            raise _unknown(node, "a grouped convolution, or one that pads with more than zeros")
        depth = known.depth if group is None else max(known.depth, group)
        is_sum = group is not None and not known.is_cut
        out_group = self.owners.get((f"{node.target}.weight", 0))
        # a running sum over the levels of the layer's own outputs has all of them: cut behind it
        last_cut = depth - 1 if is_sum else depth
        is_cut = out_group is not None and out_group <= last_cut
        sums = _Sums(
            module,
            self.tensors[f"{node.target}.weight"],
            self.tensors.get(f"{node.target}.bias"),
            n_filters=None if group is None else self.sizes[group],
            positions=tuple(node.all_input_nodes[0].meta["tensor_meta"].shape[2:]),
        )

        def run(
            values: Values, kept: Sequence[int], channels: Channels | None = None
        ) -> torch.Tensor:
            if channels is None and group is not None:
                channels = 0, kept[group]
            n_outputs = kept[out_group] if is_cut and out_group is not None else None
            return sums(values[source], channels, n_outputs)

        self._add(node, run, _Known(out_group, depth), is_sum)

    def _add_norm(self, node: fx.Node, module: Any, is_last: bool) -> None:
        source, known = self._source(node)
        if module.running_mean is None:
            raise _unknown(node, "a norm that computes its statistics on what it is judged on")
        names = ("running_mean", "running_var", "weight", "bias")
        held = [self.tensors.get(f"{node.target}.{name}") for name in names]
        norm = _Norm(held, module.eps, self.program.n_recovery, is_last)

        def run(
            values: Values, kept: Sequence[int], channels: Channels | None = None
        ) -> torch.Tensor:
            inputs = values[source]
            is_cut = known.is_cut and known.group is not None
            return norm(inputs, kept[known.group] if is_cut else inputs.shape[1])  # type: ignore[index]

        self._add(node, run, known)

    def _add_alike(self, node: fx.Node, module: Any) -> None:
        source, known = self._source(node)
        giver = node.all_input_nodes[0]
        # what a norm gave is nobody else's: it can be changed in place, which is faster
        is_own = len(giver.users) == 1 and isinstance(self._module_of(giver), _NORMS)
        if getattr(module, "inplace", False) and not is_own:
            module = copy.copy(module)
            module.inplace = False
        self._add(node, lambda values, kept, channels=None: module(values[source]), known)

    def _add_function(self, node: fx.Node) -> None:
        is_method = node.op == "call_method"
        table: Mapping[Any, Any] = _METHODS if is_method else _FUNCTIONS
        if node.op not in ("call_function", "call_method") or node.target not in table:
            raise _unknown(node, "an operation that may mix channels")
        function = table[node.target]
        names = [one.name for one in node.all_input_nodes]
        inputs = [self.program.known[name] for name in names]
        if len({one.group for one in inputs}) > 1:
            raise _unknown(node, "an operation on the filters of several groups")
        known = _Known(inputs[0].group, max(one.depth for one in inputs))
        kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}

        def run(
            values: Values, kept: Sequence[int], channels: Channels | None = None
        ) -> torch.Tensor:
            own = {name: values[name] for name in names}
            if known.is_cut and known.group is not None:
                own = {name: x[:, : kept[known.group]] for name, x in own.items()}
            rows = min(len(x) for x in own.values())  # those of the recovery may be gone
            args, named = fx.node.map_arg((node.args, kwargs), lambda one: own[one.name][-rows:])
            target = getattr(args[0], function) if is_method else partial(function, args[0])
            return target(*args[1:], **named)  # type: ignore[no-any-return]

        self._add(node, run, known)


class _Sums:
    """A convolution or linear layer, as sums over some of its input channels.

    On feature maps of fewer positions than its kernel has, a convolution is one matrix product over
    all positions, which multiplies less: most of what the kernel covers is padding there.

    Args:
        module: the layer.
        weight: its weight, filters by importance.
        bias: likewise; it goes with the first of the channels.
        n_filters: of the group that its input channels belong to, if they do.
        positions: of its input, (height, width).
    """

    def __init__(
        self,
        module: Any,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        n_filters: int | None,
        positions: tuple[int, ...],
    ) -> None:
        self._module, self._weight, self._bias = module, weight, bias
        self._per_filter = weight.shape[1] // (n_filters or weight.shape[1])
        self._positions = positions
        is_small = isinstance(module, nn.Conv2d) and math.prod(positions) < weight[0, 0].numel()
        self._make: Callable[..., tuple[Any, ...]] = self._matrix if is_small else self._slice
        self._run: Callable[..., torch.Tensor] = self._product if is_small else self._layer
        self._made: dict[Any, Any] = {}

    def __call__(
        self, inputs: torch.Tensor, channels: Channels | None, n_outputs: int | None
    ) -> torch.Tensor:
        """Sums over the filters from ``channels[0]`` to before ``channels[1]``; None = all."""
        first, last = channels or (0, inputs.shape[1])
        span = slice(first * self._per_filter, last * self._per_filter)
        key = first, last, n_outputs
        if key not in self._made:
            bias = self._bias if first == 0 else None
            bias = None if bias is None else bias[:n_outputs]
            self._made[key] = self._make(self._weight[:n_outputs, span].contiguous(), bias)
        return self._run(inputs[:, span], *self._made[key])

    def _slice(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[Any, ...]:
        return weight, bias

    def _layer(
        self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if isinstance(self._module, nn.Linear):
            return functional.linear(inputs, weight, bias)
        return self._module._conv_forward(inputs, weight, bias)  # type: ignore[no-any-return]

    def _matrix(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[Any, ...]:
        """(inputs at all positions, outputs at all positions), channels innermost."""
        n_inputs = weight.shape[1]
        n = math.prod(self._positions) * n_inputs
        ones = torch.eye(n).view(n, *self._positions, n_inputs).permute(0, 3, 1, 2)
        outputs = self._module._conv_forward(ones, weight, None).permute(0, 2, 3, 1)
        shape = tuple(outputs.shape[1:])
        biases = None if bias is None else bias.repeat(shape[0] * shape[1])
        return outputs.reshape(n, -1), biases, shape

    def _product(
        self,
        inputs: torch.Tensor,
        matrix: torch.Tensor,
        biases: torch.Tensor | None,
        shape: tuple[int, ...],
    ) -> torch.Tensor:
        rows = inputs.permute(0, 2, 3, 1).reshape(len(inputs), -1)
        sums = rows @ matrix if biases is None else torch.addmm(biases, rows, matrix)
        return sums.view(len(rows), *shape).permute(0, 3, 1, 2)


class _Norm:
    """A BatchNorm, recovered on the first rows of what it gets, then applied to all of them.

    Args:
        held: mean, variance, weight and bias, filters by importance; the last two may be None.
        eps: the norm's.
        n_recovery: rows that the recovery sees; 0 = the norm keeps its statistics.
        is_last: whether no norm follows, so that those rows are not needed any more.
    """

    def __init__(
        self, held: list[torch.Tensor | None], eps: float, n_recovery: int, is_last: bool
    ) -> None:
        self._held, self._eps = held, eps
        self._n_recovery, self._is_last = n_recovery, is_last

    def __call__(self, inputs: torch.Tensor, n: int) -> torch.Tensor:
        """The first ``n`` channels, normalised."""
        inputs = inputs[:, :n]
        mean, variance, weight, bias = [None if x is None else x[:n] for x in self._held]
        if not self._n_recovery:
            return functional.batch_norm(inputs, mean, variance, weight, bias, eps=self._eps)
        head, tail = inputs[: self._n_recovery], inputs[self._n_recovery :]
        rows = head.movedim(1, -1).reshape(-1, n)
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        unbiased = variance * (len(rows) / max(1, len(rows) - 1))  # what a norm remembers
        if self._is_last:
            return self._apply(tail, mean, unbiased, weight, bias)
        outputs = torch.empty_like(inputs)
        self._apply(head, mean, variance, weight, bias, outputs[: self._n_recovery])
        self._apply(tail, mean, unbiased, weight, bias, outputs[self._n_recovery :])
        return outputs

    def _apply(
        self,
        inputs: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        scale = torch.rsqrt(variance + self._eps)
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return torch.addcmul(shift.view(shape), inputs, scale.view(shape), out=out)


def _by_importance(
    problem: PruningProblem,
) -> tuple[dict[str, torch.Tensor], dict[tuple[str, int], int]]:
    """Tensors with every group's filters by importance, and whose filters lie along which axis."""
    network = problem.network
    tensors = {name: held.detach() for name, held in network.named_parameters()}
    tensors |= dict(network.named_buffers())
    owners: dict[tuple[str, int], int] = {}
    for index, (group, order) in enumerate(zip(problem.groups, problem.orders, strict=True)):
        for cut in group.slices:
            held = tensors[cut.tensor]
            if (cut.tensor, cut.axis) in owners or cut.positions.size != held.shape[cut.axis]:
                raise UnsupportedNetworkError(
                    f"{cut.tensor} joins filters of several groups, which a table's walk cannot "
                    f"follow; keep {group.name!r} whole: ignore=[{group.name!r}]."
                )
            rows = torch.from_numpy(cut.positions[order].ravel())
            tensors[cut.tensor] = held.index_select(cut.axis, rows)
            owners[cut.tensor, cut.axis] = index
    return tensors, owners


def _unknown(node: fx.Node, why: str) -> UnsupportedNetworkError:
    what = getattr(node.target, "__name__", node.target)
    return UnsupportedNetworkError(
        f"{node.name} ({what}) is {why}, which no table can follow: it knows convolutions, "
        "linear layers, BatchNorms, activations, poolings and sums."
    )
