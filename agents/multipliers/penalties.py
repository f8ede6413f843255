"""Multipliers that follow from the violation alone, without a memory: slopes of penalties.

They hold the arguments of `P3O` and `IPO`, which compute the penalty in every minibatch. Any other
algorithm can have them as rules that set its price once per rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.multipliers.checks import check_number, check_range, check_violation


@dataclass(kw_only=True)
class BarrierMultiplier:
    """The price that a logarithmic barrier puts on cost (IPO, https://arxiv.org/abs/1910.09615).

    - Paper: maximise ``L_r + log(limit - J_c) / t``.
    - Ours: the gradient of that term is ``-1 / (t * (limit - J_c))`` times the gradient of cost,
      so the multiplier is ``1 / (t * (limit - J_c))``, from J_c of the last rollout.
    - Deviations: as the rule of an algorithm other than `IPO`, J_c stands still within a rollout.
      Where the limit is broken, where the logarithm has no value, the multiplier is
      ``upper_bound``: the way back into the interior.

    It settles *below* the limit, by ``1 / (t * multiplier)``.

    Args:
        t: Steepness, positive: larger stays closer to the limit.
        initial: Value before the first update, in [0, upper_bound].
        upper_bound: Largest value, positive and finite.
    """

    t: float = 50.0
    initial: float = 1.0
    upper_bound: float = 20.0
    _value: float = field(init=False)

    def __post_init__(self) -> None:
        check_number("t", self.t, low=0.0, exclusive=True)
        check_number("upper_bound", self.upper_bound, low=0.0, exclusive=True)
        check_range(self.initial, self.upper_bound)
        self._value = float(self.initial)

    @property
    def value(self) -> float:
        """The multiplier, in [0, upper_bound]."""
        return self._value

    def update(self, violation: float) -> float:
        """Read the price off the barrier; see `Multiplier.update`."""
        slack = -check_violation(violation)
        inside = slack * self.t > 1.0 / self.upper_bound
        self._value = 1.0 / (self.t * slack) if inside else self.upper_bound
        return self._value


@dataclass(kw_only=True)
class PenaltyMultiplier:
    """The slope of an exact penalty: ``kappa`` while the limit is broken, 0 otherwise (P3O).

    - Paper (https://arxiv.org/abs/2205.11814): minimise
      ``-L_r + kappa * max(0, L_c + J_c - limit)`` with a clipped surrogate ``L_c`` of cost.
    - Ours: outside of its kink that is a price of ``kappa`` or of 0 on cost.
    - Deviations: as the rule of an algorithm other than `P3O`, which of both holds is decided once
      per rollout, by J_c: a switch.

    Any ``kappa`` larger than the optimal multiplier keeps the limit; a larger one oscillates more.

    Args:
        kappa: Price of cost while the limit is broken, positive.
    """

    kappa: float = 5.0
    _value: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        check_number("kappa", self.kappa, low=0.0, exclusive=True)

    @property
    def value(self) -> float:
        """The multiplier, ``kappa`` or 0."""
        return self._value

    def update(self, violation: float) -> float:
        """Switch the penalty on or off; see `Multiplier.update`."""
        self._value = float(self.kappa) if check_violation(violation) > 0.0 else 0.0
        return self._value
