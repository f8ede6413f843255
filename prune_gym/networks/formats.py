"""Networks as files that need no prune_gym to run: ``.pt2`` (torch.export) and ``.onnx``.

Every file is loaded again and compared with the network before it takes its place.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.errors import ExportError, MissingLibraryError
from prune_gym.utils.files import replacing
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.trees import (
    arguments,
    call,
    clone,
    in_words,
    leaves,
    mapped,
    repeated,
    without_classes,
)
from prune_gym.utils.words import shortened

TOLERANCE = 1e-4  # of a file's outputs, as a fraction of the network's largest
CHECKED_BATCHES = (1, 5)
_TRACED_BATCH = 7  # unlike the sizes that layers have; 0 and 1 would be taken as fixed
_OPSET = 18  # the newest that torch writes itself, without a conversion afterwards
_TRACEABLE = (
    "in forward(), write flatten(1) instead of view() with a fixed size, and nothing that depends "
    "on values or on the batch size"
)
_WRITABLE = 'choose another format, or newer packages: pip install -U "prune-gym[export]"'
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "copyreg")

Run = Callable[[Any], Any]  # a batch of inputs -> outputs


def export_network(network: nn.Module, example: Any, path: Path | str) -> float:
    """Write a network to one file, for any batch size, on the CPU, in evaluation mode.

    The file is loaded again and compared with the network on the examples in batches of 1 and 5; it
    takes its place only if every output agrees to 1e-4 of the largest number (NaN with NaN).

    Args:
        network: gives a tensor, or tuples, lists and dicts of them, or dataclasses, which become
            dicts; it is not changed.
        example: a batch of its inputs, (n, ...), real ones: what the file is compared on. Several
            inputs are a tuple, or a dict by the names of forward(). Floats that are all equal, such
            as ``torch.zeros(...)``, say shape and type only: normal noise takes their place.
        path: ends in ``.pt2`` (`torch.export.load` reads it) or ``.onnx`` (opset 18; a single input
            is ``images``, a single output ``logits``); a file that is there already is replaced.

    Returns:
        Largest difference between the file's outputs and the network's, divided by the largest
        number of an output.

    Raises:
        ExportError: another ending, a network that cannot be written, or a file that differs.
        MissingLibraryError: ``.onnx`` without the packages it needs.

    >>> import tempfile
    >>> from prune_gym import NETWORKS
    >>> network = NETWORKS.get("small")(in_channels=1, n_classes=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_network(network, torch.zeros(1, 1, 8, 8), f"{folder}/small.pt2") <= 1e-4
    True
    """
    (difference,) = export_files(network, example, [Path(path)])
    return difference


def export_files(network: nn.Module, example: Any, paths: Sequence[Path]) -> Iterator[float]:
    """`export_network` to several files, of which the network is traced once."""
    for path in paths:
        if path.suffix not in _WRITERS:
            raise ExportError(
                f"path={str(path)!r}: the ending tells the format; use {' or '.join(_WRITERS)}."
            )
        check_installed(path.suffix[1:])
    tensors = leaves(example)
    if not tensors or any(tensor.ndim == 0 or len(tensor) == 0 for tensor in tensors):
        found = in_words(example) if tensors else shortened(example)
        raise ExportError(f"example={found}: expected a batch of inputs, (n, ...), n above 0.")
    network, example = copy.deepcopy(network).cpu().eval(), mapped(torch.Tensor.cpu, example)
    program = _trace(network, example)
    for path in paths:
        check_stop()
        write, read = _WRITERS[path.suffix]
        failed = f"{type(network).__name__} cannot be exported to {path}"
        with _mendable(failed, _WRITABLE), _quiet():
            content = write(program)
        with replacing(path) as partial:
            partial.write_bytes(content)
            with _mendable(failed, _WRITABLE), _quiet():
                run = read(partial.read_bytes())
                difference = largest_difference(network, run, example, path)
        yield difference


def _trace(network: nn.Module, example: Any) -> Any:
    """The network as a `torch.export.ExportedProgram` whose batch has no fixed size.

    Args:
        network: a copy; from here on it gives plain dicts and tuples of tensors: a file cannot hold
            dataclasses and other classes.
        example: a batch of its inputs.
    """
    name = type(network).__name__
    network.register_forward_hook(lambda module, given, outputs: without_classes(outputs))
    inputs = repeated(example, _TRACED_BATCH)
    failed = f"{name} does not run on inputs of shape {in_words(inputs)}"
    with _mendable(failed, "give an example of the shape that it takes"):
        outputs = leaves(call(network, clone(inputs)))
    if not outputs or any(output.ndim < 2 for output in outputs):
        found = ", ".join(str(tuple(output.shape)) for output in outputs) or "no tensor"
        raise ExportError(
            f"{name} gives {found}; only outputs with an axis for the batch and one more, (n, k, "
            "...), can be exported. Wrap it in a module that gives them."
        )
    batch = torch.export.Dim("batch")
    positional, named = arguments(network, inputs)
    with _mendable(f"{name} cannot be traced for every batch size", _TRACEABLE), _quiet():
        shapes = mapped(lambda _: {0: batch}, named or positional)
        program = torch.export.export(
            network, positional, named, dynamic_shapes=shapes, strict=False
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines and paths of this machine's source files
    return program


def _write_pt2(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _read_pt2(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()
    return lambda inputs: call(module, inputs)


def _write_onnx(program: Any) -> bytes:
    signature = program.graph_signature
    names: dict[str, Any] = {}
    if len(signature.user_inputs) == 1:
        names |= {"input_names": ["images"], "dynamic_shapes": ({0: "batch"},)}
    if len(signature.user_outputs) == 1:
        names["output_names"] = ["logits"]
    written: Any = torch.onnx.export(
        program, (), dynamo=True, verbose=False, opset_version=_OPSET, **names
    )
    content: bytes = written.model_proto.SerializeToString()
    return content


def onnx_session(network: nn.Module, example: Any, threads: int) -> Any:
    """An onnxruntime session of a network on the CPU, for any batch size; see `onnx_feed`.

    Nothing is written and nothing is compared: `export_network` does that.

    Args:
        network: what `export_network` takes.
        example: one batch of its inputs.
        threads: that an operator may use.
    """
    check_installed("onnx")
    program = _trace(copy.deepcopy(network).cpu().eval(), mapped(torch.Tensor.cpu, example))
    failed = f"{type(network).__name__} cannot be exported to ONNX"
    with _mendable(failed, _WRITABLE), _quiet():
        return _session(_write_onnx(program), threads)


def _session(content: bytes, threads: int) -> Any:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_feed(session: Any, inputs: Any) -> dict[str, Any]:
    """A batch of inputs as a session takes it."""
    names = [node.name for node in session.get_inputs()]
    return {n: tensor.numpy(force=True) for n, tensor in zip(names, leaves(inputs), strict=True)}


def _read_onnx(content: bytes) -> Run:
    session = _session(content, torch.get_num_threads())

    def run(inputs: Any) -> Any:
        found = [torch.from_numpy(made) for made in session.run(None, onnx_feed(session, inputs))]
        return found if len(found) > 1 else found[0]

    return run


_WRITERS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Run]]] = {
    ".pt2": (_write_pt2, _read_pt2),
    ".onnx": (_write_onnx, _read_onnx),
}


def check_installed(name: str) -> None:
    """Raise unless the packages of a format can be imported."""
    for package in ("onnx", "onnxscript", "onnxruntime") if name == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingLibraryError(
                f"format 'onnx' needs {package}, which cannot be imported ({error}); run: pip "
                'install "prune-gym[export]"'
            ) from error


@torch.no_grad()
def largest_difference(network: nn.Module, run: Run, example: Any, path: Path) -> float:
    """Largest difference between a file and its network; too large a one is an `ExportError`."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        check_stop()
        inputs = mapped(partial(_filled, n=batch, generator=generator), example)
        wanted, given = (
            leaves(made) for made in (call(network, clone(inputs)), run(clone(inputs)))
        )
        found = [_apart(one, other) for one, other in zip(wanted, given, strict=False)]
        agree = len(wanted) == len(given)
        difference = float(torch.tensor(found).max()) if agree else math.nan  # NaN stays NaN
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path} differs from {type(network).__name__} by {difference:.2g} of the largest "
                f"output in a batch of {batch} (allowed: {TOLERANCE:g}), so it is "
                "not kept. Random numbers in forward()? Else choose another format."
            )
        worst = max(worst, difference)
    return worst


def _filled(tensor: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """``n`` examples: the given ones, again and again, or noise where they say nothing."""
    if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
        return torch.randn((n, *tensor.shape[1:]), generator=generator, dtype=tensor.dtype)
    return tensor[torch.arange(n) % len(tensor)]


def _apart(wanted: torch.Tensor, given: torch.Tensor) -> float:
    """How far outputs are apart, as a fraction of the largest finite number; NaN equals NaN."""
    if wanted.shape != given.shape:
        return math.nan
    one, other = wanted.double(), given.double()
    same = (one == other) | (one.isnan() & other.isnan())
    finite = one[one.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    difference = torch.where(same, 0.0, (one - other).abs())
    return float(difference.max()) / (largest or 1.0) if difference.numel() else 0.0


@contextlib.contextmanager
def _mendable(failed: str, cure: str) -> Iterator[None]:
    """What is raised becomes an `ExportError`: what failed, the root cause, the cure."""
    try:
        with torch.no_grad():
            yield
    except (ExportError, OSError):
        raise
    except Exception as error:  # exporters raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip() or "no reason given").splitlines()[0]
        raise ExportError(f"{failed}: {type(cause).__name__}: {reason[:300]} ({cure})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporters print, log and warn of."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})\b")
            for category in (DeprecationWarning, FutureWarning):  # of the calls made here
                warnings.filterwarnings("ignore", category=category, module=__name__)
            yield
    finally:
        logging.disable(disabled)
