"""Train an agent from the command line: ``python -m agents.train --algo ppo_lag --env ID``.

A run lies in a folder of its own, with its command, configuration, versions, logs and models. It
can be stopped at any moment, by Ctrl-C or worse, and goes on with ``--resume FOLDER`` from its
latest checkpoint: with all that it has learned, and new episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from agents.arguments import MOST_ENVS, MOST_EPISODES, MOST_SEED, MOST_TIMESTEPS, MOST_WORKERS
from agents.console import console, fail, parse_values, plain_warnings, say, user_errors
from agents.errors import AgentsError, InvalidValueError
from agents.files import user_path
from agents.locking import locked_folder
from agents.options import (
    Command,
    GpusPerWorker,
    RayAddress,
    Version,
    command_app,
    name_option,
    number_option,
    whole_option,
)
from agents.runs.folder import RunConfig, RunFolder
from agents.runs.trust import named_code
from agents.stopping import EXIT_CODE, stopping

if TYPE_CHECKING:
    from agents.runs.make import MakeVector
    from agents.runs.training import Training

_MAY_CHANGE = (
    "resume",
    "trust",
    "timesteps",
    "progress",
    "checkpoint_every",
    "workers",
    "ray_address",
    "gpus_per_worker",
)

MOST_COST = 1e12  # of a limit, either sign


def agent_names() -> list[str]:
    """Names of the agents, which take seconds to import."""
    from agents.zoo.table import AGENTS

    return list(AGENTS)


def devices() -> list[str]:
    """Devices that agents usually learn on."""
    return ["cpu", "cuda", "auto"]


# -- options ---------------------------------------------------------------------------------------

Algo = Annotated[
    str | None, name_option(agent_names, help="One of {names}; --list describes them.")
]
Env = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Environment id, MODULE:ID where it has to be imported."),
]
EnvKwargs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Argument of the environment; may be repeated."),
]
Wrapper = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:CLASS", help="Put around each environment; may be repeated."),
]
Timesteps = Annotated[
    int | None, whole_option(least=1, most=MOST_TIMESTEPS, help="Environment steps; default 12000.")
]
Seed = Annotated[int, whole_option(least=0, most=MOST_SEED, help="Of the training.")]
NEnvs = Annotated[
    int | None,
    whole_option(least=1, most=MOST_ENVS, help="Environments at once; default: the agent's."),
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
    float | None,
    number_option(
        least=-MOST_COST, most=MOST_COST, help="Limit on the mean episodic cost; default: env's."
    ),
]
Normalize = Annotated[
    bool, typer.Option("--normalize", help="Normalise observations by running statistics.")
]
EvalFreq = Annotated[
    int | None,
    whole_option(
        least=1,
        most=MOST_TIMESTEPS,
        help="Steps between evaluations, which keep the best feasible model.",
    ),
]
EvalEpisodes = Annotated[
    int, whole_option(least=1, most=MOST_EPISODES, help="Episodes of an evaluation.")
]
Device = Annotated[str, name_option(devices, help="One of {names}, or another of torch's.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Run folder; default runs/ALGO-ENV-SEED.")
]
Resume = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Continue the run in this folder.")
]
CheckpointEvery = Annotated[
    float, number_option(least=0.0, most=1e9, help="Seconds between checkpoints.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="With --resume: run code that files of the folder name, such as modules of yours.",
    ),
]
RayWorkersOf = Annotated[
    int | None,
    whole_option(
        "--workers",
        least=1,
        most=MOST_WORKERS,
        help="Step the environments in so many processes of a Ray cluster: --ray-address, "
        "RAY_ADDRESS, or a local one that is started and stopped.",
    ),
]
Progress = Annotated[bool, typer.Option("--progress", help="Show a progress bar.")]
ShowList = Annotated[
    bool, typer.Option("--list", help="List the agents and the action spaces they take.")
]

# -- the command -----------------------------------------------------------------------------------

app = command_app(add_completion=False)


@app.command(cls=Command, no_args_is_help=True)
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
    workers: RayWorkersOf = None,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    show_list: ShowList = False,
    version: Version = False,
) -> None:
    """Train a constrained agent; everything about the run is kept in its folder."""
    with user_errors(AgentsError):
        if show_list:
            _list()
            return
        from agents.runs.training import Training  # takes seconds, which --help does not

        how: Any = {"checkpoint_every_s": checkpoint_every, "progress": progress, "report": say}
        with _stepping(workers, ray_address, gpus_per_worker) as vector:
            how["vector"] = vector
            if resume is not None:
                _refuse_beside_resume(context)
                resume = user_path(resume)
                RunFolder.open(resume)  # there is none where that fails
                with locked_folder(resume):
                    _run(Training.resume(resume, timesteps, trust=trust, **how))
            else:
                config = _config(context.params)
                out = config.default_folder if out is None else user_path(out)
                with locked_folder(out):
                    _run(Training.begin(config, out, **how))


@contextmanager
def _stepping(workers: int | None, address: str | None, gpus: float) -> Iterator[MakeVector]:
    """What makes the vector of environments: here, or in workers of a cluster.

    Those that it has made are closed at the end, however that comes.
    """
    from stable_baselines3.common.vec_env import DummyVecEnv

    with ExitStack() as stack:
        make: MakeVector = DummyVecEnv
        if workers is not None:
            from agents.ray_tasks import Cluster, Place, in_cluster
            from agents.ray_vec_env import RayVecEnv

            cluster = Cluster(workers, address, gpus=gpus)
            ray = stack.enter_context(in_cluster(cluster))

            def hired(env_fns: Any) -> RayVecEnv:
                Place(ray, cluster, at_once=min(cluster.workers, len(env_fns))).look()
                return RayVecEnv(env_fns, workers=cluster.workers, ray=ray, gpus=gpus)

            make = hired
        for option, is_given in (("--ray-address", address), ("--gpus-per-worker", gpus)):
            if is_given and workers is None:
                raise InvalidValueError(f"{option} goes with --workers N.")
        yield lambda env_fns: stack.enter_context(closing(make(env_fns)))


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
        with stopping("stopping after this rollout; once more: at once", training.checkpoints):
            final = training.run()
    except TrainingStopped as stopped:
        say(f"{stopped}; {cure}")
        raise SystemExit(EXIT_CODE) from None
    except KeyboardInterrupt:
        saved = training.checkpoints.saved
        fail(
            f"stopped at once; the last checkpoint is of {saved or 0} timesteps; {cure}",
            EXIT_CODE,
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
    plain_warnings()
    app(prog_name="python -m agents.train")
