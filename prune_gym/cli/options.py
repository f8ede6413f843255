"""The options of the command ``prune-gym``: types, limits and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Env = Annotated[str, typer.Option(help="Environment id.")]
Network = Annotated[str, typer.Option(help="A registered network, or module:function.")]
Dataset = Annotated[
    str, typer.Option(help="A registered dataset, module:function, or folder:PATH.")
]
EnvNetwork = Annotated[
    str | None, typer.Option(help="A registered network, or module:function; default: env's.")
]
EnvDataset = Annotated[
    str | None,
    typer.Option(help="A registered dataset, module:function, or folder:PATH; default: env's."),
]
Weights = Annotated[Path | None, typer.Option(help="Trained weights (safetensors) of the network.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=LIMIT",
        help="Limit as a fraction of the unpruned network's budget, e.g. params=0.1, or an amount "
        "with a unit: latency_ms=2ms, size_bytes=500KB, params=10M; repeat for several. NAME may "
        "be module:function, 'command:./measure.sh {onnx}', or 'command\\[ms]:./measure.sh {onnx}' "
        "for a program that prints milliseconds.",
    ),
]
Algo = Annotated[str, typer.Option(help="See `prune-gym list algorithms`.")]
Timesteps = Annotated[int | None, typer.Option(min=1, help="Environment steps; default 12000.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1)]
RunOut = Annotated[Path | None, typer.Option(help="Run folder; default runs/ALGO-SEED, numbered.")]
ResumeRun = Annotated[Path | None, typer.Option(help="Continue the run in this folder.")]
Hard = Annotated[
    bool,
    typer.Option(
        "--hard",
        help="Keep every evaluated network within the limits: actions that would put one out of "
        "reach are moved until they do not.",
    ),
]
Finish = Annotated[bool, typer.Option("--finish", help="With --resume: search no longer, finish.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code that the folder names: a network, data, budget or criterion of "
        "somebody's own, a program.",
    ),
]
Criterion = Annotated[str, typer.Option(help="Which filters go first.")]
Recovery = Annotated[str, typer.Option(help="none, bn or finetune.")]
Structure = Annotated[str, typer.Option(help="filter or weight.")]
RoundTo = Annotated[
    int, typer.Option(min=1, help="Filters kept per group come in multiples of it, e.g. 8.")
]
Ignore = Annotated[
    list[str] | None, typer.Option(help="A layer whose outputs stay whole; may be repeated.")
]
EvaluationSamples = Annotated[
    int | None, typer.Option(min=1, help="Judge on so many validation images; default: all.")
]
JudgedIn = Annotated[
    str,
    typer.Option(help="float32, bfloat16, or tf32 (NVIDIA GPUs): in which networks are judged."),
]
FinetuneSteps = Annotated[int, typer.Option(min=0, help="After the search.")]
Distillation = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of the fine-tuning loss that follows the unpruned network's outputs instead "
        "of the labels.",
    ),
]

# -- pick ----------------------------------------------------------------------------------------

Run = Annotated[Path, typer.Argument(help="A run folder.")]
OtherLimits = Annotated[
    list[str],
    typer.Option("--budget", metavar="NAME=LIMIT", help="The other limits; repeat for several."),
]
PickedSteps = Annotated[
    int | None, typer.Option("--finetune-steps", min=0, help="Default: those of the run.")
]
PickedOut = Annotated[
    Path | None, typer.Option("--out", help="Folder; default RUN/picked-NAME=LIMIT.")
]

# -- pretrain ------------------------------------------------------------------------------------

Trained = Annotated[str, typer.Argument(help="A registered network, or module:function.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Default: 30, or 60 on fewer than 5,000 images.")
]
TrainingSeed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Default: 0.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images a step.")]
LearningRate = Annotated[
    float | None, typer.Option(min=1e-9, help="At the top of its one-cycle schedule.")
]
Precision = Annotated[
    str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the machine has it.")
]
WeightsOut = Annotated[Path | None, typer.Option(help="File; default: the cache.")]
ResumeTraining = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a training that was stopped, settings included."),
]
