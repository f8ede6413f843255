"""Searches in which residual blocks go whole: environments, limits, folders, fronts, exports."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from gymnasium.utils.env_checker import check_env

from prune_gym import (
    CheckpointError,
    DiscreteRatios,
    ProjectionWrapper,
    export_network,
    load_pruned,
    save_pruned,
    search,
)
from prune_gym.errors import RunFolderError
from prune_gym.networks.checkpoints import save_weights
from prune_gym.problem.saving import load_with_masks
from prune_gym.pruning.groups import settled_counts


@pytest.fixture(scope="module")
def deep():
    """A residual network, three of whose four blocks can go whole."""
    return tiny.make_tiny("residual", depth=True, budgets={"params": 0.6})


@pytest.fixture(scope="module")
def shallow():
    """The same without."""
    return tiny.make_tiny("residual", budgets={"params": 0.6})


def smallest(problem):
    """Keep masks of the smallest network."""
    return problem.check_masks(problem.masks_of(problem.kept_counts(np.ones(len(problem.groups)))))


def test_floors_are_lower_with_it(deep, shallow):
    assert deep.costs(smallest(deep))[0] < shallow.costs(smallest(shallow))[0]
    between = {"params": float(deep.costs(smallest(deep))[0]) * 1.01}
    tiny.make_tiny("residual", depth=True, budgets=between)
    with pytest.raises(ValueError, match="the smallest network that can be reached"):
        tiny.make_tiny("residual", budgets=between)


@pytest.mark.parametrize("granularity", ["layer", "filter", "network"])
def test_environments(deep, granularity):
    env = gym.make("Prune-v0", problem=deep, granularity=granularity, cost_mode="dense").unwrapped
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    if granularity == "network":
        *_, info = env.step(np.ones(len(deep.groups), dtype=np.float32))
        total = info["cost"]
    else:
        ended, total = False, 0.0
        while not ended:
            low = np.float32(1.0 if granularity == "layer" else -1.0)
            action = np.full(env.action_space.shape, low)
            _, _, ended, _, info = env.step(action)
            total += info["cost"]
    fewest = [group.fewest for group in deep.groups]
    assert (info["kept"] > 0.0).tolist() == [least == 1 for least in fewest]
    assert total == pytest.approx(deep.costs(env.last_masks())[0])
    assert "Identity" in repr(env.compact_network())


def test_none_may_stay_only_where_the_largest_ratio_allows_it(deep):
    env = gym.make("Prune-v0", problem=deep, max_ratio=0.75).unwrapped
    env.reset(seed=0)
    assert env.floor_counts().min() == 1


@pytest.mark.parametrize("granularity", ["layer", "filter", "network"])
def test_projection_keeps_limits_that_need_blocks_to_go(granularity, shallow):
    limit = float(shallow.costs(smallest(shallow))[0]) * 0.9
    problem = tiny.make_tiny("residual", depth=True, budgets={"params": limit}, recovery="none")
    env = ProjectionWrapper(gym.make("Prune-v0", problem=problem, granularity=granularity))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(4):
        env.reset()
        ended = False
        while not ended:
            *_, ended, _, info = env.step(env.action_space.sample())
        assert info["feasible"]
        assert (info["kept"] == 0.0).any()


def test_action_masks_know_that_blocks_can_go(shallow):
    limit = float(shallow.costs(smallest(shallow))[0]) * 0.9
    problem = tiny.make_tiny("residual", depth=True, budgets={"params": limit})
    env = DiscreteRatios(gym.make("Prune-v0", problem=problem), n=5)
    env.reset(seed=0)
    ended = False
    while not ended:
        allowed = np.flatnonzero(env.action_masks())
        *_, ended, _, info = env.step(int(allowed[0]))
    assert info["feasible"]


def test_counts_of_a_block_that_is_gone_in_part():
    problem = tiny.make_tiny("residual", depth=True)
    counts = problem.sizes.copy()
    assert settled_counts(problem.groups, counts) is counts


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_saved_loaded_and_exported(deep, tmp_path, suffix):
    masks = smallest(deep)
    outcome = deep.evaluate(masks)
    save_pruned(tmp_path / "small", outcome.network, deep, masks)
    plan = json.loads((tmp_path / "small" / "plan.json").read_text())
    assert plan["gone"] == {f"blocks.{index}": "identity" for index in (0, 1, 3)}
    loaded, again = load_with_masks(tmp_path / "small", deep)
    images = tiny.images_of(5)
    with torch.no_grad():
        assert torch.equal(loaded(images), outcome.network(images))
    assert all((one == other).all() for one, other in zip(masks, again, strict=True))
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    assert export_network(loaded, deep.example, tmp_path / f"small{suffix}") < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("gone"), r"kept of 'blocks.0.conv1' must hold one at least"),
        (lambda plan: plan["gone"].pop("blocks.0"), r"tensor 'blocks.0.bn1.bias' is in only one"),
        (lambda plan: plan["gone"].update({"no": "zeros"}), r"the plan's module 'no' is none of"),
        (lambda plan: plan["gone"].update({"bn": "nothing"}), r"gone.bn is 'nothing'"),
        (
            lambda plan: plan["groups"][1].update(kept=[0]),
            r"keeps 1 filters of 'blocks.0.conv1', and it goes whole",
        ),
        (
            lambda plan: plan["groups"][3].update(kept=[]),
            r"keeps 0 filters of 'blocks.2.conv1', and it does not go whole",
        ),
    ],
)
def test_damaged_plans(deep, tmp_path, change, message):
    masks = smallest(deep)
    save_pruned(tmp_path, deep.compact(masks), deep, masks)
    plan = json.loads((tmp_path / "plan.json").read_text())
    change(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match=message):
        load_pruned(tmp_path, deep.network)


def test_a_plan_of_a_problem_with_depth_in_one_without(deep, shallow, tmp_path):
    masks = smallest(deep)
    save_pruned(tmp_path, deep.compact(masks), deep, masks)
    with pytest.raises(CheckpointError, match=r"'blocks.0.conv1', whose block cannot go whole"):
        load_with_masks(tmp_path, shallow)
    assert load_pruned(tmp_path, shallow.network) is not None


def test_a_search_its_front_and_its_resumption(deep, shallow, tmp_path):
    limited = tiny.make_tiny(
        "residual", depth=True, budgets={"params": 1.2 * float(deep.costs(smallest(deep))[0])}
    )
    run = tmp_path / "run"
    search(limited, "uniform", evaluations=6, out=run, finetune_steps=2)
    again = search(limited, "uniform", evaluations=6, out=run, resume=True, finetune_steps=2)
    assert any(not mask.any() for one in again.archive.front for mask in one.masks)
    assert (
        load_pruned(run, limited.network).state_dict().keys() < limited.network.state_dict().keys()
    )
    with pytest.raises(RunFolderError, match="of another problem"):
        search(shallow, "uniform", evaluations=6, out=run, resume=True, finetune_steps=2)


def test_the_command(tmp_path):
    run, weights = tmp_path / "run", tmp_path / "weights.safetensors"
    save_weights(tiny.cli_own_network(), weights)
    network = ("--network", "tiny:cli_own_network", "--weights", weights)
    asked = ("--algo", "uniform", "--timesteps", "60", "--finetune-steps", "2")
    limit = ("--budget", "params=0.05", "--dataset", "tiny:cli_dataset")
    tiny.call("prune", *network, *asked, *limit, "--depth", "--out", run)
    assert json.loads((run / "config.json").read_text())["problem"]["depth"] is True
    assert json.loads((run / "plan.json").read_text())["gone"]
    assert "residual blocks can go whole" in (run / "report.html").read_text()
    tiny.call("evaluate", run, "--trust")
    tiny.call("pick", run, "--trust", "--budget", "macs=0.5", "--finetune-steps", "2")
    assert "blocks.0.conv1" in tiny.call("inspect", run)
