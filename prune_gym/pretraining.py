"""Dense training of a named network, as ``prune-gym pretrain`` has it: shown, saved, resumable."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import nn

from prune_gym.console import LINE_EVERY_S, progress_bar, stopping
from prune_gym.datasets import Dataset, load_dataset
from prune_gym.evaluation import accuracy
from prune_gym.export import write_json
from prune_gym.make import build_network, check_outputs, resolve_device
from prune_gym.pretrained import (
    CheckpointError,
    cache_dir,
    checkpoint_path,
    load_weights,
    read_tensors,
    save_weights,
    write_tensors,
)
from prune_gym.training import MANY, Recipe, Training, check_loss

SAVE_EVERY_S = 60.0
JUDGED = 2_000  # validation images after each epoch; the last judgement uses all of them
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class PretrainConfig:
    """A dense training.

    Attributes:
        network: a registered name or ``"module:function"``.
        dataset: a registered name, ``"module:function"`` or ``"folder:PATH"``.
        epochs: passes over the training split; None = as the dataset's size suggests.
        seed: of the initial weights, of the batches' order and of augmentation.
        batch_size: images a step; None = likewise.
        learning_rate: at the top of its one-cycle schedule; None = likewise.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``.
    """

    network: str
    dataset: str
    epochs: int | None = None
    seed: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: str = "auto"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


def recipe_for(config: PretrainConfig, data: Dataset, device: torch.device) -> tuple[Recipe, int]:
    """The recipe of a dense training, and its epochs.

    Small sets get Adam and 60 epochs; larger ones Nesterov SGD with weight decay and label
    smoothing, and 30. Both move the learning rate in one cycle.
    """
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision!r} must be one of {', '.join(PRECISIONS)}.")
    recipe, epochs = Recipe(), 60
    if len(data.train) >= MANY:
        recipe = Recipe("sgd", 128, peak_lr=0.1, weight_decay=5e-4, label_smoothing=0.1)
        recipe, epochs = replace(recipe, bfloat16=has_bfloat16(device)), 30
    if config.precision != "auto":
        recipe = replace(recipe, bfloat16=config.precision == "bfloat16")
    recipe = replace(
        recipe,
        batch_size=config.batch_size or recipe.batch_size,
        peak_lr=config.learning_rate or recipe.peak_lr,
    )
    return recipe, config.epochs or epochs


def pretrain(
    config: PretrainConfig, out: Path | None, device: str, resume: bool, console: Console
) -> None:
    """Train a network from scratch, or go on with a training, and save its weights.

    The state is saved once a minute and when Ctrl-C stops the training; the weights are written
    when it is done (half precision, with a JSON file of facts beside them).

    Args:
        config: what to train.
        out: file of the weights; None = where environments look for them.
        device: torch device or ``"auto"``.
        resume: go on with the training that was stopped.
        console: where to report.

    Raises:
        CheckpointError: nothing to resume, or something that a new training would overwrite.
    """
    place = resolve_device(device)
    data = load_dataset(config.dataset)
    path = out or checkpoint_path(cache_dir(), config.network, config.dataset)
    state = path.with_name(f"{path.stem}.training.safetensors")
    _check_state(state, config, resume)
    recipe, epochs = recipe_for(config, data, place)
    data = data.to(place)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build_network(config.network, data).to(place)
    check_outputs(network, data, config.network)
    network.to(memory_format=torch.channels_last)
    training = Training(
        network,
        data.train,
        recipe,
        steps=epochs * max(1, len(data.train) // recipe.batch_size),
        generator=torch.Generator().manual_seed(config.seed),
        augment=data.augment,
    )
    sitting = _Sitting(training, data, state, config, epochs, console)
    if resume:
        sitting.restore()
    if not sitting.run():
        console.print(f"\nstopped at step {training.step_number} of {training.steps}; saved.")
        console.print(
            f"go on: prune-gym pretrain {config.network} --dataset {config.dataset} "
            f"{'' if out is None else f'--out {out} '}--resume"
        )
        raise SystemExit(130)
    save_weights(network, path)
    load_weights(network, path)  # judge what was saved
    facts = {
        **asdict(config),
        "epochs": epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.peak_lr,
        "precision": "bfloat16" if recipe.bfloat16 else "float32",
        "device": str(place),
        "validation_accuracy": accuracy(network, data.validation),
        "test_accuracy": None if data.test is None else accuracy(network, data.test),
        "wall_s": round(sitting.wall_s(), 1),
        "torch": torch.__version__,
    }
    write_json(path.with_suffix(".json"), facts)
    state.unlink(missing_ok=True)
    test = "" if data.test is None else f", test {facts['test_accuracy']:.4f}"
    console.print(f"validation accuracy {facts['validation_accuracy']:.4f}{test}")
    console.print(f"saved: {path}")


def _check_state(state: Path, config: PretrainConfig, resume: bool) -> None:
    if resume and not state.is_file():
        raise CheckpointError(f"nothing to resume: there is no {state}. Leave --resume out.")
    if not resume and state.is_file():
        raise CheckpointError(
            f"a training of {config.network} on {config.dataset} was stopped before its end. Go "
            f"on with --resume, or delete {state} to start anew."
        )


class _Sitting:
    """The loop around a training: progress, judging, saving, stopping."""

    def __init__(
        self,
        training: Training,
        data: Dataset,
        state: Path,
        config: PretrainConfig,
        epochs: int,
        console: Console,
    ) -> None:
        self.training, self.data, self.state = training, data, state
        self.config, self.epochs, self.console = config, epochs, console
        self.stop = False
        self._before_s = 0.0
        self._began = self._saved = self._said = time.monotonic()
        self._first_step = 0

    def wall_s(self) -> float:
        """Seconds spent on the training, all sittings together."""
        return self._before_s + time.monotonic() - self._began

    def restore(self) -> None:
        """Take up the saved state (raises CheckpointError where it is of another training)."""
        tensors = read_tensors(self.state)
        try:
            saved = json.loads(bytes(tensors["config"].tolist()))
            self._before_s = float(saved.pop("wall_s"))
            differing = {k: v for k, v in saved.items() if self._settings()[k] != v}
            if not differing:
                self.training.restore(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.state} is damaged or of another version ({error}); delete it to start anew."
            ) from error
        if differing:
            was = ", ".join(f"{name} {value}" for name, value in differing.items())
            raise CheckpointError(
                f"the training in {self.state} was begun with {was}; resume it with the same, or "
                "delete the file to start anew."
            )
        self._first_step = self.training.step_number

    def _settings(self) -> dict[str, Any]:
        recipe = self.training.recipe
        return {
            "seed": self.config.seed,
            "epochs": self.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.peak_lr,
        }

    def _save(self) -> None:
        noted = json.dumps({**self._settings(), "wall_s": self.wall_s()}).encode()
        tensors = self.training.tensors()
        tensors["config"] = torch.tensor(list(noted), dtype=torch.uint8)
        try:
            write_tensors(self.state, tensors)
        except OSError as error:
            raise OSError(
                f"the training's state cannot be saved to {self.state}: {error}. What was saved "
                "before is whole; make room and go on with --resume."
            ) from error
        self._saved = time.monotonic()

    def run(self) -> bool:
        """Train to the end, or until a stop is asked for; whether the end was reached."""
        with progress_bar(self.console) as bar, stopping(self):
            task = bar.add_task("training", total=self.training.steps, detail="")
            while self.training.step_number < self.training.steps and not self.stop:
                loss = float(self.training.step())
                step = self.training.step_number
                check_loss(loss, step, self.training.recipe)
                self._report(bar, task, loss)
                if time.monotonic() - self._saved > SAVE_EVERY_S:
                    self._save()
        self.training.finish()
        done = self.training.step_number == self.training.steps
        if not done:
            self._save()
        return done

    def _report(self, bar: Progress, task: TaskID, loss: float) -> None:
        step, per_epoch = self.training.step_number, self.training.steps // self.epochs
        epoch = f"epoch {min(self.epochs, 1 + (step - 1) // per_epoch)}/{self.epochs}"
        bar.update(task, completed=step, detail=f"{epoch}  loss {loss:.3f}")
        now = time.monotonic()
        left = (self.training.steps - step) * (now - self._began) / (step - self._first_step)
        if step % per_epoch == 0:
            score = self._judge(self.training.network)
            bar.console.print(f"{epoch}  loss {loss:.3f}  validation {score:.4f}  {_time(left)}")
            self._said = now
        elif not self.console.is_terminal and now - self._said > LINE_EVERY_S:
            self._said = now
            bar.console.print(
                f"{epoch}  step {step}/{self.training.steps}  loss {loss:.3f}  {_time(left)}"
            )

    def _judge(self, network: nn.Module) -> float:
        score = accuracy(network, self.data.validation.first(JUDGED))
        network.train()
        return score


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"
