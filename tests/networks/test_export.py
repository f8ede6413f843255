"""Exported files: equal to torch for any batch, private, whole or not there; every wrong input."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tiny
import torch
from gymnasium.error import DependencyNotInstalled
from torch import nn
from typer.testing import CliRunner

from prune_gym import CheckpointError, ExportError, export_network, load_pruned
from prune_gym.cli.export import export_run
from prune_gym.cli.main import app
from prune_gym.networks import formats
from prune_gym.networks.checkpoints import read_tensors, save_weights, write_tensors
from prune_gym.problem.saving import save_pruned, write_json
from prune_gym.utils.files import replacing

SUFFIXES = [".pt2", ".onnx"]
EXAMPLE = torch.zeros(1, 1, 8, 8)


def need(suffix):
    """Skip where the packages of a format are absent."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


def reader(path):
    """What a user of the file does, written apart from the package."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def pruned(problem, seed=0):
    """A compact network of random masks, its norms recomputed."""
    return problem.evaluate(tiny.random_masks(problem, seed)).network


def call(*arguments, code=0):
    """Run the command in this process; its standard output, or its standard error if it failed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


class Net(nn.Module):
    """A convolution and a classifier, joined by whatever a subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.classifier = nn.Linear(4 * 6 * 6, 3)

    def forward(self, images):
        return self.classifier(self.join(self.conv(images)))

    def join(self, hidden):
        return hidden.flatten(1)


class FixedBatch(Net):
    def join(self, hidden):
        return hidden.view(7, 144)


class LooksAtValues(Net):
    def join(self, hidden):
        return hidden.flatten(1) * (2 if hidden.mean() > 0 else 1)


class Bessel(Net):
    def join(self, hidden):
        return torch.special.bessel_j0(hidden.flatten(1))  # ONNX has none


class Noisy(Net):
    def join(self, hidden):
        return hidden.flatten(1) + torch.rand_like(hidden).flatten(1)


class TwoOutputs(Net):
    def forward(self, images):
        return super().forward(images), images * 2.0


class Warns(Net):
    def join(self, hidden):
        warnings.warn("this layer is old", FutureWarning, stacklevel=1)
        return hidden.flatten(1)


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_round_trip(tmp_path, capfd, root, name, suffix):
    need(suffix)
    network = pruned(tiny.make_tiny(name))
    before, path = tiny.snapshot(network), tmp_path / "new" / f"net{suffix}"
    worst = export_network(network, EXAMPLE, path)
    assert capfd.readouterr() == ("", "")
    assert 0.0 <= worst <= 1e-4
    run = reader(path)
    for batch in (1, 2, 9):
        images = tiny.images_of(batch, seed=batch)
        torch.testing.assert_close(run(images), network(images), rtol=1e-5, atol=1e-5)
    tiny.assert_unchanged(network, before)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    assert b"conv" in content  # names in the file can be seen, so the next lines would see theirs
    for secret in (root, tmp_path, Path.home(), sys.prefix, "tiny.py", "networks/"):
        assert str(secret).encode() not in content


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_of_the_default_network(tmp_path, default_problem, suffix):
    need(suffix)
    network, path = pruned(default_problem), tmp_path / f"small{suffix}"
    assert export_network(network.train(), default_problem.example, path) <= 1e-4
    assert network.training
    images = default_problem.data.validation.batch(slice(20))
    torch.testing.assert_close(reader(path)(images), network.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_single_weights(tmp_path, suffix):
    need(suffix)
    problem = tiny.make_tiny("residual", structure="weight", budgets={"params": 0.9})
    network = pruned(problem)
    assert export_network(network, EXAMPLE, tmp_path / f"net{suffix}") <= 1e-4
    images, run = tiny.images_of(4), reader(tmp_path / f"net{suffix}")
    torch.testing.assert_close(run(images), network(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(images), problem.network(images), atol=1e-3)


def test_onnx_is_a_standard_model(tmp_path):
    need(".onnx")
    onnx = pytest.importorskip("onnx")
    export_network(tiny.build("vgg"), EXAMPLE, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(row.domain, row.version) for row in model.opset_import] == [("", 18)]
    sides = [(v.name, v.type.tensor_type) for v in (*model.graph.input, *model.graph.output)]
    shapes = {name: [d.dim_param or d.dim_value for d in t.shape.dim] for name, t in sides}
    assert shapes == {"images": ["batch", 1, 8, 8], "logits": ["batch", 3]}


def test_what_exporters_say_is_kept_back(tmp_path, capfd):
    with pytest.warns(FutureWarning, match="this layer is old"):  # the network's own
        export_network(Warns(), EXAMPLE, tmp_path / "net.pt2")
    with pytest.raises(ExportError, match="GuardOnDataDependent"):
        export_network(LooksAtValues(), EXAMPLE, tmp_path / "bad.pt2")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


# -- files that are whole or not there -------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: write_json(path, {"new": 1}), "plan.json"),
        (lambda path: write_tensors(path, {"new": torch.ones(3)}), "net.safetensors"),
        (lambda path: export_network(Net(), EXAMPLE, path), "net.pt2"),
    ],
)
def test_a_full_disk(tmp_path, monkeypatch, write, name):
    path = tmp_path / name
    path.write_bytes(b"before")

    def full(file, content, *arguments, **options):
        with file.open("wb") as opened:
            opened.write(content.encode() if isinstance(content, str) else content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        patched.setattr("pathlib.Path.write_text", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() != b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_that_stops_leaves_nothing(tmp_path, error):
    for begin in (lambda partial: partial.write_text("half"), lambda partial: None):

        def stops(begin=begin):
            with replacing(tmp_path / "x") as partial:
                begin(partial)
                raise error

        with pytest.raises(error):
            stops()
        assert list(tmp_path.iterdir()) == []


def test_layers_that_share_their_weights_are_saved(tmp_path):
    layer = nn.Linear(3, 3)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    write_tensors(tmp_path / "x.safetensors", dict(network.state_dict()))
    found = read_tensors(tmp_path / "x.safetensors")
    assert set(found) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(found["2.weight"], layer.weight)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, suffix):
    need(suffix)
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"before")
    write, read = formats._WRITERS[suffix]

    def other(content):
        run = read(content)
        return lambda images: run(images) * (1.001 if len(images) == 5 else 1.0)

    monkeypatch.setitem(formats._WRITERS, suffix, (write, other))
    match = rf"net\{suffix} differs from VGG by 0.001 of the largest output in a batch of 5 \(allo"
    with pytest.raises(ExportError, match=match):
        export_network(tiny.build("vgg"), EXAMPLE, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("given", "found"),
    [(float("nan"), "nan"), (float("inf"), "inf"), (1.0 + 2e-4, "0.0002")],
)
def test_the_check_sees_what_differs(monkeypatch, given, found):
    with pytest.raises(ExportError, match=rf"x.pt2 differs from Flat by {found} of the largest"):
        formats.largest_difference(
            tiny.build("flat"), lambda x: tiny.build("flat")(x) * given, EXAMPLE, Path("x.pt2")
        )


def test_the_check_sees_another_shape():
    network = tiny.build("flat")
    with pytest.raises(ExportError, match=r"differs from Flat by nan .* in a batch of 1"):
        formats.largest_difference(network, lambda x: network(x)[:, :2], EXAMPLE, Path("x.pt2"))


def test_a_network_that_gives_zeros_agrees_with_itself():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    network[1].weight.zero_(), network[1].bias.zero_()
    assert formats.largest_difference(network, network, EXAMPLE, Path("x.pt2")) == 0.0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_outputs(tmp_path, suffix):
    need(suffix)
    assert export_network(TwoOutputs(), EXAMPLE, tmp_path / f"two{suffix}") <= 1e-4


# -- wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "example", "file", "message"),
    [
        (Net(), EXAMPLE, "net.pt", r"path='.*net.pt': the ending tells the format; use .pt2 or .o"),
        (Net(), EXAMPLE, "net", r"path='.*net': the ending tells the format; use .pt2 or .onnx"),
        (
            Net(),
            [1, 2],
            "n.pt2",
            r"example=\[1, 2\]: expected a batch of inputs, \(n, ...\), n above 0",
        ),
        (Net(), EXAMPLE[:0], "n.pt2", r"example=\(0, 1, 8, 8\): expected a batch of inputs"),
        (
            Net(),
            torch.zeros(1, 3, 8, 8),
            "n.pt2",
            r"Net does not run on inputs of shape \(7, 3, 8, 8\): RuntimeError: .*give an example",
        ),
        (
            nn.Flatten(0),
            EXAMPLE,
            "n.pt2",
            r"Flatten gives \(448,\); only outputs with an axis for the batch and one more",
        ),
        (
            FixedBatch(),
            EXAMPLE,
            "n.pt2",
            r"FixedBatch cannot be traced for every batch size: .* flatten\(1\) instead of view\(",
        ),
        (
            Bessel(),
            EXAMPLE,
            "n.onnx",
            r"Bessel cannot be exported to .*n.onnx: DispatchError: No ONNX function .*bessel_j0.*"
            r"choose another format, or newer packages: pip install -U",
        ),
        (LooksAtValues(), EXAMPLE, "n.pt2", r"LooksAtValues cannot be traced .* depends on values"),
        (Noisy(), EXAMPLE, "n.pt2", r"n.pt2 differs from Noisy by .* Random numbers in forward"),
    ],
)
def test_networks_and_places_that_cannot_be(tmp_path, network, example, file, message):
    need(Path(file).suffix)
    with pytest.raises(ExportError, match=message):
        export_network(network, example, tmp_path / file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(tmp_path, monkeypatch, package):
    for name in ("onnx", "onnxscript", "onnxruntime"):  # those before it count as there
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    match = rf'format \'onnx\' needs {package}, .*run: pip install "prune-gym\[export\]"'
    with pytest.raises(DependencyNotInstalled, match=match):
        export_network(Net(), EXAMPLE, tmp_path / "net.onnx")
    with pytest.raises(DependencyNotInstalled, match=match):
        list(export_run(tmp_path / "run", ["pt2", "onnx"]))
    assert match_line(call("export", tmp_path, "--format", "onnx", code=2), "pip install")
    assert list(tmp_path.iterdir()) == []


def match_line(text, part):
    """Whether one line, and only one, was said, and a part of it."""
    return len(text.strip().splitlines()) == 1 and part in text


# -- run folders -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on random data."""
    folder = tmp_path_factory.mktemp("run")
    save_weights(tiny.build("vgg"), folder / "vgg.safetensors")
    options = ["--network", "tiny:cli_network", "--dataset", "tiny:cli_dataset"]
    options += ["--weights", folder / "vgg.safetensors", "--finetune-steps", 2]
    options += ["--budget", "params=0.6", "--algo", "random", "--timesteps", 30]
    call("prune", *options, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def saved(tmp_path, tiny_problem) -> Path:
    """A folder of `save_pruned` that names no network."""
    masks = tiny.random_masks(tiny_problem, 0)
    network = tiny_problem.evaluate(masks).network
    save_pruned(tmp_path / "saved", network, tiny_problem, masks)
    return tmp_path / "saved"


def test_a_plan_holds_the_shape_of_an_input(saved, run):
    for folder in (saved, run):
        assert json.loads((folder / "plan.json").read_text())["input_shape"] == [1, 8, 8]


def test_command(run, tmp_path, monkeypatch):
    need(".onnx")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    formats_ = ["--format", "onnx", "--format", "pt2", "--format", "safetensors"]
    said = call("export", run, "--trust", *formats_, "--out", tmp_path / "out").splitlines()
    names = ["network.safetensors", "network.onnx", "network.pt2"]
    assert [Path(line.split(": ")[0]) for line in said] == [tmp_path / "out" / n for n in names]
    assert "within 0.0e+00 of torch's outputs" in said[0]
    for line in said:
        path, rest = Path(line.split(": ")[0]), line.split(": ")[1]
        assert rest.startswith(f"{path.stat().st_size:,} bytes, within ")
        assert float(rest.split()[3]) <= 1e-4
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plan.json", *names}
    images = tiny.images_of(11)
    wanted = load_pruned(run, trust=True)(images)
    assert torch.equal(load_pruned(tmp_path / "out", trust=True)(images), wanted)
    for name in names[1:]:
        given = reader(tmp_path / "out" / name)(images)
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert f"{run / 'network.pt2'}: " in call("export", run, "--trust", "--format", "pt2")
    assert (run / "network.pt2").is_file()
    (run / "network.pt2").unlink()
    said = call("export", run, "--trust", "--format", "safetensors")
    assert match_line(said, f"{run / 'network.safetensors'}: ")


def test_command_names_the_file(run, tmp_path):
    said = call("export", run, "--trust", "--format", "pt2", "--out", tmp_path / "a" / "mine.pt2")
    assert match_line(said, "mine.pt2: ")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["mine.pt2"]
    call("export", run, "--trust", "--format", "pt2", "--out", tmp_path / "v0.5")
    assert [file.name for file in (tmp_path / "v0.5").iterdir()] == ["network.pt2"]


def test_command_with_a_network_that_the_plan_does_not_name(saved):
    assert match_line(
        call("export", saved, "--trust", "--format", "pt2", code=2), "the plan names no network;"
    )
    call("export", saved, "--trust", "--format", "pt2", "--network", "tiny:cli_network")
    images = tiny.images_of(3)
    wanted = load_pruned(saved, tiny.build("vgg"))(images)
    torch.testing.assert_close(reader(saved / "network.pt2")(images), wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onx"], "unknown format 'onx'. Did you mean 'onnx'? Known: safetensors, pt2"),
        (["--format", "pt2", "--out", "x.onnx"], "for pt2, give a file that ends in .pt2, or a fo"),
        (["--format", "pt2", "--out", "x.pt"], "x.pt': for pt2, give a file that ends in .pt2, or"),
        (["--format", "safetensors", "--out", "x.safetensors"], "for safetensors, give a folder."),
        (
            ["--format", "pt2", "--format", "safetensors", "--out", "x.pt2"],
            "x.pt2': for pt2, safetensors, give a folder.",
        ),
        (["--format", "pt2", "--out", "file"], "file': for pt2, give a file that ends in .pt2"),
        (["--format", "safetensors", "--out", "other"], "other' holds another run; choose another"),
    ],
)
def test_wrong_options(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert match_line(call("export", run, "--trust", *options, code=2), message)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "file", "other"]


def test_no_run_here(tmp_path):
    message = "holds no plan.json; give a run folder of a finished search"
    assert match_line(call("export", tmp_path, "--format", "pt2", code=2), message)


def test_a_copy_that_meets_a_full_disk_leaves_the_old_pair(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    call("export", run, "--trust", "--format", "safetensors", "--out", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    wrote = []

    def full(file, content):
        wrote.append(file.name)
        file.open("wb").close()
        if len(wrote) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    message = "No space left on device"
    assert match_line(
        call("export", run, "--trust", "--format", "safetensors", "--out", out, code=2), message
    )
    assert [name.split(".")[1] for name in wrote] == ["network", "plan"]
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, r"the plan holds no input_shape; an older version wrote it. Call prune_gym.export_"),
        (
            [1, 0, 8],
            r"plan.json is damaged: input_shape\[1\] is 0: it should be greater than or eq",
        ),
        (
            [1, 2.5, 8],
            r"plan.json is damaged: input_shape\[1\] is 2.5: it should be a valid integer",
        ),
        ([1, 10**6, 10**6], r"plan.json is damaged: input_shape \[.*\] is of more than 33,554,432"),
        (
            [3, 8, 8],
            r"plan.json is damaged: input_shape \[3, 8, 8\] does not begin with in_channels",
        ),
        (8, r"plan.json is damaged: input_shape is 8: it should be a valid list"),
    ],
)
def test_shapes_in_the_plan(saved, tiny_problem, shape, message):
    plan = json.loads((saved / "plan.json").read_text())
    plan["input_shape"] = shape
    if shape is None:
        del plan["input_shape"]
        (saved / "examples.safetensors").unlink()
    (saved / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match=message):
        list(export_run(saved, ["pt2"], network="tiny:cli_network"))
    if shape is None:  # as folders of older versions are; they load as before
        assert load_pruned(saved, tiny_problem.network)(EXAMPLE).shape == (1, 3)


# -- another process -------------------------------------------------------------------------------

LOAD_WITHOUT_PICKLE = """
import pickle, sys, torch, prune_gym

def refuse(*arguments, **options):
    raise AssertionError("pickle")

pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
assert "tiny" not in sys.modules
network = prune_gym.load_pruned("named")
torch.manual_seed(0)
print(network(torch.randn(2, 1, 8, 8)).tolist())
for trust in (False, True):
    try:
        prune_gym.load_pruned("unknown", trust=trust)
    except (prune_gym.TrustError, prune_gym.CheckpointError) as error:
        print(error)
"""

LOAD_ALONE = """
import sys
sys.modules["prune_gym"] = None
import torch
torch.manual_seed(0)
print(torch.export.load("network.pt2").module()(torch.randn(2, 1, 8, 8)).tolist())
"""


def elsewhere(code, folder):
    """What a process prints that finds no module of the tests."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_folders_load_where_the_class_cannot_be_imported(tmp_path, default_problem):
    masks = tiny.random_masks(default_problem, 0)
    network = default_problem.evaluate(masks).network
    save_pruned(tmp_path / "named", network, default_problem, masks, "small")
    save_pruned(tmp_path / "unknown", network, default_problem, masks, "tiny:cli_network")
    printed, refused, error = elsewhere(LOAD_WITHOUT_PICKLE, tmp_path)
    torch.manual_seed(0)
    wanted = network(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(torch.tensor(json.loads(printed)), wanted)
    assert "going on would import and call network 'tiny:cli_network'. Nothing was run" in refused
    assert error.startswith("unknown: the plan's network 'tiny:cli_network' cannot be imported: No")
    assert "Or give the unpruned network: load_pruned(folder, network=...)." in error


def test_pt2_runs_without_this_package(tmp_path, run):
    call("export", run, "--trust", "--format", "pt2", "--out", tmp_path)
    torch.manual_seed(0)
    wanted = load_pruned(run, trust=True)(torch.randn(2, 1, 8, 8))
    (printed,) = elsewhere(LOAD_ALONE, tmp_path)
    torch.testing.assert_close(torch.tensor(json.loads(printed)), wanted)
