import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import BudgetToyEnv
from agents.runs.eval_callback import ConstrainedEvalCallback
from agents.wrappers import FixedPenalty

LIMIT = 1.0


class Story(gym.Env):
    """Every episode has one step, whose return and cost are told in advance."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, *episodes, limit=LIMIT):
        self.episodes = iter(episodes)
        self.cost_limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"cost": 0.0}

    def step(self, action):
        reward, cost = next(self.episodes)
        return np.zeros(1, np.float32), reward, True, False, {"cost": cost}


class Written(KVWriter):
    def __init__(self):
        self.values = []

    def write(self, key_values, key_excluded, step=0):
        self.values.append({key: v for key, v in key_values.items() if key.startswith("eval/")})

    def close(self):
        pass


@pytest.fixture
def model():
    return PPO("MlpPolicy", BudgetToyEnv(), n_steps=8, batch_size=8, n_epochs=1, seed=0)


def learn(model, callback, n_evaluations, **kwargs):
    """Train until there were so many more evaluations; return what was logged."""
    written = Written()
    model.set_logger(Logger(None, [written]))
    model.learn(callback.eval_freq * n_evaluations, callback=callback, **kwargs)
    return [values for values in written.values if values]


class Best(BaseCallback):
    """Notes when there was a new best, and what it was."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        self.seen.append((self.num_timesteps, self.parent.best.return_mean))
        return True


def test_keeps_the_best_feasible_model(model, tmp_path):
    #         infeasible  less excess  more excess  feasible     better      infeasible  worse
    episodes = [(9.0, 3.0), (5.0, 2.0), (8.0, 2.5), (1.0, 1.0), (2.0, 0.5), (9.0, 1.1), (1.5, 0.0)]
    new_best = Best()
    callback = ConstrainedEvalCallback(
        Story(*episodes),
        eval_freq=8,
        n_eval_episodes=1,
        best_model_save_path=tmp_path / "best",
        callback_on_new_best=new_best,
    )
    learn(model, callback, len(episodes))
    assert new_best.seen == [(8, 9.0), (16, 5.0), (32, 1.0), (40, 2.0)]
    assert callback.best.feasible
    assert callback.best_mean_reward == 2.0
    assert callback.last.return_mean == callback.last_mean_reward == 1.5
    assert PPO.load(tmp_path / "best" / "best_model").num_timesteps == 40


def test_one_bad_episode_makes_it_infeasible(model):
    story = Story((9.0, 0.0), (9.0, 1.5), (1.0, 0.5), (1.0, 1.0))
    callback = ConstrainedEvalCallback(story, eval_freq=8, n_eval_episodes=2)
    learn(model, callback, 2)
    assert callback.best.returns == (1.0, 1.0)


def test_among_the_infeasible_the_least_excess(model):
    story = Story((1.0, 3.0), (0.0, 2.0), (9.0, 2.5), (0.5, 2.0))
    callback = ConstrainedEvalCallback(story, eval_freq=8, n_eval_episodes=1)
    learn(model, callback, 4)
    assert (callback.best.cost_mean, callback.best.return_mean) == (2.0, 0.5)
    assert callback.best_mean_reward == -np.inf


def test_a_stricter_limit_is_asked_of_the_old_best_too(model):
    story = Story((9.0, 0.9), (1.0, 0.4))
    callback = ConstrainedEvalCallback(story, eval_freq=8, n_eval_episodes=1)
    learn(model, callback, 1)
    story.cost_limit = 0.5
    learn(model, callback, 1, reset_num_timesteps=False)
    assert callback.best.return_mean == 1.0


def test_logs_what_the_environment_paid(model):
    env = FixedPenalty(Story((2.0, 0.5), (4.0, 1.5)), 3.0)
    callback = ConstrainedEvalCallback(env, eval_freq=8, n_eval_episodes=2)
    (logged,) = learn(model, callback, 1)
    assert logged == {
        "eval/mean_reward": 3.0,
        "eval/mean_cost": 1.0,
        "eval/cost_ratio": 1.0,
        "eval/violation_rate": 0.5,
        "eval/mean_excess": 0.25,
        "eval/mean_ep_length": 1.0,
    }


def test_writes_evaluations(model, tmp_path):
    callback = ConstrainedEvalCallback(
        Story((1.0, 0.1), (2.0, 0.2), (3.0, 0.3), (4.0, 0.4)),
        eval_freq=8,
        n_eval_episodes=2,
        log_path=tmp_path / "log",
    )
    learn(model, callback, 2)
    with np.load(tmp_path / "log" / "evaluations.npz") as file:
        written = {key: file[key].tolist() for key in file}
    assert written == {
        "timesteps": [8, 16],
        "results": [[1.0, 2.0], [3.0, 4.0]],
        "ep_lengths": [[1, 1], [1, 1]],
        "costs": [[0.1, 0.2], [0.3, 0.4]],
        "cost_limit": [LIMIT, LIMIT],
    }
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["evaluations.npz"]


@pytest.mark.parametrize("new_callback", [False, True])
def test_goes_on_in_a_later_training(model, tmp_path, new_callback):
    def make(*episodes):
        return ConstrainedEvalCallback(
            Story(*episodes),
            eval_freq=8,
            n_eval_episodes=1,
            log_path=tmp_path,
            best_model_save_path=tmp_path,
        )

    rest = [(4.0, 0.5), (6.0, 0.5)]
    callback = make((9.0, 2.0), (5.0, 0.5), *rest)
    learn(model, callback, 2)
    if new_callback:
        model = PPO.load(model_file(model, tmp_path), env=BudgetToyEnv())
        callback = make(*rest)
    learn(model, callback, 1, reset_num_timesteps=False)
    assert callback.best.return_mean == 5.0
    assert PPO.load(tmp_path / "best_model").num_timesteps == 16
    learn(model, callback, 1, reset_num_timesteps=False)
    assert callback.best.return_mean == 6.0
    assert PPO.load(tmp_path / "best_model").num_timesteps == 32
    with np.load(tmp_path / "evaluations.npz") as file:
        assert file["timesteps"].tolist() == [8, 16, 24, 32]
        assert file["results"].ravel().tolist() == [9.0, 5.0, 4.0, 6.0]


def model_file(model, folder):
    model.save(folder / "model")
    return folder / "model"


def test_goes_on_from_an_older_checkpoint(model, tmp_path):
    def make(*episodes):
        return ConstrainedEvalCallback(
            Story(*episodes), eval_freq=12, n_eval_episodes=1, log_path=tmp_path
        )

    model.learn(16, callback=make((1.0, 0.5)))
    checkpoint = model_file(model, tmp_path)
    learn(model, make((9.0, 0.5)), 1, reset_num_timesteps=False)
    model = PPO.load(checkpoint, env=BudgetToyEnv())
    callback = make((2.0, 0.5))
    learn(model, callback, 1, reset_num_timesteps=False)
    assert callback.evaluations_timesteps == [12, 24]  # counted on from step 16
    assert callback.evaluations_results == [[1.0], [2.0]]


def test_a_new_training_starts_over(model, tmp_path):
    def make(*episodes):
        return ConstrainedEvalCallback(
            Story(*episodes), eval_freq=8, n_eval_episodes=1, log_path=tmp_path
        )

    learn(model, make((5.0, 0.5)), 1)
    callback = make((1.0, 0.5))
    learn(model, callback, 1)
    assert callback.best.return_mean == 1.0
    assert callback.evaluations_timesteps == [8]


def test_without_the_best_model_of_before_the_next_is_saved(model, tmp_path):
    def make(*episodes):
        folder = tmp_path / "best"
        return ConstrainedEvalCallback(
            Story(*episodes),
            eval_freq=8,
            n_eval_episodes=1,
            log_path=tmp_path,
            best_model_save_path=folder,
        )

    learn(model, make((5.0, 0.5)), 1)
    (tmp_path / "best" / "best_model.zip").unlink()
    learn(model, make((1.0, 0.5)), 1, reset_num_timesteps=False)
    assert (tmp_path / "best" / "best_model.zip").exists()


def test_evaluations_of_other_lengths_cannot_be_continued(model, tmp_path):
    first = ConstrainedEvalCallback(
        BudgetToyEnv(), eval_freq=8, n_eval_episodes=2, log_path=tmp_path
    )
    learn(model, first, 1)
    second = ConstrainedEvalCallback(
        BudgetToyEnv(), eval_freq=8, n_eval_episodes=3, log_path=tmp_path
    )
    with pytest.raises(ValueError, match=r"evaluations.npz cannot be continued.*3 episodes each"):
        learn(model, second, 1, reset_num_timesteps=False)


def test_callbacks_of_sb3_do_not_stop_at_an_infeasible_return(model):
    stop = StopTrainingOnRewardThreshold(5.0)
    callback = ConstrainedEvalCallback(
        Story((9.0, 2.0), (8.0, 0.5), (8.0, 0.5)),
        eval_freq=8,
        n_eval_episodes=1,
        callback_on_new_best=stop,
    )
    learn(model, callback, 3)
    assert callback.evaluations_timesteps == [8, 16]


def test_callback_after_eval_can_stop(model):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.parent.last.cost_mean < 1.0

    callback = ConstrainedEvalCallback(
        Story((1.0, 0.5), (0.0, 1.5), (0.0, 0.0)),
        eval_freq=8,
        n_eval_episodes=1,
        callback_after_eval=Stop(),
    )
    learn(model, callback, 3)
    assert callback.evaluations_timesteps == [8, 16]


def test_seed_makes_all_evaluations_see_the_same(model):
    class Noisy(BudgetToyEnv):
        def step(self, action):
            return super().step(self.np_random.uniform(-1.0, 1.0, 1))

    results = []
    for seed in (3, None):
        callback = ConstrainedEvalCallback(Noisy(), eval_freq=8, n_eval_episodes=2, seed=seed)
        learn(model, callback, 2)
        first, second = callback.evaluations_costs
        results.append(first == second)
    assert results == [True, False]


def test_limit_can_be_given(model):
    env = Story((1.0, 3.0))
    del env.cost_limit
    with pytest.raises(ValueError, match="or pass cost_limit="):
        learn(model, ConstrainedEvalCallback(env, eval_freq=8), 1)
    callback = ConstrainedEvalCallback(env, eval_freq=8, n_eval_episodes=1, cost_limit=2.0)
    learn(model, callback, 1)
    assert callback.last.mean_excess == 1.0


def normalised(env, **kwargs):
    return VecNormalize(DummyVecEnv([lambda: env]), norm_reward=False, **kwargs)


def test_normalisation_follows_the_training():
    training, evaluation = normalised(BudgetToyEnv()), normalised(BudgetToyEnv())
    model = PPO("MlpPolicy", training, n_steps=8, batch_size=8, n_epochs=1, seed=0)
    callback = ConstrainedEvalCallback(evaluation, eval_freq=8, n_eval_episodes=1)
    learn(model, callback, 2)
    assert evaluation.obs_rms is not training.obs_rms
    assert evaluation.obs_rms.mean == training.obs_rms.mean
    assert evaluation.obs_rms.count == training.obs_rms.count > 1.0


@pytest.mark.parametrize("which", ["training", "evaluation"])
def test_normalisation_of_one_alone_is_refused(which):
    envs = {"training": BudgetToyEnv(), "evaluation": BudgetToyEnv()}
    envs[which] = normalised(envs[which])
    model = PPO("MlpPolicy", envs["training"], n_steps=8, batch_size=8)
    callback = ConstrainedEvalCallback(envs["evaluation"])
    with pytest.raises(ValueError, match="not normalised as the environment of the training is"):
        learn(model, callback, 1)


@pytest.mark.parametrize("wrap", [lambda env: env, Monitor, lambda env: DummyVecEnv([lambda: env])])
def test_environments_of_the_training_are_refused(wrap):
    env = BudgetToyEnv()
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8)
    callback = ConstrainedEvalCallback(wrap(env))
    with pytest.raises(ValueError, match="eval_env is an environment of the training"):
        model.learn(8, callback=callback)


def test_the_vector_of_the_training_is_refused(model):
    with pytest.raises(ValueError, match="eval_env is an environment of the training"):
        model.learn(8, callback=ConstrainedEvalCallback(model.get_env()))


@pytest.mark.parametrize("name", ["eval_freq", "n_eval_episodes"])
@pytest.mark.parametrize("value", [0, 2.5])
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be an integer >= 1"):
        ConstrainedEvalCallback(BudgetToyEnv(), **{name: value})


def test_vectors_of_gymnasium_are_refused():
    with pytest.raises(TypeError, match="eval_env is a SyncVectorEnv"):
        ConstrainedEvalCallback(gym.vector.SyncVectorEnv([BudgetToyEnv]))


def test_verbose_says_what_is_best(capsys):
    model = PPO("MlpPolicy", BudgetToyEnv(), n_steps=8, batch_size=8, verbose=1)
    story = Story((1.0, 1.5), (2.0, 0.5))
    model.learn(
        16, callback=ConstrainedEvalCallback(story, eval_freq=8, n_eval_episodes=1, verbose=1)
    )
    printed = capsys.readouterr().out
    assert "New best model: return 1, excess 0.5" in printed
    assert "New best model: return 2, feasible" in printed
