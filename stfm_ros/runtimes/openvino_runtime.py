"""OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np
import openvino as ov

from stfm_ros.config import MatcherConfig
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.store import FEATURES, PAIR, Model
from stfm_ros.types import EngineSpec, Float32Array

Features = tuple[Float32Array, Float32Array]


class OpenVinoRuntime:
    """Two compiled models, one for each graph."""

    def __init__(self, model: Model, config: MatcherConfig) -> None:
        self.precision = pick_precision("openvino", config, ("fp32",))
        core = ov.Core()
        # float32: the similarity's log-sum-exp loses matches in bfloat16, OpenVINO's choice where the CPU has it
        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if config.threads:
            options["INFERENCE_NUM_THREADS"] = config.threads
        self._features, self._pair = (
            core.compile_model(core.read_model(model.graph(name)), "CPU", options).create_infer_request()
            for name in (FEATURES, PAIR)
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
