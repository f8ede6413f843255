"""Dense training of a named network, as ``prune-gym pretrain`` has it: shown, saved, resumable."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from agents.console import say
from agents.files import LOCK
from agents.locking import locked
from agents.stopping import EXIT_CODE
from prune_gym.cli.console import LINE_EVERY_S, is_live, progress_bar, time_left
from prune_gym.datasets import Dataset, file_name, load_dataset
from prune_gym.errors import CheckpointError, FileError, InvalidValueError, TrainingDivergedError
from prune_gym.networks.build import build_for, check_outputs
from prune_gym.networks.checkpoints import (
    checkpoint_path,
    read_tensors,
    save_weights,
    write_tensors,
)
from prune_gym.networks.weight_files import load_weights
from prune_gym.training.evaluation import accuracy
from prune_gym.training.loop import MANY, Recipe, Training, check_loss
from prune_gym.utils.arguments import (
    LEARNING_RATES,
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_SEED,
    real_number,
    whole_number,
)
from prune_gym.utils.cache import cache_dir
from prune_gym.utils.devices import has_bfloat16, resolve_device
from prune_gym.utils.files import check_writable, fact_in, reading, replacing, write_json
from prune_gym.utils.stopping import check_stop, finishing, stopping

SAVE_EVERY_S = 60.0
WORDS = "finishing the step in hand; Ctrl-C again stops at once"
JUDGED = 2_000  # validation images after each epoch; the last judgement uses all of them
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class PretrainConfig:
    """A dense training.

    Attributes:
        network: a registered name or ``"module:function"``.
        dataset: a registered name, ``"module:function"`` or ``"folder:PATH"``.
        epochs: passes over the training split; None = as the dataset's size suggests.
        seed: of the initial weights, of the batches' order and of augmentation; None = 0.
        batch_size: images a step; None = likewise.
        learning_rate: at the top of its one-cycle schedule; None = likewise.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``.
    """

    network: str
    dataset: str
    epochs: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: str = "auto"

    def check(self) -> None:
        """Raise InvalidValueError for a number or a precision that is not possible."""
        most = {"epochs": MOST_EPOCHS, "batch_size": MOST_BATCH, "seed": MOST_SEED}
        for name, limit in most.items():
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 0 if name == "seed" else 1, limit)
        if self.learning_rate is not None:
            real_number("learning_rate", self.learning_rate, *LEARNING_RATES)
        if self.precision not in PRECISIONS:
            raise InvalidValueError(
                f"precision={self.precision!r} must be one of {', '.join(PRECISIONS)}."
            )


def recipe_for(config: PretrainConfig, data: Dataset, device: torch.device) -> tuple[Recipe, int]:
    """The recipe of a dense training, and its epochs.

    Small sets get Adam and 60 epochs; larger ones Nesterov SGD with weight decay and label
    smoothing, and 30. Both move the learning rate in one cycle.
    """
    config.check()
    recipe, epochs = Recipe(), 60
    if len(data.train) >= MANY:
        recipe = Recipe("sgd", 128, peak_lr=0.1, weight_decay=5e-4, label_smoothing=0.1)
        recipe, epochs = replace(recipe, bfloat16=has_bfloat16(device)), 30
    if config.precision != "auto":
        recipe = replace(recipe, bfloat16=config.precision == "bfloat16")
    rate, batch_size = config.learning_rate or recipe.peak_lr, config.batch_size
    recipe = replace(recipe, batch_size=batch_size or recipe.batch_size, peak_lr=rate)
    return recipe, config.epochs or epochs


def pretrain(
    config: PretrainConfig, out: Path | None, device: str, resume: bool, console: Console
) -> None:
    """Train a network from scratch, or go on with a training, and save its weights.

    The state is saved once a minute and when it is stopped (Ctrl-C, SIGTERM); weights and a JSON
    file of facts at the end. Meanwhile nobody else can train to the same file.

    Args:
        config: what to train; on resuming, what is left open comes from the saved state.
        out: file of the weights; None = where environments look for them.
        device: torch device or ``"auto"``.
        resume: go on with the training that was stopped.
        console: where to report.

    Raises:
        CheckpointError: nothing to resume, something that a new training would overwrite, or
            another process that trains to the same file.
        OSError: the weights cannot be written there.
        TrainingDivergedError: it did, or it is at chance and would replace weights; they stay.
    """
    config.check()
    place = resolve_device(device)
    path = out or checkpoint_path(cache_dir(), config.network, config.dataset)
    if path.suffix == ".json":
        raise InvalidValueError(
            f"{path} is where the facts go; let the file of weights end otherwise."
        )
    state = path.with_name(f"{path.stem}.training.safetensors")
    for file in (path, path.with_suffix(".json"), state):
        check_writable(file)
    words = ["prune-gym", "pretrain", config.network, "--dataset", config.dataset]
    words += [] if out is None else ["--out", str(out)]
    words += [] if device == "auto" else ["--device", device]
    lock = path.with_name(f".{path.stem}{LOCK}")
    with locked(lock, f"the training of {path}", CheckpointError, FileError):
        done = _train(config, path, place, resume, console)
    if not done:
        say(f"go on: {shlex.join([*words, '--resume'])}", console)
        raise SystemExit(EXIT_CODE)


def _train(
    config: PretrainConfig, path: Path, place: torch.device, resume: bool, console: Console
) -> bool:
    """Train to the end, or until a stop is asked for; whether the end was reached."""
    state = path.with_name(f"{path.stem}.training.safetensors")
    for file in (path, path.with_suffix(".json"), state):
        check_writable(file)
    config, saved = _taken_up(state, config, resume)
    check_stop()
    data = load_dataset(config.dataset)
    check_stop()
    recipe, epochs = recipe_for(config, data, place)
    data = data.to(place)
    training = _begun(config, data, recipe, epochs, place)
    pretraining = _Pretraining(training, data, state, config, epochs, console)
    if resume:
        pretraining.restore(saved)
    before = fact_in(path.with_suffix(".json"), "validation_accuracy")
    if isinstance(before, float) and path.exists():
        say(f"{path} has weights of validation accuracy {before:.4f}; to be replaced.", console)
    try:
        with stopping(WORDS, pretraining), finishing():
            done = pretraining.run()
            if done:
                _keep(pretraining, path, place)
    except TrainingDivergedError as error:
        state.unlink(missing_ok=True)
        raise TrainingDivergedError(
            f"{error} {path} is as it was and no state is kept: start anew with a --learning-rate "
            f"below {recipe.peak_lr:g}."
        ) from error
    if not done:
        say(f"\nstopped at step {training.step_number} of {training.steps}; saved.", console)
    return done


def _begun(
    config: PretrainConfig, data: Dataset, recipe: Recipe, epochs: int, place: torch.device
) -> Training:
    seed = config.seed or 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_for(config.network, data).to(place)
    check_outputs(network, data, config.network)
    network.to(memory_format=torch.channels_last)
    steps = epochs * max(1, len(data.train) // recipe.batch_size)
    order = torch.Generator().manual_seed(seed)
    return Training(network, data.train, recipe, steps=steps, generator=order, augment=data.augment)


def _keep(pretraining: _Pretraining, path: Path, place: torch.device) -> None:
    """Judge what is to be saved and put it, with its facts, in its place.

    What is at chance replaces nothing: up to 1.5 times the accuracy of guessing, or 0.6 of two
    classes, where 0.75 may be honest work.
    """
    network, data = pretraining.training.network, pretraining.data
    pretraining.check_losses()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_weights(network, partial)
        load_weights(network, partial)
        score = accuracy(network, data.validation)
        if path.exists() and score <= min(1.5 / data.n_classes, 0.6):
            raise TrainingDivergedError(
                f"the training learned nothing: validation accuracy {score:.4f} of "
                f"{data.n_classes} classes is at chance, and would replace other weights."
            )
        facts = {
            **asdict(pretraining.config),
            **pretraining._settings(),
            "dataset": pretraining.config.dataset,
            "device": str(place),
            "validation_accuracy": score,
            "test_accuracy": None if data.test is None else accuracy(network, data.test),
            "wall_s": round(pretraining.wall_s(), 1),
            "torch": torch.__version__,
        }
    write_json(path.with_suffix(".json"), facts)
    pretraining.state.unlink(missing_ok=True)
    test = "" if data.test is None else f", test {facts['test_accuracy']:.4f}"
    say(f"validation accuracy {score:.4f}{test}\nsaved: {path}", pretraining.console)


def _taken_up(
    state: Path, config: PretrainConfig, resume: bool
) -> tuple[PretrainConfig, dict[str, torch.Tensor]]:
    """What is to be trained, open settings as they were saved, and the saved tensors."""
    if resume and not state.is_file():
        raise CheckpointError(f"nothing to resume: there is no {state}. Leave --resume out.")
    if not resume and state.is_file():
        raise CheckpointError(
            f"a training of {config.network} on {config.dataset} was stopped before its end. Go "
            f"on with --resume, or delete {state} to start anew."
        )
    if not resume:
        return config, {}
    tensors = read_tensors(state)
    given = {**asdict(config), "dataset": file_name(config.dataset)}
    given["precision"] = None if config.precision == "auto" else config.precision
    saved = _agreed(state, tensors, given)
    kept = ("epochs", "seed", "batch_size", "learning_rate", "precision")
    return replace(config, **{name: saved[name] for name in kept}), tensors


def _agreed(state: Path, tensors: dict[str, torch.Tensor], given: dict[str, Any]) -> dict[str, Any]:
    """The saved settings, which must be those that are given (not None)."""
    with reading(state, CheckpointError):
        saved = dict(json.loads(bytes(tensors["config"].tolist())))
        differing = {k: saved[k] for k, v in given.items() if v is not None and saved[k] != v}
    if differing:
        was = ", ".join(f"{name} {value}" for name, value in differing.items())
        raise CheckpointError(
            f"the training in {state} was begun with {was}; resume it with the same, or delete "
            "the file to start anew."
        )
    return saved


@dataclass
class _Pretraining:
    """The loop around a training: progress, judging, saving, stopping."""

    training: Training
    data: Dataset
    state: Path
    config: PretrainConfig
    epochs: int
    console: Console
    stop: bool = False

    def __post_init__(self) -> None:
        self._before_s, self._first_step = 0.0, 0
        self._began = self._saved = self._said = time.monotonic()
        self._losses: deque[float] = deque(maxlen=20)

    def wall_s(self) -> float:
        """Seconds spent on the training, all calls together."""
        return self._before_s + time.monotonic() - self._began

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up a saved state (raises CheckpointError where it is of another training)."""
        saved = _agreed(self.state, tensors, self._settings())
        with reading(self.state, CheckpointError):
            self._before_s = float(saved["wall_s"])
            self.training.restore(tensors)
        self._first_step = self.training.step_number

    def _settings(self) -> dict[str, Any]:
        recipe = self.training.recipe
        return {
            "network": self.config.network,
            "dataset": file_name(self.config.dataset),
            "train_images": len(self.data.train),
            "seed": self.config.seed or 0,
            "epochs": self.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.peak_lr,
            "precision": "bfloat16" if recipe.bfloat16 else "float32",
        }

    def check_losses(self) -> None:
        """Raise TrainingDivergedError where the last losses are far above those of guessing."""
        loss = sum(self._losses) / max(1, len(self._losses))
        limit = 2 * math.log(self.data.n_classes)
        values = self.training.network.state_dict().values()
        if loss > limit or not all(bool(tensor.isfinite().all()) for tensor in values):
            raise TrainingDivergedError(
                f"the training diverged: its last loss is {loss:.4g}; guessing has {limit / 2:.4g}."
            )

    def _save(self) -> None:
        noted = json.dumps({**self._settings(), "wall_s": self.wall_s()}).encode()
        tensors = self.training.tensors()
        tensors["config"] = torch.tensor(list(noted), dtype=torch.uint8)
        try:
            write_tensors(self.state, tensors)
        except OSError as error:
            raise FileError(
                f"the training's state cannot be saved to {self.state}: {error}. What was saved "
                "before is whole; make room and go on with --resume."
            ) from error
        self._saved = time.monotonic()

    def run(self) -> bool:
        """Train to the end, or until a stop is asked for; whether the end was reached."""
        with progress_bar(self.console) as bar:
            task = bar.add_task("training", total=self.training.steps, detail="")
            while self.training.step_number < self.training.steps and not self.stop:
                loss = float(self.training.step())
                step = self.training.step_number
                self._losses.append(check_loss(loss, step, self.training.recipe))
                self._report(bar, task, loss)
                if time.monotonic() - self._saved > SAVE_EVERY_S:
                    self._save()
        self.training.finish()
        self._save()  # also at the end: the last judgement takes a while
        return self.training.step_number == self.training.steps

    def _report(self, bar: Progress, task: TaskID, loss: float) -> None:
        step, per_epoch = self.training.step_number, self.training.steps // self.epochs
        epoch = f"epoch {min(self.epochs, 1 + (step - 1) // per_epoch)}/{self.epochs}"
        bar.update(task, completed=step, detail=f"{epoch}  loss {loss:.3f}")
        now = time.monotonic()
        left = (self.training.steps - step) * (now - self._began) / (step - self._first_step)
        if step % per_epoch == 0:
            score = accuracy(self.training.network, self.data.validation.subset(JUDGED))
            self.training.network.train()
            bar.console.print(
                f"{epoch}  loss {loss:.3f}  validation {score:.4f}  {time_left(left)}"
            )
            self._said = now
        elif not is_live(self.console) and now - self._said > LINE_EVERY_S:
            self._said = now
            bar.console.print(
                f"{epoch}  step {step}/{self.training.steps}  loss {loss:.3f}  {time_left(left)}"
            )
