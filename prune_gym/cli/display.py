"""Progress of searches and of fine-tunings on a terminal."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import Progress as BarProgress
from rich.progress import TaskID

from agents.console import say
from prune_gym.cli.console import LINE_EVERY_S, is_live, time_left
from prune_gym.cluster.workers import RayWorkers
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.fine_tuning import USUAL_STEPS, FineTuned, OnStep
from prune_gym.searches.progress import Progress
from prune_gym.searches.search import Search
from prune_gym.searches.several import Trainer
from prune_gym.utils.words import score_in_words


def trainer_of(
    bars: BarProgress, config: SearchConfig, problem: PruningProblem, cluster: RayWorkers | None
) -> Trainer:
    """How the network of a run, or the candidates for it, are fine-tuned: what of it is shown.

    Args:
        bars: where the bar is.
        config: of the run.
        problem: whose networks they are.
        cluster: whose workers train several candidates.
    """
    steps = USUAL_STEPS if config.finetune_steps is None else config.finetune_steps
    name, many = problem.task.metric.name, config.candidates
    if many > 1:
        n = 0 if cluster is None else min(many, cluster.count)
        where = f"by {n} worker{'' if n == 1 else 's'}" if n else "one after another"
        say(f"fine-tuning the {many} best networks at most, {where}", bars.console)

    def on_trained(index: int, found: FineTuned) -> None:
        score = score_in_words(found.accuracy)
        say(f"candidate {index + 1} fine-tuned: validation {name} {score}", bars.console)

    return Trainer(_finetuning_bar(bars, steps * many), on_trained, cluster)


def _finetuning_bar(bars: BarProgress, steps: int) -> OnStep:
    """Show the steps of a fine-tuning, once it has begun, by a bar, or lines now and then."""
    task: TaskID | None = None
    began = said = time.monotonic()

    def on_step(step: int, loss: float) -> None:
        nonlocal said, task
        if task is None:
            task = bars.add_task("fine-tuning", total=steps, detail="")
        bars.update(task, completed=step, detail=f"loss {loss:.3f}")
        now = time.monotonic()
        if not is_live(bars.console) and now - said > LINE_EVERY_S:
            said = now
            left = time_left((steps - step) * (now - began) / step)
            say(f"fine-tuning {step}/{steps}  loss {loss:.3f}  {left}", bars.console)

    return on_step


class SearchDisplay:
    """Live progress of a search: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, search: Search, bars: BarProgress, console: Console) -> None:
        self.bars, self.console = bars, console
        self.total = search.evaluations
        self.task = bars.add_task("searching", total=self.total, detail="")
        name = search.problem.task.metric.name
        self.metric = "" if name == "accuracy" else f"{name} "
        self.began = self.said = time.monotonic()
        self.already = search.progress.evaluations
        bars.update(self.task, completed=self.already)

    def update(self, progress: Progress) -> None:
        """Show the state after one more evaluated network."""
        done, best = progress.evaluations, progress.best_accuracy
        detail = (
            f"{'none feasible yet' if best is None else f'best {self.metric}{best:.4g}'}  "
            f"cost {progress.recent_cost:.3f}/{progress.cost_limit:.4g}"
        )
        if not math.isnan(progress.multiplier):
            detail += f"  multiplier {progress.multiplier:.2f}"
        if progress.remembered:
            detail += f"  known {progress.remembered}"
        self.bars.update(self.task, completed=done, detail=detail)
        now = time.monotonic()
        if not is_live(self.console) and now - self.said > LINE_EVERY_S:
            self.said = now
            left = (self.total - done) * (now - self.began) / max(1, done - self.already)
            say(f"{done}/{self.total}  {detail}  {time_left(max(0.0, left))}", self.console)
