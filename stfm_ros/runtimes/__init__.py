"""Inference runtimes: one module each, one table of names.

A runtime runs two static graphs (``stfm_ros.model.network``): ``features`` of one image and the
``pair`` of two images' features. The runtime that is asked for is the one that is used, or it is an
error; ``auto`` takes the first of :data:`AUTO_ORDER` that can be had and says why.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import RuntimeNotAvailable, StfmError
from stfm_ros.runtimes.store import Model
from stfm_ros.types import EngineSpec, Float32Array


class Rows(NamedTuple):
    """K rows of a pair in pixels of the fitted images, best first, padded with confidence 0."""

    keypoints0: Float32Array  #: (K, 2)
    keypoints1: Float32Array  #: (K, 2)
    confidence: Float32Array  #: (K,)
    sigma: Float32Array  #: (K,)


class Runtime(Protocol):
    """Runs the two graphs. What ``features`` returns is opaque and may be kept."""

    @property
    def spec(self) -> EngineSpec: ...

    @property
    def precision(self) -> str:
        """Of its arithmetic: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""

    def features(self, image: Float32Array) -> Any:
        """(1, spec.channels, height, width), colours in [0, 1] and depth in 10 m -> features of this image."""

    def pair(self, features0: Any, features1: Any) -> Rows:
        """Features of two images -> K rows."""


def _tensorrt(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.tensorrt_runtime import TensorRtRuntime

    return TensorRtRuntime("tensorrt", model, config)


def _tensorrt_rtx(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.tensorrt_runtime import TensorRtRuntime

    return TensorRtRuntime("tensorrt_rtx", model, config)


def _openvino(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.openvino_runtime import OpenVinoRuntime

    return OpenVinoRuntime(model, config)


def _onnxruntime(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.onnx_runtime import OnnxRuntime

    return OnnxRuntime(model, config)


def _onnxruntime_cuda(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.onnx_runtime import CUDA, OnnxRuntime

    return OnnxRuntime(model, config, CUDA)


def _onnxruntime_tensorrt(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.onnx_runtime import TENSORRT, OnnxRuntime

    return OnnxRuntime(model, config, TENSORRT)


def _torch(model: Model, config: MatcherConfig) -> Runtime:
    from stfm_ros.runtimes.torch_runtime import TorchRuntime

    return TorchRuntime.load(model, config)


#: name -> (module that must be importable, what makes the runtime)
RUNTIMES: dict[str, tuple[str, Callable[[Model, MatcherConfig], Runtime]]] = {
    "tensorrt": ("tensorrt", _tensorrt),
    "tensorrt_rtx": ("tensorrt_rtx", _tensorrt_rtx),
    "onnxruntime_tensorrt": ("onnxruntime", _onnxruntime_tensorrt),
    "onnxruntime_cuda": ("onnxruntime", _onnxruntime_cuda),
    "openvino": ("openvino", _openvino),
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "torch": ("torch", _torch),
}

#: first choice first: on a GPU where there is one, on the CPU by the faster runtime, OpenVINO (docs/engines.md)
AUTO_ORDER = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime", "torch")


def is_installed(name: str) -> bool:
    """Whether the runtime's module can be imported here."""
    return importlib.util.find_spec(RUNTIMES[name][0]) is not None


def why_not(name: str) -> str:
    """What is missing for the runtime on this machine, in words; empty where it can be had."""
    if not is_installed(name):
        return f"{name} is not installed"
    if name == "onnxruntime_cuda" or name == "onnxruntime_tensorrt":
        from stfm_ros.runtimes.onnx_runtime import CUDA, TENSORRT, why_no_provider

        return why_no_provider(CUDA if name == "onnxruntime_cuda" else TENSORRT)
    if name.startswith("tensorrt"):
        from stfm_ros.runtimes.tensorrt_builder import at_hand

        try:
            at_hand(name)
        except StfmError as fault:
            return f"{name}: {fault}"
    return ""


def pick_precision(runtime: str, config: MatcherConfig, can: Sequence[str]) -> str:
    """The precision that is asked for; of ``auto`` the first of those that a runtime ``can`` run here.

    Raises:
        RuntimeNotAvailable: says what it can.
    """
    if config.precision == "auto":
        return can[0]
    if config.precision not in can:
        raise RuntimeNotAvailable(
            f"precision {config.precision!r} was asked for, but with this model and machine {runtime} runs "
            f"{', '.join(can)}: set matcher.precision to one of them or to auto, or export the model in that precision"
        )
    return config.precision


def load_runtime(model: Model, config: MatcherConfig) -> tuple[Runtime, str, str]:
    """Make the runtime that the config asks for.

    Returns:
        The runtime, its name, and the reason for the choice.

    Raises:
        RuntimeNotAvailable: says which module is missing and how to install it.
    """
    name = config.runtime
    if name != "auto":
        if name not in RUNTIMES:
            raise RuntimeNotAvailable(f"there is no runtime {name!r}; choose one of auto, {', '.join(RUNTIMES)}")
        module, make = RUNTIMES[name]
        if not is_installed(name):
            raise RuntimeNotAvailable(
                f"runtime {name!r} was asked for, but the Python module {module!r} is not installed: "
                f"pip install {module}, or set matcher.runtime to auto"
            )
        return make(model, config), name, "asked for"
    skipped = []
    for candidate in AUTO_ORDER:
        missing = why_not(candidate)
        if missing:
            skipped.append(missing.partition(";")[0])  # without what to do about it
        elif candidate != "torch" and not model.has_graphs:
            skipped.append(f"{candidate} needs an exported folder, got {model.path.name}")
        else:
            skipped.append(f"{candidate} is the first of {', '.join(AUTO_ORDER)} that can be had")
            return RUNTIMES[candidate][1](model, config), candidate, "; ".join(skipped)
    raise RuntimeNotAvailable(f"no runtime can run {model.path}: {'; '.join(skipped)}; pip install onnxruntime")
