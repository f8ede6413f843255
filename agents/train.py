"""Train an agent from the command line: ``python -m agents.train --algo ppo_lag --env ID``.

A run lies in a folder of its own, with its command, configuration, versions, logs and models. It
can be stopped at any moment, by Ctrl-C or worse, and goes on with ``--resume FOLDER`` as if it had
never stopped, to the last bit (in ``progress.csv`` the columns of time, and with them
``time/iterations``, begin anew).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from agents import options
from agents.console import console, fail, parse_values, say, stopping, user_errors
from agents.errors import InvalidValueError

if TYPE_CHECKING:
    from agents.evaluation import Evaluation
    from agents.runs.folder import RunConfig
    from agents.runs.training import Training

_MAY_CHANGE = ("resume", "timesteps", "progress", "checkpoint_every", "new_episodes")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(no_args_is_help=True)
def train(
    context: typer.Context,
    algo: options.Algo = None,
    env: options.Env = None,
    env_kwargs: options.EnvKwargs = None,
    wrapper: options.Wrapper = None,
    timesteps: options.Timesteps = None,
    seed: options.Seed = 0,
    n_envs: options.NEnvs = None,
    overrides: options.Overrides = None,
    cost_limit: options.CostLimit = None,
    normalize: options.Normalize = False,
    eval_freq: options.EvalFreq = None,
    eval_episodes: options.EvalEpisodes = 20,
    device: options.Device = "cpu",
    out: options.Out = None,
    resume: options.Resume = None,
    new_episodes: options.NewEpisodes = False,
    checkpoint_every: options.CheckpointEvery = 60.0,
    progress: options.Progress = False,
    show_list: options.ShowList = False,
) -> None:
    """Train a constrained agent; everything about the run is kept in its folder."""
    with user_errors():
        if show_list:
            _list()
            return
        from agents.runs.training import Training

        sitting = {
            "checkpoint_every_s": checkpoint_every,
            "progress": progress,
            "new_episodes": new_episodes,
            "report": say,
        }
        if resume is not None:
            _refuse_beside_resume(context)
            _run(Training.resume(resume, timesteps, **sitting))
        elif new_episodes:
            raise InvalidValueError("--new-episodes goes with --resume FOLDER only.")
        else:
            _run(Training.begin(_config(**context.params), out, **sitting))


def _config(
    *,
    algo: str | None,
    env: str | None,
    env_kwargs: list[str] | None,
    wrapper: list[str] | None,
    timesteps: int | None,
    n_envs: int | None,
    overrides: list[str] | None,
    **given: Any,
) -> RunConfig:
    from agents.runs.folder import RunConfig
    from agents.zoo.make import find_agent

    if algo is None or env is None:
        missing = "--algo" if algo is None else "--env"
        raise InvalidValueError(
            f"{missing} is missing; --list names the agents, --help all options."
        )
    spec = find_agent(algo).tuned_for(env.rpartition(":")[2])
    same = ("seed", "cost_limit", "normalize", "eval_freq", "eval_episodes", "device")
    return RunConfig(
        algo=algo,
        env=env,
        env_kwargs=parse_values("--env-kwargs", env_kwargs or []),
        wrappers=tuple(wrapper or ()),
        timesteps=timesteps or spec.timesteps,
        n_envs=n_envs or spec.n_envs,
        overrides=parse_values("--set", overrides or []),
        **{name: given[name] for name in same},
    )


def _run(training: Training) -> None:
    from agents.runs.checkpoint import TrainingStopped

    folder = training.folder
    folder.note_command()
    say(f"{training.config.algo} on {training.config.env}, in {folder.path}")
    cure = f"go on with: python -m agents.train --resume {folder.path}"
    try:
        with stopping(training.checkpoints, "stopping after this rollout; once more: at once"):
            final = training.run()
    except TrainingStopped as stopped:
        say(f"{stopped}; {cure}")
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        saved = training.checkpoints.saved
        fail(f"stopped at once; the last checkpoint is of {saved or 0} timesteps; {cure}", 130)
    describe(final)
    say(f"results are in {folder.path}; see it play: python -m agents.enjoy {folder.path}")


def describe(result: Evaluation) -> None:
    """Print an evaluation in one line."""
    verdict = "feasible" if result.feasible else f"{result.violation_rate:.0%} over the limit"
    say(
        f"{result.episodes} episodes: return {result.return_mean:.4g} ± {result.return_std:.2g}, "
        f"cost {result.cost_mean:.4g} (limit {result.cost_limit:.4g}), {verdict}"
    )


def _refuse_beside_resume(context: typer.Context) -> None:
    """A resumed run keeps its settings; options that would be ignored are refused."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in _MAY_CHANGE:
            continue
        option = {"overrides": "set", "show_list": "list"}.get(name, name.replace("_", "-"))
        raise InvalidValueError(
            f"--{option} cannot go with --resume, which keeps the settings of the run; only the "
            "number of --timesteps may change. Start a new run with --out."
        )


def _list() -> None:
    from rich.markup import escape
    from rich.table import Table

    from agents.zoo.table import AGENTS

    table = Table("agent", "what it is", "action spaces", box=None, title_justify="left")
    for name, spec in AGENTS.items():
        try:
            words = spec.description if spec.constructor else ""
        except ModuleNotFoundError:
            words = f'{spec.description} (not installed: pip install "prune-gym[agents]")'
        table.add_row(name, escape(words), ", ".join(spec.action_spaces))
    console.print(table)


if __name__ == "__main__":
    app(prog_name="python -m agents.train")
