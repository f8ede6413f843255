"""The main job, every algorithm and seed: accuracy of the best feasible network, and wall time.

    python benchmarks/main_job.py --folder RUNS --seeds 0 1 2 3 4

Runs ``prune-gym prune --algo A --seed S`` with the defaults for each pair, one after the other;
runs that are finished are not repeated. Writes ``benchmarks/results/main_job.json`` and prints a
table. All algorithms get the same number of network evaluations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from origin import origin

from agents.files import write_json

ALGORITHMS = ("ppo_lag", "ppo_pid", "cem", "random", "uniform")
RESULTS = Path(__file__).parent / "results" / "main_job.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="for prune-gym")
    arguments = parser.parse_args()
    rows = []
    for algo in arguments.algorithms:
        for seed in arguments.seeds[:1] if algo == "uniform" else arguments.seeds:  # draws nothing
            rows.append(run(algo, seed, arguments.folder, arguments.options))
            print(rows[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    result = {**origin(), "rows": rows}
    write_json(RESULTS, result, indent=1)
    summarise(rows)


def run_folder(folder: Path, algo: str, seed: int) -> Path:
    return folder / f"{algo}-{seed}"


def run(algo: str, seed: int, folder: Path, options: list[str]) -> dict[str, object]:
    out = run_folder(folder, algo, seed)
    if not (out / "metrics.json").is_file():
        command = ["prune-gym", "prune", "--algo", algo, "--seed", str(seed)]
        target = ["--resume", str(out)] if (out / "config.json").is_file() else ["--out", str(out)]
        if "--resume" in target:
            command = ["prune-gym", "prune"]
        subprocess.run([*command, *options, *target], check=True)
    metrics = json.loads((out / "metrics.json").read_text())
    (cost,) = metrics["costs"].values()
    return {
        "algo": algo,
        "seed": seed,
        "feasible": metrics["feasible"],
        "cost": round(cost, 5),
        "recovered_validation": metrics["accuracy"]["recovered_validation"],
        "finetuned_test": metrics["accuracy"]["finetuned_test"],
        "dense_test": metrics["accuracy"]["dense_test"],
        "evaluations": metrics["evaluations"],
        "wall_s": round(metrics["wall_s"], 1),
    }


def summarise(rows: list[dict[str, object]]) -> None:
    print("| algorithm | recovered validation: mean (each seed) | test, fine-tuned | wall, s |")
    print("|---|---|---|---|")
    for algo in dict.fromkeys(str(row["algo"]) for row in rows):
        own = [row for row in rows if row["algo"] == algo]
        scores = [float(str(row["recovered_validation"])) for row in own]
        tests = [float(str(row["finetuned_test"])) for row in own]
        walls = [float(str(row["wall_s"])) for row in own]
        each = ", ".join(f"{score:.3f}" for score in scores)
        print(
            f"| {algo} | {statistics.mean(scores):.3f} ({each}) | {min(tests):.3f} to "
            f"{max(tests):.3f} | {min(walls):.0f} to {max(walls):.0f} |"
        )


if __name__ == "__main__":
    main()
