"""Recipes of the tables that come with the package: what ``make NAME`` makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prune_gym.errors import TableError
from prune_gym.utils.registry import suggest


@dataclass(frozen=True)
class Recipe:
    """How a table is made.

    Attributes:
        network: a registered name, whose weights come with the package.
        dataset: a registered name.
        criterion: a registered name.
        levels: fractions of every group's filters that networks may keep.
    """

    network: str
    dataset: str
    criterion: str
    levels: tuple[float, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `prune_gym.make_problem`."""
        return {"network": self.network, "dataset": self.dataset, "criterion": self.criterion}


# Of the eight default levels the six that networks of an evolutionary search within 3, 5 and 10 %
# of the parameters use for four of five decisions: little of the wide groups, most of the others.
SIX_LEVELS = (1 / 16, 1 / 8, 3 / 16, 3 / 8, 3 / 4, 1.0)
# For the narrower networks the six of the eight whose most accurate network within 10 % of the
# parameters is that of all eight (for VGG on digits, and for residual blocks).
SIX_OF_NARROW = (1 / 16, 1 / 8, 3 / 8, 1 / 2, 3 / 4, 1.0)

RECIPES: dict[str, Recipe] = {
    "small-digits-l1": Recipe("small", "digits", "l1", SIX_LEVELS),
    "tiny_vgg-digits-l1": Recipe("tiny_vgg", "digits", "l1", SIX_OF_NARROW),
    "tiny_vgg-digits-l1-measured": Recipe("tiny_vgg", "digits", "l1", SIX_OF_NARROW),
    "tiny_vgg-digits-taylor": Recipe("tiny_vgg", "digits", "taylor", SIX_OF_NARROW),
    "tiny_vgg-shapes-taylor": Recipe("tiny_vgg", "shapes", "taylor", SIX_OF_NARROW),
    "tiny_resnet-digits-taylor": Recipe("tiny_resnet", "digits", "taylor", SIX_OF_NARROW),
    "tiny_resnet-shapes-l1": Recipe("tiny_resnet", "shapes", "l1", SIX_OF_NARROW),
    "small_resnet-shapes-l1": Recipe("small_resnet", "shapes", "l1", SIX_OF_NARROW),
}


def recipe_of(name: str) -> Recipe:
    """The recipe of a table of the package.

    Raises:
        TableError: there is none of that name.
    """
    if name not in RECIPES:
        raise TableError(
            f"there is no recipe {name!r}.{suggest(name, list(RECIPES))} Known: "
            f"{', '.join(RECIPES)}; or say --network."
        )
    return RECIPES[name]
