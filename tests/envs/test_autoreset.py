"""The three autoreset modes of the native vector environment are those of Gymnasium's own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from prune_gym.envs.vector import AUTORESET_MODES
from prune_gym.errors import InvalidValueError, UsageError


def make_vec(problem, **arguments):
    return gym.make_vec("Prune-v0", num_envs=3, problem=problem, **arguments)


@pytest.mark.parametrize("mode", AUTORESET_MODES)
def test_every_mode_equals_gymnasiums(tiny_problem, mode):
    own = make_vec(tiny_problem, autoreset_mode=mode, threads=2)
    plain = make_vec(
        tiny_problem, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    assert own.metadata["autoreset_mode"].value == mode
    generator = np.random.default_rng(0)
    for envs in (own, plain):
        envs.reset(seed=0)
    for _ in range(8):
        actions = generator.uniform(-1.0, 1.0, (3, 1)).astype(np.float32)
        one, other = own.step(actions), plain.step(actions)
        for mine, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert one[4].keys() == other[4].keys()
        assert ("final_info" in one[4]) == (mode == "SameStep" and one[2].any())
        if mode == "Disabled" and one[2].any():
            with pytest.raises(UsageError, match="after the end of 3 episodes: reset those first"):
                own.step(actions)
            for envs in (own, plain):
                envs.reset(options={"reset_mask": one[2].copy()})
    own.close()
    plain.close()


def test_an_unknown_mode_is_named(tiny_problem):
    with pytest.raises(InvalidValueError, match="unknown autoreset_mode 'Never'"):
        make_vec(tiny_problem, autoreset_mode="Never")
