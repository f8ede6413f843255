"""Which networks can be pruned: all classifiers of torchvision, and families of timm.

    python benchmarks/coverage.py

Each network is made with random weights and lively BatchNorm statistics, and loses a random half of
the filters of every group; removal must equal masking. Beside it stands Torch-Pruning's own pruner
at ratio 0.5 on the same network, which must run and keep the shape of its outputs. Each runs in a
process of its own, with a time limit, so that a crash is a row. Writes ``results/coverage.json``
and goes on where it was stopped; needs timm (``pip install timm``) for its half.

What becomes of a network: ``pruned``; ``ignored``, after the list in the message was handed back;
``refused``, where that did not help; ``crashed``, ``timeout``.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from torch import nn

from agents.files import write_json
from prune_gym.errors import UnsupportedNetworkError
from prune_gym.networks.plain import with_plain_weights
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import find_filter_groups

RESULTS = Path(__file__).parent / "results" / "coverage.json"
TIMM = """
vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224 beit_base_patch16_224
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 cait_xxs24_224 xcit_nano_12_p16_224 pvt_v2_b0
twins_svt_small pit_ti_224 levit_128s mobilevit_xxs mobilevitv2_050 coat_tiny crossvit_tiny_240
convit_tiny visformer_tiny volo_d1_224 tnt_s_patch16_224 poolformer_s12 mixer_s32_224 resmlp_12_224
gmlp_s16_224 edgenext_xx_small efficientformer_l1 fastvit_t8 repvit_m0_9 efficientvit_b0
efficientvit_m0 convnext_atto convnext_tiny convnextv2_atto regnetx_002 regnety_002
res2net50_26w_4s resnest14d skresnet18 ecaresnet26t seresnet50 nf_resnet26 cspdarknet53 cspresnet50
darknet53 dla34 dpn48b ghostnet_100 hardcorenas_a hrnet_w18_small inception_v4 mixnet_s
mobilenetv3_small_050 mobileone_s0 repvgg_a0 rexnet_100 selecsls42 tinynet_a tresnet_m vovnet39a
xception41 efficientnet_lite0 densenet121
"""
SLOW = ("vit_h_14", "vit_l_16", "vit_l_32", "regnet_y_128gf")  # gigabytes of random weights


def main() -> None:
    """Run, or go on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", help="names, e.g. torchvision:resnet18 timm:dla34")
    parser.add_argument("--seconds", type=int, default=600, help="for one network")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(TOOLS[options.one[0]](options.one[1])))
        return
    held = json.loads(options.out.read_text()) if options.out.is_file() else {}
    rows: dict[str, Any] = held.get("networks", {})
    for name in options.only or names():
        if name not in rows or options.only:
            rows[name] = {tool: in_a_process(tool, name, options.seconds) for tool in TOOLS}
            write_json(options.out, {**origin(), "networks": rows})
            print(name, {tool: row["outcome"] for tool, row in rows[name].items()}, flush=True)
    for line in table(rows):
        print(line)


def names() -> list[str]:
    """All networks, torchvision's first."""
    from torchvision import models

    found = [n for n in models.list_models(module=models) if n not in SLOW]
    return [*(f"torchvision:{name}" for name in found), *(f"timm:{name}" for name in TIMM.split())]


def in_a_process(tool: str, name: str, seconds: int) -> dict[str, Any]:
    """One tool on one network; what becomes of the process, where it says nothing."""
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "timeout"}
    if done.returncode != 0:
        return {"outcome": "crashed", "why": (done.stderr.strip().splitlines() or [""])[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def ours(name: str) -> dict[str, Any]:
    """This package on one network."""
    network, example = build(name)
    with_plain_weights(network, example)
    began = time.perf_counter()
    try:
        left, n_groups = half_cut(network, example, ())
        outcome, why = "pruned", ""
    except UnsupportedNetworkError as error:
        why = str(error)
        try:
            cure = ast.literal_eval(why.rpartition("ignore=")[2].rstrip("."))
            (left, n_groups), outcome = half_cut(network, example, cure), "ignored"
        except (UnsupportedNetworkError, SyntaxError, ValueError):
            left, n_groups, outcome = 1.0, 0, "refused"
    took = time.perf_counter() - began
    return {
        "outcome": outcome,
        "left": round(left, 4),
        "groups": n_groups,
        "seconds": round(took, 1),
        "why": why[:300],
    }


def half_cut(
    network: nn.Module, example: torch.Tensor, ignore: tuple[str, ...]
) -> tuple[float, int]:
    """Share of the parameters that a random half of every group leaves, and how many groups."""
    groups = find_filter_groups(network, example, ignore)
    check_compaction(network, groups, example)
    generator = np.random.default_rng(0)
    masks = [generator.permutation(g.n_filters) < max(1, g.n_filters // 2) for g in groups]
    return share(compact(network, groups, masks), network), len(groups)


def torch_pruning(name: str) -> dict[str, Any]:
    """Torch-Pruning's pruner on one network, told the heads of its attentions and its outputs."""
    import torch_pruning as tp

    network, example = build(name)
    pruned = rebuild(network, {}).eval()
    began = time.perf_counter()
    last = [m for m in pruned.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
    last += [m for m in pruned.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 10]
    heads = {
        module.qkv: module.num_heads
        for module in pruned.modules()
        if hasattr(module, "num_heads") and isinstance(getattr(module, "qkv", None), nn.Linear)
    }
    try:
        pruner = tp.pruner.BasePruner(
            pruned,
            example,
            importance=tp.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=last,
            num_heads=heads,
            prune_num_heads=True,
        )
        pruner.step()
        for module in pruned.modules():  # as its examples do
            if getattr(module, "qkv", None) in pruner.num_heads:
                module.num_heads = pruner.num_heads[module.qkv]
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
                module.attn_dim = module.num_heads * module.head_dim
        with torch.no_grad():
            runs = pruned(example).shape == network(example).shape
        outcome, why = "pruned" if runs else "refused", ""
    except Exception as error:  # whatever it raises
        outcome, why = "refused", f"{type(error).__name__}: {error}"
    left = share(pruned, network) if outcome == "pruned" else 1.0
    took = time.perf_counter() - began
    return {
        "outcome": outcome,
        "left": round(left, 4),
        "seconds": round(took, 1),
        "why": why[:300],
    }


TOOLS = {"prune_gym": ours, "torch_pruning": torch_pruning}


def share(smaller: nn.Module, network: nn.Module) -> float:
    """Parameters / parameters."""
    left, whole = (sum(p.numel() for p in n.parameters()) for n in (smaller, network))
    return left / whole


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights, in evaluation mode, and an input of a size that it takes."""
    library, _, kind = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        network = timm.create_model(kind, num_classes=10)
        sizes = [64, timm.data.resolve_model_data_config(network)["input_size"][-1]]
    else:
        from torchvision import models

        extra = {"init_weights": False} if kind in ("googlenet", "inception_v3") else {}
        network = models.get_model(kind, weights=None, num_classes=10, **extra)
        sizes = [64, 224, 299]
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    network.eval()
    for size in sizes:
        example = torch.randn(1, 3, size, size)
        try:
            with torch.no_grad():
                network(example)
        except Exception:  # too small
            continue
        return network, example
    raise SystemExit(f"{name} runs on none of the sizes {sizes}")


def table(rows: dict[str, Any]) -> list[str]:
    """Counts by library and tool, and networks on which the cut is less deep than the other's."""
    lines = ["| library | tool | networks | pruned | after `ignore` | refused | crashed, timeout |"]
    lines.append("|---|---|---|---|---|---|---|")
    for library in ("torchvision", "timm"):
        chosen = {name: row for name, row in rows.items() if name.startswith(library)}
        for tool in TOOLS:
            counts = Counter(row[tool]["outcome"] for row in chosen.values())
            died = counts["crashed"] + counts["timeout"]
            cells = (len(chosen), counts["pruned"], counts["ignored"], counts["refused"], died)
            lines.append(f"| {library} | {tool} | {' | '.join(map(str, cells))} |")
    both = {
        name: (row["prune_gym"]["left"], row["torch_pruning"]["left"])
        for name, row in rows.items()
        if row["prune_gym"]["outcome"] == row["torch_pruning"]["outcome"] == "pruned"
    }
    shallower = {name: pair for name, pair in both.items() if pair[0] > pair[1] + 0.01}
    lines.append(f"both prune {len(both)}; left by prune_gym, torch_pruning where ours cuts less:")
    return [*lines, *(f"  {name}: {one}, {other}" for name, (one, other) in shallower.items())]


if __name__ == "__main__":
    main()
