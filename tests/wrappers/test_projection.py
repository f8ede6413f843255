"""The projection: every limit kept for certain, nothing moved that need not be."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from prune_gym import (
    BinaryFilters,
    Budget,
    DiscreteRatios,
    ProjectionWrapper,
    RecordBest,
    RecordEpisodeCost,
)
from prune_gym.envs.vector import PruneVectorEnv
from prune_gym.problem.feasibility import Costs, feasible_ratios, first_feasible, with_fewer

CALLS: list[int] = []


def widest(network):
    """Monotone, and no count: the most parameters that one tensor has."""
    CALLS.append(1)
    return float(max(parameter.numel() for parameter in network.parameters()))


def black_box(deterministic=True):
    return Budget("widest", measure=widest, monotone=True, deterministic=deterministic)


LIMITED = {
    "params": lambda: tiny.make_tiny(budgets={"params": 0.3}),
    "three": lambda: tiny.make_tiny(budgets={"params": 0.5, "macs": 0.35, "size_bytes": 0.6}),
    "black box": lambda: tiny.make_tiny(budgets={black_box(): 0.2, "macs": 0.6}),
    "black box, unsteady": lambda: tiny.make_tiny(budgets={black_box(False): 0.2}),
    "weights": lambda: tiny.make_tiny(structure="weight", budgets={"params": 0.25}),
    "multiples": lambda: tiny.make_tiny("residual", round_to=2, budgets={"params": 0.5}),
    "dense block": lambda: tiny.make_tiny("dense", budgets={"params": 0.6}),
    "tight": lambda: tiny.make_tiny("residual", budgets={"macs": 0.1}),
}
CASES = [
    (name, granularity)
    for name in LIMITED
    for granularity in ("layer", "filter", "network")
    if (name, granularity) != ("weights", "filter")
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    name, granularity = request.param
    return LIMITED[name](), granularity


@pytest.fixture(scope="module")
def three():
    return LIMITED["three"]()


def make(problem, granularity="layer", **arguments):
    return gym.make("PruneVGG-v0", problem=problem, granularity=granularity, **arguments)


def wish(env, generator):
    """A random action that likes to keep."""
    action = generator.uniform(-1.0, 1.0, env.action_space.shape) - generator.choice([0, 0.7, 2])
    kept = -action if env.unwrapped.granularity == "filter" else action
    return kept.clip(-1.0, 1.0).astype(np.float32)


def play(env, generator, options=None):
    """The infos of an episode of random actions."""
    infos = [env.reset(seed=0, options=options)[1]]
    ended = False
    while not ended:
        *_, ended, _, info = env.step(wish(env, generator))
        infos.append(info)
    return infos


# -- the promise -----------------------------------------------------------------------------------


@pytest.mark.sampled
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    max_ratio=st.floats(0.95, 1.0),
    cost_mode=st.sampled_from(["terminal", "dense"]),
)
def test_no_episode_breaks_a_limit(case, seed, max_ratio, cost_mode):
    problem, granularity = case
    if granularity == "filter" and any(budget.counted is None for budget in problem.budgets):
        cost_mode = "terminal"
    env = ProjectionWrapper(make(problem, granularity, cost_mode=cost_mode))
    generator = np.random.default_rng(seed)
    for options in (None, {"max_ratio": max_ratio}):
        infos = play(env, generator, options)
        assert infos[-1]["feasible"]
        costs = problem.costs(env.unwrapped.last_masks())
        assert (costs <= np.array(problem.limits)).all()
        charged = [info["cost"] for info in infos]
        assert sum(charged) == pytest.approx(problem.constraint.cost(costs), abs=1e-12)
        assert cost_mode == "terminal" or min(charged) >= -1e-12


@pytest.mark.sampled
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31))
def test_scaled_actions_choose_among_what_is_safe(case, seed):
    problem, granularity = case
    if granularity != "layer":
        with pytest.raises(ValueError, match=r"mode='scale' with granularity=.*Use mode='clip'"):
            ProjectionWrapper(make(problem, granularity), mode="scale")
        return
    env, clipped = (ProjectionWrapper(make(problem), mode=mode) for mode in ("scale", "clip"))
    assert play(env, np.random.default_rng(seed))[-1]["feasible"]
    generator = np.random.default_rng(seed)
    for one in (env, clipped):
        one.reset(seed=0)
    for _ in range(len(problem.groups)):
        executed = [float(env.project(np.float32([a]))[0][0]) for a in (-1.0, -0.2, 0.3, 1.0)]
        least = float(clipped.project(np.float32([-1.0]))[0][0])
        assert executed[0] == pytest.approx(least, abs=1e-6)
        assert executed[-1] == 1.0
        assert executed == sorted(executed)
        assert len(set(executed)) == 4 or least == 1.0  # no two actions come to the same
        action = wish(env, generator)
        clipped.step(env.project(action)[0])  # the other one finds it safe
        env.step(action)
    for mine, others in zip(
        env.unwrapped.last_masks(), clipped.unwrapped.last_masks(), strict=True
    ):
        np.testing.assert_array_equal(mine, others)


def test_unknown_modes_are_named(tiny_problem):
    with pytest.raises(ValueError, match=r"unknown mode 'scal'. Did you mean 'scale'"):
        ProjectionWrapper(make(tiny_problem), mode="scal")


def magnitude(network):
    """Monotone, but it depends on which filters stay: the sum of all sizes of weights."""
    return float(sum(parameter.detach().abs().sum() for parameter in network.parameters()))


@pytest.fixture(scope="module")
def heavy():
    """Hardly more than its floor is allowed, and the floor keeps light filters."""
    budget = Budget("magnitude", measure=magnitude, monotone=True, deterministic=True)
    problem = tiny.make_tiny(budgets={budget: 1.0}, recovery="none")
    problem = replace(problem, scores=tuple(-scores for scores in problem.scores))
    return replace(problem, limits=(1.001 * float(problem.costs(problem.masks_of([1, 1, 1]))[0]),))


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31))
def test_limits_on_which_filters_stay_are_kept(heavy, seed):
    env = ProjectionWrapper(make(heavy, "filter"))
    assert play(env, np.random.default_rng(seed))[-1]["feasible"]


def test_the_filters_of_the_floor_are_the_last_resort(heavy):
    """They stay just where the agent's favourite alone would be over the limit."""
    env = ProjectionWrapper(make(heavy, "filter"))
    floor = heavy.masks_of([1, 1, 1])
    instead = []
    for favourites in itertools.product(range(4), range(6), range(8)):
        env.reset(seed=0)
        expected: tuple = ()
        for index, favourite in enumerate(favourites):
            action = np.linspace(-0.1, -0.2, 8, dtype=np.float32)
            action[favourite] = 0.9
            own = np.arange(len(floor[index])) == heavy.orders[index][favourite]
            own_costs = heavy.costs((*expected, own, *floor[index + 1 :]))
            expected += (own if heavy.feasible(own_costs) else floor[index],)
            *_, info = env.step(action)
            assert info["projected"] == (not heavy.feasible(own_costs))
            if info["projected"]:  # moved no further than it must be
                kept = np.arange(8) == 0
                np.testing.assert_array_equal(info["executed"] >= 0.0, kept)
                instead.append(favourite)
        assert info["feasible"]
        tiny.assert_identical(env.unwrapped.last_masks(), expected)
    assert set(instead) > {1, 2, 3}


def test_without_it_limits_are_broken(case):
    problem, granularity = case
    generator = np.random.default_rng(0)
    env = make(problem, granularity)
    assert not all(play(env, generator)[-1]["feasible"] for _ in range(20))


def test_a_schedule_is_followed(case):
    problem, granularity = case
    env = ProjectionWrapper(make(problem, granularity))
    env.unwrapped.set_schedule(max_ratio=0.97)
    infos = play(env, np.random.default_rng(1))
    assert infos[-1]["feasible"]
    smallest = problem.kept_counts([0.97] * len(problem.groups))
    assert (infos[-1]["kept"] * problem.sizes >= smallest - 1e-4).all()


# -- nothing is moved that need not be -------------------------------------------------------------


def floor_of(problem, minimum, decided, masks):
    whole = (*decided, *masks, *problem.masks_of(minimum)[len(decided) + len(masks) :])
    return bool(np.all(problem.costs(whole) <= np.array(problem.limits)))


def candidates(env, action):
    """By hand, from the least change on: the masks that a moved action may lead to."""
    base, problem = env.unwrapped, env.unwrapped.problem
    index = base._episode.n_decided
    if base.granularity == "network":
        for share in np.linspace(0.0, 1.0, 501):
            yield base.would_keep((action + (1.0 - action) * share).astype(np.float32))
        return
    size = int(problem.sizes[index])
    own = base.would_keep(action)[0]
    order = problem.orders[index]
    if base.granularity == "filter":
        order = order[np.argsort(-action[:size], kind="stable")]
    for count in range(int(own.sum()), 0, -1):
        if count % problem.round_to == 0 or count == own.sum():
            mask = np.zeros(size, dtype=np.bool_)
            mask[order[:count]] = True
            yield (mask,)


@pytest.mark.sampled
def test_actions_are_moved_as_little_as_possible(case):
    problem, granularity = case
    generator = np.random.default_rng(5)
    env = ProjectionWrapper(make(problem, granularity))
    minimum = problem.kept_counts(np.ones(len(problem.groups)))
    moved = 0
    for _ in range(6 if granularity == "network" else 12):
        env.reset(seed=0)
        ended = False
        while not ended:
            action = wish(env, generator)
            decided = env.unwrapped._episode.masks
            own = env.unwrapped.would_keep(action)
            expected = next(
                masks
                for masks in candidates(env, action)
                if floor_of(problem, minimum, decided, masks)
            )
            executed, projected = env.project(action)
            got = env.unwrapped.would_keep(executed)
            *_, ended, _, info = env.step(action)
            assert info["projected"] is projected
            np.testing.assert_array_equal(info["executed"], executed)
            assert projected == (not floor_of(problem, minimum, decided, own))
            if not projected:
                assert executed is action
            if granularity != "network":
                tiny.assert_identical(got, expected)
            else:  # the line by hand is coarser: it may step over a network
                kept = [sum(int(mask.sum()) for mask in masks) for masks in (got, expected)]
                assert kept[0] >= kept[1]
                assert projected or kept[0] == kept[1]
            moved += projected
    assert moved


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), kept=st.sets(st.integers(0, 9), min_size=1))
def test_filters_are_moved_no_further_than_they_must_be(seed, kept):
    """To the nearest number that says the same; entries that say it already stay."""
    action = np.random.default_rng(seed).uniform(-1.0, 1.0, 10).astype(np.float32)
    moved = with_fewer(action, sorted(kept))
    assert set(np.flatnonzero(moved >= 0.0).tolist()) == kept
    for index in range(10):
        if (action[index] >= 0.0) == (index in kept):
            assert moved[index] == action[index]
        else:
            assert abs(moved[index]) < 1e-30


def test_safe_actions_change_nothing(tiny_problem):
    """The wrapped environment is the bare one, step for step, where all actions are safe."""
    for granularity in ("layer", "filter", "network"):
        envs = [make(tiny_problem, granularity, cost_mode="dense") for _ in range(2)]
        envs[1] = ProjectionWrapper(envs[1])
        sign = -1.0 if granularity == "filter" else 1.0
        actions = np.full((3, *envs[0].action_space.shape), 0.6 * sign, dtype=np.float32)
        if granularity == "filter":
            actions[:, :2] = 0.5
        seen = []
        for env in envs:
            steps = [(*env.reset(seed=3), False)]
            for action in actions[: env.unwrapped.steps_left]:
                observation, reward, ended, _, info = env.step(action)
                steps.append((observation, info, reward, ended))
            for step in steps:
                assert step[1].pop("projected", False) is False
                step[1].pop("executed", None)
            seen.append(steps)
        tiny.assert_identical(*seen)
        assert seen[0][-1][1]["feasible"]


def test_the_floor_is_what_it_says(tiny_problem):
    env = make(tiny_problem).unwrapped
    env.reset(seed=0, options={"max_ratio": 0.8})
    smallest = tiny_problem.kept_counts([0.8] * 3)
    np.testing.assert_array_equal(env.floor_counts(), smallest)
    half = np.zeros(1, dtype=np.float32)
    (mask,) = env.would_keep(half)
    before = env.floor_counts([mask])
    assert before[0] == mask.sum()
    np.testing.assert_array_equal(before[1:], smallest[1:])
    assert [int(m.sum()) for m in env.floor_masks([mask])] == before.tolist()
    np.testing.assert_array_equal(
        env.floor_costs([mask]), tiny_problem.costs(env.floor_masks([mask]))
    )
    env.step(half)  # looking ahead has changed nothing
    np.testing.assert_array_equal(env.floor_counts(), before)
    tiny.assert_identical(env.floor_masks()[0], mask)


# -- ratios from a grid ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["params", "three", "weights", "multiples", "tight"])
def test_masks_of_ratios_agree(name):
    """Just the ratios that `action_masks` allows, where nothing is projected, pass unchanged."""
    problem = LIMITED[name]()
    env = DiscreteRatios(make(problem), n=7)
    projected = ProjectionWrapper(make(problem))
    generator = np.random.default_rng(0)
    for _ in range(5):
        for one in (env, projected):
            one.reset(seed=0)
        ended = False
        while not ended:
            masks = env.action_masks()
            moved = [projected.project(env.action(index))[1] for index in range(7)]
            assert masks.tolist() == [not m for m in moved]
            action = env.action(int(generator.integers(7)))
            *_, ended, _, info = projected.step(action)
            env.env.step(info["executed"])
        assert info["feasible"]


@pytest.mark.parametrize("mode", ["clip", "scale"])
def test_nothing_is_masked_where_all_is_projected(mode):
    problem = LIMITED["tight"]()
    env = DiscreteRatios(RecordBest(ProjectionWrapper(make(problem), mode=mode)), n=5)
    assert not DiscreteRatios(make(problem), n=5).action_masks().all()
    for choice in range(5):
        env.reset(seed=0)
        ended = False
        while not ended:
            assert env.action_masks().tolist() == [True] * 5
            *_, ended, _, info = env.step(choice)
        assert info["feasible"]
        assert env.action_masks().all()


# -- black boxes -----------------------------------------------------------------------------------


def test_a_black_box_is_measured_a_few_times_only():
    problem = tiny.make_tiny(budgets={black_box(): 0.2})
    env = ProjectionWrapper(make(problem))
    keep = np.array([-1.0], dtype=np.float32)
    counts = []
    for _ in range(2):
        env.reset(seed=0)
        CALLS.clear()
        for _ in range(3):
            env.step(keep)
        counts.append(len(CALLS))
    # 8 filters at most: one look, at most one more for each halving of them
    assert 3 <= counts[0] <= 3 * (1 + 2 + 3)
    assert counts[1] == 0  # all of it is remembered
    unsteady = ProjectionWrapper(make(tiny.make_tiny(budgets={black_box(False): 0.2})))
    for _ in range(2):
        unsteady.reset(seed=0)
        CALLS.clear()
        unsteady.step(keep)
        assert CALLS  # may say something else the next time


@given(last=st.integers(1, 10**6), share=st.floats(0.0, 1.0))
def test_bisection_finds_the_first(last, share):
    first = max(1, round(share * last))
    looked = []

    def look(step):
        looked.append(step)
        return step >= first, -step

    assert first_feasible(look, last) == first
    assert len(looked) <= 2 + last.bit_length()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_ratios_of_controls_are_projected_alike(three, seed):
    """The line of `feasible_ratios` is that of the environment that decides all groups at once."""
    problem, costs = three, Costs(three)
    ratios = np.random.default_rng(seed).random(3) * 0.6
    moved = feasible_ratios(problem, ratios, costs)
    counts = problem.kept_counts(moved)
    assert problem.feasible(problem.counted_costs(counts))
    if problem.feasible(problem.counted_costs(problem.kept_counts(ratios))):
        assert moved is ratios
    env = ProjectionWrapper(make(problem, "network"))
    env.reset(seed=0)
    executed, _ = env.project((2.0 * ratios - 1.0).astype(np.float32))
    kept = [int(mask.sum()) for mask in env.unwrapped.would_keep(executed)]
    assert abs(sum(kept) - int(counts.sum())) <= 1  # float32 against float64


# -- company ---------------------------------------------------------------------------------------

WRAPPED = {
    "alone": lambda problem: ProjectionWrapper(make(problem)),
    "network": lambda problem: ProjectionWrapper(make(problem, "network")),
    "filters": lambda problem: ProjectionWrapper(make(problem, "filter")),
    "ratios": lambda problem: DiscreteRatios(ProjectionWrapper(make(problem)), n=5),
    "bits": lambda problem: BinaryFilters(ProjectionWrapper(make(problem, "filter"))),
    "all": lambda problem: RecordEpisodeCost(RecordBest(ProjectionWrapper(make(problem)))),
}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is meant
@pytest.mark.parametrize("name", WRAPPED)
def test_checks_rollouts_and_copies(tiny_problem, name):
    env = WRAPPED[name](tiny_problem)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    seen = tiny.rollout(env, 3)
    tiny.assert_identical(seen, tiny.rollout(WRAPPED[name](tiny_problem), 3))
    tiny.assert_identical(seen, tiny.rollout(pickle.loads(pickle.dumps(env)), 3))
    assert all(step[4]["feasible"] for step in seen if step[2])
    kinds = [
        {k: (type(v), getattr(v, "dtype", None), getattr(v, "shape", None)) for k, v in i.items()}
        for *_, i in seen
    ]
    assert all(kind == kinds[0] for kind in kinds)
    assert kinds[0]["projected"][0] is bool
    assert kinds[0]["executed"][1] == np.float32


@pytest.mark.parametrize("name", ["alone", "ratios", "bits"])
def test_specs_survive_json(name):
    granularity = "filter" if name == "bits" else "layer"
    inner = ProjectionWrapper(gym.make("PruneVGG-v0", granularity=granularity))
    outer = {"alone": lambda e: e, "ratios": DiscreteRatios, "bits": BinaryFilters}
    env = outer[name](inner)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert isinstance(again if name == "alone" else again.env, ProjectionWrapper)


def test_vectors_of_gymnasium(tiny_problem):
    def one():
        return ProjectionWrapper(make(tiny_problem))

    actions = np.array([[-1.0], [0.2]], dtype=np.float32)
    seen = []
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        envs = kind([one, one])
        envs.reset(seed=0)
        infos = [envs.step(actions)[4] for _ in range(3)]
        seen.append([(i["projected"].tolist(), i["executed"].tolist()) for i in infos])
        assert infos[-1]["feasible"].all()
        envs.close()
    assert seen[0] == seen[1]
    assert any(itertools.chain.from_iterable(projected for projected, _ in seen[0]))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_vector_of_the_package_takes_wrapped_environments(tiny_problem, threads):
    envs = PruneVectorEnv([ProjectionWrapper(make(tiny_problem)) for _ in range(2)], threads)
    envs.reset(seed=0)
    for _ in range(3):
        *_, infos = envs.step(np.full((2, 1), -1.0, dtype=np.float32))
    assert infos["feasible"].all()
    assert infos["projected"].any()
    envs.close()


# -- what is refused -------------------------------------------------------------------------------


def test_budgets_that_are_not_monotone_are_refused():
    problem = tiny.make_tiny(budgets={"params": 0.5, Budget("odd", widest): 0.9})
    with pytest.raises(
        ValueError,
        match=r"ProjectionWrapper with budget 'odd': .* never raises, and by noise a smaller "
        r"network can cost more here. Do without it here; a budget of yours that never rises",
    ):
        ProjectionWrapper(make(problem))
    exact = tiny.make_tiny(budgets={Budget("odd", widest, deterministic=True): 0.9})
    with pytest.raises(
        ValueError, match=r"which holds for budgets that .* never raises. Do without"
    ):
        ProjectionWrapper(make(exact))


def test_other_action_spaces_are_refused(tiny_problem):
    with pytest.raises(ValueError, match=r"got Discrete\(11\); put it inside .*DiscreteRatios\(P"):
        ProjectionWrapper(DiscreteRatios(make(tiny_problem)))
    with pytest.raises(TypeError, match=r"ProjectionWrapper: expected a pruning environment"):
        ProjectionWrapper(gym.make("CartPole-v1"))


def test_wrong_actions_are_named(tiny_problem):
    env = ProjectionWrapper(make(tiny_problem))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action has shape \(2,\); this environment takes \(1,\)"):
        env.step(np.zeros(2, dtype=np.float32))
    with pytest.raises(ValueError, match="action holds NaN or infinity"):
        env.step(np.array([np.nan], dtype=np.float32))
    for _ in range(3):
        env.step(np.ones(1, dtype=np.float32))
    with pytest.raises(RuntimeError, match=r"the episode has ended: call reset\(\) first"):
        env.step(np.ones(1, dtype=np.float32))
