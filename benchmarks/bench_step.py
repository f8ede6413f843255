"""What an episode costs, next to what it cannot do without, and next to the paper's procedure.

    python benchmarks/bench_step.py --dataset folder:cifar10-jpeg --check

Everything that is divided is measured in turns in one run. Writes ``results/bench_step.json`` and
prints tables; ``--check`` exits with 1 where a bar is missed. Without ``--dataset`` smooth random
pictures stand in for CIFAR-10: speed does not depend on what they show. Networks without trained
weights for the dataset (`prune-gym pretrain`) are judged untrained, which costs the same; only the
difference between precisions is reported for trained ones alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import step_processes
import torch
from origin import origin
from step_subjects import Paper, Subject, Times, data_of, in_turns

import prune_gym
from agents.files import write_json
from prune_gym.problem.outcome import OutcomeMemory
from prune_gym.utils.devices import has_bfloat16

NETWORKS = ("vgg11", "vgg16", "resnet18", "resnet50")
SHARES = (0.1, 0.25, 0.5)
SECTIONS = ("episodes", "paper", "default", "compaction", "workers", "memory", "agents", "search")
RESULTS = Path(__file__).parent / "results" / "bench_step.json"


class Bar(NamedTuple):
    """A figure to show: what it is, where it stands in the results, what it must be."""

    what: str
    path: tuple[str, ...]
    sense: str  # "<=" or ">="
    bound: float

    def verdict(self, results: dict[str, Any]) -> tuple[float | None, bool]:
        """The figure, and whether it meets the bar; no figure where it was not measured."""
        found: Any = results
        for key in self.path:
            if not isinstance(found, dict) or key not in found:
                return None, False
            found = found[key]
        return found, found <= self.bound if self.sense == "<=" else found >= self.bound


BARS = (
    Bar("episode / bare forward, VGG16", ("episodes", "vgg16", "0.1", "over_bare"), "<=", 1.10),
    Bar(
        "episode / bare forward, ResNet18", ("episodes", "resnet18", "0.1", "over_bare"), "<=", 1.1
    ),
    Bar("paper / ours, VGG11", ("paper", "float32"), ">=", 13.0),
    Bar("paper / ours, VGG11, bfloat16", ("paper", "bfloat16"), ">=", 20.0),
    Bar("paper / ours, VGG11, 32 fine-tuning steps", ("paper", "finetune"), ">=", 8.0),
    Bar("compaction, ms, VGG16", ("compaction", "vgg16", "ours_ms"), "<=", 5.0),
    Bar("compaction, ms, ResNet50", ("compaction", "resnet50", "ours_ms"), "<=", 12.0),
    Bar("torch-pruning / compaction, VGG16", ("compaction", "vgg16", "ratio"), ">=", 5.0),
    Bar("torch-pruning / compaction, ResNet50", ("compaction", "resnet50", "ratio"), ">=", 5.0),
    Bar("default problem: episode / bare forwards", ("default", "0.1", "over_bare"), "<=", 1.10),
    Bar("the same beside the prior", ("default", "prior", "over_bare"), "<=", 1.10),
    Bar("2 workers / 1 worker, default problem", ("workers", "default", "ratio"), ">=", 1.7),
    Bar("2 workers / 1 worker, VGG11", ("workers", "vgg11", "ratio"), ">=", 1.7),
    Bar("a remembered decision, s", ("default", "remembered_decision_s"), "<=", 0.001),
    Bar("memory of a worker, MB", ("memory", "after episodes"), "<=", 60.0),
    Bar("PPOLagrangian / PPO", ("agents", "ratio"), "<=", 1.5),
    Bar("update of the agent / wall time", ("search", "update_share"), "<=", 0.10),
    Bar("recording / wall time", ("search", "recording_share"), "<=", 0.10),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dataset", help="as prune-gym takes it; default: random pictures")
    parser.add_argument("--samples", type=int, default=2048, help="evaluation images")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every measurement")
    parser.add_argument("--timesteps", type=int, default=12_000, help="of the whole search")
    parser.add_argument("--device", default="cpu", help="of the sections episodes and paper")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for section in arguments.sections:
        print(f"-- {section}", flush=True)
        found = globals()[f"measure_{section}"](arguments)
        if section in ("episodes", "compaction"):  # network by network
            found = {**results.get(section, {}), **found}
        results[section] = {**found, "of": about(arguments)}
        arguments.out.parent.mkdir(exist_ok=True)
        write_json(arguments.out, rounded(results), indent=1)
    missed = summarise(results)
    sys.exit(1 if arguments.check and missed else 0)


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Command, commit, machine, versions, and the device."""
    device = arguments.device
    device = device if device == "cpu" else torch.cuda.get_device_name()
    return {**origin(), "threads": torch.get_num_threads(), "device": device}


def subject(name: str, arguments: argparse.Namespace, n_train: int = 2048) -> Subject:
    data = data_of(arguments.dataset, n_train, arguments.samples)
    return Subject.of(name, data, arguments.dataset, arguments.device)


def measure_episodes(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in arguments.networks:
        whole = subject(name, arguments)
        found[name] = {}
        for share in SHARES:
            one = whole.at(share)
            functions = {
                "episode": one.episode,
                "bare": one.bare_forward(),
                "plain": one.plain_forward(),
            }
            row = ratios(in_turns(functions, arguments.repeats, one.device))
            row["parts_s"] = medians(one.parts(3))
            row["batch_size"] = one.problem.evaluator.validation.batch_size
            found[name][str(share)] = row
            print(name, share, {key: rounded(value) for key, value in row.items()}, flush=True)
        small = whole.at(SHARES[0])
        functions = {"bare": small.bare_forward(), "masked": small.masked_forward()}
        times = medians(in_turns(functions, 2, small.device))
        found[name]["masked_over_bare"] = times["masked"] / times["bare"]
        found[name]["precision"] = precisions(whole, arguments.repeats)
        print(name, rounded({k: found[name][k] for k in ("masked_over_bare", "precision")}))
    return found


def ratios(times: Times) -> dict[str, Any]:
    """Medians, and how the episode compares with the bare forward of the same turn."""
    over = [a / b for a, b in zip(times["episode"], times["bare"], strict=True)]
    return {
        "seconds": medians(times),
        "over_bare": statistics.median(over),
        "over_bare_spread": [min(over), max(over)],
        "bare_over_plain": statistics.median(times["bare"]) / statistics.median(times["plain"]),
    }


def precisions(whole: Subject, repeats: int) -> dict[str, Any]:
    """Speed of bfloat16, and how it changes accuracies where the network is trained."""
    if not has_bfloat16(whole.device):
        return {"bfloat16": "not on this machine"}
    exact, other = whole.at(SHARES[0]), whole.changed(precision="bfloat16").at(SHARES[0])
    functions = {"float32": exact.episode, "bfloat16": other.episode}
    times = medians(in_turns(functions, repeats, whole.device))
    row: dict[str, Any] = {"float32_over_bfloat16": times["float32"] / times["bfloat16"]}
    if whole.trained:
        for label, recovery, share in (("dense", "none", 1.0), ("half", "bn", 0.5)):
            scores = []
            for precision in ("float32", "bfloat16"):
                one = whole.changed(precision, recovery).at(share)
                scores.append(one.problem.evaluate(one.masks).accuracy)
            row[f"accuracy_{label}"] = scores
    return row


def measure_paper(arguments: argparse.Namespace) -> dict[str, Any]:
    one = subject("vgg11", arguments).at(SHARES[0])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        functions = {
            "paper": Paper(one, Path(folder)).episode,
            "float32": one.episode,
            "bfloat16": one.changed(precision="bfloat16").at(SHARES[0]).episode,
            "paper_finetune": Paper(one, Path(folder), steps=32).episode,
            "finetune": one.changed(recovery="finetune").at(SHARES[0]).episode,
        }
        times = in_turns(functions, max(3, arguments.repeats // 2), one.device)
    found["seconds"] = medians(times)
    for name in ("float32", "bfloat16", "finetune"):
        reference = times["paper_finetune" if name == "finetune" else "paper"]
        over = [a / b for a, b in zip(reference, times[name], strict=True)]
        found[name] = statistics.median(over)
        found[f"{name}_spread"] = [min(over), max(over)]
    print(rounded(found))
    return found


def measure_default(arguments: argparse.Namespace) -> dict[str, Any]:
    """The default problem, as searches run it: recovery ``bn``, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    problem, found = prune_gym.make_problem(), dict[str, Any]()
    prior = prune_gym.make_problem(criterion="auto", budgets={"params": SHARES[0]})
    subjects = {str(share): Subject(problem, share, trained=True) for share in SHARES}
    subjects["prior"] = Subject(prior, SHARES[0], trained=True, decision="prior")
    for name, one in subjects.items():
        _ = one.masks, one.env
        again = one.bare_recomputation()
        functions = {
            "episode": one.episode,
            "bare": both(again, one.bare_forward()),
            "plain": both(again, one.plain_forward()),
        }
        row = ratios(in_turns(functions, 10 * arguments.repeats, one.device))
        row["parts_s"] = medians(one.parts(20))
        found[name] = row
        print(name, rounded(row), flush=True)
    known = Subject(prune_gym.make_problem(), SHARES[0], trained=True)
    env = known.env
    known.problem.evaluator.memory = OutcomeMemory()  # with a memory again
    found["remembered_episode_s"] = medians(in_turns({"": known.episode}, 50, known.device))[""]
    found["remembered_decision_s"] = medians(
        in_turns({"": lambda: env.problem.evaluate(known.masks)}, 50, known.device)
    )[""]
    print("remembered", rounded(found["remembered_episode_s"]))
    torch.set_num_threads(threads)
    return found


def both(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: (first(), second())


def measure_compaction(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in arguments.networks:
        one = subject(name, arguments, 256).at(SHARES[0])
        without, with_graph = one.removal()
        removal, whole, ours = [], [], []
        compact = {"": lambda one=one: one.problem.compact(one.masks)}
        for _ in range(arguments.repeats):  # in turns
            removal.append(without())
            whole.append(with_graph())
            ours += in_turns(compact, 4, one.device)[""]
        found[name] = {
            "ours_ms": 1000.0 * statistics.median(ours),
            "torch_pruning_ms": 1000.0 * statistics.median(removal),
            "torch_pruning_with_graph_ms": 1000.0 * statistics.median(whole),
            "ratio": statistics.median(removal) / statistics.median(ours),
        }
        print(name, rounded(found[name]), flush=True)
    return found


def measure_workers(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    default = Subject(prune_gym.make_problem(), SHARES[0], trained=True)
    for name, one in (("default", default), ("vgg11", subject("vgg11", arguments).at(SHARES[0]))):
        shared = step_processes.shared_subject(one)
        found[name] = step_processes.throughput(shared, one.ratio, 3)
        print(name, rounded(found[name]), flush=True)
    return found


def measure_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """VGG11, 10,000 evaluation and 2,048 training images of CIFAR-10's size, at random."""
    whole = argparse.Namespace(**{**vars(arguments), "samples": 10_000, "dataset": None})
    one = subject("vgg11", whole).at(SHARES[0])
    found: dict[str, Any] = step_processes.memory(step_processes.shared_subject(one), one.ratio)
    found["shared_mb"] = one.problem.evaluator.validation.images.nbytes / 2**20
    print(rounded(found))
    return found


def measure_agents(arguments: argparse.Namespace) -> dict[str, Any]:
    found = step_processes.agents(arguments.repeats)
    print(rounded(found))
    return found


def measure_search(arguments: argparse.Namespace) -> dict[str, Any]:
    found = step_processes.whole_search(arguments.timesteps)
    for name in ("update", "recording"):
        found[f"{name}_share"] = found[f"{name}_s"] / found["wall_s"]
    print(rounded(found))
    return found


def medians(times: Times) -> dict[str, float]:
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def rounded(value: Any) -> Any:
    """Numbers with four digits, however deep they lie."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def summarise(results: dict[str, Any]) -> list[str]:
    """Print every bar with its figure; the names of those missed or not measured come back."""
    missed = []
    print(f"\n{'what':45}{'bar':>10}{'found':>10}")
    for bar in BARS:
        figure, met = bar.verdict(results)
        missed += [] if met else [bar.what]
        if figure is None:
            print(f"{bar.what:45}{bar.sense:>4}{bar.bound:6.2f}  NOT MEASURED")
            continue
        mark = "" if met else "  MISSED"
        print(f"{bar.what:45}{bar.sense:>4}{bar.bound:6.2f}{figure:10.3f}{mark}")
    return missed


if __name__ == "__main__":
    main()
