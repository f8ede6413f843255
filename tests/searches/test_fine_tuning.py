"""Fine-tuning: it can be stopped at any step, goes on as if it had not been, and never harms."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import replace

import pytest
import tiny
import torch

from prune_gym.errors import InvalidValueError, RunFolderError
from prune_gym.networks.checkpoints import save_weights
from prune_gym.problem.saving import load_pruned
from prune_gym.searches import fine_tuning
from prune_gym.searches.fine_tuning import FineTuned, fine_tune, usual_steps, words_of
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import search
from prune_gym.searches.training_state import TrainingState
from prune_gym.tasks.metrics import Metric
from prune_gym.training.recovery import bn, finetune
from prune_gym.utils.stopping import Stopped, stop_requested

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")


@pytest.fixture
def found(tiny_problem):
    return search(tiny_problem, "random", evaluations=12, seed=3)


def interrupt_at(step):
    """An `on_step` that is a Ctrl-C during a step."""

    def on_step(done, loss):
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


@posix
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_stopped_fine_tuning_goes_on_bit_for_bit(ema, found, tmp_path):
    state = tmp_path / "state.safetensors"
    expected = found.fine_tune(9, seed=1, ema=ema)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped):
        found.fine_tune(9, seed=1, ema=ema, state=state, on_step=interrupt_at(4))
    assert not stop_requested()
    assert signal.getsignal(signal.SIGINT) is before
    steps = []
    how = {"seed": 1, "ema": ema, "state": state}
    tuned = found.fine_tune(9, **how, on_step=lambda step, loss: steps.append(step))
    assert steps == [5, 6, 7, 8, 9]
    assert not state.exists()
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(tuned.network.state_dict()[name], tensor), name
    assert tuned.validation_accuracy == expected.validation_accuracy


@posix
def test_it_is_saved_while_it_runs(found, tmp_path, monkeypatch):
    """A process that is killed at any moment loses a few seconds."""
    monkeypatch.setattr(fine_tuning, "SAVE_EVERY_S", 0.0)
    state = tmp_path / "state.safetensors"

    def die(step, loss):
        if step == 4:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        found.fine_tune(6, state=state, on_step=die)
    steps = []
    found.fine_tune(6, state=state, on_step=lambda step, loss: steps.append(step))
    assert steps == [4, 5, 6]


def test_a_state_of_another_training_is_refused(found, tmp_path):
    state = tmp_path / "state.safetensors"
    saved = TrainingState(state, {"network": 1, "steps": 2, "seed": 0})
    network = copy.deepcopy(found.network)
    fine_tune(network, found.problem, steps=2, seed=0, state=saved)
    with pytest.raises(
        RunFolderError, match=r"is of another fine-tuning .network 1, steps 2, seed"
    ):
        found.fine_tune(3, state=state)
    state.unlink()
    loud = TrainingState(state, {"\x1b[2J": "\n"})
    fine_tune(copy.deepcopy(found.network), found.problem, steps=1, seed=0, state=loud)
    with pytest.raises(RunFolderError, match="is of another fine-tuning") as error:
        found.fine_tune(3, state=state)
    assert str(error.value).isprintable()
    state.write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match=r"state.safetensors is damaged.*delete it"):
        found.fine_tune(3, state=state)


@posix
@pytest.mark.parametrize("command", ["prune", "pick"])
def test_the_command_goes_on_with_it(command, tmp_path, monkeypatch):
    run = tmp_path / "run"
    options = ["--evaluation-samples", 50, "--budget", "params=0.5", "--algo", "random"]
    options += ["--timesteps", 24, "--finetune-steps", 5]
    if command == "pick":
        tiny.call("prune", *options, "--out", run)
        first = again = ["pick", run, "--budget", "params=0.6", "--finetune-steps", 5]
        folder = run / "picked-params=0.6"
    else:
        first, again, folder = ["prune", *options, "--out", run], ["prune", "--resume", run], run
    step = fine_tuning.Training.step

    def stopped(self):
        if self.step_number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Training, "step", stopped)
        said = tiny.call(*first, code=130)
    assert "fine-tuning is saved" in said
    assert RunFolder(folder).fine_tuning.is_file()
    seen = []
    monkeypatch.setattr(
        fine_tuning.Training, "step", lambda self: (seen.append(self.step_number), step(self))[1]
    )
    tiny.call(*again)
    assert seen == [3, 4]
    assert not RunFolder(folder).fine_tuning.exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["finetune_steps"] == 5
    assert load_pruned(folder) is not None


# -- how long --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "unpruned", "recovered", "steps"),
    [
        (None, 0.99, 0.985, 0),
        (None, 0.97, 0.99, 0),
        (None, 0.99, 0.975, 300),
        (Metric(max, "neg"), -0.1, -0.1005, 0),  # no ends: relative to what is unpruned
        (Metric(max, "neg"), -0.1, -0.102, 300),
    ],
)
def test_what_lost_little_is_not_fine_tuned_unless_told_to(
    tiny_problem, metric, unpruned, recovered, steps
):
    problem = tiny_problem
    if metric is not None:
        problem = replace(problem, task=replace(problem.task, metric=metric))
    scores = {"dense_validation": unpruned, "recovered_validation": recovered}
    assert usual_steps(problem, scores) == steps


def test_the_command_fine_tunes_where_much_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "USUAL_STEPS", 2)
    weights = tmp_path / "vgg.safetensors"
    save_weights(tiny.build("vgg"), weights)
    network = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    search = ["--algo", "random", "--evaluations", 4, "--weights", weights]
    for little, steps in ((0.0, 2), (1.0, 0)):
        monkeypatch.setattr(fine_tuning, "LITTLE", little - 0.5)
        out = tmp_path / str(steps)
        said = tiny.call("prune", *network, *search, "--budget", "params=0.5", "--out", out)
        assert json.loads((out / "metrics.json").read_text())["finetune_steps"] == steps
        assert ("nothing was trained" in said) == (steps == 0)
    again = tiny.call("pick", out, "--trust", "--budget", "params=0.5", "--finetune-steps", 2)
    assert "fine-tuned" in again


# -- what is handed over ---------------------------------------------------------------------------


def test_statistics_are_those_that_judge_better(found, monkeypatch):
    """After a few steps they lag behind the weights."""
    network = copy.deepcopy(found.network)
    done = fine_tune(network, found.problem, steps=3, seed=0)
    assert found.problem.accuracy(network) == done.accuracy
    monkeypatch.setattr(fine_tuning, "bn", lambda *_, **__: None)
    lagging = fine_tune(copy.deepcopy(found.network), found.problem, steps=3, seed=0)
    assert done.trained >= lagging.trained
    assert not lagging.recomputed
    assert done.before == lagging.before == found.best.validation_accuracy


def test_a_network_that_training_made_worse_is_put_back(found, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_with_better_statistics", lambda *_: (0.0, False))
    network = copy.deepcopy(found.network)
    before = tiny.snapshot(network)["tensors"]
    done = fine_tune(network, found.problem, steps=2, seed=0)
    assert done == FineTuned(found.best.validation_accuracy, 0.0, recomputed=False, kept=False)
    assert done.accuracy == done.before
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert words_of(done.to_json()).startswith("fine-tuning made it worse (validation accuracy 0.")


def test_the_average_of_the_weights_is_handed_over(found, monkeypatch):
    """It begins with the weights after the first step: a <- decay * a + (1 - decay) * weights."""
    monkeypatch.setattr(fine_tuning, "_with_better_statistics", lambda *_: (1.0, False))
    seen, step = [], fine_tuning.Training.step

    def noted(self):
        loss = step(self)
        seen.append([parameter.detach().clone() for parameter in self.network.parameters()])
        return loss

    monkeypatch.setattr(fine_tuning.Training, "step", noted)
    network = copy.deepcopy(found.network)
    fine_tune(network, found.problem, steps=4, seed=0, ema=0.7)
    expected = seen[0]
    for weights in seen[1:]:
        expected = [0.7 * old + 0.3 * new for old, new in zip(expected, weights, strict=True)]
    for parameter, value in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    assert not network.training


def test_what_no_average_can_be_is_refused(found):
    with pytest.raises(InvalidValueError, match=r"ema=1.0 must be a number of at least 0, below 1"):
        found.fine_tune(2, ema=1.0)
    problem = found.problem
    own = replace(problem, task=replace(problem.task, fine_tune=lambda network, train: None))
    with pytest.raises(InvalidValueError, match=r"ema=0.9: .* fine_tune= is your own; leave it"):
        fine_tune(copy.deepcopy(found.network), own, steps=2, seed=0, ema=0.9)


def test_no_steps_change_nothing(found):
    network = copy.deepcopy(found.network)
    before = tiny.snapshot(network)
    done = fine_tune(network, found.problem, steps=0, seed=0)
    tiny.assert_unchanged(network, before)
    assert done == FineTuned(done.before, done.before, recomputed=False, kept=True)
    assert words_of(done.to_json()) == words_of(None) == ""


def test_the_recovery_recomputes_them_too(found):
    network = copy.deepcopy(found.network)
    train = found.problem.data.train
    finetune(network, train, generator=torch.Generator().manual_seed(0), steps=2)
    before = tiny.snapshot(network)["tensors"]
    bn(network, train, generator=torch.Generator(), steps=0)
    for name, tensor in network.state_dict().items():  # they are those of the weights already
        assert torch.equal(tensor, before[name]) or "num_batches" in name, name
