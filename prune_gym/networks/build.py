"""Networks from names and modules, and checks of what they take and give."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from torch import nn

from prune_gym.datasets import Dataset
from prune_gym.datasets.own import OWN
from prune_gym.errors import InvalidTypeError, InvalidValueError, UnsupportedNetworkError
from prune_gym.networks.checkpoints import find_checkpoint, load_weights
from prune_gym.networks.vgg import NETWORKS
from prune_gym.pruning.copying import rebuild
from prune_gym.utils.user_code import user_code
from prune_gym.utils.words import message


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
    return build_network(name, in_channels=data.train.images.shape[1], n_classes=data.n_classes)


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
    """
    if isinstance(network, nn.Module):
        if weights is not None:
            raise InvalidValueError(
                "weights: only for a network given by name; load yours yourself."
            )
        return rebuild(network, {})  # a copy without its owner's hooks and gradients
    module = build_for(network, data)
    return load_weights(module, find_checkpoint(network, dataset) if weights is None else weights)


def check_runs(network: nn.Module, example: torch.Tensor, data: Dataset) -> None:
    """Run an unpruned network once, so that what goes wrong does now.

    Args:
        network: in evaluation mode.
        example: a batch of several inputs.
        data: whose classes it is to tell apart.

    Raises:
        UnsupportedNetworkError: it does not run, or gives something other than one tensor.
        ValueError: outputs that are not as many as the classes.
    """
    name = type(network).__name__
    try:
        with torch.no_grad():
            outputs = network(example.clone())
    except Exception as error:  # a network may raise anything
        raise UnsupportedNetworkError(
            f"{name} does not run on an input of shape {tuple(example.shape)}: {message(error)}"
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise UnsupportedNetworkError(
            f"{name} gives {type(outputs).__name__} in evaluation mode; expected one tensor of "
            "outputs, (n, n_classes). Wrap it in a module that picks that one."
        )
    _check_classes(name, (1, *outputs.shape[1:]), data)


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
            outputs = network.eval()(example)
    except Exception as error:  # a network may raise anything
        raise InvalidValueError(
            f"network {name!r} does not run on {data.name!r}, whose images are "
            f"{tuple(example.shape[1:])}: {message(error)}"
        ) from error
    finally:
        network.train(training)
    _check_classes(f"network {name!r}", tuple(getattr(outputs, "shape", ())), data)


def _check_classes(name: str, shape: tuple[int, ...], data: Dataset) -> None:
    """Outputs must be as many as the classes (as many at least, where only labels are known)."""
    outputs = shape[1] if len(shape) > 1 else 0
    if outputs < data.n_classes or (outputs > data.n_classes and data.name != OWN):
        raise InvalidValueError(
            f"{name} gives outputs of shape {shape} for one image, but {data.name!r} has "
            f"{data.n_classes} classes; expected (1, {data.n_classes}). Give the network a last "
            "layer that fits."
        )
