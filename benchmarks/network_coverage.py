"""Which networks can be pruned: all classifiers of torchvision, and families of timm.

    python benchmarks/network_coverage.py

Each network is made with random weights and lively BatchNorm statistics, and goes through all that
`make_problem` asks of one: its channels are followed, it takes the same way on other inputs, it can
be trained after a cut, and where a random half of the filters of every group is gone, it equals the
masked one. Beside it stands Torch-Pruning's own pruner at ratio 0.5 on the same network, which must
run and keep the shape of its outputs. Each runs in a process of its own, with a time limit, so that
a crash is a row. Writes ``results/coverage.json`` and goes on where it was stopped; needs timm and
torch-pruning (``pip install "prune-gym[benchmarks]"``).

What becomes of a network: ``pruned``; ``ignored``, after the list in the message was handed back;
``refused``, where that did not help; ``crashed``, ``timeout``. ``left`` is the share of parameters
that stays, ``passes`` what it took, in forwards and backwards of the network on one image.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from torch import nn

from agents.files import write_json
from prune_gym.errors import UnsupportedNetworkError
from prune_gym.networks.plain import with_plain_weights
from prune_gym.pruning.branches import check_branches, check_training
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.equivalence import check_compaction, check_smallest
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
    parser.add_argument("--again", action="store_true", help="also what was run already")
    parser.add_argument("--seconds", type=int, default=600, help="for one network")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked, which threads do not survive
    held = json.loads(options.out.read_text()) if options.out.is_file() else {}
    rows: dict[str, Any] = held.get("networks", {})
    for name in options.only or names():
        if name not in rows or options.again:
            rows[name] = {tool: in_a_process(tool, name, options.seconds) for tool in TOOLS}
            write_json(options.out, {**origin(), "networks": rows})
            print(name, {tool: row["outcome"] for tool, row in rows[name].items()}, flush=True)
    for line in table(rows):
        print(line)


def names() -> list[str]:
    """All networks, torchvision's first."""
    from torchvision import models

    found = [n for n in models.list_models(module=models) if n not in SLOW]
    named = [*(f"torchvision:{name}" for name in found), *(f"timm:{name}" for name in TIMM.split())]
    return [*named, "torch:TransformerEncoder", "torch:Transformer", "torch:LSTM"]


def in_a_process(tool: str, name: str, seconds: int) -> dict[str, Any]:
    """One tool on one network; what becomes of the process, where it says nothing."""
    context = multiprocessing.get_context("fork")  # what is imported need not be imported again
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, tool, name))
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            row: dict[str, Any] = receiver.recv()
        else:
            row = {"outcome": "timeout"}
    except EOFError:
        process.join()
        row = {"outcome": "crashed", "why": f"exit code {process.exitcode}"}
    process.kill()
    process.join()
    return row


def _tell(sender: Connection, tool: str, name: str) -> None:
    try:
        sender.send(TOOLS[tool](name))
    except Exception as error:  # whatever it raises
        sender.send({"outcome": "crashed", "why": f"{type(error).__name__}: {error}"[:300]})


def ours(name: str) -> dict[str, Any]:
    """This package on one network."""
    network, example = build(name)
    one_pass = seconds_of_a_pass(network, example)
    began = time.process_time()
    with_plain_weights(network, example)
    left, n_groups, outcome, why, cure = 1.0, 0, "pruned", "", []
    try:
        left, n_groups = half_cut(network, example, ())
    except UnsupportedNetworkError as error:
        why, outcome = str(error), "refused"
    took = time.process_time() - began
    if outcome == "refused" and "ignore=" in why:
        cure = ast.literal_eval(why.rpartition("ignore=")[2].rstrip("."))
        network, example = build(name)  # anew: some keep tensors from one forward to the next
        with_plain_weights(network, example)
        try:
            (left, n_groups), outcome = half_cut(network, example, cure), "ignored"
        except UnsupportedNetworkError as error:
            why = f"{error} | before: {why}"
    return {
        "outcome": outcome,
        "left": round(left, 4),
        "groups": n_groups,
        "passes": round(took / one_pass, 1),
        "seconds": round(took, 1),
        "ignore": list(cure),
        "why": why,
    }


def seconds_of_a_pass(network: nn.Module, example: torch.Tensor) -> float:
    """One forward and backward, the faster of two."""
    times = []
    for _ in range(2):
        copied = rebuild(network, {})  # some keep tensors from one forward to the next
        began = time.process_time()
        copied(example).sum().backward()
        times.append(time.process_time() - began)
    return min(times)


def half_cut(network: nn.Module, example: torch.Tensor, ignore: Sequence[str]) -> tuple[float, int]:
    """Share of the parameters that a random half of every group leaves, and how many groups."""
    groups = find_filter_groups(network, example, ignore)
    others = [torch.randn_like(example) for _ in range(3)]
    check_branches(network, groups, [example, *others], ignore)
    check_compaction(network, groups, example, ignore)
    check_training(network, groups, torch.cat([example, *others]), ignore)
    ones = [np.arange(group.n_filters) == 0 for group in groups]
    check_smallest(network, groups, ones, example, ignore)
    generator = np.random.default_rng(0)
    masks = [generator.permutation(g.n_filters) < max(1, g.n_filters // 2) for g in groups]
    return share(compact(network, groups, masks), network), len(groups)


def torch_pruning(name: str) -> dict[str, Any]:
    """Torch-Pruning's pruner on one network, told the heads of its attentions and its outputs."""
    import torch_pruning as tp

    network, example = build(name)
    pruned = rebuild(network, {}).eval()
    began = time.process_time()
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
    took = time.process_time() - began
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
    if library == "torch":
        return Sequences(kind).eval(), torch.randn(1, 24, 32)
    if library == "timm":
        import timm

        network = timm.create_model(kind, num_classes=10)
        sizes = [64, timm.data.resolve_model_data_config(network)["input_size"][-1]]
    else:
        from torchvision import models

        extra = {"init_weights": False} if kind in ("googlenet", "inception_v3") else {}
        network = models.get_model(kind, weights=None, num_classes=10, **extra)
        sizes = [64, 224, 299]
    fitting = (sized(network, size) for size in sizes)
    example = next(example for example in fitting if example is not None)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval(), example


def sized(network: nn.Module, size: int) -> torch.Tensor | None:
    """An image of a size, where a network can be run and trained on such images."""
    images = torch.randn(2, 3, size, size)
    try:
        with torch.no_grad():
            network.train()(images)
            network.eval()(images[:1])
    except Exception:  # too small
        return None
    return images[:1]


class Sequences(nn.Module):
    """A layer of torch for sequences, between linear ones."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(32, 64), nn.Linear(64, 10)
        self.first = nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 32))
        if kind == "LSTM":
            self.middle = nn.LSTM(64, 64, batch_first=True)
        elif kind == "Transformer":
            self.middle = nn.Transformer(64, 4, 2, 2, 256, batch_first=True)
        else:
            layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
            self.middle = nn.TransformerEncoder(layer, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10) of rows (n, length, 32)."""
        entered = self.enter(self.first(rows))
        both = isinstance(self.middle, nn.Transformer)
        made = self.middle(entered, entered) if both else self.middle(entered)
        return self.leave((made[0] if isinstance(made, tuple) else made).mean(1))


def table(rows: dict[str, Any]) -> list[str]:
    """Counts by library and tool, and networks on which the cut is less deep than the other's."""
    lines = ["| library | tool | networks | pruned | after `ignore` | refused | crashed, timeout |"]
    lines.append("|---|---|---|---|---|---|---|")
    for library in ("torchvision", "timm", "torch"):
        chosen = {name: row for name, row in rows.items() if name.split(":")[0] == library}
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
    means = [float(np.mean([pair[tool] for pair in both.values()])) for tool in (0, 1)]
    lines.append(f"share of the parameters left where both prune ({len(both)}): {means}")
    shallower = {name: pair for name, pair in both.items() if pair[0] > pair[1] + 0.01}
    lines.append(f"left where ours cuts less: {len(shallower)}")
    return [*lines, *(f"  {name}: {one}, {other}" for name, (one, other) in shallower.items())]


if __name__ == "__main__":
    main()
