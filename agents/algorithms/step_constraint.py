"""Two critics for methods that bound the cost of the next policy, not only its mean so far."""

from __future__ import annotations

from typing import Any

from agents.algorithms.two_critics import TwoCritics
from agents.costs import FloatArray


class StepConstraint(TwoCritics):
    """Mixin: two critics, and how much cost a step of the policy may add.

    A limit is on the sum over an episode, advantages are per step. To first order the cost of a new
    policy is ``J_c(new) = J_c + T * mean(ratio * A_c)``, with ``T`` the mean length of an episode,
    measured as steps per finished episode, and ``ratio`` the probability of an action under the new
    policy over that under the old one. That holds for the undiscounted sum: leave ``cost_gamma`` at
    1.0 where episodes are short. Where no episode finished in a rollout, ``J_c`` and ``T`` of
    earlier ones are used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._steps = 0  # since the violation was last measured
        self._episode_length = 1.0  # mean, in steps
        super().__init__(*args, **kwargs)

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        costs = super()._watch_step(scope)
        self._steps += len(costs)
        return costs

    def _end_rollout(self, scope: dict[str, Any]) -> None:
        if self._finished:
            self._episode_length = self._steps / len(self._finished)
            self._steps = 0
        super()._end_rollout(scope)
