"""What is asked of a network: its metric, its loss, which outputs count, and who trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from prune_gym.errors import InvalidTypeError, InvalidValueError, LossError
from prune_gym.tasks.losses import LOSSES, Loss, cross_entropy
from prune_gym.tasks.metrics import Metric
from prune_gym.tasks.named_metrics import ACCURACY, METRICS
from prune_gym.utils.registry import Registry
from prune_gym.utils.trees import call, in_words, leaves
from prune_gym.utils.user_code import user_code
from prune_gym.utils.words import error_in_words, shortened

Output: TypeAlias = Callable[[Any], Any] | str | int | None
Trainer: TypeAlias = Callable[..., Any]

ONE_LABEL = ("accuracy", "top5", "balanced_accuracy", "f1")  # metrics of one class an example


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a network.

    Attributes:
        metric: how well it does.
        loss: what it is trained by, ``(outputs, targets) -> ()``; None = it cannot be trained here.
        output: picks from what the network gives: a key, an index, or a function; None = all.
        fine_tune: trains a network in place of the recipe here; see `make_problem`.
    """

    metric: Metric = ACCURACY
    loss: Loss | None = cross_entropy
    output: Output = None
    fine_tune: Trainer | None = None

    def outputs(self, given: Any) -> Any:
        """What metric and loss get of what a network gives."""
        if self.output is None:
            return given
        if callable(self.output):
            with user_code("output", InvalidValueError):
                return self.output(given)
        if isinstance(given, torch.Tensor):
            raise InvalidValueError(
                f"output={self.output!r}: the network gives one tensor, {in_words(given)}; leave "
                "output= out, or give a function of it."
            )
        has_names = dataclasses.is_dataclass(given) or hasattr(given, "_fields")
        try:
            if has_names and isinstance(self.output, str):
                return getattr(given, self.output)
            return given[self.output]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise InvalidValueError(
                f"output={self.output!r}: the network gives {in_words(given)}; name a part of it, "
                "or give a function of the outputs."
            ) from error

    def run(self, network: nn.Module, inputs: Any) -> Any:
        """What metric and loss get of a network's outputs."""
        return self.outputs(call(network, inputs))

    def need_loss(self) -> Loss:
        """The loss; raises LossError where there is none."""
        if self.loss is None:
            raise LossError(
                f"metric {self.metric.name!r} tells no loss, which training and gradients need; "
                "give one: loss='mse', loss=nn.BCEWithLogitsLoss(), or a function (outputs, "
                "targets) -> number. (By the command: --loss, or --finetune-steps 0.)"
            )
        return self.loss

    def loss_of(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss of a batch, ().

        Raises:
            LossError: there is none, it raised, or it is not one number.
        """
        loss_function = self.need_loss()
        name = loss_name(loss_function)
        with user_code(f"loss {name!r}", LossError):
            try:
                loss = loss_function(outputs, targets)
            except InvalidValueError as error:
                raise LossError(f"loss {name!r}: {error}") from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            words = in_words(loss) if leaves(loss) else shortened(loss)
            raise LossError(f"loss {name!r} gives {words}; expected one number, as a tensor ().")
        return loss.reshape(())


def loss_name(loss: Any) -> str:
    """What a loss is called."""
    return str(getattr(loss, "__name__", type(loss).__name__))


def check_requests(metric: Any, loss: Any, output: Any, fine_tune: Any) -> None:
    """Raise for what can never be a metric, a loss, an output or a trainer; names are looked up."""
    if isinstance(metric, str):
        METRICS.get(metric)
    elif not callable(metric) and not isinstance(metric, Metric):
        raise InvalidTypeError(
            f"metric={shortened(metric)}: expected a name ({', '.join(METRICS)}), a function "
            "(outputs, targets) -> number, a torchmetrics.Metric, or a prune_gym.Metric."
        )
    if isinstance(loss, str):
        LOSSES.get(loss)
    elif loss is not None and not callable(loss):
        raise InvalidTypeError(
            f"loss={shortened(loss)}: expected a name ({', '.join(LOSSES)}), an nn.Module, or a "
            "function (outputs, targets) -> number."
        )
    if not (output is None or callable(output) or isinstance(output, str | int)):
        raise InvalidTypeError(
            f"output={shortened(output)}: expected a key or an index of what the network gives, or "
            "a function of it."
        )
    if isinstance(fine_tune, str):
        _CODE["fine_tune"].get(fine_tune)
    elif fine_tune is not None and not callable(fine_tune):
        raise InvalidTypeError(
            f"fine_tune={shortened(fine_tune)}: expected a function that trains a network, or its "
            "name, 'module:function'."
        )


_CODE: dict[str, Registry[Any]] = {name: Registry(name) for name in ("fine_tune", "output")}


def loaded(argument: str, given: Any) -> Any:
    """What is meant by the text of an ``output`` or a ``fine_tune``: code, an index, a key."""
    if not isinstance(given, str):
        return given
    if ":" in given or argument == "fine_tune":
        return _CODE[argument].get(given)
    return int(given) if given.lstrip("-").isdigit() else given


def instance(argument: str, given: Any) -> Any:
    """An instance where a class is given, as ``--loss torch.nn:BCEWithLogitsLoss`` does.

    Raises:
        InvalidTypeError: it cannot be made without arguments.
    """
    if not isinstance(given, type):
        return given
    try:
        made = given()
    except Exception as error:
        raise InvalidTypeError(
            f"{argument}={given.__name__} is a class that cannot be made without arguments "
            f"({error_in_words(error)}); give an instance of it."
        ) from error
    if not callable(made):
        raise InvalidTypeError(
            f"{argument}={given.__name__} is a class whose instances cannot be called; expected "
            "(outputs, targets) -> number."
        )
    return made


CLASSIFICATION = Task()
