"""The units in which reward and cost are weighed against each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from agents.costs import FloatArray
from agents.errors import UnfitEnvError

_FLOOR = 0.1  # of the root mean square of a cost: the least unit, whatever its limit


@dataclass
class Units:
    """What a reward of 1 and costs of 1 are, measured on the episodes that have finished.

    - unit of reward: ``rms(R)``, with ``R`` the undiscounted returns of all episodes of the
      training so far; 1.0 while all of them are zero;
    - unit of a cost: ``max(|limit|, rms(C) / 10)``, with ``C`` the sums of cost of these episodes:
      its limit, unless that is zero or next to it; 1.0 while all of this is zero.

    ``rms`` is the root of the mean of the squares; while no episode has finished, those that are
    running stand for them. Each unit grows in proportion with what it measures, so that what is
    divided by it does not depend on anybody's choice of units. A return is then about 1, which
    critics learn soon, and the optimal multiplier is the *elasticity* of reward at the limit: by
    how many percent the best return grows where the limit grows by one percent.

    Attributes:
        reward: The unit of reward, positive.
        costs: The units of cost, float64 of shape (n_costs,), positive.
        episodes: How many episodes they were measured on.
        return_square: Sum of the squared returns of these.
        cost_square: Sums of squared costs, shape (n_costs,).
    """

    reward: float = 1.0
    costs: FloatArray = field(default_factory=lambda: np.ones(1))
    episodes: int = 0
    return_square: float = 0.0
    cost_square: FloatArray = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(cls, n_costs: int) -> Units:
        """Return units of 1 for so many costs, measured on nothing."""
        return cls(costs=np.ones(n_costs), cost_square=np.zeros(n_costs))

    def see(self, episode_return: float, costs: FloatArray) -> None:
        """Count an episode that has finished; the units stay until `settle`.

        Args:
            episode_return: Its undiscounted return.
            costs: Its sums of cost, shape (n_costs,).

        Raises:
            UnfitEnvError: If the return is not finite.
        """
        if not np.isfinite(episode_return):
            raise UnfitEnvError(
                f"the return of an episode is {episode_return}; rewards must be finite numbers, as "
                "they are measured in units of their size. Clip them in the environment."
            )
        self.episodes += 1
        self.return_square += episode_return**2
        self.cost_square = self.cost_square + costs**2

    def settle(self, limits: FloatArray, running: tuple[FloatArray, FloatArray]) -> None:
        """Set the units to what was seen so far.

        Args:
            limits: Of the costs, shape (n_costs,).
            running: Returns, shape (n_envs, 1), and costs, (n_envs, n_costs), so far of the
                episodes that have not finished.
        """
        if self.episodes:
            reward = self.return_square / self.episodes
            costs = self.cost_square / self.episodes
        else:
            returns, sums = running
            reward, costs = float((returns**2).mean()), (sums**2).mean(axis=0)
        self.reward = reward**0.5 or 1.0
        units = np.maximum(np.abs(limits), _FLOOR * np.sqrt(costs))
        self.costs = np.where(units > 0.0, units, 1.0)
