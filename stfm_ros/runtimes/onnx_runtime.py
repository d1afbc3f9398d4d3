"""ONNX Runtime: on the CPU, or on an NVIDIA GPU by its CUDA or its TensorRT provider.

Features stay where they are computed; only images go in and rows come out. ONNX Runtime silently takes the CPU where a
provider cannot start: here that is an error.
"""

from __future__ import annotations

from typing import Any

import onnxruntime as ort

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import RuntimeNotAvailable
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.engine_cache import EngineCache
from stfm_ros.runtimes.store import FEATURES, PAIR, Model
from stfm_ros.types import EngineSpec, Float32Array

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

#: of the graphs' own types, the first choice of ``auto`` first: half precision is emulated on CPUs
PRECISIONS = {CPU: ("fp32", "int8", "fp16"), CUDA: ("fp16", "fp32", "int8"), TENSORRT: ("fp16", "fp32", "int8")}

Features = tuple[ort.OrtValue, ort.OrtValue]


class OnnxRuntime:
    """Two sessions, one for each graph.

    Raises:
        RuntimeNotAvailable: this build of ONNX Runtime lacks the provider, or it cannot start here; or the model lacks
            the precision.
    """

    def __init__(self, model: Model, config: MatcherConfig, provider: str = CPU) -> None:
        missing = why_no_provider(provider)
        if missing:
            raise RuntimeNotAvailable(missing)
        can = [precision for precision in PRECISIONS[provider] if precision in model.precisions]
        self.precision = pick_precision("onnxruntime", config, can)
        self.device = "cpu" if provider == CPU else "cuda"
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.log_severity_level = 3  # errors: a warning a session is noise in a node's log
        self._features, self._pair = (
            session(str(model.graph(graph, self.precision)), options, provider, config) for graph in (FEATURES, PAIR)
        )
        assert model.spec is not None
        self.spec: EngineSpec = model.spec

    def features(self, image: Float32Array) -> Features:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        binding = self._features.io_binding()
        binding.bind_cpu_input("image", image)
        coarse, fine = run(self._features, binding, self.device)
        return coarse, fine

    def pair(self, features0: Features, features1: Features) -> Rows:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        binding = self._pair.io_binding()
        for name, value in zip(("coarse0", "fine0", "coarse1", "fine1"), (*features0, *features1), strict=True):
            binding.bind_ortvalue_input(name, value)
        return Rows(*(value.numpy() for value in run(self._pair, binding, "cpu")))


def why_no_provider(provider: str) -> str:
    """What is missing for a provider, and what to do; empty where this build of ONNX Runtime has it."""
    have = ort.get_available_providers()
    if provider in have:
        return ""
    return (
        f"the ONNX Runtime that is installed has no {provider} (it has {', '.join(have)}); pip install onnxruntime-gpu "
        "in place of onnxruntime (Jetson: the wheel of its JetPack), or set matcher.runtime to auto"
    )


def session(path: str, options: ort.SessionOptions, provider: str, config: MatcherConfig) -> ort.InferenceSession:
    """A graph on the provider that is asked for and on no other.

    Raises:
        RuntimeNotAvailable: the provider did not start.
    """
    settings: dict[str, Any] = {}
    if provider == TENSORRT:
        folder = str(EngineCache(config.engines).folder)
        settings = {"trt_engine_cache_enable": True, "trt_engine_cache_path": folder}
    made = ort.InferenceSession(path, options, providers=[(provider, settings)])
    got = made.get_providers()[0]
    if got != provider:
        raise RuntimeNotAvailable(
            f"ONNX Runtime's {provider} was asked for, but could not start, {got} came instead: check `nvidia-smi` and "
            "that CUDA and cuDNN are those of this onnxruntime-gpu, or set matcher.runtime to auto"
        )
    return made


def run(graph: ort.InferenceSession, binding: ort.IOBinding, device: str) -> list[ort.OrtValue]:
    """Run with bound inputs; the outputs lie on ``device``."""
    for output in graph.get_outputs():
        binding.bind_output(output.name, device)
    graph.run_with_iobinding(binding)
    return list(binding.get_outputs())
