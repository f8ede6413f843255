"""What a budget is: a function of a network that gives a number with a unit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_gym.budgets.guard import differences, fingerprint, within
from prune_gym.errors import BudgetError, InvalidValueError
from prune_gym.utils.registry import Registry

Measure = Callable[[nn.Module], float]
CountedTensors = Callable[[nn.Module, torch.Tensor], Mapping[str, float]]
MeasureOn = Callable[[nn.Module, torch.Tensor], float]
Compare = Callable[[nn.Module, nn.Module, torch.Tensor], float]


@dataclass(frozen=True, eq=False)
class Budget:
    """A function network -> number, and what is known about it.

    Args:
        name: what it is called in infos, logs and reports.
        measure: called with a compact network in evaluation mode, which it must leave as it is;
            with ``cost_mode="terminal"`` once for each new decision, at the end of its episode
            (a repeated one is remembered where the recovery draws nothing).
        unit: of the number, e.g. ``"ms"``.
        monotone: whether removing filters, whichever, never raises the number: by the structure of
            the network, not by the values of weights that a recovery changes.
            ``cost_mode="dense"`` and `ProjectionWrapper` need it.
        counted: for budgets that are weighted counts of tensor elements: the weight of one element
            of each tensor, by name. They are evaluated without building a network.
        deterministic: whether equal networks give equal numbers (``counted`` ones do). What is
            not is measured several times anew before a search hands its network over.
        measure_on: like ``measure``, called with the network and one input, (1, ...).
        compare: for numbers that drift with the machine: called with a network, the unpruned one
            and one input; measures both in turns and gives the ratio, which then is the cost.
        in_turns: does the same with ``measure`` or ``measure_on``: the unpruned network is
            measured right before each network, and the ratio is the cost.
        timeout_s: seconds that ``measure`` may take; None = as long as it likes. Python cannot
            end a function: one that takes longer is left behind in a thread of its own.
    """

    name: str
    measure: Measure | None = None
    unit: str = ""
    monotone: bool = False
    counted: CountedTensors | None = None
    deterministic: bool = False
    measure_on: MeasureOn | None = None
    compare: Compare | None = None
    in_turns: bool = False
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Exactly one way of evaluation is needed."""
        ways = (self.measure, self.counted, self.measure_on)
        if sum(way is not None for way in ways) != 1:
            raise InvalidValueError(
                f"budget {self.name!r}: give `measure` or `counted`, one of them (or `measure_on` "
                "in their place)."
            )
        if self.counted is not None and (self.in_turns or self.compare or self.timeout_s):
            raise InvalidValueError(
                f"budget {self.name!r}: in_turns, compare and timeout_s are for budgets that are "
                "measured; leave them out beside `counted`."
            )
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise InvalidValueError(
                f"budget {self.name!r}: timeout_s={self.timeout_s!r} must be above 0, or None."
            )

    @property
    def is_deterministic(self) -> bool:
        """Whether equal networks are known to give equal numbers."""
        return self.deterministic or self.counted is not None

    def __call__(self, network: nn.Module, example: torch.Tensor) -> float:
        """The budget of a network, in its unit.

        Args:
            network: in evaluation mode; it must come back as it was.
            example: one input batch of the network, (n, ...).

        Raises:
            BudgetError: it raised, took too long, changed the network, or gave NaN, infinity, a
                negative number or no number.
        """
        if self.counted is not None:
            weights = self.counted(network, example)
            tensors = network.state_dict()
            return float(sum(w * tensors[name].numel() for name, w in weights.items()))
        measure, measure_on = self.measure, self.measure_on
        if measure_on is not None:
            return self._watched(lambda: measure_on(network, example), network)
        return self._watched(lambda: measure(network) if measure else None, network)

    def relative(
        self,
        network: nn.Module,
        unpruned: nn.Module,
        example: torch.Tensor,
        unpruned_value: float,
    ) -> float:
        """The budget of a network, in its unit, by the side of the unpruned one.

        Budgets that are measured in turns give ``unpruned_value`` times the ratio found just now,
        so that a machine that has become slower meanwhile changes nothing; others give their
        number.

        Args:
            network: in evaluation mode.
            unpruned: the network that costs are relative to.
            example: one input batch of both, (n, ...).
            unpruned_value: the budget of the unpruned network, as it was measured first.
        """
        compare = self.compare
        if compare is not None:
            ratio = self._watched(lambda: compare(network, unpruned, example), network, unpruned)
            return unpruned_value * ratio
        if self.in_turns:
            beside = self(unpruned, example)
            if beside <= 0.0:
                raise BudgetError(f"budget {self.name!r} of the unpruned network is now {beside}.")
            return unpruned_value * (self(network, example) / beside)
        return self(network, example)

    def _watched(self, measure: Callable[[], Any], *networks: nn.Module) -> float:
        before = [fingerprint(network) for network in networks]
        try:
            value = measure() if self.timeout_s is None else within(self.timeout_s, measure)
        except (Exception, SystemExit) as error:  # sys.exit() in a measurement ends no search
            if isinstance(error, BudgetError):
                raise BudgetError(f"budget {self.name!r}: {error}") from error
            raise BudgetError(
                f"budget {self.name!r} raised {type(error).__name__}: {error}"
            ) from error
        for network, was in zip(networks, before, strict=True):
            changed = differences(was, fingerprint(network))
            if changed:
                raise BudgetError(
                    f"budget {self.name!r} changed the network it was given: {changed}. It must "
                    "leave it as it is; work on copy.deepcopy(network)."
                )
        return self._checked(value)

    def _checked(self, value: Any) -> float:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise BudgetError(
                f"budget {self.name!r} returned {value!r} ({type(value).__name__}); expected a "
                "number, 0 or above."
            )
        number = float(value)
        if not math.isfinite(number) or number < 0.0:
            raise BudgetError(
                f"budget {self.name!r} returned {number!r}; expected a finite number, 0 or above."
            )
        return number


BUDGETS: Registry[Callable[..., Any]] = Registry("budget")
