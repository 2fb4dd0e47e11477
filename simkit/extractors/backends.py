"""What computes a network on the CPU: torch as it is, compiled, or the engine of OpenVINO or onnxruntime.

An engine is used only after it has agreed with torch on real images, to a thousandth of the largest feature; what is used is said.
Half precision on the CPU is no choice here: it moves features by up to 2 %.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import ResourceError, SimkitError, UsageError

if TYPE_CHECKING:
    import torch

    from simkit.extractors.network_session import NetworkSession

__all__ = ["BACKENDS", "TOLERANCE", "Backend", "chosen", "fold_batch_norms"]

Backend = Literal["auto", "torch", "compile", "openvino", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = ("auto", "torch", "compile", "openvino", "onnxruntime")
TOLERANCE = 1e-3
"""Largest difference between an engine's features and torch's that is allowed, in units of the largest feature."""

PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnx", "onnxruntime")}
"""What each engine needs."""

logger = logging.getLogger(__name__)
Engine = Callable[[np.ndarray], np.ndarray]


def fold_batch_norms(model: torch.nn.Module, keep: str = "") -> int:
    """Folds every batch norm that follows a convolution directly into it (the same numbers up to rounding); returns how many.

    Args:
        model: a network in evaluation mode; changed in place.
        keep: name of a module whose output is taken as features: a convolution that ends it keeps a batch norm that follows outside.

    Only networks that torch.fx can trace are changed, and only convolutions whose output goes nowhere else.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    modules = dict(model.named_modules())
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in modules.values()):
        return 0
    folded = 0
    for before, after in _followed(model):
        convolution, norm = modules[before], modules[after]
        inside = not keep or not before.startswith(keep) or (after.startswith(f"{keep}."))
        if type(convolution) is not torch.nn.Conv2d or norm.running_mean is None or not inside:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
        )
        parent, _, leaf = after.rpartition(".")
        rest = {name: getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), torch.nn.Module)}  # timm's hold what follows
        setattr(modules[parent], leaf, torch.nn.Sequential(OrderedDict(rest)).eval())
        folded += 1
    return folded


def _followed(model: torch.nn.Module) -> list[tuple[str, str]]:
    """Names of modules, and of the batch norms that alone take in their output; each is called once."""
    import torch

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, torch.nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)

    try:
        graph = Tracer().trace(model)
    except Exception as error:  # control flow that depends on data, and more: such networks stay as they are
        logger.debug("batch norms are not folded: %s", error)
        return []
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or type(modules[str(node.target)]).__name__ not in ("BatchNorm2d", "BatchNormAct2d"):
            continue
        before = node.args[0]
        alone = getattr(before, "op", "") == "call_module" and len(before.users) == 1
        if alone and calls[str(before.target)] == calls[str(node.target)] == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def chosen(session: NetworkSession, backend: str, example: np.ndarray) -> tuple[Engine | None, str]:
    """The engine for a session (None: torch itself), and what it is, in words.

    Args:
        session: a network on its device.
        backend: "auto" times torch and the engines that are installed on the example, and takes the fastest; on a GPU it is torch.
        example: some prepared images, uint8 (n, height, width, 3), on which engine and torch must agree.

    Raises:
        UsageError: an engine on another device than the CPU, or one that does not take the network or computes other numbers (not for "auto").
        ResourceError: the engine's package is not installed (not for "auto").
    """
    if backend == "auto":
        return _fastest(session, example) if session.device.type == "cpu" and session.precision == "float32" else (None, "torch")
    if backend == "torch":
        return None, "torch"
    if backend == "compile":
        import torch

        session.whole = torch.compile(session.whole)  # type: ignore[method-assign]
        return None, "torch.compile"
    if session.device.type != "cpu" or session.precision != "float32":
        message = f"'{backend}' computes on the CPU in float32; the device is {session.device}, the precision {session.precision}"
        raise UsageError("SK102", "backend", message, "give backend torch or compile, or device cpu")
    engine, difference = _agreeing(session, backend, example)
    return engine, f"{backend} (agrees with torch to {difference:.0e})"


def _agreeing(session: NetworkSession, name: str, example: np.ndarray) -> tuple[Engine, float]:
    """An engine, and its largest difference to torch."""
    engine = {"openvino": _openvino, "onnxruntime": _onnxruntime}[name](session, example)
    difference = _difference(session, engine, example)
    if not difference <= TOLERANCE:
        raise UsageError("SK108", "backend", f"{name} computes other features than torch (by {difference:.2g} of the largest)", "give backend torch")
    return engine, difference


def _fastest(session: NetworkSession, example: np.ndarray) -> tuple[Engine | None, str]:
    """The fastest of torch and the installed engines on the example, each timed twice."""
    engines: dict[str, tuple[Engine, float]] = {}
    for name, packages in PACKAGES.items():
        if all(importlib.util.find_spec(package) is not None for package in packages):
            try:
                engines[name] = _agreeing(session, name, example)
            except Exception as error:  # an engine may fail in any way; torch is there
                logger.info("%s is not used: %s", name, error.problems[0].message if isinstance(error, SimkitError) else _first_line(error))
    if not engines:
        return None, "torch"
    seconds = {"torch": _seconds(lambda batch: session.collect(session.launch(batch)), example)}
    seconds |= {name: _seconds(engine, example) for name, (engine, _) in engines.items()}
    best = min(seconds, key=lambda name: seconds[name])
    rates = ", ".join(f"{name} {len(example) / value:,.0f}" for name, value in seconds.items())
    if best == "torch":
        return None, "torch"
    engine, difference = engines[best]
    return engine, f"{best} (images/s on a trial batch: {rates}; agrees with torch to {difference:.0e})"


def _seconds(engine: Engine, example: np.ndarray) -> float:
    """The shorter of two runs, after one to warm up."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        engine(example)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _difference(session: NetworkSession, engine: Engine, example: np.ndarray) -> float:
    import torch

    with torch.inference_mode():
        wanted = session.whole(torch.from_numpy(example)).numpy()
    return float(np.abs(engine(example) - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))


def _module(session: NetworkSession) -> torch.nn.Module:
    """Session and network as one module: uint8 images in, features out."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = session.model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return session.whole(pixels)

    return Whole().eval()


def _fixed(run: Engine, size: int) -> Engine:
    """An engine for batches of one size, filled up where an image is missing."""

    def engine(batch: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            full = part if len(part) == size else np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), dtype=part.dtype)])
            parts.append(run(full)[: len(part)])
        return np.concatenate(parts)

    return engine


def _openvino(session: NetworkSession, example: np.ndarray) -> Engine:
    """The network in OpenVINO, in float32 (its own choice would be bf16 where the CPU has it), for batches of the example's size."""
    try:
        import openvino
    except ImportError as error:
        raise ResourceError("SK303", "openvino", f"the package openvino cannot be imported ({error})", "pip install 'simkit[openvino]'") from error
    import torch

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about shapes that are fixed here
            converted = openvino.convert_model(_module(session), example_input=torch.from_numpy(example), input=[list(example.shape)])
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
    except Exception as error:  # the converter fails in many ways on what it does not know
        raise UsageError("SK108", "backend", f"openvino does not take this network ({_first_line(error)})", "give backend torch") from error
    return _fixed(lambda batch: np.array(compiled(batch)[0]), len(example))


def _onnxruntime(session: NetworkSession, example: np.ndarray) -> Engine:
    """The network in onnxruntime, exported through ONNX, for batches of the example's size."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ResourceError("SK303", "onnxruntime", f"{error.name} cannot be imported ({error})", "pip install onnx 'simkit[onnx]'") from error
    import torch

    content: Any = io.BytesIO()
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            torch.onnx.export(_module(session), (torch.from_numpy(example),), content, dynamo=False, input_names=["pixels"], output_names=["rows"])
        engine: Any = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter fails in many ways on what it does not know
        raise UsageError("SK108", "backend", f"onnxruntime does not take this network ({_first_line(error)})", "give backend torch") from error
    return _fixed(lambda batch: np.asarray(engine.run(["rows"], {"pixels": batch})[0]), len(example))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
