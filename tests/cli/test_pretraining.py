"""Dense training: recipes, resuming bit for bit, and what stands in its way."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace

import pytest
import tiny
import torch
from rich.console import Console
from torch.nn import functional

import prune_gym
from prune_gym.cli import pretrain as pretraining
from prune_gym.cli.pretrain import PretrainConfig, pretrain, recipe_for
from prune_gym.datasets import Dataset, Split
from prune_gym.errors import CheckpointError, OutOfMemoryError, TrainingDivergedError
from prune_gym.networks.checkpoints import read_tensors
from prune_gym.training.loop import Recipe, Training, fit
from prune_gym.utils.devices import has_bfloat16
from prune_gym.utils.memory import memory_bound

CPU = torch.device("cpu")
CONFIG = PretrainConfig("tiny:cli_network", "tiny:cli_dataset", epochs=3, batch_size=16)


def data_of(n: int) -> Dataset:
    images = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    split = Split(images, torch.arange(n) % 2)
    return Dataset("zeros", split, split, None, 2)


def train(config=CONFIG, *, out, resume=False, stop_at=None, monkeypatch=None) -> str:
    """What `pretrain` prints; ``stop_at``: the step at which Ctrl-C arrives."""
    said = io.StringIO()
    if stop_at is not None:
        report = pretraining._Pretraining._report

        def stopping_report(work, *arguments):
            report(work, *arguments)
            work.stop = work.training.step_number == stop_at

        monkeypatch.setattr(pretraining._Pretraining, "_report", stopping_report)
    try:
        pretrain(config, out, "cpu", resume, Console(file=said, width=200))
    finally:
        monkeypatch is None or monkeypatch.undo()
    return said.getvalue()


def state_of(out):
    return out.with_name(f"{out.stem}.training.safetensors")


# -- recipes ---------------------------------------------------------------------------------------


def test_the_recipe_follows_the_size_of_the_data():
    small, few = recipe_for(PretrainConfig("small", "x"), data_of(4_999), CPU)
    large, many = recipe_for(PretrainConfig("small", "x"), data_of(5_000), CPU)
    assert (small.optimizer, few, small.bfloat16) == ("adam", 60, False)
    assert (large.optimizer, many) == ("sgd", 30)
    assert large.bfloat16 == has_bfloat16(CPU)
    config = PretrainConfig("small", "x", 7, 0, 32, 0.5, "bfloat16")
    own, epochs = recipe_for(config, data_of(5_000), CPU)
    assert (own.batch_size, own.peak_lr, own.bfloat16, epochs) == (32, 0.5, True, 7)


def test_from_given_weights_on_it_is_shorter_and_lower():
    config = PretrainConfig("small", "x", init="weights.pt")
    few, large = recipe_for(config, data_of(4_999), CPU), recipe_for(config, data_of(5_000), CPU)
    assert [(recipe.peak_lr, epochs) for recipe, epochs in (few, large)] == [
        (pytest.approx(3e-3 / 5), 20),
        (pytest.approx(0.02), 10),
    ]
    own, epochs = recipe_for(replace(config, epochs=2, learning_rate=0.5), data_of(5_000), CPU)
    assert (own.peak_lr, epochs) == (0.5, 2)


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="precision='half' must be one of auto, float32, bfloat16"):
        recipe_for(PretrainConfig("small", "x", precision="half"), data_of(10), CPU)


def test_weight_decay_leaves_norms_and_biases_alone():
    network = tiny.build("vgg")
    optimizer = Recipe("sgd", weight_decay=0.3).optimizer_of(network)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for parameter in network.parameters():
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0)


def test_sgd_steps_by_the_formula_of_nesterov_momentum():
    network = torch.nn.Linear(2, 2, bias=False)
    recipe = Recipe("sgd", 4, peak_lr=0.1, weight_decay=0.01, schedule=lambda progress: 1.0)
    split = Split(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))
    weight, momentum = network.weight.detach().clone(), torch.zeros(2, 2)
    for _ in range(3):
        moved = weight.clone().requires_grad_(True)
        functional.cross_entropy(split.images @ moved.T, split.labels).backward()
        slope = moved.grad + 0.01 * weight
        momentum = 0.9 * momentum + slope
        weight = weight - 0.1 * (slope + 0.9 * momentum)
    fit(network, split, recipe, steps=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.weight.detach(), weight)


def test_bfloat16_is_close_to_float32():
    losses = {}
    for bfloat16 in (False, True):
        network, split = tiny.build("vgg"), Split(*tiny.data_of(30, 0))
        generator = torch.Generator().manual_seed(0)
        recipe = Recipe(batch_size=30, bfloat16=bfloat16)
        training = Training(network, split, recipe, steps=5, generator=generator)
        losses[bfloat16] = torch.stack([training.step() for _ in range(5)])
        assert all(p.dtype == torch.float32 for p in network.parameters())
    assert not torch.equal(losses[True], losses[False])
    torch.testing.assert_close(losses[True], losses[False], rtol=0.05, atol=0.02)


# -- distillation ----------------------------------------------------------------------------------


def test_the_loss_of_distillation_in_numbers():
    generator = torch.Generator().manual_seed(0)
    outputs, taught = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    recipe = Recipe(distillation=0.7, temperature=2.0)
    hard = soft = 0.0
    for row in range(5):
        hard -= float(outputs[row].log_softmax(0)[labels[row]]) / 5
        p, q = (taught[row] / 2.0).softmax(0), (outputs[row] / 2.0).softmax(0)
        soft += float((p * (p.log() - q.log())).sum()) / 5
    expected = 0.3 * hard + 0.7 * 4.0 * soft
    assert float(recipe.loss(outputs, labels, taught)) == pytest.approx(expected, abs=1e-12)
    assert float(recipe.loss(outputs, labels, None)) == pytest.approx(hard, abs=1e-12)


def test_a_student_follows_its_teacher_and_not_the_labels():
    teacher, student = tiny.build("vgg", 1), tiny.build("vgg", 2)
    images = tiny.images_of(60, 3)
    with torch.no_grad():
        taught = teacher(images).argmax(dim=1)
    split = Split(images, (taught + 1) % 3)  # labels that are always wrong
    before = tiny.snapshot(teacher)
    recipe = Recipe(batch_size=20, distillation=1.0)
    generator = torch.Generator().manual_seed(0)
    fit(student, split, recipe, steps=150, generator=generator, teacher=teacher)
    with torch.no_grad():
        agreed = (student(images).argmax(dim=1) == taught).float().mean()
    assert agreed > 0.9
    tiny.assert_unchanged(teacher, before)


def test_a_teacher_without_distillation_changes_nothing():
    trained = []
    for teacher in (None, tiny.build("vgg", 1)):
        network, generator = tiny.build("vgg"), torch.Generator().manual_seed(0)
        split = Split(*tiny.data_of(30, 0))
        fit(network, split, Recipe(), steps=3, generator=generator, teacher=teacher)
        trained.append(network.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


# -- stopping and resuming -------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Recipe(batch_size=7), Recipe("sgd", 7, 0.05)])
@pytest.mark.parametrize("stop", [1, 5, 9])  # within an epoch of 4 steps and at its end
def test_a_restored_training_goes_on_bit_for_bit(recipe, stop):
    def begun():
        network, generator = tiny.build("vgg"), torch.Generator().manual_seed(3)
        split = Split(*tiny.data_of(30, 0))
        augment = prune_gym.DATASETS.get("digits")().augment
        return Training(network, split, recipe, steps=12, generator=generator, augment=augment)

    whole = begun()
    losses = [float(whole.step()) for _ in range(12)]
    first, second = begun(), begun()
    again = [float(first.step()) for _ in range(stop)]
    saved = {name: value.clone() for name, value in first.tensors().items()}
    second.step()  # a training that went elsewhere
    second.restore(saved)
    again += [float(second.step()) for _ in range(12 - stop)]
    assert again == losses
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_stop_and_resume_give_the_weights_of_one_call(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    said = train(out=whole)
    assert "epoch 3/3" in said
    assert f"saved: {whole}" in said
    with pytest.raises(SystemExit) as end:
        train(out=parts, stop_at=5, monkeypatch=monkeypatch)
    assert end.value.code == 130
    assert state_of(parts).is_file()
    assert not parts.exists()
    train(out=parts, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    assert not state_of(parts).exists()
    facts = json.loads(parts.with_suffix(".json").read_text())
    assert facts["epochs"] == 3
    assert f"validation accuracy {facts['validation_accuracy']:.4f}" in said


def test_the_seed_decides(tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.safetensors"
        train(replace(CONFIG, seed=seed), out=out)
        weights.append(out.read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_what_was_stopped_is_not_overwritten(tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"nothing to resume: there is no .*Leave --resume"):
        train(out=out, resume=True)
    with pytest.raises(SystemExit):
        train(out=out, stop_at=2, monkeypatch=monkeypatch)
    before = state_of(out).read_bytes()
    with pytest.raises(CheckpointError, match=r"stopped before its end. Go on with --resume, or"):
        train(out=out)
    with pytest.raises(CheckpointError, match=r"begun with epochs 3; resume it with the same, or"):
        train(replace(CONFIG, epochs=4), out=out, resume=True)
    assert state_of(out).read_bytes() == before
    state_of(out).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        train(out=out, resume=True)


def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    with pytest.raises(SystemExit):
        train(out=out, stop_at=2, monkeypatch=monkeypatch)
    before = state_of(out).read_bytes()

    def full(path, tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretraining, "write_tensors", full)
    monkeypatch.setattr(pretraining, "SAVE_EVERY_S", 0.0)
    with pytest.raises(OSError, match=r"cannot be saved .*No space left.*make room and go on with"):
        train(out=out, resume=True)
    monkeypatch.undo()
    assert state_of(out).read_bytes() == before
    assert int(read_tensors(state_of(out))["step"]) == 2
    train(out=out, resume=True)
    assert out.is_file()


# -- what cannot be trained ------------------------------------------------------------------------


def test_images_that_are_too_small(tmp_path):
    config = PretrainConfig("vgg11", "digits", epochs=1)
    message = r"network 'vgg11' does not run on 'digits', whose images are \(1, 16, 16\)"
    with pytest.raises(ValueError, match=message):
        train(config, out=tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def two_outputs(*, in_channels=1, n_classes=3):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))


def test_too_few_outputs(tmp_path):
    config = PretrainConfig("test_pretraining:two_outputs", "tiny:cli_dataset", epochs=1)
    message = r"outputs of shape \(1, 2\) for one image, but 'cli' has 3 classes; expected \(1, 3\)"
    with pytest.raises(ValueError, match=message):
        train(config, out=tmp_path / "x.safetensors")


def test_a_training_that_diverges(tmp_path):
    config = replace(CONFIG, learning_rate=100.0)
    with pytest.raises(
        TrainingDivergedError, match=r"diverged.* start anew with a --learning-rate below 100"
    ):
        train(config, out=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_says_what_to_lower(raised):
    def forward(images, generator):
        raise raised

    with pytest.raises(OutOfMemoryError, match=r"out of memory; lower the batch size \(now 100\)"):
        fit(
            tiny.build("vgg"),
            Split(*tiny.data_of(8, 0)),
            Recipe(),
            steps=1,
            generator=torch.Generator(),
            augment=forward,
        )


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes differ"), memory_bound("x"):
        raise RuntimeError("shapes differ")


# -- going on, and what is there already ----------------------------------------------------------


def stopped(config, out, monkeypatch) -> None:
    with pytest.raises(SystemExit):
        train(config, out=out, stop_at=2, monkeypatch=monkeypatch)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_left_open_comes_from_the_saved_state(tmp_path, monkeypatch, precision):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    given = replace(CONFIG, seed=7, learning_rate=1e-3, precision=precision)
    stopped(given, parts, monkeypatch)
    train(PretrainConfig(CONFIG.network, CONFIG.dataset), out=parts, resume=True)
    facts = json.loads(parts.with_suffix(".json").read_text())
    assert [facts[k] for k in ("seed", "epochs", "precision")] == [7, 3, precision]
    if precision == "float32":  # sums in bfloat16 differ from run to run with the threads
        train(given, out=whole)
        torch.testing.assert_close(read_tensors(parts), read_tensors(whole), rtol=0, atol=0)


def test_a_training_begins_with_given_weights(tmp_path, monkeypatch):
    first, second = tmp_path / "first.pt", tmp_path / "second.safetensors"
    trained = tiny.cli_network()
    with torch.no_grad():
        for tensor in trained.parameters():
            tensor.mul_(0.9)
    torch.save(trained.state_dict(), first)
    given = replace(CONFIG, init=str(first), learning_rate=1e-8)
    stopped(given, second, monkeypatch)
    first.rename(tmp_path / "moved.pt")  # what was begun goes on without it
    train(PretrainConfig(CONFIG.network, CONFIG.dataset), out=second, resume=True)
    for name, tensor in trained.named_parameters():
        torch.testing.assert_close(read_tensors(second)[name].float(), tensor, atol=1e-4, rtol=1e-3)
    assert json.loads(second.with_suffix(".json").read_text())["init"] == str(first)


def test_weights_of_another_network_begin_nothing(tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    config = replace(CONFIG, init=str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match="the weights are of another network"):
        train(config, out=tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


def other_network(*, in_channels=1, n_classes=3):
    return tiny.build("vgg")


def other_dataset():
    return tiny.cli_dataset()


def never(name):
    raise AssertionError("the data is loaded before the state is looked at")


@pytest.mark.parametrize(
    ("given", "was"),
    [
        ({"seed": 1}, "seed 0"),
        ({"precision": "bfloat16"}, "precision float32"),
        ({"network": "test_pretraining:other_network"}, "network tiny:cli_network"),
        ({"dataset": "test_pretraining:other_dataset"}, "dataset tiny.cli_dataset"),
    ],
)
def test_a_state_of_something_else_is_refused(tmp_path, monkeypatch, given, was):
    out = tmp_path / "x.safetensors"
    stopped(CONFIG, out, monkeypatch)
    before = state_of(out).read_bytes()
    monkeypatch.setattr(pretraining, "load_dataset", never)
    with pytest.raises(CheckpointError, match=f"was begun with {was}; resume it with the same"):
        train(replace(CONFIG, **given), out=out, resume=True)
    with pytest.raises(CheckpointError, match="was stopped before its end"):
        train(out=out)
    assert state_of(out).read_bytes() == before


def test_a_state_of_other_images_is_refused(tmp_path, monkeypatch):
    out, data = tmp_path / "x.safetensors", tiny.cli_dataset()
    stopped(CONFIG, out, monkeypatch)
    fewer = replace(data, train=data.train.first(48))
    monkeypatch.setattr(pretraining, "load_dataset", lambda name: fewer)
    with pytest.raises(CheckpointError, match="was begun with train_images 64; resume it with"):
        train(out=out, resume=True)


def test_chance_replaces_nothing(tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    assert "has weights" not in train(out=out)  # nothing there: kept, whatever it is
    old, facts = out.read_bytes(), json.loads(out.with_suffix(".json").read_text())
    monkeypatch.setattr(pretraining, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(pretraining, "accuracy", lambda *arguments: 0.5)
    message = r"0.5000 of 3 classes is at chance, .*as it was and no state .* --learning-rate b"
    with pytest.raises(TrainingDivergedError, match=message):
        train(replace(CONFIG, seed=1), out=out)
    assert out.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.safetensors"]
    monkeypatch.setattr(pretraining, "accuracy", lambda *arguments: 0.51)
    said = train(replace(CONFIG, seed=1), out=out)
    was = f"{facts['validation_accuracy']:.4f}"
    assert f"{out} has weights of validation accuracy {was}; to be replaced." in said
    assert out.read_bytes() != old


def test_a_training_far_above_chance_is_not_kept(tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    monkeypatch.setattr(pretraining, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(pretraining, "check_loss", lambda loss, step, recipe: 2.2)  # 2 ln 3 = 2.197
    with pytest.raises(TrainingDivergedError, match=r"last loss is 2.2; guessing has 1.099"):
        train(out=out)
    assert not list(tmp_path.iterdir())  # a new start is free
    monkeypatch.setattr(pretraining, "check_loss", lambda loss, step, recipe: 2.19)
    train(out=out)
    assert out.is_file()


def test_an_unusable_place_is_noticed_before_the_data_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "load_dataset", never)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
        train(out=tmp_path)
    with pytest.raises(NotADirectoryError, match=r"cannot be written: .*file is no folder; give"):
        train(out=tmp_path / "file" / "deep" / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.json is where the facts go"):
        train(out=tmp_path / "x.json")

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(OSError, match=r"takes no file \(Permission denied\); give another"):
        train(out=tmp_path / "new" / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_printed_command_goes_on(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from prune_gym.cli.main import app

    out = tmp_path / "a [b] folder" / "x.safetensors"
    report = pretraining._Pretraining._report

    def stop(work, *arguments):
        report(work, *arguments)
        work.stop = True

    monkeypatch.setattr(pretraining._Pretraining, "_report", stop)
    given = ["tiny:cli_network", "--dataset", "tiny:cli_dataset", "--epochs", "2", "--seed", "5"]
    more = ["--batch-size", "16", "--learning-rate", "0.002", "--precision", "float32"]
    done = CliRunner().invoke(app, ["pretrain", *given, *more, "--out", str(out)])
    assert done.exit_code == 130
    command = shlex.split(done.stdout.split("go on: prune-gym ")[1])
    monkeypatch.setattr(pretraining._Pretraining, "_report", report)
    done = CliRunner().invoke(app, command)
    assert f"saved: {out}" in done.stdout
    facts = json.loads(out.with_suffix(".json").read_text())
    kept = [facts[k] for k in ("epochs", "seed", "batch_size", "learning_rate")]
    assert kept == [2, 5, 16, 0.002]


def test_ctrl_c_in_a_command_has_its_own_words(capsys):
    from prune_gym.cli.console import user_errors

    for words in ([], ["stopped; go on."]):
        with pytest.raises(SystemExit) as end, user_errors(*words):
            raise KeyboardInterrupt
        assert end.value.code == 130
        assert capsys.readouterr().err == f"error: {(*words, 'stopped.')[0]}\n"
