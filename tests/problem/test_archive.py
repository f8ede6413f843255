"""The archive's ranking, and the log of a run: append, restore, damage."""

from __future__ import annotations

import json

import pytest
import tiny

from prune_gym.errors import NothingFeasibleError, RunFolderError
from prune_gym.problem.archive import Archive, Trial
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.run_folder import RunFolder

CONFIG = SearchConfig("PruneVGG-v0", "random", 24, 0, 2, {"network": "small", "dataset": "digits"})


def episode(accuracy, cost=0.4, feasible=True):
    return Trial(accuracy, cost, {"params": cost}, feasible, (1.0, 0.5, 0.25))


def test_ranking():
    archive = Archive()
    assert not archive.put(episode(0.99, 0.9, feasible=False))
    assert archive.best is None
    assert archive.put(episode(0.5))
    assert not archive.put(episode(0.4, 0.1))
    assert not archive.put(episode(0.5))  # as good, but younger
    cheaper = episode(0.5, 0.3)
    assert archive.put(cheaper)
    assert archive.best is cheaper
    assert not archive.put(episode(0.9, 0.6, feasible=False))
    best = episode(0.8, 0.45)
    assert archive.put(best)
    assert archive.best is best
    assert len(archive.trials) == 7


def test_nothing_feasible_says_how_close_it_was():
    with pytest.raises(
        NothingFeasibleError, match=r"none of 0 evaluated networks meets every limit"
    ):
        Archive().feasible_masks()
    archive = Archive()
    for cost in (0.9, 0.61234, 0.7):
        archive.put(episode(0.5, cost, feasible=False))
    with pytest.raises(
        NothingFeasibleError, match=r"none of 3 .*lowest cost 0.6123.*raise the limit"
    ):
        archive.feasible_masks()


def test_added_outcomes_are_told(tiny_problem):
    told = []
    archive = Archive(on_add=lambda episode, masks, outcome, best: told.append((episode, best)))
    for seed in range(6):
        masks = tiny.random_masks(tiny_problem, seed, 0.3)
        archive.add(masks, tiny_problem.evaluate(masks))
    assert [row for row, _ in told] == archive.trials
    last_best = [row for row, best in told if best][-1]
    assert archive.best is last_best
    assert tiny_problem.evaluate(archive.feasible_masks()).accuracy == last_best.accuracy


def test_best_masks_are_a_copy(tiny_problem):
    masks = tiny_problem.masks_of([1, 1, 1])
    archive = Archive()
    archive.add(masks, tiny_problem.evaluate(masks))
    masks[0][:] = True
    assert archive.feasible_masks()[0].sum() == 1


# -- the folder ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG)


def test_a_new_folder(folder):
    opened, config = RunFolder.open(folder.path)
    assert opened == folder
    assert config == CONFIG
    assert (folder.path / "command.txt").read_text().startswith("prune-gym")
    versions = json.loads((folder.path / "versions.json").read_text())
    assert {"python", "torch", "gymnasium", "prune-gym"} <= set(versions)
    assert folder.read_episodes() == []


def test_episodes_survive_exactly(folder, tiny_problem):
    archive = Archive()
    for seed in range(8):
        masks = tiny.random_masks(tiny_problem, seed, 0.4)
        archive.add(masks, tiny_problem.evaluate(masks))
        folder.append(archive.trials[-1], seed + 1, seed / 3, tiny_problem)
    restored = Archive()
    folder.restore(restored)
    assert restored.best_masks is None
    for one, other in zip(restored.trials, archive.trials, strict=True):
        assert (one.accuracy, one.cost, one.costs) == (other.accuracy, other.cost, other.costs)
        assert one.feasible == other.feasible
        assert one.kept == pytest.approx(other.kept, rel=1e-5)
    assert restored.trials.index(restored.best) == archive.trials.index(archive.best)
    assert [float(row["multiplier"]) for row in folder.read_episodes()] == [n / 3 for n in range(8)]


def test_a_row_that_was_cut_off_is_left_out_and_does_not_harm_the_next(folder, tiny_problem):
    for number in (1, 2, 3):
        folder.append(episode(number / 10), number, 0.0, tiny_problem)
    whole = folder.episodes.read_text()
    for cut in (1, 5, 25):
        folder.episodes.write_text(whole[:-cut])
        restored = Archive()
        folder.restore(restored)
        n = len(restored.trials)
        assert n in (2, 3)
        folder.append(episode(0.9), n + 1, 0.0, tiny_problem)
        again = Archive()
        folder.restore(again)
        assert [row.accuracy for row in again.trials] == [*(0.1, 0.2, 0.3)[:n], 0.9]


def test_a_folder_that_is_taken(folder, tmp_path):
    with pytest.raises(RunFolderError, match=r"holds a run already; choose another .*--resume"):
        RunFolder.create(folder.path, CONFIG)
    (tmp_path / "other").mkdir()
    RunFolder.create(tmp_path / "other", CONFIG)  # an empty one is no harm
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("rest")
    with pytest.raises(RunFolderError, match="holds other files; choose another folder"):
        RunFolder.create(tmp_path / "notes", CONFIG)
    with pytest.raises(RunFolderError, match="holds other files"):
        RunFolder.create(tmp_path / "notes" / "todo.txt", CONFIG)


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"{}", b'{"env": "x"}', b"\xff"])
def test_a_damaged_config(folder, content):
    (folder.path / "config.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"config.json is damaged: "):
        RunFolder.open(folder.path)


def test_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match=r"is no run folder: it holds no config\.json"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"episode,accuracy\n1,0.5\n",
        b"episode,accuracy,cost,feasible\n1,much,0.5,1\n",
        b"episode,accuracy,cost,feasible\n1,0.5,0.5,yes\n2,0.5,0.5,1\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_log(folder, content):
    folder.episodes.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"episodes.csv is damaged: "):
        folder.restore(Archive())


def test_other_files(folder):
    assert folder.read_json("state.json") == {}
    (folder.path / "state.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"state.json is damaged: "):
        folder.read_json("state.json")
