"""Lagrange multipliers: one protocol, and the rules that move them.

An algorithm holds a `Multiplier`, never a particular one: it reads ``value`` and, once per
rollout, reports how far the mean episodic cost was from its limit. The rules here are plain
picklable objects, so that a multiplier is saved with the model that owns it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Multiplier(Protocol):
    """Price of one unit of cost in units of reward, and the rule that moves it."""

    @property
    def value(self) -> float:
        """The multiplier, never negative."""

    def update(self, violation: float) -> float:
        """Move the multiplier once and return its new value.

        Args:
            violation: Mean episodic cost minus its limit; positive when the limit is broken.

        Raises:
            ValueError: If ``violation`` is not a finite number.
        """


@dataclass(kw_only=True)
class GradientMultiplier:
    """Projected dual ascent: ``value <- clip(value + learning_rate * violation, 0, upper_bound)``.

    Plain gradient steps, proportional to the violation: an adaptive optimiser would make steps
    of about ``learning_rate`` whatever the violation and lag behind when its sign turns.

    Args:
        learning_rate: Change of the multiplier per unit of violation and update, positive.
        initial: Value before the first update, in [0, upper_bound].
        upper_bound: Largest value, positive; infinite by default.
    """

    learning_rate: float = 1.0
    initial: float = 1.0
    upper_bound: float = math.inf
    _value: float = field(init=False)

    def __post_init__(self) -> None:
        _check("learning_rate", self.learning_rate, low=0.0, exclusive=True)
        _check_range(self.initial, self.upper_bound)
        self._value = float(self.initial)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Make one projected gradient step; see `Multiplier.update`."""
        step = self.learning_rate * _check_violation(violation)
        self._value = _clip(self._value + step, self.upper_bound)
        return self._value


@dataclass(kw_only=True)
class PIDMultiplier:
    """PID control of the violation (Stooke et al. 2020, https://arxiv.org/abs/2007.03964).

    The value is ``clip(kp * P + I + kd * D, 0, upper_bound)`` with

    - P: the smoothed violation, which answers at once and damps the oscillation of I,
    - I: ``clip(I + ki * violation, 0, upper_bound)``; the clipping is the anti-windup,
    - D: how much the smoothed violation grew over ``delay`` updates, if it grew.

    The gains are constants in the unit of the cost: for costs a hundred times larger, take gains
    a hundred times smaller. With ``kp = kd = 0`` this is `GradientMultiplier` with
    ``learning_rate = ki``.

    Args:
        kp: Multiplier per unit of violation.
        ki: Change of the multiplier per unit of violation and update.
        kd: Multiplier per unit of cost that the violation grew over ``delay`` updates.
        initial: Value before the first update, in [0, upper_bound]; it seeds I.
        upper_bound: Largest value, positive; infinite by default.
        ema: Weight of the past in the smoothed violation, in [0, 1); 0.0 smooths nothing.
        delay: Number of updates that D looks back, at least 1.
    """

    kp: float = 1.0
    ki: float = 0.5
    kd: float = 0.5
    initial: float = 1.0
    upper_bound: float = math.inf
    ema: float = 0.5
    delay: int = 1
    _value: float = field(init=False)
    _integral: float = field(init=False)
    _smoothed: deque[float] = field(init=False)  # the last delay + 1, newest at the right

    def __post_init__(self) -> None:
        for name in ("kp", "ki", "kd"):
            _check(name, getattr(self, name), low=0.0)
        if self.kp == self.ki == self.kd == 0.0:
            raise ValueError(
                "kp, ki and kd are all 0; at least one must be positive, or the multiplier "
                "never moves. Use FixedMultiplier for a constant."
            )
        _check_range(self.initial, self.upper_bound)
        if not isinstance(self.ema, Real) or not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema is {self.ema!r}; it must be in [0, 1). Try 0.5.")
        if not isinstance(self.delay, int) or self.delay < 1:
            raise ValueError(f"delay is {self.delay!r}; it must be an integer >= 1. Try 1.")
        self._value = self._integral = float(self.initial)
        self._smoothed = deque(maxlen=self.delay + 1)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Make one step of the controller; see `Multiplier.update`."""
        violation = _check_violation(violation)
        previous = self._smoothed[-1] if self._smoothed else violation
        self._smoothed.append(self.ema * previous + (1.0 - self.ema) * violation)
        self._integral = _clip(self._integral + self.ki * violation, self.upper_bound)
        # Until `delay` updates have passed the oldest one stands in: no kick from a made-up past.
        growth = max(0.0, self._smoothed[-1] - self._smoothed[0])
        value = self.kp * self._smoothed[-1] + self._integral + self.kd * growth
        self._value = _clip(value, self.upper_bound)
        return self._value


@dataclass(frozen=True)
class FixedMultiplier:
    """A multiplier that never moves: a fixed price of cost, 0.0 to ignore it.

    Args:
        value: The multiplier, finite and not negative.
    """

    value: float

    def __post_init__(self) -> None:
        _check("value", self.value, low=0.0)

    def update(self, violation: float) -> float:
        """Return the value unchanged; see `Multiplier.update`."""
        _check_violation(violation)
        return self.value


def check_multiplier(multiplier: Any) -> Multiplier:
    """Return ``multiplier`` if it has what the protocol asks for, a default one for None.

    Raises:
        TypeError: If it has not.
    """
    if multiplier is None:
        return GradientMultiplier()
    if isinstance(multiplier, type) or not isinstance(multiplier, Multiplier):
        raise TypeError(
            f"multiplier is {multiplier!r}; it must be an object with a `value` and an "
            "`update(violation)`. Pass for example GradientMultiplier() or FixedMultiplier(1.0)."
        )
    return multiplier


def _clip(value: float, upper_bound: float) -> float:
    return min(max(value, 0.0), upper_bound)


def _check(name: str, value: Any, *, low: float, exclusive: bool = False) -> None:
    """Raise unless ``value`` is a finite number >= ``low`` (> if ``exclusive``)."""
    number = float(value) if isinstance(value, Real) else math.nan
    if not (math.isfinite(number) and (number > low or (number == low and not exclusive))):
        allowed = f"{'>' if exclusive else '>='} {low:g}"
        raise ValueError(f"{name} is {value!r}; it must be a finite number {allowed}.")


def _check_range(initial: Any, upper_bound: Any) -> None:
    if not isinstance(upper_bound, Real) or not float(upper_bound) > 0.0:
        raise ValueError(
            f"upper_bound is {upper_bound!r}; it must be a number > 0. "
            "Leave it out for no bound at all."
        )
    _check("initial", initial, low=0.0)
    if initial > upper_bound:
        raise ValueError(
            f"initial is {initial!r}; it must be in [0, upper_bound] with upper_bound "
            f"{upper_bound!r}. Lower initial or raise upper_bound."
        )


def _check_violation(violation: float) -> float:
    if not math.isfinite(violation):
        raise ValueError(
            f"violation is {violation!r}; it must be a finite number: mean episodic cost minus "
            "limit. Skip the update when no episode finished."
        )
    return float(violation)
