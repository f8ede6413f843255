"""Progress of searches and of fine-tunings on a terminal."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import Progress as BarProgress
from rich.progress import TaskID

from agents.console import say
from prune_gym.cli.console import LINE_EVERY_S, is_live, time_left
from prune_gym.searches.fine_tuning import USUAL_STEPS, OnStep
from prune_gym.searches.progress import Progress
from prune_gym.searches.search import Search


def finetuning_bar(progress: BarProgress, steps: int | None) -> OnStep:
    """Show the steps of a fine-tuning, once it has begun, by a bar, or lines now and then.

    Args:
        progress: where the bar is.
        steps: how many there are to be; None = as many as usual.
    """
    steps = USUAL_STEPS if steps is None else steps
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
