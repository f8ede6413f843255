"""What every constrained algorithm has: counters, logs, files, and errors that say what to do."""

import io
import json
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from agents import (
    A2CLagrangian,
    BudgetToyEnv,
    FixedMultiplier,
    FixedPenalty,
    GradientMultiplier,
    PPOLagrangian,
    SauteBudget,
    constrain,
    constrained,
)
from agents.algorithms.model_file import FORMAT, read_origin

ON = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
OFF = {"learning_starts": 4, "batch_size": 8, "buffer_size": 64, "train_freq": 4}


def one_critic(env, **kwargs):
    return constrain(PPO, env, **{**ON, **kwargs})


def two_critics(env, policy="MlpPolicy", **kwargs):
    return PPOLagrangian(policy, env, **{**ON, **kwargs})


def off_policy(env, **kwargs):
    small = {**OFF, "policy_kwargs": {"net_arch": [8]}, "episodes_per_update": 1}
    return constrain(SAC, env, **{**small, "seed": 0, "device": "cpu", **kwargs})


MAKERS = [one_critic, two_critics, off_policy]
each = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


# -- counters and logs -----------------------------------------------------------------------------


@each
def test_episodes_and_costs_of_the_whole_training_are_counted(make, scripted_env):
    venv = DummyVecEnv([lambda c=c: scripted_env((1.0, c), limit=3.0) for c in (2.0, 2.5)])
    model = make(venv)
    for _ in range(2):  # the second call sets num_timesteps to 0
        model.learn(32, log_interval=None)
        logged = model.logger.name_to_value
        assert logged["lagrange/cost_rate"] == 1.625
    assert (model.episodes, model.violations) == (32, 16)  # meeting the limit breaks nothing
    assert model.cost_sum.tolist() == [16 * (3.0 + 3.5)]
    assert logged["lagrange/violations"] == 16
    assert logged["lagrange/violation_rate"] == 0.5


@each
def test_an_episode_moves_the_multiplier_once(make, scripted_env):
    env = scripted_env((1.0,) * 16, limit=0.0)
    model = make(env, multiplier=GradientMultiplier(initial=0.0), unit_free=False)
    for cost, expected in ((1.0, 16.0), (2.0, 48.0), (-0.5, 40.0)):
        env._costs = (cost,) * 16
        model.learn(16, reset_num_timesteps=False, log_interval=None)
        assert model.multiplier.value == expected
        assert model.logger.name_to_value["lagrange/cost"] == 16.0 * cost


@each
def test_a_broken_limit_is_broken_by_any_of_the_costs(make, scripted_env):
    env = scripted_env([(1.0, 0.0), (1.0, 3.0)], limit=(2.0, 2.0))
    rules = [FixedMultiplier(1.0), FixedMultiplier(2.0)]
    model = make(env, multiplier=rules).learn(16, log_interval=None)
    assert (model.episodes, model.violations) == (8, 8)
    logged = model.logger.name_to_value
    assert logged["lagrange/violation_rate"] == 1.0
    assert [logged[f"lagrange/multiplier_{name}"] for name in "01"] == [1.0, 2.0]  # no names given
    assert [logged[f"lagrange/cost_{name}"] for name in "01"] == [2.0, 3.0]


@pytest.mark.parametrize("make", [one_critic, two_critics])
def test_a_rollout_without_a_finished_episode_moves_nothing(make, scripted_env, trace):
    env = scripted_env((1.0,) * 6, limit=2.0)
    multiplier = GradientMultiplier(learning_rate=0.5)
    model = make(env, n_steps=4, batch_size=4, multiplier=multiplier)  # in units of the limit
    model.learn(12, callback=trace, log_interval=None)
    # no episode ends in the first rollout; the one that ends in the second cost 6 in all
    assert trace.steps == [1.0] * 8 + [2.0] * 4
    assert "lagrange/cost" not in trace.logs[0]
    assert trace.logs[0]["lagrange/multiplier"] == 1.0
    assert trace.logs[1]["lagrange/cost"] == 6.0
    assert trace.logs[1]["lagrange/multiplier"] == 2.0
    assert model.multiplier.value == 3.0


@pytest.mark.parametrize("reset", [True, False])
@each
def test_an_unfinished_episode_survives_learn_unless_the_environment_is_reset(
    make, scripted_env, reset
):
    model = make(scripted_env((1.0, 2.0, 4.0, 8.0), limit=0.0), multiplier=FixedMultiplier(1.0))
    seen = []
    model._update_multiplier = lambda violation: seen.append(violation.item())
    size = 18 if make is off_policy else 16
    model.learn(size, log_interval=None)
    model._episode_costs.running[:] = 100.0
    model.learn(16, reset_num_timesteps=reset, log_interval=None)
    after = seen[4:] if make is off_policy else seen[1:]
    assert (max(after) > 15.0) is not reset


@each
def test_an_episode_goes_on_after_loading_without_a_reset(make, scripted_env, tmp_path):
    env = scripted_env((1.0,) * 12, limit=0.0)
    model = make(env, multiplier=FixedMultiplier(1.0)).learn(16)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert loaded._episode_costs.running == model._episode_costs.running == [[4.0]]
    anew = type(model).load(tmp_path / "model", env=env)
    for one, left in ((loaded, 8.0), (anew, 4.0)):
        one.learn(16, reset_num_timesteps=False)
        assert one._episode_costs.running == [[left]]
        assert (one.episodes, one.cost_sum) == (2, [32.0])


@pytest.mark.parametrize("style", ["none", "function", "list", "object"])
@each
def test_callbacks_of_every_kind_are_called(make, style, trace):
    calls = []
    callback = {
        "none": None,
        "function": lambda *_: calls.append(1) or True,
        "list": [trace],
        "object": trace,
    }[style]
    make(BudgetToyEnv()).learn(16, callback=callback)
    assert len(calls) + len(trace.steps) == (0 if style == "none" else 16)


@each
def test_a_callback_may_stop_the_training(make):
    model = make(BudgetToyEnv()).learn(64, callback=lambda scope, _: scope["self"].episodes < 3)
    assert model.num_timesteps == 24


@each
def test_logged_returns_are_those_of_the_environment(make):
    monitored = VecMonitor(DummyVecEnv([BudgetToyEnv] * 2))
    for env in (BudgetToyEnv(), monitored):
        model = make(env, multiplier=FixedMultiplier(100.0)).learn(48)
        assert all(0.0 < episode["r"] <= 1.0 for episode in model.ep_info_buffer)


# -- limits ----------------------------------------------------------------------------------------


@each
def test_the_environment_owns_the_limit_unless_one_is_given(make, scripted_env):
    script = (1.0,) * 16
    env = scripted_env(script, limit=15.0)
    model = make(env).learn(16, log_interval=None)
    assert model.multiplier.value == 1.0 + 1.0 / 15.0
    env.cost_limit = 16.0
    model.learn(16)
    assert model.multiplier.value == 1.0 + 1.0 / 15.0
    given = make(scripted_env(script, limit=99.0), cost_limit=12.8).learn(16)
    assert given.multiplier.value == pytest.approx(1.25)
    assert given.violations == 1
    assert make(scripted_env(script), cost_limit=16.0).learn(16).violations == 0


@each
def test_a_margin_is_kept_below_the_limit(make, scripted_env):
    model = make(scripted_env((1.0,) * 16, limit=16.0), cost_margin=0.25).learn(16)
    assert model.multiplier.value == 1.0 + 4.0 / 16.0
    assert model.violation.tolist() == [4.0]
    assert model.violations == 0  # of the limit itself
    negative = make(scripted_env((-1.0,) * 16, limit=-16.0), cost_margin=0.25).learn(16)
    assert negative.multiplier.value == 1.25


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_a_bad_margin_is_named(margin):
    with pytest.raises(ValueError, match=r"cost_margin is .*in \[0, 1\).*Try 0.05"):
        one_critic(BudgetToyEnv(), cost_margin=margin)


# -- bad input -------------------------------------------------------------------------------------


@each
def test_an_environment_without_a_limit_is_refused_at_once(make, scripted_env):
    with pytest.raises(ValueError, match=r"cost_limit: .*or pass cost_limit="):
        make(scripted_env())
    model = make(BudgetToyEnv())
    model.observation_space = scripted_env().observation_space
    model.set_env(scripted_env())
    with pytest.raises(ValueError, match=r"cost_limit: .*or pass cost_limit="):
        model.learn(16)


@each
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ((None,), r'info\["cost"\] is missing from the step info of env 0 .*0.0 where nothing'),
        ((1.0,) * 9 + (None,), r'info\["cost"\] is missing from the step info of env 0'),
        ((1.0, float("nan")), r'info\["cost"\] of env 0 is nan; it must be a finite number'),
        ((float("inf"),), r'info\["cost"\] of env 0 is inf; it must be a finite number'),
        (("free",), r"of env 0 is 'free'; it must be a finite number. Return a python float"),
    ],
    ids=["missing", "missing later", "nan", "inf", "text"],
)
def test_costs_that_cannot_be_read_stop_the_training(make, scripted_env, script, message):
    model = make(scripted_env(script, limit=1.0))
    with pytest.raises(ValueError, match=message):
        model.learn(32)
    assert model.multiplier.value == 1.0


@each
def test_vectors_of_gymnasium_are_refused(make):
    vector = gym.make_vec("agents.toy:BudgetToy-v0", num_envs=2)
    with pytest.raises(TypeError, match=r"SyncVectorEnv, a vector of Gymnasium.*DummyVecEnv\("):
        make(vector)
    vector.close()


@each
def test_values_that_would_grow_without_bound_are_refused(make, scripted_env):
    env = scripted_env((0.1,) * 4, limit=1.0, truncate=True)
    with pytest.raises(ValueError, match=r"gamma is 1.0 and an episode was truncated.*gamma=0.99"):
        make(env, gamma=1.0).learn(16)
    assert make(env, gamma=0.99).learn(16).num_timesteps == 16
    assert make(scripted_env(limit=1.0), gamma=1.0).learn(16).num_timesteps == 16


@each
@pytest.mark.parametrize("wrapper", [lambda env: FixedPenalty(env, 1.0), SauteBudget])
def test_costs_are_not_charged_twice(make, wrapper):
    with pytest.raises(ValueError, match=r"penalised by (FixedP|SauteB).*twice. Pass .* without"):
        make(wrapper(BudgetToyEnv()))


@each
def test_nor_are_they_by_an_environment_that_is_set_later(make):
    model = make(BudgetToyEnv())
    model.set_env(gym.wrappers.TimeLimit(FixedPenalty(BudgetToyEnv(), 1.0), 5))
    with pytest.raises(ValueError, match="would charge the same cost twice"):
        model.learn(16)


@each
@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"multiplier": 1.0}, TypeError, "multiplier is 1.0; .*GradientMultiplier"),
        ({"multiplier": []}, ValueError, "multipliers is empty"),
        ({"cost_limit": float("nan")}, ValueError, "cost_limit is nan; .*one finite number"),
        ({"cost_limit": "low"}, ValueError, "cost_limit is 'low'"),
        ({"no_such": 1}, TypeError, "no_such"),
    ],
)
def test_bad_arguments_are_named(make, kwargs, error, message):
    with pytest.raises(error, match=message):
        make(BudgetToyEnv(), **kwargs)


def test_other_assertions_pass_through():
    with pytest.raises(AssertionError, match="`batch_size` must be greater than 1"):
        one_critic(BudgetToyEnv(), batch_size=1)


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained model of every kind, and the files they are in."""
    folder = tmp_path_factory.mktemp("models")
    models = {make.__name__: make(BudgetToyEnv()).learn(32) for make in MAKERS}
    for name, model in models.items():
        model.save(folder / name)
    return folder, models


def same_actions(one, other):
    observations = np.linspace(0.0, 1.0, 4, dtype=np.float32)[:, None]
    actions = [m.predict(observations, deterministic=True)[0] for m in (one, other)]
    return np.array_equal(*actions)


@each
@pytest.mark.parametrize("how", ["text", "path", "suffix", "open file", "bytes"])
def test_models_are_loaded_from_whatever_they_are_in(make, how, saved):
    folder, models = saved
    model, path = models[make.__name__], folder / make.__name__
    file = Path(f"{path}.zip")
    if how == "open file":
        with file.open("rb") as stream:
            loaded = type(model).load(stream, device="cpu")
            assert not stream.closed
    elif how == "bytes":
        loaded = type(model).load(io.BytesIO(file.read_bytes()), device="cpu")
    else:
        source = {"text": str(path), "path": path, "suffix": file}[how]
        loaded = type(model).load(source, device="cpu")
    assert same_actions(loaded, model)
    assert loaded.multiplier == model.multiplier
    assert loaded.num_timesteps == model.num_timesteps


@each
def test_models_are_saved_to_open_files_too(make, saved):
    model = saved[1][make.__name__]
    stream = io.BytesIO()
    model.save(stream)
    assert same_actions(type(model).load(stream, device="cpu"), model)
    assert read_origin(stream) == (type(model).made_by, FORMAT)


WRONG = {
    "one_critic": ("constrained(PPO)", constrained(A2C)),
    "two_critics": ("PPOLagrangian", A2CLagrangian),
    "off_policy": ("constrained(SAC)", constrained(DQN)),
}


@each
def test_a_model_of_another_algorithm_is_refused(make, saved):
    folder, models = saved
    made_by, other = WRONG[make.__name__]
    path = folder / make.__name__
    assert read_origin(path) == (made_by, FORMAT)
    wrong = [other] + [type(m) for name, m in models.items() if name != make.__name__]
    for kind in wrong:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - whole text below
            kind.load(path)
        assert str(error.value) == (
            f"path={str(path)!r} cannot be loaded by {kind.made_by}: it was made by {made_by}; "
            "load it with that."
        )


@pytest.mark.parametrize("kind", [constrained(PPO), PPOLagrangian])
def test_a_model_of_others_is_refused(kind, tmp_path):
    PPO("MlpPolicy", BudgetToyEnv(), device="cpu", n_steps=8, batch_size=8).save(tmp_path / "m")
    assert read_origin(tmp_path / "m") == ("", 0)
    with pytest.raises(ValueError, match=r"cannot be loaded by .*: it is not ours"):
        kind.load(tmp_path / "m")


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        archive(),
        archive(other="{}"),
        *(archive(data=data) for data in ("{", b"\xff", "3", "null")),
    ],
)
def test_what_is_no_model_is_refused(content, tmp_path):
    (tmp_path / "file.zip").write_bytes(content)
    for path in (tmp_path / "file", str(tmp_path / "file.zip"), io.BytesIO(content)):
        with pytest.raises(ValueError, match=r"is no saved model .*Pass a file written by save\("):
            constrained(PPO).load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        constrained(PPO).load(tmp_path / "nowhere")


@each
def test_a_later_format_is_refused(make, saved, tmp_path):
    folder, models = saved
    with (
        zipfile.ZipFile(folder / f"{make.__name__}.zip") as old,
        zipfile.ZipFile(tmp_path / "new.zip", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                content = json.dumps({**json.loads(content), "_format": FORMAT + 1})
            new.writestr(name, content)
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}; .*up to {FORMAT}. Upgrade the"):
        type(models[make.__name__]).load(tmp_path / "new")


@each
def test_learning_without_an_environment_says_how(make, saved):
    folder, models = saved
    loaded = type(models[make.__name__]).load(folder / make.__name__, device="cpu")
    with pytest.raises(ValueError, match=r"env is None: .*set_env\(env\) before learn, or load\("):
        loaded.learn(16, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="env is None"):
        loaded.limits()
    loaded.set_env(BudgetToyEnv())
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 48


@each
def test_arguments_may_be_replaced_when_loading(make, saved):
    folder, models = saved
    kind, path = type(models[make.__name__]), folder / make.__name__
    loaded = kind.load(path, multiplier=FixedMultiplier(0.0), cost_limit=0.75, seed=3)
    assert loaded.multiplier == FixedMultiplier(0.0)
    assert loaded.cost_limit.tolist() == [0.75]
    assert loaded.seed == 3
    loaded.set_env(BudgetToyEnv())
    assert loaded.learn(16).multiplier.value == 0.0


@each
def test_arguments_of_a_loaded_model_are_checked_too(make, saved):
    folder, models = saved
    kind, path = type(models[make.__name__]), folder / make.__name__
    with pytest.raises(TypeError, match=r"multiplier is 1.0; .*GradientMultiplier"):
        kind.load(path, multiplier=1.0)
    with pytest.raises(ValueError, match="cost_limit is nan"):
        kind.load(path, cost_limit=float("nan"))
    rules = [GradientMultiplier(), GradientMultiplier()]
    with pytest.raises(ValueError, match=r"for 2 costs, but the model .* with 1. Give one for"):
        kind.load(path, multiplier=rules)
