"""ONNX graphs to TensorRT engines: one code path for ``tensorrt`` 10.x and 11.x and for ``tensorrt_rtx``.

``tensorrt`` times kernels on the GPU at hand and builds for that one alone. ``tensorrt_rtx`` builds for a compute
capability, on any machine (with no GPU too), and compiles its kernels where the engine is first run.

Networks are strongly typed: the precision is the graph's own. TF32 is off, so that fp32 is what it says.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stfm_ros.errors import EngineError, RuntimeNotAvailable
from stfm_ros.runtimes.engine_cache import Built, Engine, EngineCache, EngineKey
from stfm_ros.runtimes.gpu import Gpu, find_gpu
from stfm_ros.runtimes.store import Model
from stfm_ros.runtimes.turing import replace_products

FLAVOURS = ("tensorrt", "tensorrt_rtx")
PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}  #: on PyPI
DURATION = {"tensorrt": "minutes, on a Jetson up to half an hour", "tensorrt_rtx": "seconds"}  #: of a build

WORKSPACE_MIB = 1024
FLAGS = "strongly typed, no TF32"
TURING_FLAGS = f"{FLAGS}, float32 products as convolutions"

LOG_PERIOD_S = 5.0  #: between two lines about a build
POLL_S = 0.2  #: between two looks at it

#: called with seconds spent, the part that is done in [0, 1], and what is being done
Progress = Callable[[float, float, str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flavour:
    """One of :data:`FLAVOURS`, as it is installed.

    Attributes:
        trt: the Python module.
        targets: compute capabilities that it builds for on any machine; none of ``tensorrt``.
    """

    name: str
    trt: Any
    version: str
    targets: tuple[str, ...]
    logger: Any

    def reasons(self) -> str:
        """The errors that TensorRT logged last."""
        return "; ".join(self.logger.errors) or "TensorRT gives no reason"


@dataclass(frozen=True)
class Target:
    """What an engine is built for; ``gpu`` is the name of the GPU at hand where it matters, else empty."""

    compute_capability: str
    gpu: str = ""


@functools.cache  # TensorRT keeps the first logger that it is given for the life of the process
def load_flavour(name: str) -> Flavour:
    """Import a flavour.

    Raises:
        RuntimeNotAvailable: it is not installed, or its libraries cannot be loaded.
    """
    try:
        trt = importlib.import_module(name)
        known = [n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM")] if _is_rtx(name) else []
        return Flavour(name, trt, trt.__version__, tuple(sorted(known, key=lambda sm: int(sm[2:]))), _logger(trt))
    except (ImportError, OSError, AttributeError) as fault:
        raise RuntimeNotAvailable(
            f"{name} cannot be imported ({fault}): pip install {PACKAGES[name]}"
            + ("" if _is_rtx(name) else " (Jetson: it is part of JetPack; make the venv with --system-site-packages)")
        ) from None


def find_target(flavour: Flavour, asked: str = "") -> Target:
    """What to build for: the GPU at hand, or the compute capability that is ``asked`` for, e.g. sm87.

    Raises:
        RuntimeNotAvailable: no GPU can be used, and one is needed.
        EngineError: this flavour cannot build for that.
    """
    if _is_rtx(flavour.name):
        needed = asked or find_gpu().compute_capability
        if needed not in flavour.targets:
            raise EngineError(
                f"{flavour.name} {flavour.version} builds for {', '.join(flavour.targets)}, not for {needed}: use "
                "tensorrt on the machine with that GPU, or another runtime"
            )
        return Target(needed)
    gpu = find_gpu()
    if asked not in ("", gpu.compute_capability):
        raise EngineError(
            f"tensorrt builds for the GPU that it runs on ({gpu.name}, {gpu.compute_capability}), not for {asked}: run "
            "this on the machine with that GPU, or use tensorrt_rtx, which builds for others"
        )
    return Target(gpu.compute_capability, gpu.name)


def at_hand(name: str) -> tuple[Gpu, Flavour, Target]:
    """What is needed to run engines here.

    Raises:
        RuntimeNotAvailable: the GPU, its driver or the module is missing.
        EngineError: the flavour is not for this GPU.
    """
    gpu = find_gpu()
    flavour = load_flavour(name)
    return gpu, flavour, find_target(flavour)


def engine_key(model: Model, graph: str, precision: str, flavour: Flavour, target: Target) -> EngineKey:
    """All that this engine depends on.

    Raises:
        WeightsError: the export lacks the graph, or it is damaged.
    """
    file = model.graph(graph, precision)
    spec = model.spec
    assert spec is not None  # else there would be no graph
    return EngineKey(
        spec.name, graph, spec.files[file.name], precision, f"{spec.channels}x{spec.height}x{spec.width}", flavour.name,
        flavour.version, target.gpu, target.compute_capability, f"{platform.system()} {platform.machine()}",
        TURING_FLAGS if _lacks_products(flavour, target) else FLAGS,
    )  # fmt: skip


def obtain_engine(
    model: Model,
    graph: str,
    precision: str,
    flavour: Flavour,
    target: Target,
    cache: EngineCache,
    *,
    workspace_mib: int = WORKSPACE_MIB,
    stale: str = "build",
    rebuild: bool = False,
    progress: Progress | None = None,
) -> Engine:
    """The engine of a graph from the cache, built where none fits.

    Args:
        stale: what to do where none fits: ``build`` or ``refuse``.
        rebuild: build even where one fits.

    Raises:
        WeightsError: the export lacks the graph, or it is damaged.
        EngineError: none fits and ``stale`` is refuse; or TensorRT cannot build it; or it cannot be kept
            (:meth:`EngineCache.obtain`).
    """
    key = engine_key(model, graph, precision, flavour, target)
    found = cache.find(key)
    if stale == "refuse" and not found.engine:
        raise EngineError(
            f"{found.reason}; and matcher.stale_engine is refuse: run `stfm build-engine {model.path} --flavour "
            f"{flavour.name} --precision {precision} --cache {cache.folder}` on this machine, or set "
            "matcher.stale_engine to build"
        )

    def build() -> Built:
        log.info("this takes %s, once", DURATION[flavour.name])
        # TensorRT-RTX times nothing when it builds
        timings = "" if _is_rtx(flavour.name) else f"timing-{flavour.version}-{target.compute_capability}.cache"
        return build_engine(flavour, model.graph(graph, precision), target, workspace_mib, progress, cache, timings)

    return cache.obtain(key, build, rebuild)


def build_engine(
    flavour: Flavour,
    graph: Path,
    target: Target,
    workspace_mib: int = WORKSPACE_MIB,
    progress: Progress | None = None,
    cache: EngineCache | None = None,
    timings: str = "",
) -> Built:
    """Build an engine; Ctrl-C cancels it.

    TensorRT works in a thread of its own: this one says how it goes, and an interruption would end the process if it
    came up in one of TensorRT's callbacks.

    Args:
        graph: ONNX file.
        workspace_mib: GPU memory that a layer may use beside weights and activations.
        cache, timings: where the timing cache is kept, and its name; empty for none.

    Raises:
        EngineError: TensorRT does not take an operator, or cannot build.
    """
    monitor = _monitor(flavour.trt)
    began = said = time.monotonic()
    with ThreadPoolExecutor(1, "engine") as pool:
        future = pool.submit(_build, flavour, graph, target, workspace_mib, monitor, cache, timings)
        try:
            while not wait([future], POLL_S).done:
                now = time.monotonic()
                part, doing = monitor.state()
                if progress:
                    progress(now - began, part, doing)
                if now - said >= LOG_PERIOD_S:
                    said = now
                    left = f"about {(now - began) * (1 / part - 1):.0f} s left" if part else "no estimate yet"
                    log.info("building %s: %.0f s spent, %s (%s)", graph.name, now - began, left, doing)
        except BaseException:
            monitor.cancelled = True
            raise
    built = future.result()
    if progress:
        progress(time.monotonic() - began, 1.0, "")
    return built


def _build(
    flavour: Flavour,
    graph: Path,
    target: Target,
    workspace_mib: int,
    monitor: Any,
    cache: EngineCache | None,
    timings: str,
) -> Built:
    trt = flavour.trt
    builder = trt.Builder(flavour.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(flavour, graph, network)
    layers = network.num_layers
    if _lacks_products(flavour, target):
        replace_products(trt, network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)
    if _is_rtx(flavour.name):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.compute_capability.upper()), 0)
    if cache and timings:
        known = cache.folder / timings
        config.set_timing_cache(config.create_timing_cache(known.read_bytes() if known.is_file() else b""), False)
    config.progress_monitor = monitor
    flavour.logger.errors.clear()
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise EngineError(
            f"{flavour.name} {flavour.version} cannot build {graph}: {flavour.reasons()}; try another precision "
            "(--precision), or, if memory is short, a smaller workspace (--workspace)"
        )
    if cache and timings:
        with contextlib.suppress(EngineError):  # it only saves time
            cache.write(timings, config.get_timing_cache().serialize())
    return Built(data, {"layers": layers, "workspace_mib": workspace_mib})


def _parse(flavour: Flavour, graph: Path, network: Any) -> None:
    parser = flavour.trt.OnnxParser(network, flavour.logger)
    flavour.logger.errors.clear()
    if parser.parse(graph.read_bytes()):
        return
    faults = [parser.get_error(i) for i in range(parser.num_errors)]
    words = [f"operator {f.node_operator() or '?'} (node {f.node_name() or '?'}): {f.desc()}" for f in faults]
    raise EngineError(
        f"{flavour.name} {flavour.version} cannot take {graph}: {'; '.join(words) or flavour.reasons()}; export the "
        "weights again with this release, or update TensorRT"
    )


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class Phases:
    """Nested phases of a build, as TensorRT tells of them, in any of its threads."""

    _open: dict[str, _Phase] = field(default_factory=dict)
    _begun: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._begun = True
            self._open[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        with self._lock:
            if name in self._open:
                self._open[name].done = step + 1

    def finish(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)

    def state(self) -> tuple[float, str]:
        """The part that is done, in [0, 1], and the innermost phase in words."""
        with self._lock:
            if not self._open:
                return (1.0, "ending") if self._begun else (0.0, "beginning")
            roots = [name for name, phase in self._open.items() if phase.parent not in self._open]
            name, phase = list(self._open.items())[-1]
            return self._part(roots[0]), f"{name} {phase.done}/{phase.steps}"

    def _part(self, name: str) -> float:
        phase = self._open[name]
        inner = sum(self._part(child) for child, of in self._open.items() if of.parent == name)
        return min((phase.done + min(inner, 1.0)) / phase.steps, 1.0)


def _monitor(trt: Any) -> Any:
    """An ``IProgressMonitor``, whose class is in the module of the flavour."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases()
            self.state = self.phases.state
            self.cancelled = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            self.phases.step(name, step)
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            self.phases.finish(name)

    return Monitor()


def _logger(trt: Any) -> Any:
    """An ``ILogger`` that writes to the log of this package and keeps errors for messages of our own."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            log.debug("%s: %s", severity.name, message)

    return Logger()


def _lacks_products(flavour: Flavour, target: Target) -> bool:
    """Whether float32 matrix products have to be replaced: see :mod:`stfm_ros.runtimes.turing`."""
    return _is_rtx(flavour.name) and target.compute_capability == "sm75"


def _is_rtx(name: str) -> bool:
    return name == "tensorrt_rtx"


def pick_flavour(asked: str, order: Sequence[str] = FLAVOURS) -> Flavour:
    """The flavour that is asked for; of ``auto`` the first that is installed.

    Raises:
        RuntimeNotAvailable: there is none.
    """
    faults = []
    for name in order if asked == "auto" else (asked,):
        try:
            return load_flavour(name)
        except RuntimeNotAvailable as fault:
            faults.append(str(fault))
    raise RuntimeNotAvailable("; ".join(faults))
