"""`benchmarks/peers.py`: peers are judged as our searches are, and rows are kept."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types

import numpy as np
import pytest
import tiny
import torch


@pytest.fixture
def modules(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("peers"), importlib.import_module("peer_pruners")


@pytest.fixture
def tables(modules):
    return importlib.import_module("peer_tables")


@pytest.fixture
def tasks(modules):
    return importlib.import_module("peer_tasks")


@pytest.fixture
def run(modules, monkeypatch, tmp_path, capsys):
    """The script's main, and what it prints."""
    peers, _ = modules

    def main(*words):
        line = ["peers.py", "--problems", "small-params", "--out", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", [*line, *words])
        peers.main()
        return capsys.readouterr().out

    return main


@pytest.fixture
def fastnas(modules):
    return importlib.import_module("peer_fastnas")


@pytest.mark.parametrize("named", ["default_problem", "residual_problem"])
@pytest.mark.parametrize(("score", "is_global", "steps"), [("l2", True, 1), ("taylor", False, 2)])
def test_masks_of_a_peer_are_its_own_network(modules, request, named, score, is_global, steps):
    pytest.importorskip("torch_pruning")
    problem = request.getfixturevalue(named)
    pruner = modules[1].TorchPruning(problem, score, is_global, steps)
    masks, network = pruner.pruned(0.4)
    assert 0.0 < np.concatenate(masks).mean() < 0.8
    ours, theirs = (problem.recover(one) for one in (problem.compact(masks), network))
    with torch.no_grad():
        given = problem.data.validation.batch(slice(0, 16))
        torch.testing.assert_close(theirs(given), ours(given), rtol=1e-4, atol=1e-4)
    own = problem.accuracy(theirs)
    assert own == pytest.approx(problem.evaluate(masks).accuracy, abs=1e-6)


def test_the_limit_holds_tightly(modules, default_problem):
    pytest.importorskip("torch_pruning")
    costs = {}
    for is_global in (True, False):
        found = modules[1].TorchPruning(default_problem, "lamp", is_global)()
        costs[is_global] = default_problem.costs(found.masks)[0]
    assert 0.09 < costs[False] <= 0.1
    assert 0.095 < costs[True] <= 0.1


def test_random_scores_go_by_the_seed_alone(modules, tiny_problem):
    pytest.importorskip("torch_pruning")
    state = torch.get_rng_state()
    found = [
        modules[1].TorchPruning(tiny_problem, "random", True, 1, s).pruned(0.5) for s in (1, 1, 2)
    ]
    first, again, other = (np.concatenate(masks) for masks, _ in found)
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.get_rng_state() == state).all()


def test_single_gradients_of_the_hessian_are_all_counted(modules, tiny_problem, monkeypatch):
    pytest.importorskip("torch_pruning")
    pruners = modules[1]
    monkeypatch.setattr(pruners, "IMAGES", 4)
    found = pruners.TorchPruning(tiny_problem, "hessian", True)._dense_slopes[0]
    network = tiny_problem.network
    inputs, labels = tiny_problem.data.train.calibration(4)
    weight = next(network.parameters())
    loss = torch.nn.functional.cross_entropy(network(inputs), labels, reduction="none")
    slopes = [torch.autograd.grad(one, weight, retain_graph=True)[0] for one in loss]
    torch.testing.assert_close(found, torch.stack(slopes).square().mean(dim=0))


def test_no_ratio_meets_the_limit(modules, default_problem):
    every = default_problem.masks_of(default_problem.sizes)
    ratio, masks = modules[1].tightest(default_problem, lambda ratio: every)
    assert (ratio, masks) == (1.0, None)


def test_filters_that_do_not_fit_our_groups_are_refused(modules, residual_problem):
    groups = residual_problem.groups
    shared = next(group for group in groups if len(group.producers) > 1)
    kept = {name: np.arange(g.n_filters) for g in groups for name in g.producers}
    assert all(mask.all() for mask in modules[1].masks_of_channels(residual_problem, kept))
    kept[shared.producers[1]] = np.arange(1, shared.n_filters)
    with pytest.raises(ValueError, match=f"layers of group {shared.name} keep different filters"):
        modules[1].masks_of_channels(residual_problem, kept)


def test_missing_libraries_say_how_to_get_them(modules):
    with pytest.raises(SystemExit, match=r"no-such is not installed .* pip install no-such"):
        modules[1].library("no_such_library", "no-such")


def test_rank_of_maps(modules, tiny_problem):
    from prune_gym.criteria.base import Evidence

    problem = tiny_problem
    given = "rank", problem.network, problem.groups, problem.data.train, 0
    scores = modules[1].feature_map_rank(Evidence.of(*given))
    assert [len(own) for own in scores] == problem.sizes.tolist()
    side = problem.example.shape[-1]
    assert all(0.0 <= own.min() <= own.max() <= side for own in scores)


def test_amc_keeps_the_limit(modules, default_problem):
    found = modules[1].amc(default_problem, 5, seed=0)
    assert found.evaluations == 5
    assert default_problem.feasible(default_problem.costs(found.masks))


def test_rows_are_made_once_and_fine_tuned(modules, run, tmp_path, monkeypatch):
    peers, _ = modules
    quick = dataclasses.replace(peers.TASKS["small-params"], evaluations=3)
    monkeypatch.setitem(peers.TASKS, "small-params", quick)
    words = ("--methods", "dense", "uniform", "--epochs", "1", "--seeds", "1")
    said = run(*words)
    found = json.loads((tmp_path / "out.json").read_text())
    dense, uniform = found["rows"]
    assert (dense["macs"], dense["params"]) == (1.0, 1.0)
    assert uniform["params"] <= 0.1
    tuned = found["tuned"][-1]
    assert [row["method"] for row in found["tuned"]] == ["dense", "uniform"]
    assert tuned["epochs"] == 1
    assert tuned["steps"] > 0
    assert tuned["validation"] >= uniform["validation"]  # what is worse is put back
    assert "| dense | 1 | " in said
    assert "1 epoch, test" in said
    monkeypatch.setattr(peers.Bench, "problem", None)  # nothing is left to be run
    table = run("--show")
    assert run(*words) == table
    assert said.endswith(table)
    monkeypatch.undo()
    monkeypatch.setattr(peers, "processor_ms", types.SimpleNamespace(compare=lambda *_: 0.25))
    assert "| 0.250 |" in run("--latency")


def test_rows_of_other_machines_are_merged_with_their_origins(modules, run, tmp_path):
    row = {"problem": "small-params", "method": "dense", "seed": 0, "masks": "ff"}
    sizes = {"macs": 1.0, "params": 1.0, "evaluations": 0, "seconds": 0.0}

    def file(name, machine, method, latency):
        one = {**row, **sizes, "method": method, "validation": 0.9, "test": 0.8, "origin": 0}
        found = {"origins": [{"machine": machine}], "rows": [{**one, "latency": latency}]}
        (tmp_path / name).write_text(json.dumps({**found, "tuned": []}))
        return str(tmp_path / name)

    file("out.json", "here", "dense", 0.5)
    others = file("a.json", "there", "scan", None), file("b.json", "there", "dense", 0.9)
    said = run("--merge", *others)
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(r["method"], r["latency"], r["origin"]) for r in found["rows"]] == [
        ("dense", 0.5, 0),  # what is there stays
        ("scan", None, 1),
    ]
    assert found["origins"] == [{"machine": "here"}, {"machine": "there"}]
    assert "| scan | 1 | 0.900 | 0.800 | 1.000 | 1.000 | - | 0 | 0 |" in said


def test_masks_are_packed_and_unpacked(modules, residual_problem):
    generator = np.random.default_rng(0)
    masks = tuple(generator.random(n) < 0.5 for n in residual_problem.sizes)
    again = modules[0].unpacked(modules[0].packed(masks), residual_problem)
    assert all((a == b).all() for a, b in zip(masks, again, strict=True))


def test_who_wins_is_said_and_what_is_no_faster(tables):
    def row(method, test, latency=0.5):
        shares = {"macs": 0.5, "params": 0.4, "latency": latency, "evaluations": 1, "seconds": 1.0}
        return {"method": method, "seed": 0, "validation": test, "test": test, **shares}

    rows = [row("scan", 0.5), row("tp-global-l1-1", 0.6, latency=1.0), row("dense", 0.9)]
    rows.append({"method": "amc", "seed": 0, "validation": None, "evaluations": 9, "seconds": 1.0})
    lines = list(tables.lines_of("small-macs", rows, []))
    assert {line.count("|") for line in lines if line.startswith("|")} == {10}
    assert any("| amc | 1 | nothing within the limit |" in line for line in lines)
    assert lines[-3:-1] == [
        "Before fine-tuning the best of 1 searches, `scan`, is 10.0 points behind the best of 2 "
        "others, `tp-global-l1-1`, on the test split.",
        "Not faster than the dense network: tp-global-l1-1.",
    ]
    assert lines[-1].startswith("Without a row: narrowest, equal_width, ")


def test_who_wins_after_fine_tuning_is_said(tables):
    rows = [
        {"method": method, "epochs": 1, "validation": score, "test": score}
        for method, score in (("scan", 0.8), ("tp-global-l1-1", 0.7), ("dense", 0.9))
    ]
    assert list(tables.verdicts({}, rows)) == [
        "After 1 epoch the best of 1 searches, `scan`, is 10.0 points ahead of the best of 1 "
        "others, `tp-global-l1-1`, on the test split.",
        "After 1 epoch `scan` is 10.0 points below the dense network, trained as long, on the "
        "test split.",
    ]


def test_few_seeds_have_a_range_and_missing_ones_are_counted(tables):
    assert tables.spread([0.5]) == "0.500"
    assert tables.spread([0.5, 0.7]) == "0.600 (0.500 to 0.700)"
    assert tables.spread([0.5, 0.6, 0.7, 0.8, 0.9]).startswith("0.700 [")
    sizes = {"macs": 0.5, "params": 0.4, "latency": None, "evaluations": 1, "seconds": 1.0}
    rows = [
        {"method": "cem", "seed": seed, "validation": score, "test": score, **sizes}
        for seed, score in enumerate((0.5, 0.7, None))
    ]
    tuned = [
        {"method": method, "seed": seed, "epochs": 1, "validation": 0.8, "test": 0.8}
        for method, n in (("cem", 2), ("scan", 3))
        for seed in range(n)
    ]
    line = list(tables.lines_of("small-macs", rows, tuned))[3]
    assert line.startswith("| cem | 2 of 3 | 0.600 (0.500 to 0.700) |")
    assert "| 0.800 (0.800 to 0.800); 2 seeds |" in line


def test_methods_that_cannot_go_by_a_limit_are_left_out(modules, tasks, run):
    assert not tasks.TASKS["small-latency"].takes("amc")
    assert tasks.TASKS["small-macs"].takes("amc")
    assert set(tasks.methods()) == set(modules[0].methods())
    said = run("--problems", "small-latency", "--methods", "amc")
    assert said.strip() == ""


def test_what_misses_a_counted_limit_is_no_row(modules, default_problem):
    peers, pruners = modules
    bench = peers.Bench("small-params", "cifar10", None)
    vars(bench)["problem"] = default_problem
    whole = pruners.Found(default_problem.masks_of(default_problem.sizes))
    assert bench.is_within("dense", whole)
    assert not bench.is_within("tp-local-l1-10", whole)
    assert not bench.is_within("amc", pruners.Found())


def test_merge_of_no_file_is_refused(run, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run("--merge", str(tmp_path / "none.json"))
    assert "--merge: there is no file" in capsys.readouterr().err


def test_widths_of_lamp_keep_the_limit(modules, default_problem):
    bench = modules[0].Bench("small-params", "cifar10", None)
    vars(bench)["problem"] = default_problem
    lamp, widths, narrowest = (
        bench.found(name, 0).masks for name in ("lamp", "lamp_widths", "narrowest")
    )
    assert [mask.sum() for mask in lamp] == [mask.sum() for mask in widths]
    assert any((a != b).any() for a, b in zip(lamp, widths, strict=True))
    assert {int(mask.sum()) for mask in narrowest} == {1}


def test_filters_that_fastnas_keeps_are_told_by_their_norms(fastnas):
    problem = tiny.make_tiny("residual")
    generator = np.random.default_rng(0)
    for module in problem.network.modules():  # trained norms differ from filter to filter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.from_numpy(generator.random(module.num_features)))
    masks = tuple(generator.permutation(n) < max(1, n // 2) for n in problem.sizes)
    pruned = problem.compact(masks)
    for group, mask in zip(problem.groups, masks, strict=True):
        found = fastnas.kept_filters(problem.network, pruned, group)
        assert (found == mask).all()
    for module in problem.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()
    with pytest.raises(SystemExit, match=r"which filters fastnas keeps of group .* cannot be told"):
        [fastnas.kept_filters(problem.network, problem.network, g) for g in problem.groups]


def test_fastnas_is_run_by_its_own_python(modules, fastnas, tiny_problem, tmp_path):
    masks = tiny_problem.masks_of(np.maximum(tiny_problem.sizes // 2, 1))
    answer = json.dumps({"masks": modules[0].packed(masks), "evaluations": 7})
    python = tmp_path / "python"  # of that environment: the last word is where it writes
    python.write_text(f"#!/bin/sh\nfor out; do :; done\necho '{answer}' > \"$out\"\n")
    python.chmod(0o755)
    found = fastnas.fastnas(tiny_problem, python, ["small-params"])
    assert found.evaluations == 7
    assert all((a == b).all() for a, b in zip(found.masks, masks, strict=True))
    python.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SystemExit, match=r"fastnas ended with status 3: .* pip install nvidia"):
        fastnas.fastnas(tiny_problem, python, ["small-params"])


def test_fastnas_has_one_limit(fastnas):
    problem = types.SimpleNamespace(names=("params", "macs"))
    with pytest.raises(SystemExit, match="fastnas limits params or MACs, not params, macs"):
        fastnas.FastNAS(problem)()


def test_fastnas_is_a_method_where_its_python_is_given(modules, run, capsys):
    assert "fastnas" in modules[0].methods()
    with pytest.raises(SystemExit):
        run("--methods", "fastnas")
    assert "fastnas needs --modelopt-python" in capsys.readouterr().err


def test_unknown_methods_are_refused(run):
    with pytest.raises(SystemExit):
        run("--methods", "nonsense")
