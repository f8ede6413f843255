"""The options of the command ``prune-gym``: types, limits, names and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.options import GpusPerWorker as GpusPerWorker
from agents.options import RayAddress as RayAddress
from agents.options import Version as Version
from agents.options import name_option, number_option, whole_option
from prune_gym.cli import names
from prune_gym.utils.arguments import (
    LEARNING_RATES,
    MOST_BATCH,
    MOST_CANDIDATES,
    MOST_EPOCHS,
    MOST_EVALUATIONS,
    MOST_FILTERS,
    MOST_IMAGES,
    MOST_ROUNDS,
    MOST_SEED,
    MOST_STEPS,
    MOST_TIMESTEPS,
    MOST_WORKERS,
)

_NETWORK = "A registered network ({names}), or module:function"
_DATASET = "A registered dataset ({names}), module:function, or folder:PATH"

Env = Annotated[
    str | None,
    name_option(
        names.environments,
        help="Environment: {names}; default: PruneVGG-v1 (PruneVGG-v0 for single weights, and with "
        "--hard).",
    ),
]
Dataset = Annotated[str, name_option(names.datasets, help=f"{_DATASET}.")]
EnvNetwork = Annotated[str | None, name_option(names.networks, help=f"{_NETWORK}; default: env's.")]
EnvDataset = Annotated[str | None, name_option(names.datasets, help=f"{_DATASET}; default: env's.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Trained weights: .safetensors, .pt, .pth, or a folder of Hugging Face.",
    ),
]
Device = Annotated[str, name_option(names.devices, help="One of {names}, or another of torch's.")]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=LIMIT",
        help="Limit as a fraction of the unpruned network's budget, e.g. params=0.1, or an amount "
        "with a unit: latency_ms=2ms, size_bytes=500KB, params=10M; repeat for several. NAME may "
        "be module:function, 'command:./measure.sh {onnx}', or 'command[ms]:./measure.sh {onnx}' "
        "for a program that prints milliseconds.",
    ),
]
Algo = Annotated[
    str | None,
    name_option(
        names.algorithms,
        help="One of {names}; `prune-gym list algorithms` describes them. Without it bayesian, and "
        "ppo_lag with --hard, another --structure, and environments of filters or of v0.",
    ),
]
Evaluations = Annotated[
    int | None,
    whole_option(
        least=1, most=MOST_EVALUATIONS, help="Networks to judge, the scan's included; default 300."
    ),
]
Timesteps = Annotated[
    int | None,
    whole_option(
        least=1,
        most=MOST_TIMESTEPS,
        help="The same in steps of the environment, one for each filter group of a network.",
    ),
]
Seed = Annotated[int, whole_option(least=0, most=MOST_SEED, help="Of the search.")]
RunOut = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Run folder; default runs/ALGO-SEED, numbered."),
]
ResumeRun = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Continue the run in this folder.")
]
Hard = Annotated[
    bool,
    typer.Option(
        "--hard",
        help="Keep every evaluated network within the limits: actions that would put one out of "
        "reach are moved until they do not.",
    ),
]
Racing = Annotated[
    bool,
    typer.Option(
        "--racing/--no-racing",
        help="Judge networks that are far behind cheaper ones on a part of the images only.",
    ),
]
Finish = Annotated[bool, typer.Option("--finish", help="With --resume: search no longer, finish.")]
Criterion = Annotated[
    str,
    name_option(
        names.criteria,
        help="Which filters go first: auto (bn_scale where every group has a BatchNorm, else l1), "
        "{names}, or module:function.",
    ),
]
Recovery = Annotated[
    str,
    name_option(
        names.recoveries,
        help="What repairs a network before it is judged: {names}, or module:function.",
    ),
]
Metric = Annotated[
    str,
    name_option(
        names.metrics,
        help="How well networks do: {names}, or module:function, (outputs, targets) -> number.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What training and gradients go by: a name of `prune-gym list losses`, or "
        "module:function; default: the one that goes with the metric.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of the network's outputs count: a key, an index, or module:function.",
    ),
]
FineTune = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", help="Trains the network after the search in your own way."
    ),
]
Structure = Annotated[
    str, name_option(names.structures, help="What is removed, filters or single weights: {names}.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code that the folder names: a network, data, budget or criterion of "
        "somebody's own, a program.",
    ),
]
_MULTIPLES = "Filters kept per group come in multiples of it, e.g. 8; auto: of what is fast here"
RoundTo = Annotated[
    str,
    whole_option(least=1, most=MOST_FILTERS, word="auto", help=f"{_MULTIPLES}, measured once."),
]
RoundToOrFast = Annotated[
    str | None,
    whole_option(
        least=1,
        most=MOST_FILTERS,
        word="auto",
        help=f"{_MULTIPLES}, measured once; default: auto where a latency is limited, else 1.",
    ),
]
Depth = Annotated[
    bool,
    typer.Option(
        "--depth", help="Residual blocks whose shortcut is the identity can go as a whole."
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", help="A layer whose outputs stay whole; may be repeated."),
]
EvaluationSamples = Annotated[
    int | None,
    whole_option(
        least=1, most=MOST_IMAGES, help="Judge on so many validation images; default: all."
    ),
]
JudgedIn = Annotated[
    str,
    name_option(
        names.precisions, help="In which networks are judged: {names} (tf32: NVIDIA GPUs)."
    ),
]
FinetuneSteps = Annotated[
    int | None,
    whole_option(
        least=0,
        most=MOST_STEPS,
        help="Optimizer steps after the search; default: 300 where more than 0.01 of accuracy is "
        "lost, else none.",
    ),
]
Distillation = Annotated[
    float,
    number_option(
        least=0.0,
        most=1.0,
        help="Share of the fine-tuning loss that follows the unpruned network's outputs instead "
        "of the labels, 0 to 1.",
    ),
]
Candidates = Annotated[
    int,
    whole_option(
        least=1,
        most=MOST_CANDIDATES,
        help="Fine-tune so many of the best networks, with --workers side by side, and take the "
        "one that is best then.",
    ),
]
Rounds = Annotated[
    int,
    whole_option(
        least=1,
        most=MOST_ROUNDS,
        help="Search and fine-tune so many times in a row, each time in what was left; limits "
        "fall step by step, and evaluations and steps are shared out.",
    ),
]
Ema = Annotated[
    float,
    number_option(
        least=0.0,
        most=0.999999,
        help="Decay of an exponential moving average of the weights in fine-tuning, which is "
        "handed over then, e.g. 0.9; 0: the last weights are.",
    ),
]

# -- clusters --------------------------------------------------------------------------------------

WorkersOfRay = Annotated[
    int | None,
    whole_option(
        "--workers",
        least=1,
        most=MOST_WORKERS,
        help="Judge networks in so many processes of a Ray cluster: --ray-address, RAY_ADDRESS, or "
        "a local one that is started and stopped; default: threads.",
    ),
]
MeasureOn = Annotated[
    str | None,
    typer.Option(
        metavar="RESOURCE",
        help="Measure budgets such as latency_ms on the machine of the cluster with this resource, "
        "one at a time.",
    ),
]
EvaluationTimeout = Annotated[
    float,
    number_option(least=0.001, most=1e9, help="Seconds that a worker may take for a network."),
]

SweepFile = Annotated[
    Path,
    typer.Argument(
        help="A JSON object of the settings of python -m agents.train; lists are choices, and "
        "every combination is a run."
    ),
]
SweepOut = Annotated[Path, typer.Option(metavar="FOLDER", help="Of the folders of the runs.")]
SweepWorkers = Annotated[
    int, whole_option("--workers", least=1, most=MOST_WORKERS, help="Runs at once.")
]

# -- folders of runs -------------------------------------------------------------------------------

Run = Annotated[Path, typer.Argument(help="A run folder.")]
Saved = Annotated[Path, typer.Argument(help="A run folder, or what save_pruned wrote.")]

# -- pick ------------------------------------------------------------------------------------------

OtherLimits = Annotated[
    list[str],
    typer.Option("--budget", metavar="NAME=LIMIT", help="The other limits; repeat for several."),
]
PickedSteps = Annotated[
    int | None,
    whole_option(
        "--finetune-steps",
        least=0,
        most=MOST_STEPS,
        help="Optimizer steps; default: those of the run.",
    ),
]
PickedCandidates = Annotated[
    int | None,
    whole_option(
        "--candidates",
        least=1,
        most=MOST_CANDIDATES,
        help="Fine-tune so many of the best networks, with --workers side by side, and take the "
        "one that is best then; default: as in the run.",
    ),
]
PickedOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Folder; default RUN/picked-NAME=LIMIT."),
]

# -- list, inspect, export -------------------------------------------------------------------------

Kind = Annotated[
    str, typer.Argument(help="One kind only, e.g. budgets; all without it.", show_default=False)
]
Inspected = Annotated[
    str | None,
    typer.Argument(
        help="A registered network, module:function, or a run folder; default: small.",
        show_default=False,
    ),
]
InspectedNetwork = Annotated[
    str | None, name_option(names.networks, "--network", help="The same, as an option: {names}.")
]
InspectedDataset = Annotated[
    str | None, name_option(names.datasets, "--dataset", help=f"{_DATASET}; default: digits.")
]
Sensitivity = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="What the score loses where one group alone is cut; judges a few networks per group.",
    ),
]
Formats = Annotated[
    list[str] | None,
    name_option(names.formats, "--format", help="{names}; repeat for several; default: pt2."),
]
ExportOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="PATH", help="Folder, or file of a single format; default: RUN."),
]
UnprunedNetwork = Annotated[
    str | None,
    name_option(
        names.networks,
        "--network",
        help="The unpruned network, where RUN does not name it: {names}, or module:function.",
    ),
]

# -- pretrain --------------------------------------------------------------------------------------

Trained = Annotated[str, typer.Argument(help="A registered network, or module:function.")]
Epochs = Annotated[
    int | None,
    whole_option(
        least=1,
        most=MOST_EPOCHS,
        help="Passes over the images; default: 30, or 60 on fewer than 5,000 images.",
    ),
]
TrainingSeed = Annotated[
    int | None,
    whole_option(least=0, most=MOST_SEED, help="Of weights and batches; default 0."),
]
BatchSize = Annotated[
    int | None,
    whole_option(least=1, most=MOST_BATCH, help="Images a step; default: by their number."),
]
LearningRate = Annotated[
    float | None,
    number_option(
        least=LEARNING_RATES[0],
        most=LEARNING_RATES[1],
        help="At the top of its one-cycle schedule; default: by the number of images.",
    ),
]
Precision = Annotated[
    str,
    name_option(
        names.training_precisions, help="{names}; auto: bfloat16 where the machine has it."
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights that the training begins with; default: random."),
]
WeightsOut = Annotated[Path | None, typer.Option(metavar="FILE", help="File; default: the cache.")]
ResumeTraining = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a training that was stopped, settings included."),
]
