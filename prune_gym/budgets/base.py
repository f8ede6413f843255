"""What a budget is: a function of a network that gives a number with a unit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.budgets.guard import differences, fingerprint, within
from prune_gym.errors import BudgetError, InvalidValueError, PruneGymError, UsageError
from prune_gym.utils.global_state import StateKeeper
from prune_gym.utils.registry import Registry
from prune_gym.utils.user_code import user_code
from prune_gym.utils.words import error_in_words, shortened

Measure = Callable[[nn.Module], float]
CountedTensors = Callable[[nn.Module, Any], Mapping[str, float]]
MeasureOn = Callable[[nn.Module, Any], float]
Compare = Callable[[nn.Module, nn.Module, Any], float]


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
    _keeper: StateKeeper = field(default_factory=StateKeeper, init=False, repr=False)

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

    def __call__(self, network: nn.Module, example: Any) -> float:
        """The budget of a network, in its unit.

        Args:
            network: in evaluation mode; it must come back as it was.
            example: one input batch of the network, (n, ...).

        Raises:
            BudgetError: it raised, took too long, changed the network, or gave NaN, infinity, a
                negative number or no number.
        """
        if self.counted is not None:
            weights = self.element_weights(network, example)
            tensors = network.state_dict()
            return float(sum(w * tensors[name].numel() for name, w in weights.items()))
        measure, measure_on = self.measure, self.measure_on
        if measure_on is not None:
            return self._checked(self._watched(lambda: measure_on(network, example), network))
        found = self._watched(lambda: measure(network) if measure else None, network)
        return self._checked(found)

    def element_weights(self, network: nn.Module, example: Any) -> dict[str, float]:
        """What ``counted`` says of a network: the weight of one element of each tensor, by name.

        Raises:
            BudgetError: it raised, names tensors that are not there, or gave a weight that is no
                finite number, 0 or above.
        """
        counted = self.counted
        if counted is None:
            raise UsageError(f"budget {self.name!r} counts nothing: it has no `counted`.")
        found = self._watched(lambda: counted(network, example))
        if not isinstance(found, Mapping):
            raise BudgetError(
                f"budget {self.name!r}: counted gave {_shown(found)}; expected a mapping from the "
                "names of tensors to the weight of one element."
            )
        tensors = network.state_dict()
        unknown = [name for name in found if name not in tensors]
        if unknown:
            raise BudgetError(
                f"budget {self.name!r}: counted names {_shown(unknown[0])}, and the network has "
                "no tensor of that name (network.state_dict() lists them)."
            )
        return {name: self._checked(weight) for name, weight in found.items()}

    def relative(
        self,
        network: nn.Module,
        unpruned: nn.Module,
        example: Any,
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
        value = self._by_the_side(network, unpruned, example, unpruned_value)
        if not math.isfinite(value / unpruned_value):
            raise BudgetError(
                f"budget {self.name!r} is {value:g}, and {unpruned_value:g} for the unpruned "
                "network: their ratio, the cost, is no finite number. Choose another unit."
            )
        return value

    def _by_the_side(
        self, network: nn.Module, unpruned: nn.Module, example: Any, unpruned_value: float
    ) -> float:
        compare = self.compare
        if compare is not None:
            found = self._watched(lambda: compare(network, unpruned, example), network, unpruned)
            return unpruned_value * self._checked(found)
        if self.in_turns:
            beside = self(unpruned, example)
            if beside <= 0.0:
                raise BudgetError(f"budget {self.name!r} of the unpruned network is now {beside}.")
            return unpruned_value * (self(network, example) / beside)
        return self(network, example)

    def _watched(self, measure: Callable[[], Any], *networks: nn.Module) -> Any:
        """What a black box returns; raises where it raised, or changed one of the networks."""
        before = [fingerprint(network) for network in networks]
        who = f"budget {self.name!r}"
        try:
            with user_code(who, BudgetError, self._keeper):
                value = measure() if self.timeout_s is None else within(self.timeout_s, measure)
        except BudgetError as error:  # one of its own, or that it raised anything else
            if str(error).startswith(who):
                raise
            raise BudgetError(f"{who}: {error}") from error
        except PruneGymError as error:
            raise BudgetError(f"{who} raised {error_in_words(error)}") from error
        for network, was in zip(networks, before, strict=True):
            changed = differences(was, fingerprint(network))
            if changed:
                raise BudgetError(
                    f"budget {self.name!r} changed the network it was given: {changed}. It must "
                    "leave it as it is; work on copy.deepcopy(network)."
                )
        return value

    def _checked(self, value: Any) -> float:
        """A number, 0 or above, of what a black box returned."""
        given = value
        try:
            if isinstance(value, torch.Tensor | np.ndarray) and math.prod(value.shape) == 1:
                value = value.item()
            is_number = isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)
            number = float(value) if is_number else math.nan
        except OverflowError:
            number = math.inf
        except Exception as error:  # of a type of its own
            raise BudgetError(
                f"budget {self.name!r} returned {_shown(given)}, which gives no number: "
                f"{error_in_words(error)}"
            ) from error
        if not is_number:
            raise BudgetError(
                f"budget {self.name!r} returned {_shown(value)}; expected a number, 0 or above."
            )
        if not math.isfinite(number) or number < 0.0:
            raise BudgetError(
                f"budget {self.name!r} returned {shortened(given)}; expected a finite number, 0 or "
                "above (1.8e308 at most)."
            )
        return number


def _shown(value: Any) -> str:
    return f"{shortened(value)} ({type(value).__name__})"


BUDGETS: Registry[Callable[..., Any]] = Registry("budget")
