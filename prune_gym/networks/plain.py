"""Networks as people have them, made plain: without wrappers, and with weights that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.errors import UnknownNameError, UnsupportedNetworkError
from prune_gym.pruning.copying import without_wrappers
from prune_gym.utils.trees import call, clone
from prune_gym.utils.words import shortened

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def unwrapped(network: Any) -> nn.Module:
    """The module inside wrappers of torch: see `without_wrappers`.

    Args:
        network: what the user calls a network.

    Raises:
        UnsupportedNetworkError: a script or an exported program, whose layers are no modules, or a
            network without weights.
        UnknownNameError: no module at all.
    """
    network = without_wrappers(network)
    kind = type(network).__name__
    if kind == "ExportedProgram":
        raise UnsupportedNetworkError(
            "network: an ExportedProgram has no layers that could be pruned; give the nn.Module "
            "that was exported, and export the pruned one."
        )
    if isinstance(network, torch.fx.GraphModule) and "eval" in vars(network):
        raise UnsupportedNetworkError(
            "network: this is the module of an ExportedProgram, whose sizes are fixed; give the "
            "nn.Module that was exported, and export the pruned one."
        )
    if not isinstance(network, nn.Module):
        raise UnknownNameError(
            f"unknown network {shortened(network)}: expected a registered name or an nn.Module."
            f"{_cure(network)}"
        )
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its layer {name!r}" if name else kind
            raise UnsupportedNetworkError(
                f"network: {where} is a ScriptModule, whose code cannot be cut; give the nn.Module "
                "that was scripted or traced, and script the pruned one."
            )
    _check_weights(network)
    return network


def _cure(network: Any) -> str:
    """What to do with something that is no module, but near to one."""
    if isinstance(network, Mapping):
        return " Weights alone have no layers: build the module, and load them into it first."
    if callable(network):
        return f" {getattr(network, '__name__', 'It')} makes one? Call it, and give what it makes."
    return ""


def _check_weights(network: nn.Module) -> None:
    """Raise for a network whose weights have no numbers yet."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise UnsupportedNetworkError(
                f"network: {name!r} of a lazy layer has no shape yet; run the network once, and "
                "load or train its weights."
            )
        if tensor.is_meta:
            raise UnsupportedNetworkError(
                f"network: {name!r} is on the meta device, where tensors have no numbers; call "
                "network.to_empty(device='cpu'), and load the weights."
            )


def without_compiled_parts(network: nn.Module) -> nn.Module:
    """A network of one's own whose parts are not compiled any more, in place."""
    for module in network.modules():
        vars(module).pop("_compiled_call_impl", None)
        for key, child in module._modules.items():
            while type(child).__name__ == "OptimizedModule":
                child = child._orig_mod  # type: ignore[union-attr,assignment]
            module._modules[key] = child
    return network


def computes_weights(network: nn.Module) -> bool:
    """Whether `with_plain_weights` may change a network."""
    return any(
        parametrize.is_parametrized(module) or _has_own_forward(module)
        for module in network.modules()
    )


def with_plain_weights(network: nn.Module, example: Any) -> nn.Module:
    """A network of one's own whose layers hold the weights that they compute, in place.

    Parametrizations are taken off. Convolutions that make their weights in ``forward()``, such as
    those with standardised weights, become plain ones with what they made. Cut inputs would change
    what the others compute.

    Args:
        network: in evaluation mode.
        example: one input batch.
    """
    for module in list(network.modules()):
        for key, child in module._modules.items():
            if child is not None and parametrize.is_parametrized(child):
                module._modules[key] = _without_parametrizations(child)
    own = [name for name, module in network.named_modules() if _has_own_forward(module)]
    if not own:
        return network
    made = _MadeWeights(network, own)
    with torch.no_grad(), made:
        call(network, clone(example))
    for name, plain in made.plain.items():
        parent, _, key = name.rpartition(".")
        network.get_submodule(parent)._modules[key] = plain
    return network


def _without_parametrizations(module: nn.Module) -> nn.Module:
    """A layer that holds what its parametrizations make; its class has other copies and stays."""
    plain: nn.Module = object.__new__(type(module).__bases__[0])
    held = vars(plain)
    held.update(vars(module))
    made = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    held["_parameters"] = {
        **{name: nn.Parameter(tensor.detach().clone()) for name, tensor in made.items()},
        **module._parameters,
    }
    held["_modules"] = {k: m for k, m in module._modules.items() if k != "parametrizations"}
    return plain


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a convolution's ``forward()`` is not torch's own."""
    kinds = [kind for kind in _CONVOLUTIONS if isinstance(module, kind)]
    return bool(kinds) and type(module).forward is not kinds[0].forward


class _MadeWeights(TorchDispatchMode):
    """Sees with which weights convolutions are run that are no parameters.

    Attributes:
        plain: plain convolutions with these weights, by name.
    """

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.plain: dict[str, nn.Module] = {}
        self._running: tuple[str, Any, tuple[int, ...]] | None = None
        self._held = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        for name in names:
            layer = network.get_submodule(name)
            layer.register_forward_pre_hook(
                lambda module, inputs, name=name: self._enter(name, module, inputs[0])
            )
            layer.register_forward_hook(lambda module, inputs, output: self._leave())

    def _enter(self, name: str, module: nn.Module, images: torch.Tensor) -> None:
        self._running = name, module, tuple(images.shape)

    def _leave(self) -> None:
        self._running = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._running is not None and func is torch.ops.aten.convolution.default:
            name, module, shape = self._running
            images, weight, bias, stride, padding, dilation, transposed, _, groups = args
            is_made = id(weight) not in self._held and tuple(images.shape) == shape
            if is_made and not transposed and module.padding_mode == "zeros":
                self.plain[name] = _plain(module, weight, bias, stride, padding, dilation, groups)
        return func(*args, **(kwargs or {}))


def _plain(
    module: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> nn.Module:
    """A convolution of torch's own with these weights."""
    kind = next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))
    plain = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(weight.detach().clone(), module.weight.requires_grad)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), module.weight.requires_grad)
    return plain.train(module.training)
