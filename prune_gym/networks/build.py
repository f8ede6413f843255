"""Networks from names and modules, and checks of what they take and give."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.datasets import Dataset
from prune_gym.datasets.own import OWN
from prune_gym.errors import InvalidTypeError, InvalidValueError, UnsupportedNetworkError
from prune_gym.networks.checkpoints import find_checkpoint
from prune_gym.networks.plain import unwrapped, without_compiled_parts
from prune_gym.networks.vgg import NETWORKS
from prune_gym.networks.weight_files import load_weights
from prune_gym.pruning.copying import rebuild
from prune_gym.utils.trees import arguments, call, clone, in_words, leaves, mapped
from prune_gym.utils.user_code import user_code
from prune_gym.utils.words import message

_ONE_OUTPUT = "; one output for two classes goes with metric='binary_accuracy'"


def build_network(name: str, *, in_channels: int, n_classes: int) -> nn.Module:
    """An untrained network by name.

    Args:
        name: a registered name, or a ``"module:function"`` that returns a module.
        in_channels: channels of the images; handed on where the function has such a parameter.
        n_classes: number of classes; likewise.

    Raises:
        UnknownNameError: nothing answers to the name.
        TypeError: the function returned something else, or needs other arguments.

    >>> build_network("vgg11", in_channels=1, n_classes=7).classifier.out_features
    7
    """
    builder = NETWORKS.get(name)
    wanted = inspect.signature(builder).parameters
    given = {"in_channels": in_channels, "n_classes": n_classes}
    arguments = {key: value for key, value in given.items() if key in wanted}
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise InvalidTypeError(
            f"network {name!r} cannot be built: {message(error)}. Give a function without required "
            "arguments (other than in_channels and n_classes)."
        ) from error
    with user_code(f"network {name!r}", UnsupportedNetworkError):
        module = builder(**arguments)
    if not isinstance(module, nn.Module):
        raise InvalidTypeError(
            f"network {name!r} gave {type(module).__name__}; expected an nn.Module."
        )
    return module


def build_for(name: str, data: Dataset) -> nn.Module:
    """An untrained network by name, with inputs and outputs that fit a dataset."""
    inputs = data.train.batch(data.train.spread(1))
    is_image = isinstance(inputs, torch.Tensor) and inputs.ndim > 1
    in_channels = int(inputs.shape[1]) if is_image else 0
    return build_network(name, in_channels=in_channels, n_classes=data.n_classes)


def trained_network(
    network: str | nn.Module, dataset: str | Dataset, data: Dataset, weights: str | Path | None
) -> nn.Module:
    """A trained network of one's own: by name with its weights, or a copy of a module.

    Args:
        network: a registered name, a ``"module:function"``, or a trained module.
        dataset: what the weights of a named network were trained on, as the user named it.
        data: the same, loaded.
        weights: checkpoint of a named network; None = the cached or shipped one.

    Raises:
        ValueError: ``weights`` beside a module.
        CheckpointError: no trained weights, with the command that makes them.
        UnsupportedNetworkError: a script or an exported program.
    """
    if not isinstance(network, str):
        inside = unwrapped(network)
        if weights is not None:
            raise InvalidValueError(
                "weights: only for a network given by name; load yours yourself."
            )
        return without_compiled_parts(rebuild(inside, {}))  # without its owner's hooks, gradients
    module = unwrapped(build_for(network, data))
    return load_weights(module, find_checkpoint(network, dataset) if weights is None else weights)


def run_once(network: nn.Module, inputs: Any) -> Any:
    """Outputs of a network in evaluation mode on a batch of inputs, so that what goes wrong does.

    Raises:
        UnsupportedNetworkError: it does not run; where that is for the types of its inputs, or the
            keys of a dict, they are named.
    """
    name = type(network).__name__
    try:
        with torch.no_grad():
            return call(network, clone(inputs))
    except Exception as error:  # a network may raise anything
        raise UnsupportedNetworkError(
            f"{name} does not run on an input of shape {in_words(inputs)}: {message(error)}"
            f"{_other_names(network, inputs) or _other_types(network, inputs, error)}"
        ) from error


def _other_names(network: nn.Module, inputs: Any) -> str:
    """Words on a dict whose keys are not the arguments of a network; empty where they are."""
    if not isinstance(inputs, Mapping) or arguments(network, inputs)[1]:
        return ""
    names = [*inspect.signature(type(network).forward).parameters][1:]
    return (
        f". The keys of its inputs, {', '.join(map(repr, inputs))}, are not the names of "
        f"forward(): {', '.join(names) or 'none'}; so it gets the dict as one argument."
    )


def _other_types(network: nn.Module, inputs: Any, error: Exception) -> str:
    """Words on inputs whose type is not the one that a network takes; empty where it is."""
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    given = {tensor.dtype for tensor in leaves(inputs)}
    is_of_types = isinstance(error, RuntimeError) and "type" in str(error)
    if is_of_types and "'indices'" in str(error):  # of an embedding
        return (
            ". Numbers of tokens are int64 or int32: a uint8 tensor is taken for pixels, and "
            "divided by 255."
        )
    # whole numbers may be ids, which another type would spoil: only where it is about types
    wrong = {kind for kind in given - kinds if kind.is_floating_point or is_of_types}
    if not kinds or not wrong:
        return ""
    wanted, found = ([str(kind) for kind in some] for some in (kinds, wrong))
    return (
        f". Its parameters are {', '.join(sorted(wanted))}, but its inputs hold "
        f"{', '.join(sorted(found))}: make them alike, e.g. inputs.to({wanted[0]})."
    )


def check_outputs(network: nn.Module, data: Dataset, name: str) -> None:
    """Raise ValueError unless the network takes the dataset's images and tells its classes apart.

    Args:
        network: in any mode; it is run once, in evaluation mode.
        data: one of its training images is the input.
        name: of the network, for the message.
    """
    example = data.train.batch(data.train.spread(1))
    training = network.training
    try:
        with torch.inference_mode():
            outputs = call(network.eval(), example)
    except Exception as error:  # a network may raise anything
        raise InvalidValueError(
            f"network {name!r} does not run on {data.name!r}, whose images are "
            f"{in_words(mapped(lambda tensor: tensor[0], example))}: {message(error)}"
        ) from error
    finally:
        network.train(training)
    _check_classes(f"network {name!r}", tuple(getattr(outputs, "shape", ())), data)


def check_classes(name: str, outputs: Any, data: Dataset) -> None:
    """Raise unless outputs are one tensor that tells a dataset's classes apart.

    Raises:
        UnsupportedNetworkError: they are no tensor.
        ValueError: they are not as many as the classes.
    """
    if not isinstance(outputs, torch.Tensor):
        raise UnsupportedNetworkError(
            f"{name} gives {type(outputs).__name__} in evaluation mode; expected one tensor of "
            "outputs, (n, n_classes). Name the part that counts, output='out' or output=0, or give "
            "a function of the outputs."
        )
    _check_classes(name, (1, *outputs.shape[1:]), data)


def _check_classes(name: str, shape: tuple[int, ...], data: Dataset) -> None:
    """Outputs must be as many as the classes (as many at least, where only labels are known)."""
    if len(shape) > 2:
        raise InvalidValueError(
            f"{name} gives outputs of shape {shape} for one image, but its target is one class; "
            f"expected (1, {data.n_classes}). Targets with a class for each place go with "
            "metric='mean_iou' or 'pixel_accuracy'."
        )
    outputs = shape[1] if len(shape) > 1 else 0
    if outputs < data.n_classes or (outputs > data.n_classes and data.name != OWN):
        raise InvalidValueError(
            f"{name} gives outputs of shape {shape} for one image, but {data.name!r} has "
            f"{data.n_classes} classes; expected (1, {data.n_classes}). Give the network a last "
            f"layer that fits{_ONE_OUTPUT if outputs <= 1 and data.n_classes == 2 else ''}."
        )
