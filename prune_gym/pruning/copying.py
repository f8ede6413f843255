"""Copies of a module tree around other tensors, without copying the tensors that it holds."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.layer_rules import fit


def rebuild(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """One copy of a network around other tensors; see `CopyPlan.build`."""
    return CopyPlan(network).build(tensors)


def own_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by every name that they go by."""
    parameters = network.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(network.named_buffers(remove_duplicate=False))}


def shallow_copy(network: nn.Module) -> nn.Module | None:
    """New modules, in evaluation mode, around the same tensors; None where that cannot be.

    For a look: layers and tensors of the copy can be replaced, nothing in it may be changed.
    """
    modules = list(network.modules())
    if not _are_simple(modules):
        return None
    copies: dict[int, nn.Module] = {id(m): object.__new__(type(m)) for m in modules}
    for module in modules:
        held = vars(copies[id(module)])
        held.update(vars(module), training=False)
        held.update({k: type(v)() for k, v in held.items() if _is_cache(k, v)})
        for place in ("_parameters", "_buffers"):
            held[place] = dict(held[place])
        held["_modules"] = {
            key: None if child is None else copies[id(child)]
            for key, child in module._modules.items()
        }
    return copies[id(network)]


class CopyPlan:
    """The module tree of a network, taken apart once, so that copies of it are cheap.

    A copy shares nothing with the network that either could change: modules, dictionaries of
    tensors and hooks are new; attributes that cannot be changed (numbers, names, functions) are
    shared, all others are copied. Hooks that forward and backward passes fire stay behind: they
    belong to whoever set them, and watch that network, not copies of it.

    Args:
        network: the template; left untouched. It must not change while the plan is in use.
        training: mode of the copies; None = each module as it is.

    Raises:
        UnsupportedNetworkError: a layer whose weight a hook computes.
    """

    def __init__(self, network: nn.Module, training: bool | None = None) -> None:
        self._network, self._training = network, training
        _check_hooks(network)
        modules = list(network.modules())
        number = {id(module): index for index, module in enumerate(modules)}
        names: dict[int, str] = {}  # first name by tensor
        self._tensors = own_tensors(network)
        for name, tensor in self._tensors.items():
            if is_lazy(tensor):
                raise UnsupportedNetworkError(
                    f"{name!r} has no shape yet (a lazy layer); run the network once first."
                )
            names.setdefault(id(tensor), name)
        self._first = {name: names[id(tensor)] for name, tensor in self._tensors.items()}
        self._simple = _are_simple(modules)
        self._parts = [_Part(m, number, names) for m in modules] if self._simple else []
        for part in self._parts if training is not None else ():
            part.shared["training"] = training

    def build(self, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """A copy in which the named tensors are replaced and the rest cloned.

        Channel counts of the layers (``in_channels``, ``num_features``, ...) follow from the
        shapes. Gradients stay behind; modes and ``requires_grad`` come along.

        Args:
            tensors: new values by their name in ``network.state_dict()``.

        Raises:
            UnsupportedNetworkError: the network cannot be copied; names what is in the way.
        """
        given = {self._first[name]: tensors[name] for name in tensors if name in self._first}
        made: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys(self._first.values()):
            old = self._tensors[name]
            new = given[name] if name in given else old.detach().clone()
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
            made[name] = new
        if not self._simple:
            copied = self._deepcopy(made)
            for module in copied.modules():
                fit(module)
            return copied if self._training is None else copied.train(self._training)
        modules = self._assemble(made)
        for part, module in zip(self._parts, modules, strict=True):
            if part.is_sized:
                fit(module)
        return modules[0]

    def _assemble(self, made: Mapping[str, torch.Tensor]) -> list[nn.Module]:
        modules = [object.__new__(part.kind) for part in self._parts]
        for part, module in zip(self._parts, modules, strict=True):
            part.fill(module, modules, made)
        if any(part.own for part in self._parts):
            memo = self._memo(made)
            for part, module in zip(self._parts, modules, strict=True):
                memo[id(part.template)] = module
            for part, module in zip(self._parts, modules, strict=True):
                vars(module).update({k: _deepcopy(v, memo, self._network) for k, v in part.own})
        return modules

    def _deepcopy(self, made: Mapping[str, torch.Tensor]) -> nn.Module:
        """The slow way, for modules that say themselves how they are copied."""
        memo = self._memo(made)
        for module in self._network.modules():
            for key, value in vars(module).items():
                if _is_fired(key) or _is_cache(key, value):
                    memo[id(value)] = type(value)()
        copied: nn.Module = _deepcopy(self._network, memo, self._network)
        return copied

    def _memo(self, made: Mapping[str, torch.Tensor]) -> dict[int, Any]:
        # by what the tensors are now: the plan itself may have been copied with its network
        return {id(tensor): made[self._first[name]] for name, tensor in self._tensors.items()}


class _Part:
    """One module of a network, taken apart."""

    def __init__(self, module: nn.Module, number: dict[int, int], names: dict[int, str]) -> None:
        self.template, self.kind = module, type(module)
        self.children = {
            key: None if child is None else number[id(child)]
            for key, child in module._modules.items()
        }
        self.tensors = {
            place: {
                key: None if t is None else names[id(t)] for key, t in vars(module)[place].items()
            }
            for place in ("_parameters", "_buffers")
        }
        self.is_sized = any(self.tensors.values()) or issubclass(self.kind, nn.Transformer)
        self.shared: dict[str, Any] = {}
        self.empty: dict[str, type] = {}  # what every copy gets a new and empty one of
        self.own: list[tuple[str, Any]] = []  # what every copy gets a copy of
        for key, value in vars(module).items():
            if key in _MADE_ANEW:
                continue
            if (
                _is_fired(key)
                or _is_cache(key, value)
                or (type(value) in _CONTAINERS and not value)
            ):
                self.empty[key] = type(value)
            elif _is_fixed(value):
                self.shared[key] = value
            else:
                self.own.append((key, value))

    def fill(self, module: Any, modules: list[Any], made: Mapping[str, torch.Tensor]) -> None:
        """Give a new module what the template has, but for what `own` lists."""
        held = vars(module)
        held.update(self.shared)
        for key, kind in self.empty.items():
            held[key] = kind()
        for place, names in self.tensors.items():
            held[place] = {k: None if name is None else made[name] for k, name in names.items()}
        held["_modules"] = {k: None if i is None else modules[i] for k, i in self.children.items()}


def _are_simple(modules: Iterable[nn.Module]) -> bool:
    kinds: set[Any] = {type(module) for module in modules}
    return all(_is_simple(kind) for kind in kinds)


@cache
def _is_simple(kind: Any) -> bool:
    """Whether a module is its ``__dict__``, and says nothing about how it is copied."""
    for name in ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__", "__new__"):
        if getattr(kind, name, None) is not getattr(nn.Module, name, None):
            return False
    restored = next(base for base in kind.__mro__ if "__setstate__" in vars(base))
    return restored.__module__.startswith("torch.nn.") and not any(
        vars(base).get("__slots__") for base in kind.__mro__
    )


_FIXED = (
    *(int, float, complex, str, bytes, bool, type(None), types.FunctionType),
    *(types.BuiltinFunctionType, torch.dtype, torch.device, torch.memory_format),
)
_CONTAINERS = (dict, list, set, OrderedDict)
# what is compiled runs the tensors of the network that it was compiled for
_MADE_ANEW = ("_parameters", "_buffers", "_modules", "_compiled_call_impl")


def _is_fixed(value: Any) -> bool:
    """Whether a value cannot be changed, so that copies may share it."""
    if type(value) in (tuple, frozenset, torch.Size):
        return all(_is_fixed(item) for item in value)
    return type(value) in _FIXED or isinstance(value, type)


def _is_fired(key: str) -> bool:
    """Whether an attribute of a module holds hooks that forward or backward passes fire."""
    return key.startswith(("_forward", "_backward")) and "hooks" in key


def _is_cache(key: str, value: Any) -> bool:
    """Whether an attribute keeps tensors that were computed from others: copies compute theirs."""
    return (
        "cache" in key.lower()
        and type(value) in (dict, OrderedDict)
        and all(isinstance(item, torch.Tensor) for item in value.values())
    )


def _check_hooks(network: nn.Module) -> None:
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            is_set = type(value) is OrderedDict and bool(value)  # few are, of many attributes
            if (
                is_set
                and _is_fired(key)
                and any(
                    type(hook).__module__.startswith("torch.nn.utils") for hook in value.values()
                )
            ):
                raise UnsupportedNetworkError(
                    f"the weight of layer {name!r} is computed by a hook; make it a plain one "
                    "first, by torch.nn.utils.remove_weight_norm, remove_spectral_norm or "
                    "prune.remove."
                )


def _deepcopy(value: Any, memo: dict[int, Any], network: nn.Module) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except RuntimeError as error:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} cannot be copied ({error}). Does a module keep a tensor "
            "that it computed? Set it to None first."
        ) from error


def without_wrappers(network: Any) -> Any:
    """What is inside of torch's wrappers: compiled, of several devices, averaged over a training.

    Args:
        network: a module in any of them, or anything else, which comes back as it is.
    """
    held = {
        "OptimizedModule": "_orig_mod",
        **dict.fromkeys(("DataParallel", "DistributedDataParallel", "AveragedModel"), "module"),
    }
    while type(network).__name__ in held:
        network = getattr(network, held[type(network).__name__])
    return network
