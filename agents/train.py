"""Train an agent from the command line: ``python -m agents.train --algo ppo_lag --env ID``.

A run lies in a folder of its own, with its command, configuration, versions, logs and models. It
can be stopped at any moment, by Ctrl-C or worse, and goes on with ``--resume FOLDER`` as if it had
never stopped, to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.command import console, fail, parse_values, say, stopping, user_errors

if TYPE_CHECKING:
    from agents.evaluation import Evaluation
    from agents.training import Training

_MAY_CHANGE = ("resume", "timesteps", "progress", "checkpoint_every", "new_episodes")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(no_args_is_help=True)
def train(
    context: typer.Context,
    algo: Annotated[str | None, typer.Option(help="Name of the agent; see --list.")] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment id, MODULE:ID where it has to be imported.")
    ] = None,
    env_kwargs: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Argument of the environment; may be repeated."),
    ] = None,
    wrapper: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:CLASS", help="Put around each environment; may be repeated."),
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Environment steps; default 12000.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    n_envs: Annotated[
        int | None, typer.Option(min=1, help="Environments at once; default: the agent's.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Argument of the algorithm, e.g. learning_rate=1e-3, or of its multiplier, e.g. "
            "multiplier.initial=1.0; may be repeated.",
        ),
    ] = None,
    cost_limit: Annotated[
        float | None, typer.Option(help="Limit on the mean episodic cost; default: env's.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Normalise observations by running statistics.")
    ] = False,
    eval_freq: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between evaluations, which keep the best feasible model."),
    ] = None,
    eval_episodes: Annotated[int, typer.Option(min=1, help="Episodes of an evaluation.")] = 20,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/ALGO-ENV-SEED.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    new_episodes: Annotated[
        bool,
        typer.Option(
            "--new-episodes",
            help="With --resume: begin new episodes, for environments that cannot be brought back "
            "to the middle of one.",
        ),
    ] = False,
    checkpoint_every: Annotated[
        float, typer.Option(min=0.0, help="Seconds between checkpoints.")
    ] = 60.0,
    progress: Annotated[bool, typer.Option("--progress", help="Show a progress bar.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the agents and the action spaces they take.")
    ] = False,
) -> None:
    """Train a constrained agent; everything about the run is kept in its folder."""
    with user_errors():
        if show_list:
            _list()
            return
        from agents.runs import RunConfig
        from agents.training import Training
        from agents.zoo import find_agent

        options = {
            "checkpoint_every_s": checkpoint_every,
            "progress": progress,
            "new_episodes": new_episodes,
            "report": say,
        }
        if resume is not None:
            _refuse_beside_resume(context)
            _run(Training.resume(resume, timesteps, **options))
            return
        if algo is None or env is None:
            missing = "--algo" if algo is None else "--env"
            raise ValueError(f"{missing} is missing; --list names the agents, --help all options.")
        if new_episodes:
            raise ValueError("--new-episodes goes with --resume FOLDER only.")
        spec = find_agent(algo)
        config = RunConfig(
            algo=algo,
            env=env,
            env_kwargs=parse_values("--env-kwargs", env_kwargs or []),
            wrappers=tuple(wrapper or ()),
            seed=seed,
            timesteps=timesteps or RunConfig.timesteps,
            n_envs=n_envs or spec.n_envs,
            overrides=parse_values("--set", overrides or []),
            normalize=normalize,
            cost_limit=cost_limit,
            eval_freq=eval_freq,
            eval_episodes=eval_episodes,
            device=device,
        )
        _run(Training.begin(config, out, **options))


def _run(training: Training) -> None:
    from agents.checkpoint import TrainingStopped

    folder = training.folder
    folder.note_command()
    say(f"{training.config.algo} on {training.config.env}, in {folder.path}")
    cure = f"go on with: python -m agents.train --resume {folder.path}"
    try:
        with stopping(training.checkpoints):
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
        raise ValueError(
            f"--{option} cannot go with --resume, which keeps the settings of the run; only the "
            "number of --timesteps may change. Start a new run with --out."
        )


def _list() -> None:
    from rich.markup import escape
    from rich.table import Table

    from agents.table import AGENTS

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
