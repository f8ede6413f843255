"""Metrics: how well a network does, and how that number becomes a reward.

A metric is judged on all examples of a split at once. Its number, in its own unit, is what people
read. The reward that is made of it is finite and the higher the better:

* where both ends are known (accuracy: 0 and 1), the way from the worst end to the best: in [0, 1];
* where the best end is known (an error: 0; R2: 1), scale / (scale + distance from it): in (0, 1],
  1 at the best end and 0.5 at a distance of ``scale``, which is that of the unpruned network where
  none is given;
* where no end is known, the number / ``scale``, with a minus where lower is better.

A network whose number is not finite gets the lowest reward there is, 0. Where no end is known there
is no lowest, and it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from prune_gym.errors import InvalidTypeError, InvalidValueError, MetricError
from prune_gym.utils.trees import clone, device_of, in_words, joined, leaves
from prune_gym.utils.user_code import user_code
from prune_gym.utils.words import shortened

Measure: TypeAlias = Callable[[Any, Any], Any]  # (outputs, targets) of all examples -> number

ROUNDING = 1e-6  # how far beyond its ends a number may lie


@dataclass(frozen=True, eq=False)
class Metric:
    """A number that says how well a network does.

    Args:
        measure: a callable ``(outputs, targets) -> number``, called once with the outputs and
            targets of all examples, or a ``torchmetrics.Metric``, which is fed batch by batch
            (it is copied; yours stays as it is).
        name: what it is called everywhere; None = that of the function or class.
        higher_is_better: None = as the ``torchmetrics.Metric`` says; True for others.
        lowest: the least that it can be; None = unknown, or as the ``torchmetrics.Metric`` says.
        highest: the most that it can be; likewise.
        scale: in its unit; see the module.
        key: which entry counts, where a ``torchmetrics.Metric`` gives a dict of them.
        loss: name of the loss that goes with it; None = none is known.
        prepare: ``(outputs, targets) -> (outputs, targets)`` of a batch as ``measure`` takes them;
            it refuses what does not fit.
    """

    measure: Any
    name: str | None = None
    higher_is_better: bool | None = None
    lowest: float | None = None
    highest: float | None = None
    scale: float | None = None
    key: str | None = None
    loss: str | None = None
    prepare: Callable[[Any, Any], tuple[Any, Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Fill in what a ``torchmetrics.Metric`` says of itself."""
        if not callable(self.measure):
            raise InvalidTypeError(
                f"metric: measure={shortened(self.measure)} must be a callable (outputs, targets) "
                "-> number, or a torchmetrics.Metric."
            )
        own = type(self.measure).__name__
        known = self.measure if self.is_stateful else None
        is_better = getattr(known, "higher_is_better", None)
        found = {
            "name": str(getattr(self.measure, "__name__", own)),
            "higher_is_better": True if is_better is None else bool(is_better),
            "lowest": getattr(known, "plot_lower_bound", None),
            "highest": getattr(known, "plot_upper_bound", None),
        }
        for name, value in found.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.scale is not None and not 0.0 < self.scale < math.inf:
            raise InvalidValueError(
                f"metric {self.name!r}: scale={self.scale!r} must be a finite number above 0."
            )

    @property
    def is_stateful(self) -> bool:
        """Whether it is a ``torchmetrics.Metric`` (told by what it has: the import takes long)."""
        return all(hasattr(self.measure, name) for name in ("update", "compute", "reset", "clone"))

    def __call__(self, outputs: Any, targets: Any) -> float:
        """Its number for the outputs and targets of some examples (raises MetricError)."""
        tally = Tally(self, device_of(outputs))
        tally.add(outputs, targets)
        return tally.value()

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The worst number and the best one, each None where it is not known."""
        both = self.lowest, self.highest
        return both if self.higher_is_better else (both[1], both[0])

    def reward(self, value: float) -> float:
        """The reward of a number; see the module.

        Raises:
            MetricError: a number beyond the ends, or one that is not finite where no end is known.
        """
        worst, best = self.ends
        if not math.isfinite(value):
            if best is None:
                raise MetricError(
                    f"metric {self.name!r} is {value} of a pruned network; say what the best "
                    "number is, so that it counts as the worst: prune_gym.Metric(..., "
                    f"{'highest' if self.higher_is_better else 'lowest'}=...)."
                )
            return 0.0
        for end, sign in ((self.lowest, 1.0), (self.highest, -1.0)):
            if end is not None and sign * (value - end) < -ROUNDING * max(1.0, abs(end)):
                raise MetricError(
                    f"metric {self.name!r} is {value:.6g}, but it is said to lie between "
                    f"{self.lowest} and {self.highest}. Do targets and outputs fit?"
                )
        scale = 1.0 if self.scale is None else self.scale
        if best is None:
            return value / scale if self.higher_is_better else -value / scale
        if worst is None:
            return scale / (scale + abs(best - value))
        return min(1.0, max(0.0, (value - worst) / (best - worst)))

    def value(self, reward: float) -> float:
        """The number that has a reward: the way back."""
        worst, best = self.ends
        scale = 1.0 if self.scale is None else self.scale
        sign = 1.0 if self.higher_is_better else -1.0
        if best is None:
            return sign * reward * scale
        if worst is None:
            return best - sign * (scale / reward - scale) if reward > 0.0 else -sign * math.inf
        return worst + reward * (best - worst)

    def scaled(self, unpruned: float) -> Metric:
        """The same metric with a scale where it needs one and has none.

        Args:
            unpruned: its number for the unpruned network.
        """
        worst, best = self.ends
        if self.scale is not None or best is None or worst is not None:
            return self
        distance = abs(best - unpruned)
        return replace(self, scale=distance if 0.0 < distance < math.inf else 1.0)

    def number(self, given: Any) -> float:
        """What a measurement gave as a number (raises MetricError)."""
        if self.key is not None and isinstance(given, dict) and self.key in given:
            given = given[self.key]
        if isinstance(given, dict):
            raise MetricError(
                f"metric {self.name!r} gives several numbers: {', '.join(map(str, given))}; name "
                "the one that counts: prune_gym.Metric(..., key=...)."
            )
        given = given.detach() if isinstance(given, torch.Tensor) else given
        try:
            return float(given)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            words = in_words(given) if leaves(given) else shortened(given)
            raise MetricError(
                f"metric {self.name!r} gives {words}; expected one number."
            ) from error


class Tally:
    """One measurement of a metric, batch by batch.

    Args:
        metric: what is measured.
        device: of outputs and targets.
    """

    def __init__(self, metric: Metric, device: torch.device) -> None:
        self._metric = metric
        self._batches: list[tuple[Any, Any]] = []
        self._counter: Any = None
        if metric.is_stateful:
            self._counter = metric.measure.clone()
            self._counter.reset()
            self._counter.to(device)

    def add(self, outputs: Any, targets: Any) -> None:
        """Take in a batch (raises MetricError)."""
        if self._metric.prepare is not None:
            try:
                outputs, targets = self._metric.prepare(outputs, targets)
            except InvalidValueError as error:
                raise MetricError(f"metric {self._metric.name!r}: {error}") from error
        if self._counter is None:
            # the targets are the data's own, and a user's function may work in place
            own = self._metric.prepare is None
            self._batches.append((outputs, clone(targets) if own else targets))
        else:
            self._guarded(lambda: self._counter.update(outputs, targets))

    def value(self) -> float:
        """The number of all batches (raises MetricError)."""
        if self._counter is not None:
            return self._metric.number(self._guarded(self._counter.compute))
        outputs, targets = (joined(parts) for parts in zip(*self._batches, strict=True))
        return self._metric.number(self._guarded(lambda: self._metric.measure(outputs, targets)))

    def _guarded(self, function: Callable[[], Any]) -> Any:
        with user_code(f"metric {self._metric.name!r}", MetricError):
            return function()
