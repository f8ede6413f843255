"""A fine-tuning of a user's own: what it is called with, and what it must give back."""

from __future__ import annotations

import contextlib
import copy
import inspect
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from prune_gym.datasets import Examples
from prune_gym.errors import TrainerError
from prune_gym.pruning.copying import without_wrappers
from prune_gym.tasks.task import Trainer
from prune_gym.utils.trees import in_words
from prune_gym.utils.user_code import user_code

OFFERED = ("train", "steps", "seed", "generator")
TRIED_S = 20.0  # after which a trial ends with the next step of an optimizer
TRIED_STEPS = 1, 16  # a learning rate may begin at 0, and gradients may be gathered over some steps
_NOTHING = (
    "fine_tune trained nothing: every parameter of the network is as it was (statistics, such as "
    "those of BatchNorm, aside). It is to train the network that it is given, in place, or to give "
    "back the trained one."
)


def train_by(
    trainer: Trainer, network: nn.Module, train: Examples, *, steps: int, seed: int
) -> None:
    """Let a user's function train a network, in place or by giving back a trained one.

    Args:
        trainer: called with the network, and by name with those of ``train``, ``steps``, ``seed``
            and ``generator`` that it has parameters for.
        network: ends in evaluation mode with the trained weights.
        train: the training split.
        steps: optimizer steps that are asked for.
        seed: of the random numbers.

    Raises:
        TrainerError: it raised, gave back another network, or trained nothing.
    """
    if not _train(trainer, network, train, steps, seed) and steps > 0:
        raise TrainerError(_NOTHING)


def try_trainer(trainer: Trainer, network: nn.Module, train: Examples) -> None:
    """Try a user's function on copies of a network, before anything is searched.

    With few steps where it takes ``steps``. Another one runs whole, but not for long: what it would
    have done after `TRIED_S` stays unknown.

    Args:
        trainer: see `train_by`.
        network: a pruned one, so that a function that trains a network of a shape of its own is
            found out; stays as it is.
        train: the training split.

    Raises:
        TrainerError: see `train_by`.
    """
    tries = TRIED_STEPS if takes_steps(trainer) else TRIED_STEPS[-1:]
    if not any(
        _train(trainer, copy.deepcopy(network), train, steps, 0, TRIED_S) for steps in tries
    ):
        raise TrainerError(_NOTHING)


class _Enough(BaseException):
    """Ends a trial; no error, so that a user's ``except Exception`` lets it pass."""


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Raise `_Enough` after the first step of an optimizer that ends later, in this thread."""
    thread, began = threading.get_ident(), time.monotonic()

    def stop(*_: Any) -> None:
        is_late = seconds is not None and time.monotonic() - began > seconds
        if is_late and threading.get_ident() == thread:
            raise _Enough

    hook = register_optimizer_step_post_hook(stop)
    try:
        yield
    finally:
        hook.remove()


def _train(
    trainer: Trainer,
    network: nn.Module,
    train: Examples,
    steps: int,
    seed: int,
    seconds: float | None = None,
) -> bool:
    """Let a function train a network; whether a parameter changed, or the time was up before.

    Args:
        trainer: see `train_by`, as the next four.
        network: likewise.
        train: likewise.
        steps: likewise.
        seed: likewise.
        seconds: after which it is stopped; None = never.
    """
    offered = {
        "train": train,
        "steps": steps,
        "seed": seed,
        "generator": torch.Generator().manual_seed(seed),
    }
    wanted = _parameters(trainer)
    given = {name: value for name, value in offered.items() if name in wanted}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    place = next((tensor.device for tensor in before.values()), torch.device("cpu"))
    with torch.inference_mode(False), torch.enable_grad(), user_code("fine_tune", TrainerError):
        try:
            with _at_most(seconds):
                found, is_whole = trainer(network.train(), **given), True
        except _Enough:
            found, is_whole = None, False  # it may have been training a copy
    _take_over(network, found, before)
    network.to(place).zero_grad(set_to_none=True)
    after = network.state_dict()
    if not all(bool(t.isfinite().all()) for t in after.values() if t.is_floating_point()):
        raise TrainerError("fine_tune left weights that are not finite; lower its learning rate.")
    network.eval()
    names = [name for name, _ in network.named_parameters()]
    return not is_whole or any(not torch.equal(after[name], before[name]) for name in names)


def check_trainer(trainer: Trainer) -> None:
    """Raise TrainerError for a function that cannot be called with a network."""
    try:
        named = {name: None for name in OFFERED if name in _parameters(trainer)}
        inspect.signature(trainer).bind(None, **named)
    except TypeError as error:
        raise TrainerError(
            f"fine_tune cannot be called with a network ({error}); write def fine_tune(network): "
            f"..., and by name, where you want them: {', '.join(OFFERED)}."
        ) from error
    except ValueError:  # a builtin that tells nothing about itself
        return


def takes_steps(trainer: Trainer) -> bool:
    """Whether a function can be told how long to train, and thus be tried out."""
    return "steps" in _parameters(trainer)


def _parameters(trainer: Trainer) -> set[str]:
    """Names of what it offers to take, all where it takes any keyword."""
    try:
        parameters = inspect.signature(trainer).parameters
    except (TypeError, ValueError):
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set(OFFERED)
    return set(parameters)


def _take_over(network: nn.Module, found: Any, before: dict[str, torch.Tensor]) -> None:
    """The weights of a network that was given back, in place of those of this one.

    Args:
        network: the one that was to be trained.
        found: what the training gave back.
        before: the state of ``network`` when it began.
    """
    found = network if found is None else without_wrappers(found)
    if not isinstance(found, nn.Module):
        raise TrainerError(
            f"fine_tune gave {type(found).__name__}; expected the trained network, or nothing "
            "where it was trained in place."
        )
    shapes, wanted = (
        {name: in_words(tensor) for name, tensor in state.items()}
        for state in (found.state_dict(), before)
    )
    for name in [*wanted, *shapes]:
        if shapes.get(name) != wanted.get(name):
            raise TrainerError(
                f"fine_tune gave another network: {name!r} is {shapes.get(name, 'missing')}, and "
                f"was {wanted.get(name, 'missing')}. The pruned network is to keep its shape and "
                "its types."
            )
    if found is not network:
        network.load_state_dict(found.state_dict())
