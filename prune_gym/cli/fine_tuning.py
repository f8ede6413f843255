"""What a terminal shows of a fine-tuning."""

from __future__ import annotations

import time

from rich.progress import Progress, TaskID

from agents.console import say
from prune_gym.cli.console import LINE_EVERY_S, is_live, time_left
from prune_gym.cluster.workers import RayWorkers
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.finalize import Trainer
from prune_gym.searches.fine_tuning import USUAL_STEPS, FineTuned, OnStep
from prune_gym.utils.words import score_in_words


def trainer_of(
    progress: Progress, config: SearchConfig, problem: PruningProblem, cluster: RayWorkers | None
) -> Trainer:
    """How the network of a run, or the candidates for it, are fine-tuned: what of it is shown.

    Args:
        progress: where the bar is.
        config: of the run.
        problem: whose networks they are.
        cluster: whose workers train several candidates.
    """
    steps = USUAL_STEPS if config.finetune_steps is None else config.finetune_steps
    name, many = problem.task.metric.name, config.candidates
    if many > 1:
        where = f"by {min(many, cluster.count)} workers" if cluster else "one after another"
        say(f"fine-tuning the {many} best networks at most, {where}", progress.console)

    def on_trained(index: int, found: FineTuned) -> None:
        score = score_in_words(found.accuracy)
        say(f"candidate {index + 1} fine-tuned: validation {name} {score}", progress.console)

    return Trainer(_bar(progress, steps * many), on_trained, cluster)


def _bar(progress: Progress, steps: int) -> OnStep:
    """Show the steps of a fine-tuning, once it has begun, by a bar, or lines now and then."""
    task: TaskID | None = None
    began = said = time.monotonic()

    def on_step(step: int, loss: float) -> None:
        nonlocal said, task
        if task is None:
            task = progress.add_task("fine-tuning", total=steps, detail="")
        progress.update(task, completed=step, detail=f"loss {loss:.3f}")
        now = time.monotonic()
        if not is_live(progress.console) and now - said > LINE_EVERY_S:
            said = now
            left = time_left((steps - step) * (now - began) / step)
            say(f"fine-tuning {step}/{steps}  loss {loss:.3f}  {left}", progress.console)

    return on_step
