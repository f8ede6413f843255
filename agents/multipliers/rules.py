"""Lagrange multipliers: one protocol, and the rules that move them.

An algorithm holds a `Multiplier`, never a particular one: it reads ``value`` and, once per
rollout, reports how far the mean episodic cost was from its limit, in units of the limit:
``(J_c - limit) / limit``. So a rule has no unit, and its values serve problems of all sizes; see
`Constrained` for the units, and for who wants others. The rules here are plain data, so that a
multiplier is saved with the model that owns it.

| rule | value |
|---|---|
| `GradientMultiplier` | moves in proportion to the violation |
| `AdamMultiplier` | moves by Adam, kept positive by softplus and a floor |
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
    """The weight of cost against reward, each in its unit, and the rule that moves it."""

    @property
    def value(self) -> float:
        """The multiplier, never negative."""

    def update(self, violation: float) -> float:
        """Move the multiplier once and return its new value.

        Args:
            violation: Mean episodic cost minus its limit, over the limit; positive when the limit
                is broken.

        Raises:
            InvalidValueError: If ``violation`` is not a finite number.
        """


@dataclass(kw_only=True)
class GradientMultiplier:
    """Projected dual ascent: ``value <- clip(value + learning_rate * violation, 0, upper_bound)``.

    Plain gradient steps, proportional to the violation: an adaptive optimiser would make steps
    of about ``learning_rate`` whatever the violation and lag behind when its sign turns.

    Args:
        learning_rate: Change of the multiplier per unit of violation and update, positive. With 1.0
            an episode of twice the limit adds 1.0, twice what most problems need in the end: for
            policies that follow within a few updates. The agents of the zoo take 0.02 to 0.1.
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
    - D: how much the cost, smoothed by a filter of its own, grew over ``delay`` updates, if it
      grew.

    - Paper: the same three terms, ``P`` and ``D`` each behind an exponential filter; in its code
      both forget 5 % per update, ``D`` looks back 10 of them, and its memory begins with zeros.
    - Ours: those terms. The limit stands still, so that the cost grows as the violation does.
    - Deviations: filters begin at the first violation, not at zero, and until ``delay`` updates
      have passed D looks back to the first one: no kick from a made-up past. The defaults forget
      faster and look back less, for trainings of dozens of updates instead of thousands.

    With ``kp = kd = 0`` this is `GradientMultiplier` with ``learning_rate = ki``.

    Args:
        kp: Multiplier per unit of violation.
        ki: Change of the multiplier per unit of violation and update.
        kd: Multiplier per unit that the smoothed cost grew over ``delay`` updates.
        initial: Value before the first update, in [0, upper_bound]; it seeds I.
        upper_bound: Largest value, positive; infinite by default.
        ema: Weight of the past in P, in [0, 1); 0.0 smooths nothing.
        delay: Number of updates that D looks back, at least 1.
        derivative_ema: Weight of the past in the cost that D follows, in [0, 1); that of P if left
            out.
    """

    kp: float = 1.0
    ki: float = 0.5
    kd: float = 0.5
    initial: float = 1.0
    upper_bound: float = math.inf
    ema: float = 0.5
    delay: int = 1
    derivative_ema: float | None = None
    _value: float = field(init=False)
    _integral: float = field(init=False)
    _proportional: deque[float] = field(init=False)  # the last smoothed violation, if there is one
    _smoothed: deque[float] = field(init=False)  # what D follows, delay + 1, newest at the right

    def __post_init__(self) -> None:
        for name in ("kp", "ki", "kd"):
            check_number(name, getattr(self, name), low=0.0)
        if self.kp == self.ki == self.kd == 0.0:
            raise InvalidValueError(
                "kp, ki and kd are all 0; at least one must be positive, or the multiplier "
                "never moves. Use FixedMultiplier for a constant."
            )
        check_range(self.initial, self.upper_bound)
        for name in ("ema", "derivative_ema"):
            past: Any = getattr(self, name)
            if past is None and name == "derivative_ema":
                continue
            if not isinstance(past, Real) or not 0.0 <= float(past) < 1.0:
                raise InvalidValueError(f"{name} is {past!r}; it must be in [0, 1). Try 0.5.")
        if not isinstance(self.delay, int) or self.delay < 1:
            raise InvalidValueError(f"delay is {self.delay!r}; it must be an integer >= 1. Try 1.")
        self._value = self._integral = float(self.initial)
        self._proportional = deque(maxlen=1)
        self._smoothed = deque(maxlen=self.delay + 1)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Make one step of the controller; see `Multiplier.update`."""
        violation = check_violation(violation)
        past = self.ema if self.derivative_ema is None else self.derivative_ema
        _smooth(self._proportional, violation, self.ema)
        _smooth(self._smoothed, violation, past)
        self._integral = clip(self._integral + self.ki * violation, self.upper_bound)
        growth = max(0.0, self._smoothed[-1] - self._smoothed[0])
        value = self.kp * self._proportional[-1] + self._integral + self.kd * growth
        self._value = clip(value, self.upper_bound)
        return self._value


def _smooth(memory: deque[float], value: float, past: float) -> None:
    """Append a value to those before it, smoothed; the first one as it is."""
    previous = memory[-1] if memory else value
    memory.append(past * previous + (1.0 - past) * value)


@dataclass(kw_only=True)
class AdamMultiplier:
    """``softplus(x)``, where Adam moves ``x`` up the violation.

    The value is ``min(log(1 + exp(x)), upper_bound)``, and an update makes a step of Adam on ``x``
    with the violation as its slope: ``x <- x + learning_rate * m / (sqrt(v) + 1e-8)``, m and v
    being the bias-corrected moving averages, with the weights ``betas``, of the violation and of
    its square.

    - Paper: the pruning paper, arXiv 2110.08558, and Safety Starter Agents (Ray et al. 2019), whose
      PPO-Lagrangian descends ``-x * violation``: the slope is the violation alone, without the
      derivative of softplus, which would vanish as the multiplier does.
    - Ours: that.
    - Deviations: ``x`` has a floor, where the value is ``lower_bound``, and a ceiling, where it is
      ``upper_bound``. There a violation that points further out moves nothing, Adam's averages
      included. Without a floor ``x`` falls by ``learning_rate`` an update for as long as the limit
      is slack, and needs as long to come back.

    Adam divides a step by its usual size: ``x`` moves by about ``learning_rate`` per update
    whatever the violation, and lags behind when its sign turns.

    Args:
        learning_rate: Adam's step size for ``x``, positive. The paper takes 1.0.
        initial: Value before the first update, in [lower_bound, upper_bound].
        upper_bound: Largest value; infinite by default.
        lower_bound: Smallest value, positive and below ``upper_bound``.
        betas: Adam's weights of the past, each in [0, 1).
    """

    learning_rate: float = 0.05
    initial: float = 1.0
    upper_bound: float = math.inf
    lower_bound: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    _x: float = field(init=False)
    _moments: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _updates: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0.0, exclusive=True)
        check_range(self.initial, self.upper_bound)
        check_number("lower_bound", self.lower_bound, low=0.0, exclusive=True)
        if not self.lower_bound <= self.initial:
            raise InvalidValueError(
                f"initial is {self.initial!r}; it must be in [lower_bound, upper_bound] with "
                f"lower_bound {self.lower_bound!r}. Raise initial or lower lower_bound."
            )
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InvalidValueError(f"betas is {self.betas!r}; it must be two numbers in [0, 1).")
        self._x = _softplus_inverse(self.initial)

    @property
    def value(self) -> float:
        """The multiplier, in [lower_bound, upper_bound]."""
        value = max(self._x, 0.0) + math.log1p(math.exp(-abs(self._x)))
        return clip(max(value, self.lower_bound), self.upper_bound)

    def update(self, violation: float) -> float:
        """Make one step of Adam; see `Multiplier.update`."""
        violation = check_violation(violation)
        low, high = _softplus_inverse(self.lower_bound), _softplus_inverse(self.upper_bound)
        if (violation > 0.0 and self._x >= high) or (violation < 0.0 and self._x <= low):
            return self.value  # no wind-up beyond a bound
        self._updates += 1
        first, second = self.betas
        mean = first * self._moments[0] + (1.0 - first) * violation
        square = second * self._moments[1] + (1.0 - second) * violation * violation
        self._moments = (mean, square)
        mean /= 1.0 - first**self._updates
        square /= 1.0 - second**self._updates
        moved = self._x + self.learning_rate * mean / (math.sqrt(square) + 1e-8)
        self._x = min(max(moved, low), high)
        return self.value


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))


@dataclass(frozen=True)
class FixedMultiplier:
    """A multiplier that never moves: a fixed price of cost, 0.0 to ignore it.

    It is a price in the environment's own units, what one unit of cost is worth in reward, unless
    the algorithm is told otherwise by ``unit_free=True``.

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
