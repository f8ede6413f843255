"""Training: one loop for dense training, fine-tuning and recovery.

Randomness comes from the generator handed in; every optimizer is fresh.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prune_gym.datasets import Examples
from prune_gym.datasets.base import Augment
from prune_gym.errors import TrainingDivergedError
from prune_gym.tasks.losses import cross_entropy
from prune_gym.tasks.matching import classes, only_tensor
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.onednn import SoundConvolutions
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.trees import device_of, mapped

MANY = 5_000  # training images from which on SGD, as in the CIFAR papers, is better than Adam


def flat(progress: float) -> float:
    """Learning-rate factor that stays 1."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Learning-rate factor that climbs for 30 % of the training and falls to 0 along a cosine.

    Smith and Topin, "Super-Convergence" (arXiv 1708.07120).
    """
    if progress < 0.3:
        return 0.05 + 0.95 * progress / 0.3
    return 0.5 * (1.0 + math.cos(math.pi * (progress - 0.3) / 0.7))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        optimizer: ``"adam"``, or ``"sgd"`` (Nesterov momentum 0.9).
        batch_size: images a step.
        peak_lr: learning rate at the schedule's top.
        schedule: factor of the learning rate by progress in [0, 1).
        weight_decay: of convolution and linear weights; biases and norms have none.
        label_smoothing: share of the target that is spread over all classes.
        distillation: share of the loss that follows the teacher instead of the labels.
        temperature: of the teacher's and the network's outputs in that share.
        bfloat16: run forward passes in bfloat16 (weights and optimizer stay float32).
        keep_zeros: weights that are exactly zero stay zero, so that a network pruned by single
            weights keeps its sparsity; tensors of zeros only are trained.
        ema: decay of an exponential moving average of the weights, which the training ends with;
            0 = it ends with the last weights.
    """

    optimizer: str = "adam"
    batch_size: int = 100
    peak_lr: float = 3e-3
    schedule: Callable[[float], float] = one_cycle
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    bfloat16: bool = False
    keep_zeros: bool = False
    ema: float = 0.0

    def optimizer_of(self, network: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimizer of the network's trainable parameters."""
        trained = [p for p in network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.peak_lr, momentum=0.9, nesterov=True)
        return torch.optim.Adam(groups, lr=self.peak_lr, fused=True)  # one pass over a tensor

    def loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None
    ) -> torch.Tensor:
        """Cross-entropy, mixed with the teacher's where there is one.

        Args:
            outputs: (n, n_classes, ...) logits of the network.
            labels: (n, ...).
            taught: (n, n_classes, ...) logits of the teacher, or None.

        The teacher's share is the divergence of softened outputs times the squared temperature:
        Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531).
        """
        loss = functional.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing)
        if taught is None:
            return loss
        # of dense outputs each place counts as an example
        outputs, taught = (x.movedim(1, -1).flatten(0, -2) for x in (outputs, taught))
        soft = functional.kl_div(
            functional.log_softmax(outputs / self.temperature, dim=1),
            functional.log_softmax(taught / self.temperature, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        return torch.lerp(loss, soft * self.temperature**2, self.distillation)


class Training:
    """A training under way: step by step, to be saved and continued bit for bit.

    Frozen parameters stay as they are, but where all are frozen, all are trained.

    Args:
        network: trained in place, in training mode until `finish`.
        train: training split.
        recipe: how.
        steps: optimizer steps of the whole training.
        generator: source of the batches' order and of augmentation (a CPU generator).
        augment: maps a batch of images to an augmented one.
        teacher: the network that is distilled from, where the recipe distils; not changed.
        task: whose loss it goes by; label smoothing and distillation are for cross-entropy.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Examples,
        recipe: Recipe,
        *,
        steps: int,
        generator: torch.Generator,
        augment: Augment | None = None,
        teacher: nn.Module | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.network, self.train, self.recipe, self.steps = network, train, recipe, steps
        self.generator, self.augment, self.task = generator, augment, task
        self.teacher = copy.deepcopy(teacher).eval() if teacher and recipe.distillation else None
        if train.channels_last:  # weights that lie otherwise would be turned at every step
            for module in (network, self.teacher):
                if module is not None:
                    module.to(memory_format=torch.channels_last)
        self.step_number = 0
        self._order = torch.zeros(0, dtype=torch.int64)  # what is left of the epoch
        trainable = any(parameter.requires_grad for parameter in network.parameters())
        self._thawed = [] if trainable else list(network.parameters())
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        self._optimizer = recipe.optimizer_of(network)
        weights = [p for p in network.parameters() if recipe.keep_zeros and p.ndim > 1]
        self._pruned = [(p, p != 0) for p in weights if bool((p == 0).any() and (p != 0).any())]
        network.train()
        self._average: AveragedModel | None = None
        if recipe.ema:
            rule = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(network, multi_avg_fn=rule)

    def step(self) -> torch.Tensor:
        """Take one optimizer step; the loss comes back detached, (), on the device."""
        with memory_bound(f"lower the batch size (now {self.recipe.batch_size})"):
            return self._step()

    def _step(self) -> torch.Tensor:
        factor = self.recipe.schedule(self.step_number / self.steps)
        for settings in self._optimizer.param_groups:
            settings["lr"] = self.recipe.peak_lr * factor
        rows = self._next_rows()
        inputs, targets = self.train.fresh(rows, self.generator)
        if self.augment is not None:
            inputs = self.augment(inputs, self.generator)
        inputs = self.train.to_layout(inputs)
        taught = None
        with self._precision(device_of(inputs)):
            if self.teacher is not None:
                with torch.no_grad():
                    taught = only_tensor(self.task.run(self.teacher, inputs)).float()
            outputs = self.task.run(self.network, inputs)
        loss = self._loss(outputs, targets, taught)
        self._optimizer.zero_grad(set_to_none=True)
        with SoundConvolutions():
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            for parameter, alive in self._pruned:
                parameter.mul_(alive)
        if self._average is not None:
            self._average.update_parameters(self.network)
        self.step_number += 1
        return loss.detach()

    def _loss(self, outputs: Any, targets: Any, taught: torch.Tensor | None) -> torch.Tensor:
        if self.task.loss is not cross_entropy:
            in_float32 = mapped(lambda t: t.float() if t.dtype == torch.bfloat16 else t, outputs)
            return self.task.loss_of(in_float32, targets)
        return self.recipe.loss(*classes(outputs, targets), taught)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if not self.recipe.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def _next_rows(self) -> torch.Tensor:
        """Rows of the next batch: every example once per epoch, the partial last batch dropped."""
        n = len(self.train)
        size = min(self.recipe.batch_size, n)
        if len(self._order) < size:
            self._order = self.train.order(self.generator)[: n - n % size]
        rows, self._order = self._order[:size], self._order[size:]
        return rows

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that `restore` needs, by name."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, memory in self._optimizer.state_dict()["state"].items():
            found |= {
                f"optimizer.{index}.{key}": torch.as_tensor(value)
                for key, value in memory.items()
                if value is not None
            }
        if self._average is not None:
            averaged = self._average.state_dict()
            found |= {f"average.{name}": value for name, value in averaged.items()}
        found["order"] = self._order.clone()
        found["generator"] = self.generator.get_state()
        found["step"] = torch.tensor(self.step_number)
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from `tensors` of a training of the same network, data and recipe.

        Raises:
            KeyError, RuntimeError: the tensors are of another training.
        """
        weights = {k.removeprefix("network."): v for k, v in tensors.items() if k[:8] == "network."}
        self.network.load_state_dict(weights)
        if self._average is not None:
            names = self._average.state_dict()
            self._average.load_state_dict({name: tensors[f"average.{name}"] for name in names})
        memory: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                memory.setdefault(int(index), {})[key] = value
        state = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**state, "state": memory})
        for parameter, kept in self._optimizer.state.items():
            for key, value in kept.items():  # one pass goes over memory, so it must lie alike
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter).copy_(value)
        self._order = tensors["order"].clone()
        self.generator.set_state(tensors["generator"])
        self.step_number = int(tensors["step"])

    def finish(self) -> None:
        """Put the network into evaluation mode, with the average where there is one.

        What was frozen is again; weights lie plainly.
        """
        if self._average is not None and self.step_number:
            self.network.load_state_dict(self._average.module.state_dict())
        if self.train.channels_last:
            self.network.to(memory_format=torch.contiguous_format)
        for parameter in self._thawed:
            parameter.requires_grad_(False)
        self.network.eval()


def fit(
    network: nn.Module,
    train: Examples,
    recipe: Recipe,
    *,
    steps: int,
    generator: torch.Generator,
    augment: Augment | None = None,
    teacher: nn.Module | None = None,
    task: Task = CLASSIFICATION,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``network`` in place for some steps; leaves it in evaluation mode. See `Training`.

    Args:
        network: trained in place.
        train: training split.
        recipe: how.
        steps: optimizer steps.
        generator: source of the batches' order and of augmentation (a CPU generator).
        augment: maps a batch of images to an augmented one.
        teacher: the network that is distilled from, where the recipe distils.
        task: whose loss it goes by.
        on_step: called with (steps done, loss of the step).

    Raises:
        TrainingDivergedError: the loss is no number any more (only looked at with ``on_step``).
        Stopped: a stop was asked for.
    """
    training = Training(
        network,
        train,
        recipe,
        steps=steps,
        generator=generator,
        augment=augment,
        teacher=teacher,
        task=task,
    )
    for step in range(1, steps + 1):
        check_stop()
        loss = training.step()
        if on_step is not None:
            on_step(step, check_loss(float(loss), step, recipe))
    training.finish()


def check_loss(loss: float, step: int, recipe: Recipe) -> float:
    """The loss, if it is a number; otherwise a TrainingDivergedError."""
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"the training diverged: the loss is {loss} at step {step}. Lower the learning rate "
            f"({recipe.peak_lr:g} at its top)."
        )
    return loss
