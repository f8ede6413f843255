"""How networks are last out to be judged: the same function, as fast as the machine has it.

BatchNorm is folded into the convolution before it, images and weights lie channels-last, and all
is in the precision asked for. What a network allows is found once, on a probe, by holding the fast
layout against the plain one; all compact networks of it are then judged like that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prune_gym.errors import InvalidValueError
from prune_gym.pruning.comparison import agree, outputs_of
from prune_gym.pruning.copying import rebuild, shallow_copy
from prune_gym.pruning.equivalence import lively_copy
from prune_gym.pruning.trace import own_randomness
from prune_gym.utils.onednn import SoundConvolutions
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.trees import call, clone, device_of, leaves, mapped

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

_PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IDENTITY = nn.Identity()
_Folds = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class InferenceLayout:
    """How a network, and every compact network of it, is judged.

    Attributes:
        folds: (layer, norm after it) by name: the norm is folded into the layer's weights.
        channels_last: whether images and weights lie channels-last.
        in_place: whether the network changes its input, so that it needs a copy.
        precision: ``"float32"``, ``"tf32"`` (NVIDIA GPUs) or ``"bfloat16"``.
        copies_deeply: whether networks are copied tensor by tensor for it, as they hold layers
            where only they know.
    """

    folds: _Folds = ()
    channels_last: bool = False
    in_place: bool = False
    precision: str = "float32"
    copies_deeply: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of images and weights."""
        return PRECISIONS[self.precision]

    @torch.no_grad()
    def convert(self, network: nn.Module) -> nn.Module:
        """A network in this layout, for inference only; the one handed in stays as it is."""
        fast = None if self.copies_deeply else shallow_copy(network)
        if fast is None:
            copied = rebuild(network, {}).eval()
            return copied if self.dtype == torch.float32 else copied.to(self.dtype)
        modules = dict(fast.named_modules())
        _fold(modules, self.folds)
        for module in modules.values():
            places: list[dict[str, Any]] = [module._parameters, module._buffers]
            for held in places:
                for key, tensor in held.items():
                    if tensor is not None:
                        held[key] = self.to_layout(tensor)
        return fast

    def to_layout(self, tensor: torch.Tensor) -> torch.Tensor:
        """A float32 tensor in this layout and its precision; any other tensor as it is."""
        if tensor.dtype != torch.float32:
            return tensor
        if self.channels_last and tensor.ndim == 4:
            return tensor.to(self.dtype, memory_format=torch.channels_last)
        return tensor.to(self.dtype)


def find_layout(network: nn.Module, example: Any, precision: str) -> InferenceLayout:
    """The fastest layout that leaves a network's function as it is.

    Args:
        network: in evaluation mode; left untouched.
        example: an input batch of two or more, on the network's device.
        precision: ``"float32"``, ``"tf32"`` or ``"bfloat16"``.

    Raises:
        ValueError: unknown precision, or one that the device does not have.
    """
    check_precision(precision, device_of(example))
    layout = replace(_fastest(lively_copy(network).eval(), example), precision=precision)
    if _runs(layout, network, example):
        return layout
    plain = InferenceLayout(in_place=layout.in_place, precision=precision, copies_deeply=True)
    if _runs(plain, network, example):
        return plain
    raise InvalidValueError(
        f"precision={precision!r}: {type(network).__name__} does not run in it; use 'float32'."
    )


def check_precision(precision: Any, device: torch.device) -> None:
    """Raise ValueError for an unknown precision, or one that the device does not have."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise unknown_name("precision", precision, list(PRECISIONS))
    if precision == "tf32" and device.type != "cuda":
        raise InvalidValueError(
            f"precision='tf32' on {device.type!r}: only NVIDIA GPUs have it; use 'float32' or "
            "'bfloat16'."
        )


def trains_channels_last(network: nn.Module, example: Any) -> bool:
    """Whether a network can also be trained with images and weights that lie channels-last.

    It may take other ways in training mode, which a view() there would show.
    """
    copied = rebuild(network, {}).train()
    trained = [p for p in copied.parameters() if p.is_floating_point()]
    try:
        copied.to(memory_format=torch.channels_last)
        for parameter in trained:
            parameter.requires_grad_(True)
        with own_randomness(device_of(example)), torch.enable_grad(), SoundConvolutions():
            outputs = leaves(call(copied, mapped(_turned, example)))
            learned = [output.float().sum() for output in outputs if output.requires_grad]
            loss = torch.stack(learned).sum()
            torch.autograd.grad(loss, trained, allow_unused=True)
    except Exception:  # a network may raise anything
        return False
    return True


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _fastest(probe: nn.Module, example: Any) -> InferenceLayout:
    layout = InferenceLayout(in_place=_changes_its_input(probe, example))
    if shallow_copy(probe) is None:  # a layer says itself how it is copied
        return replace(layout, copies_deeply=True)
    expected = outputs_of(probe, example)
    if not all(bool(output.isfinite().any()) for output in expected):
        return layout  # nothing to see it by

    def holds(other: InferenceLayout) -> bool:
        return _holds(other, probe, example, expected)

    last = replace(layout, channels_last=any(t.ndim == 4 for t in leaves(example)))
    layout = last if last != layout and holds(last) else layout
    folds = _sound(_candidates(probe, example), lambda some: holds(replace(layout, folds=some)))
    together = replace(layout, folds=folds)
    return together if holds(together) else layout


def _sound(folds: _Folds, hold: Callable[[_Folds], bool]) -> _Folds:
    """The folds that leave the function as it is, found by halves: nearly always it is all."""
    if not folds or hold(folds):
        return folds
    half = len(folds) // 2
    return (*_sound(folds[:half], hold), *_sound(folds[half:], hold)) if half else ()


def _fold(modules: dict[str, nn.Module], folds: _Folds) -> None:
    """Fold norms into the layers before them; all at once, as many small sums take their time."""
    pairs: list[tuple[Any, Any]] = []
    for layer_name, norm_name in folds:
        layer, norm = modules.get(layer_name), modules.get(norm_name)
        if type(layer) in _PRODUCERS and _normalises(norm):  # or a recovery changed them
            pairs.append((layer, norm))
            parent, _, key = norm_name.rpartition(".")
            modules[parent]._modules[key] = _IDENTITY
    if not pairs:
        return
    widths = [len(norm.running_var) for _, norm in pairs]
    scale = torch.cat([norm.running_var + norm.eps for _, norm in pairs]).rsqrt_()
    shift = torch.cat([_minus(layer.bias, norm.running_mean) for layer, norm in pairs])
    if any(norm.weight is not None for _, norm in pairs):
        scale *= torch.cat([_or_filled(norm.weight, norm, 1.0) for _, norm in pairs])
    shift *= scale
    if any(norm.bias is not None for _, norm in pairs):
        shift += torch.cat([_or_filled(norm.bias, norm, 0.0) for _, norm in pairs])
    scales, biases = torch.split(scale, widths), torch.split(shift, widths)
    for (layer, _), factor, bias in zip(pairs, scales, biases, strict=True):
        weight = layer.weight * factor.view(-1, *[1] * (layer.weight.ndim - 1))
        layer._parameters.update(weight=weight, bias=bias)


def _minus(bias: torch.Tensor | None, mean: torch.Tensor) -> torch.Tensor:
    return -mean if bias is None else bias - mean


def _or_filled(tensor: torch.Tensor | None, norm: Any, value: float) -> torch.Tensor:
    return torch.full_like(norm.running_var, value) if tensor is None else tensor


def _normalises(norm: Any) -> bool:
    """Whether a module is a BatchNorm with statistics of its own."""
    return type(norm) in _NORMS and not norm.training and norm.running_var is not None


def _candidates(probe: nn.Module, example: Any) -> _Folds:
    """Norms that get what a layer gives out; whether nothing else gets it is for `_holds`."""
    calls: Counter[str] = Counter()
    produced: dict[int, tuple[str, torch.Tensor]] = {}
    found: list[tuple[str, str]] = []
    watched = rebuild(probe, {})

    def watch(name: str, module: nn.Module, given: torch.Tensor, made: torch.Tensor) -> None:
        calls[name] += 1
        if _normalises(module):
            layer, _ = produced.get(id(given), ("", given))
            found.extend([(layer, name)] if layer else [])
        else:
            produced[id(made)] = (name, made)  # the tensor is held, so its id stays its own

    for name, module in watched.named_modules():
        if type(module) in _PRODUCERS or _normalises(module):
            module.register_forward_hook(
                lambda m, inputs, output, name=name: watch(name, m, inputs[0], output)
            )
    outputs_of(watched, example)
    return tuple(pair for pair in found if all(calls[name] == 1 for name in pair))


def _holds(
    layout: InferenceLayout, probe: nn.Module, example: Any, expected: Sequence[torch.Tensor]
) -> bool:
    """Whether a layout leaves the outputs of the probe as they are."""
    try:
        found = outputs_of(layout.convert(probe), mapped(layout.to_layout, example))
    except Exception:  # a view() of what is not contiguous, say
        return False
    return agree(found, expected)


def _runs(layout: InferenceLayout, network: nn.Module, example: Any) -> bool:
    try:
        outputs_of(layout.convert(network), mapped(layout.to_layout, example))
    except Exception:  # a view() of what is not contiguous, say
        return False
    return True


def _changes_its_input(network: nn.Module, example: Any) -> bool:
    with torch.inference_mode(False), torch.no_grad():
        inputs = clone(example)
        before = [tensor._version for tensor in leaves(inputs)]
        call(network, inputs)
    return [tensor._version for tensor in leaves(inputs)] != before
