"""OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np
import openvino as ov

from stfm_ros.config import MatcherConfig
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.store import FEATURES, PAIR, Model
from stfm_ros.types import EngineSpec, Float32Array

Features = tuple[Float32Array, Float32Array]

#: precision -> that of the graphs that it takes, the first choice of ``auto`` first
GRAPHS = {"bf16": "fp32", "fp32": "fp32", "int8": "int8"}


class OpenVinoRuntime:
    """Two compiled models, one for each graph."""

    def __init__(self, model: Model, config: MatcherConfig) -> None:
        core = ov.Core()
        bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # AVX512_BF16 or AMX
        can = [name for name, of in GRAPHS.items() if of in model.precisions and (bfloat16 or name != "bf16")]
        self.precision = pick_precision("openvino", config, can)
        # Matches are looked for in float32 all the same, and of exp(S), S <= 0: near 0 bfloat16 is fine enough.
        arithmetic = "bf16" if bfloat16 and self.precision != "fp32" else "f32"  # of int8 what is not quantised
        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": arithmetic}
        if config.threads:
            options["INFERENCE_NUM_THREADS"] = config.threads
        self._features, self._pair = (
            core.compile_model(
                core.read_model(model.graph(graph, GRAPHS[self.precision])), "CPU", options
            ).create_infer_request()
            for graph in (FEATURES, PAIR)
        )
        assert model.spec is not None
        self.spec: EngineSpec = model.spec

    def features(self, image: Float32Array) -> Features:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        result = self._features.infer([image], share_inputs=True)
        return np.array(result[0]), np.array(result[1])  # copies: they outlive the next request

    def pair(self, features0: Features, features1: Features) -> Rows:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        result = self._pair.infer([*features0, *features1], share_inputs=True)
        return Rows(*(np.array(result[i]) for i in range(4)))
