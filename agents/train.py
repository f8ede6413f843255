"""Train an agent from the command line: ``python -m agents.train --algo ppo_lag --env ID``.

A run lies in a folder of its own, with its command, configuration, versions, logs and models. It
can be stopped at any moment, by Ctrl-C or worse, and goes on with ``--resume FOLDER`` from its
latest checkpoint: with all that it has learned, and new episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from agents.console import INTERRUPTED, console, fail, parse_values, say, stopping, user_errors
from agents.errors import AgentsError, InvalidValueError
from agents.runs.folder import MOST_ENVS, RunConfig
from agents.runs.trust import named_code

if TYPE_CHECKING:
    from agents.runs.training import Training

_MAY_CHANGE = ("resume", "trust", "timesteps", "progress", "checkpoint_every")

# -- options ---------------------------------------------------------------------------------------

Algo = Annotated[str | None, typer.Option(help="Name of the agent; see --list.")]
Env = Annotated[
    str | None, typer.Option(help="Environment id, MODULE:ID where it has to be imported.")
]
EnvKwargs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Argument of the environment; may be repeated."),
]
Wrapper = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:CLASS", help="Put around each environment; may be repeated."),
]
Timesteps = Annotated[int | None, typer.Option(min=1, help="Environment steps; default 12000.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1)]
NEnvs = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_ENVS, help="Environments at once; default: the agent's."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Argument of the algorithm, e.g. learning_rate=1e-3, or of its multiplier, e.g. "
        "multiplier.initial=1.0; may be repeated.",
    ),
]
CostLimit = Annotated[
    float | None, typer.Option(help="Limit on the mean episodic cost; default: env's.")
]
Normalize = Annotated[
    bool, typer.Option("--normalize", help="Normalise observations by running statistics.")
]
EvalFreq = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between evaluations, which keep the best feasible model."),
]
EvalEpisodes = Annotated[int, typer.Option(min=1, help="Episodes of an evaluation.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/ALGO-ENV-SEED.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="With --resume: run code that files of the folder name, such as modules of yours.",
    ),
]
Resume = Annotated[Path | None, typer.Option(help="Continue the run in this folder.")]
CheckpointEvery = Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")]
Progress = Annotated[bool, typer.Option("--progress", help="Show a progress bar.")]
ShowList = Annotated[
    bool, typer.Option("--list", help="List the agents and the action spaces they take.")
]

# -- the command -----------------------------------------------------------------------------------

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(no_args_is_help=True)
def train(
    context: typer.Context,
    algo: Algo = None,
    env: Env = None,
    env_kwargs: EnvKwargs = None,
    wrapper: Wrapper = None,
    timesteps: Timesteps = None,
    seed: Seed = 0,
    n_envs: NEnvs = None,
    overrides: Overrides = None,
    cost_limit: CostLimit = None,
    normalize: Normalize = False,
    eval_freq: EvalFreq = None,
    eval_episodes: EvalEpisodes = 20,
    device: Device = "cpu",
    out: Out = None,
    resume: Resume = None,
    trust: Trust = False,
    checkpoint_every: CheckpointEvery = 60.0,
    progress: Progress = False,
    show_list: ShowList = False,
) -> None:
    """Train a constrained agent; everything about the run is kept in its folder."""
    with user_errors(AgentsError):
        if show_list:
            _list()
            return
        from agents.runs.training import Training  # takes seconds, which --help does not

        how: Any = {"checkpoint_every_s": checkpoint_every, "progress": progress, "report": say}
        if resume is not None:
            _refuse_beside_resume(context)
            _run(Training.resume(resume, timesteps, trust=trust, **how))
        else:
            _run(Training.begin(_config(context.params), out, **how))


def _config(given: Mapping[str, Any]) -> RunConfig:
    from agents.zoo.make import find_agent

    for name in ("algo", "env"):
        if given[name] is None:
            raise InvalidValueError(
                f"--{name} is missing; --list names the agents, --help all options."
            )
    spec = find_agent(given["algo"]).tuned_for(given["env"].rpartition(":")[2])
    same = ("algo", "env", "seed", "cost_limit", "normalize", "eval_freq", "eval_episodes")
    return RunConfig(
        **{name: given[name] for name in same},
        env_kwargs=parse_values("--env-kwargs", given["env_kwargs"] or []),
        wrappers=tuple(given["wrapper"] or ()),
        timesteps=given["timesteps"] or spec.timesteps,
        n_envs=given["n_envs"] or spec.n_envs,
        overrides=parse_values("--set", given["overrides"] or []),
        device=given["device"],
    )


def _run(training: Training) -> None:
    from agents.runs.checkpoint import TrainingStopped

    folder = training.folder
    folder.note_command()
    say(f"{training.config.algo} on {training.config.env}, in {folder.path}")
    trust = "" if named_code(training.config) is None else " --trust"  # it names code of yours
    cure = f"go on with: python -m agents.train --resume {folder.path}{trust}"
    try:
        with stopping(training.checkpoints, "stopping after this rollout; once more: at once"):
            final = training.run()
    except TrainingStopped as stopped:
        say(f"{stopped}; {cure}")
        raise SystemExit(INTERRUPTED) from None
    except KeyboardInterrupt:
        saved = training.checkpoints.saved
        fail(
            f"stopped at once; the last checkpoint is of {saved or 0} timesteps; {cure}",
            INTERRUPTED,
        )
    say(final.summary())
    say(f"results are in {folder.path}; see it play: python -m agents.enjoy {folder.path}{trust}")


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
