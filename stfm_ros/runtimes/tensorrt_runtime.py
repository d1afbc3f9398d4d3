"""TensorRT on an NVIDIA GPU, without torch: engines of the cache, buffers that are made once, one stream.

Features stay in GPU memory: what ``features`` returns is a handle whose buffers go back to a pool with its last
reference. One thread at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import EngineError, ImageError, RuntimeNotAvailable, StfmError
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.engine_cache import Engine, EngineCache
from stfm_ros.runtimes.gpu import call, cuda
from stfm_ros.runtimes.store import FEATURES, PAIR, Model
from stfm_ros.runtimes.tensorrt_builder import Flavour, at_hand, obtain_engine
from stfm_ros.types import EngineSpec, Float32Array

#: of the graphs' own types, the first choice first
PRECISIONS = ("fp16", "fp32", "int8")

#: features that can be held at once without new buffers: a reference, the current image, and one on its way
HELD_FEATURES = 3

log = logging.getLogger(__name__)


class TensorRtRuntime:
    """Two engines on one stream.

    Args:
        name: the flavour, ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        RuntimeNotAvailable: the module, the driver or a GPU is missing, or the model lacks the precision.
        EngineError: an engine cannot be had; see :func:`stfm_ros.runtimes.tensorrt_builder.obtain_engine`.
    """

    def __init__(self, name: str, model: Model, config: MatcherConfig) -> None:
        try:
            gpu, flavour, target = at_hand(name)
        except StfmError as fault:
            raise RuntimeNotAvailable(
                f"runtime {name!r} was asked for, but {fault}; or set matcher.runtime to auto"
            ) from None
        self.precision = pick_precision(name, config, [p for p in PRECISIONS if p in model.precisions])
        cache = EngineCache(config.engines)
        engines = [
            obtain_engine(model, graph, self.precision, flavour, target, cache, stale=config.stale_engine)
            for graph in (FEATURES, PAIR)
        ]
        assert model.spec is not None  # else there would be no engine
        self.spec: EngineSpec = model.spec
        log.info("%s %s on %s (%s)", name, flavour.version, gpu.name, gpu.compute_capability)
        self._device = Device()
        self._features, self._pair = (Graph(flavour, engine, self._device, cache) for engine in engines)
        self._image = self._features.mirror("image")
        self._rows = [self._pair.mirror(name) for name in Rows._fields]
        self._kept = {tensor.name: tensor for tensor in self._features.outputs}
        for kept in self._kept.values():
            for index in "01":
                self._pair.expect(f"{kept.name}{index}", kept)
        self._free = [self._new_buffers() for _ in range(HELD_FEATURES)]
        self._warm_up()

    def features(self, image: Float32Array) -> DeviceFeatures:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        if image.shape != self._image.host.shape:
            raise ImageError(
                f"the engine takes images of shape {self._image.host.shape}, got {image.shape}; fit the image first "
                "(stfm_ros.images.fit)"
            )
        features = DeviceFeatures(self._free.pop() if self._free else self._new_buffers())
        weakref.finalize(features, self._free.append, features.addresses).atexit = False
        self._image.host[...] = image
        self._device.upload(self._image)
        for name, address in features.addresses.items():
            self._features.bind(name, address)
        self._features.enqueue()
        self._device.wait()  # the next image may be written, and the time of each stage is its own
        return features

    def pair(self, features0: DeviceFeatures, features1: DeviceFeatures) -> Rows:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        for index, features in enumerate((features0, features1)):
            for name, address in features.addresses.items():
                self._pair.bind(f"{name}{index}", address)
        self._pair.enqueue()
        for rows in self._rows:
            self._device.download(rows)
        self._device.wait()
        return Rows(*(rows.host.astype(np.float32) for rows in self._rows))  # copies: the buffers serve the next pair

    def _new_buffers(self) -> dict[str, int]:
        return {name: self._device.allocate(tensor.nbytes) for name, tensor in self._kept.items()}

    def _warm_up(self) -> None:
        """Kernels are loaded, of TensorRT-RTX also compiled, when they are first run: now, not at the first image."""
        blank = self.features(np.zeros(self._image.host.shape, np.float32))
        self.pair(blank, blank)
        for graph in (self._features, self._pair):
            graph.keep_kernels()


class DeviceFeatures:
    """Features of one image in GPU memory: the address of each tensor."""

    def __init__(self, addresses: dict[str, int]) -> None:
        self.addresses = addresses


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of its memory."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Mirror:
    """Memory of a tensor on the GPU and, page-locked, on the host; ``host`` has its shape and type."""

    address: int
    host: NDArray[Any]


class Device:
    """A stream and the memory of one runtime, freed with it."""

    def __init__(self) -> None:
        self._cuda = cuda()
        self.stream = call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        self._freeing = contextlib.ExitStack()
        self._freeing.callback(self._cuda.cudaStreamDestroy, self.stream)
        # at the end of the process CUDA frees all by itself
        weakref.finalize(self, self._freeing.close).atexit = False

    def allocate(self, size: int) -> int:
        """The address of GPU memory."""
        address: int = call(self._cuda.cudaMalloc, size)
        self._freeing.callback(self._cuda.cudaFree, address)
        return address

    def mirror(self, tensor: Tensor) -> Mirror:
        """Memory for a tensor on both sides."""
        address: int = call(self._cuda.cudaMallocHost, tensor.nbytes)
        self._freeing.callback(self._cuda.cudaFreeHost, address)
        memory = (ctypes.c_uint8 * tensor.nbytes).from_address(address)
        host = np.asarray(memory).view(tensor.dtype).reshape(tensor.shape)
        return Mirror(self.allocate(tensor.nbytes), host)

    def upload(self, mirror: Mirror) -> None:
        """Enqueue the copy to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._cuda.cudaMemcpyAsync, mirror.address, mirror.host.ctypes.data, mirror.host.nbytes, kind, self.stream)

    def download(self, mirror: Mirror) -> None:
        """Enqueue the copy from the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._cuda.cudaMemcpyAsync, mirror.host.ctypes.data, mirror.address, mirror.host.nbytes, kind, self.stream)

    def wait(self) -> None:
        """Until all that was enqueued is done."""
        call(self._cuda.cudaStreamSynchronize, self.stream)


class Graph:
    """An engine that can be run.

    Raises:
        EngineError: TensorRT cannot load it.
    """

    def __init__(self, flavour: Flavour, engine: Engine, device: Device, cache: EngineCache) -> None:
        trt = flavour.trt
        self._name = engine.path.name
        self._device = device
        self._cache = cache
        self._kernels_file = engine.path.with_suffix(".kernels")
        self._flavour = flavour
        flavour.logger.errors.clear()
        self._runtime = trt.Runtime(flavour.logger)  # must outlive the engine
        self._engine: Any = self._runtime.deserialize_cuda_engine(engine.path.read_bytes())
        self._context: Any = self._make_context() if self._engine else None
        if self._context is None:
            raise EngineError(self._failed(f"{engine.path} cannot be loaded"))
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        shapes = [tuple(self._engine.get_tensor_shape(name)) for name in names]
        types = [np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names]
        modes = [self._engine.get_tensor_mode(name) for name in names]
        self._tensors = {each[0]: Tensor(*each) for each in zip(names, shapes, types, strict=True)}
        self.outputs = [
            self._tensors[n] for n, mode in zip(names, modes, strict=True) if mode == trt.TensorIOMode.OUTPUT
        ]

    def mirror(self, name: str) -> Mirror:
        """Make and bind memory for a tensor that comes from the host or goes there."""
        mirror = self._device.mirror(self._find(name))
        self.bind(name, mirror.address)
        return mirror

    def expect(self, name: str, other: Tensor) -> None:
        """Refuse a tensor that cannot be read where another engine wrote it.

        Raises:
            EngineError: shape or type is another.
        """
        found = self._find(name)
        if (found.shape, found.dtype) != (other.shape, other.dtype):
            raise EngineError(
                f"{self._name} takes {name} as {found.dtype} {found.shape}, but {other.name} of the features is "
                f"{other.dtype} {other.shape}: the two graphs are not of one export; export the weights again"
            )

    def bind(self, name: str, address: int) -> None:
        """Read or write a tensor there."""
        self._context.set_tensor_address(name, address)

    def enqueue(self) -> None:
        """Run on the device's stream; does not wait."""
        if not self._context.execute_async_v3(int(self._device.stream)):
            raise EngineError(self._failed(f"{self._name} cannot be run"))

    def keep_kernels(self) -> None:
        """Write what TensorRT-RTX compiled for this GPU beside the engine, for the next start."""
        if self._kernels is not None:
            try:
                self._cache.write(self._kernels_file.name, self._kernels.serialize())
            except EngineError as fault:
                log.warning("the next start compiles the kernels again: %s", fault)

    def _make_context(self) -> Any:
        # tensorrt_rtx alone compiles kernels when an engine is run, and has a cache for them; tensorrt has no such
        # method (or, since 10.11, one whose configuration knows no cache)
        self._kernels = None
        settings: Any = self._engine.create_runtime_config() if hasattr(self._engine, "create_runtime_config") else None
        if not hasattr(settings, "create_runtime_cache"):
            return self._engine.create_execution_context()
        kernels = settings.create_runtime_cache()
        known = self._kernels_file.is_file() and kernels.deserialize(self._kernels_file.read_bytes())
        if not known:  # of another GPU or driver, or none yet
            log.info("compiling the kernels of %s for this GPU, once", self._name)
            self._kernels = kernels
        settings.set_runtime_cache(kernels)
        return self._engine.create_execution_context(settings)

    def _find(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise EngineError(
                f"{self._name} has the tensors {', '.join(self._tensors)}, but no {name}: export the weights again "
                "with this release"
            )
        return self._tensors[name]

    def _failed(self, what: str) -> str:
        return f"{what}: {self._flavour.reasons()}; build it again (stfm build-engine --rebuild)"
