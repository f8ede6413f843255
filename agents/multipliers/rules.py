"""Lagrange multipliers: one protocol, and the rules that move them.

An algorithm holds a `Multiplier`, never a particular one: it reads ``value`` and, once per
rollout, reports how far the mean episodic cost was from its limit. The rules here are plain
data, so that a multiplier is saved with the model that owns it.

| rule | value |
|---|---|
| `GradientMultiplier` | moves in proportion to the violation |
| `AdamMultiplier` | moves by Adam, kept positive by softplus |
| `PIDMultiplier` | follows a PID controller |
| `BarrierMultiplier` | grows as the limit comes near (IPO) |
| `PenaltyMultiplier` | a constant while the limit is broken, else zero (P3O) |
| `FixedMultiplier` | a constant |
| `VectorMultiplier` | one rule for each of several costs |
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from agents.costs import FloatArray
from agents.errors import InvalidTypeError, InvalidValueError
from agents.multipliers.checks import check_number, check_range, check_violation, clip


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
            InvalidValueError: If ``violation`` is not a finite number.
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
        check_number("learning_rate", self.learning_rate, low=0.0, exclusive=True)
        check_range(self.initial, self.upper_bound)
        self._value = float(self.initial)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Make one projected gradient step; see `Multiplier.update`."""
        step = self.learning_rate * check_violation(violation)
        self._value = clip(self._value + step, self.upper_bound)
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
            check_number(name, getattr(self, name), low=0.0)
        if self.kp == self.ki == self.kd == 0.0:
            raise InvalidValueError(
                "kp, ki and kd are all 0; at least one must be positive, or the multiplier "
                "never moves. Use FixedMultiplier for a constant."
            )
        check_range(self.initial, self.upper_bound)
        if not isinstance(self.ema, Real) or not 0.0 <= self.ema < 1.0:
            raise InvalidValueError(f"ema is {self.ema!r}; it must be in [0, 1). Try 0.5.")
        if not isinstance(self.delay, int) or self.delay < 1:
            raise InvalidValueError(f"delay is {self.delay!r}; it must be an integer >= 1. Try 1.")
        self._value = self._integral = float(self.initial)
        self._smoothed = deque(maxlen=self.delay + 1)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Make one step of the controller; see `Multiplier.update`."""
        violation = check_violation(violation)
        previous = self._smoothed[-1] if self._smoothed else violation
        self._smoothed.append(self.ema * previous + (1.0 - self.ema) * violation)
        self._integral = clip(self._integral + self.ki * violation, self.upper_bound)
        # Until `delay` updates have passed the oldest one stands in: no kick from a made-up past.
        growth = max(0.0, self._smoothed[-1] - self._smoothed[0])
        value = self.kp * self._smoothed[-1] + self._integral + self.kd * growth
        self._value = clip(value, self.upper_bound)
        return self._value


@dataclass(kw_only=True)
class AdamMultiplier:
    """``softplus(x)``, where Adam moves ``x`` up the violation (arXiv 2110.08558).

    The value is ``min(log(1 + exp(x)), upper_bound)``, and an update makes a step of Adam on ``x``
    with the slope ``violation * sigmoid(x)``, the derivative of ``violation * softplus(x)``: ``x <-
    x + learning_rate * m / (sqrt(v) + 1e-8)``, m and v being the bias-corrected moving averages,
    with the weights ``betas``, of the slope and of its square. At the upper bound a broken limit
    moves nothing.

    Adam divides a step by its usual size: ``x`` moves by about ``learning_rate`` per update
    whatever the violation, and lags behind when its sign turns. It is what the pruning paper and
    Safety Starter Agents (Ray et al. 2019) use; `GradientMultiplier` settles sooner where costs
    are about 1.

    Args:
        learning_rate: Adam's step size for ``x``, positive. The paper takes 1.0 for costs in
            percent.
        initial: Value before the first update, in (0, upper_bound].
        upper_bound: Largest value, positive; infinite by default.
        betas: Adam's weights of the past, each in [0, 1).
    """

    learning_rate: float = 0.05
    initial: float = 1.0
    upper_bound: float = math.inf
    betas: tuple[float, float] = (0.9, 0.999)
    _x: float = field(init=False)
    _moments: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _updates: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0.0, exclusive=True)
        check_range(self.initial, self.upper_bound)
        check_number("initial", self.initial, low=0.0, exclusive=True)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InvalidValueError(f"betas is {self.betas!r}; it must be two numbers in [0, 1).")
        self._x = self.initial + math.log(-math.expm1(-self.initial))  # softplus inverted

    @property
    def value(self) -> float:
        """The multiplier, in (0, upper_bound]."""
        return clip(max(self._x, 0.0) + math.log1p(math.exp(-abs(self._x))), self.upper_bound)

    def update(self, violation: float) -> float:
        """Make one step of Adam; see `Multiplier.update`."""
        violation = check_violation(violation)
        if violation > 0.0 and self.value >= self.upper_bound:
            return self.value  # no wind-up beyond the bound
        slope = violation / (1.0 + math.exp(-max(self._x, -700.0)))  # d softplus / dx = sigmoid
        self._updates += 1
        first, second = self.betas
        mean = first * self._moments[0] + (1.0 - first) * slope
        square = second * self._moments[1] + (1.0 - second) * slope * slope
        self._moments = (mean, square)
        mean /= 1.0 - first**self._updates
        square /= 1.0 - second**self._updates
        self._x += self.learning_rate * mean / (math.sqrt(square) + 1e-8)
        return self.value


@dataclass(frozen=True)
class FixedMultiplier:
    """A multiplier that never moves: a fixed price of cost, 0.0 to ignore it.

    Args:
        value: The multiplier, finite and not negative.
    """

    value: float

    def __post_init__(self) -> None:
        check_number("value", self.value, low=0.0)

    def update(self, violation: float) -> float:
        """Return the value unchanged; see `Multiplier.update`."""
        check_violation(violation)
        return self.value


class VectorMultiplier:
    """One multiplier for each cost of ``info["costs"]``.

    Args:
        multipliers: One rule per cost, in the environment's order.
    """

    def __init__(self, multipliers: Sequence[Multiplier]) -> None:
        if not multipliers:
            raise InvalidValueError("multipliers is empty; give one for every cost.")
        self.multipliers = tuple(_check_rule(rule) for rule in multipliers)
        if len({id(rule) for rule in self.multipliers}) < len(self.multipliers):
            raise InvalidValueError(
                "multipliers has the same object twice; it would follow two costs at once. Make "
                "one object for every cost."
            )

    @property
    def value(self) -> FloatArray:
        """The multipliers, float64 of shape (n_costs,)."""
        return np.array([rule.value for rule in self.multipliers])

    def update(self, violation: FloatArray) -> FloatArray:
        """Move every multiplier by its own violation, shape (n_costs,).

        Raises:
            InvalidValueError: If there are not so many; none moves then.
        """
        if np.shape(violation) != (len(self.multipliers),):
            raise InvalidValueError(
                f"violation is {violation!r}; it must be {len(self.multipliers)} numbers, one for "
                "every multiplier."
            )
        for rule, own in zip(self.multipliers, violation, strict=True):
            rule.update(float(own))
        return self.value

    def __repr__(self) -> str:
        return f"VectorMultiplier({list(self.multipliers)!r})"


AnyMultiplier: TypeAlias = Multiplier | VectorMultiplier


def check_multiplier(multiplier: Any) -> AnyMultiplier:
    """Return ``multiplier`` if it has what the protocol asks for, a default one for None.

    A sequence becomes a `VectorMultiplier`.

    Raises:
        InvalidTypeError: If it is none of these.
    """
    if multiplier is None:
        return GradientMultiplier()
    if isinstance(multiplier, VectorMultiplier):
        return multiplier
    if isinstance(multiplier, list | tuple):
        return VectorMultiplier(multiplier)
    return _check_rule(multiplier)


def _check_rule(multiplier: Any) -> Multiplier:
    if isinstance(multiplier, type) or not isinstance(multiplier, Multiplier):
        raise InvalidTypeError(
            f"multiplier is {multiplier!r}; it must be an object with a `value` and an "
            "`update(violation)`. Pass for example GradientMultiplier() or FixedMultiplier(1.0), "
            "or a list with one for every cost."
        )
    return multiplier
