"""The NVIDIA GPU of this machine, and CUDA calls whose failures are errors. Needs cuda-bindings, not torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from stfm_ros.errors import EngineError, RuntimeNotAvailable

#: what to do about a driver or a GPU that is missing
_NEXT = "check `nvidia-smi` (Jetson: `tegrastats`), and start a container with --gpus all (Jetson: --runtime nvidia)"


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA can use."""

    name: str
    compute_capability: str  #: e.g. sm87
    memory_bytes: int


def cuda() -> Any:
    """CUDA's runtime API, as a module.

    Raises:
        RuntimeNotAvailable: it is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as fault:
        raise RuntimeNotAvailable(
            f"CUDA cannot be called from Python ({fault}): pip install cuda-bindings, of the driver's CUDA (JetPack 6: "
            "pip install 'cuda-bindings==12.*')"
        ) from None


def find_gpu() -> Gpu:
    """The first NVIDIA GPU.

    Raises:
        RuntimeNotAvailable: what is missing (bindings, driver, GPU) and what to do.
    """
    runtime = cuda()
    fault, count = runtime.cudaGetDeviceCount()
    if fault == runtime.cudaError_t.cudaErrorInsufficientDriver:
        has, needs = runtime.cudaDriverGetVersion()[1], runtime.cudaRuntimeGetVersion()[1]
        if has:
            raise RuntimeNotAvailable(
                f"no NVIDIA GPU can be used: the driver is of CUDA {_version(has)}, cuda-bindings of "
                f"{_version(needs)}: pip install 'cuda-bindings=={has // 1000}.*', or update the driver"
            )
        raise RuntimeNotAvailable(f"no NVIDIA GPU can be used: no NVIDIA driver is loaded; {_NEXT}")
    if fault != runtime.cudaError_t.cudaSuccess or not count:
        raise RuntimeNotAvailable(f"no NVIDIA GPU can be used: CUDA says {fault.name}; {_NEXT}")
    about = call(runtime.cudaGetDeviceProperties, 0)
    name = about.name.decode() if isinstance(about.name, bytes) else about.name
    return Gpu(name.rstrip("\0"), f"sm{about.major}{about.minor}", about.totalGlobalMem)


def call(function: Any, *arguments: Any) -> Any:
    """Call CUDA; gives what the call gives, without its status.

    Raises:
        EngineError: the call failed; names it and CUDA's reason.
    """
    status, *values = function(*arguments)
    if status.value:
        raise EngineError(
            f"{function.__name__} failed: {status.name}"
            + ("; the GPU's memory is full: end other programs, or use a smaller model" if status.value == 2 else "")
        )
    return values[0] if values else None


def _version(number: int) -> str:
    """12060 to 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"
