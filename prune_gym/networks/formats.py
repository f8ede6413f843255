"""Networks as files that need no prune_gym to run: ``.pt2`` (torch.export) and ``.onnx``.

Every file is loaded again and compared with the network before it takes its place.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.errors import ExportError, MissingLibraryError
from prune_gym.utils.files import replacing
from prune_gym.utils.stopping import check_stop

TOLERANCE = 1e-4  # of a file's logits, as a fraction of the network's largest
CHECKED_BATCHES = (1, 5)
_TRACED_BATCH = 7  # unlike the sizes that layers have; 0 and 1 would be taken as fixed
_OPSET = 18  # the newest that torch writes itself, without a conversion afterwards
_TRACEABLE = (
    "in forward(), write flatten(1) instead of view() with a fixed size, and nothing that depends "
    "on values or on the batch size"
)
_WRITABLE = 'choose another format, or newer packages: pip install -U "prune-gym[export]"'
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "copyreg")

Run = Callable[[torch.Tensor], torch.Tensor]  # (n, ...) images -> (n, n_classes) logits


def export_network(network: nn.Module, example: torch.Tensor, path: Path | str) -> float:
    """Write a network to one file, for any batch size, on the CPU, in evaluation mode.

    The file is loaded again and compared with the network on random inputs in batches of 1 and 5;
    it takes its place only if the logits agree to 1e-4 of the largest one.

    Args:
        network: gives one tensor of logits, (n, n_classes); it is not changed.
        example: one batch of its inputs, (n, ...) float; only shape and type matter.
        path: ends in ``.pt2`` (`torch.export.load` reads it) or ``.onnx`` (opset 18, input
            ``images``, output ``logits``); a file that is there already is replaced.

    Returns:
        Largest difference between the file's logits and the network's, divided by the largest
        logit.

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


def export_files(
    network: nn.Module, example: torch.Tensor, paths: Sequence[Path]
) -> Iterator[float]:
    """`export_network` to several files, of which the network is traced once."""
    for path in paths:
        if path.suffix not in _WRITERS:
            raise ExportError(
                f"path={str(path)!r}: the ending tells the format; use {' or '.join(_WRITERS)}."
            )
        check_installed(path.suffix[1:])
    if not isinstance(example, torch.Tensor) or example.ndim < 2 or not example.is_floating_point():
        found = f"{tuple(example.shape)} {example.dtype}" if hasattr(example, "dtype") else example
        raise ExportError(f"example={found!r}: expected a batch of inputs, (n, ...) float.")
    network = copy.deepcopy(network).cpu().eval()
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


def _trace(network: nn.Module, example: torch.Tensor) -> Any:
    """The network as a `torch.export.ExportedProgram` whose batch has no fixed size."""
    name = type(network).__name__
    images = torch.zeros(_TRACED_BATCH, *example.shape[1:], dtype=example.dtype)
    failed = f"{name} does not run on inputs of shape {tuple(images.shape)}"
    with _mendable(failed, "give an example of the shape that it takes"):
        logits = network(images)
    if not isinstance(logits, torch.Tensor) or logits.ndim < 2:
        found = getattr(logits, "shape", type(logits).__name__)
        raise ExportError(
            f"{name} gives {found}; only a network with one tensor of logits, (n, n_classes), can "
            "be exported. Wrap it in a module that gives them."
        )
    with _mendable(f"{name} cannot be traced for every batch size", _TRACEABLE), _quiet():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(network, (images,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines and paths of this machine's source files
    return program


def _write_pt2(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _read_pt2(content: bytes) -> Run:
    run: Run = torch.export.load(io.BytesIO(content)).module()
    return run


def _write_onnx(program: Any) -> bytes:
    written: Any = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        opset_version=_OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
    )
    content: bytes = written.model_proto.SerializeToString()
    return content


def onnx_session(network: nn.Module, example: torch.Tensor, threads: int) -> Any:
    """An onnxruntime session of a network on the CPU, for any batch size (input ``images``).

    Nothing is written and nothing is compared: `export_network` does that.

    Args:
        network: what `export_network` takes.
        example: one batch of its inputs.
        threads: that an operator may use.
    """
    check_installed("onnx")
    program = _trace(copy.deepcopy(network).cpu().eval(), example)
    failed = f"{type(network).__name__} cannot be exported to ONNX"
    with _mendable(failed, _WRITABLE), _quiet():
        return _session(_write_onnx(program), threads)


def _session(content: bytes, threads: int) -> Any:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _read_onnx(content: bytes) -> Run:
    session = _session(content, torch.get_num_threads())
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


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
def largest_difference(network: nn.Module, run: Run, example: torch.Tensor, path: Path) -> float:
    """Largest difference between a file and its network; too large a one is an `ExportError`."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        check_stop()
        shape = (batch, *example.shape[1:])
        images = torch.randn(shape, generator=generator, dtype=example.dtype)
        wanted, given = network(images), run(images)
        largest = float(wanted.abs().max()) or 1.0
        fits = given.shape == wanted.shape
        difference = float((given - wanted).abs().max()) / largest if fits else float("nan")
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path} differs from {type(network).__name__} by {difference:.2g} of the largest "
                f"logit in a batch of {batch} (allowed: {TOLERANCE:g}), so it is not kept. Random "
                "numbers in forward()? Else choose another format."
            )
        worst = max(worst, difference)
    return worst


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
