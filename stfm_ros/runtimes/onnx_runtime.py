"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime as ort

from stfm_ros.config import MatcherConfig
from stfm_ros.runtimes import Rows, pick_precision
from stfm_ros.runtimes.store import FEATURES, PAIR, Model
from stfm_ros.types import EngineSpec, Float32Array

Features = tuple[Float32Array, Float32Array]


class OnnxRuntime:
    """Two sessions, one for each graph."""

    def __init__(self, model: Model, config: MatcherConfig) -> None:
        self.precision = pick_precision("onnxruntime", config, model.precisions)
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.log_severity_level = 3  # errors: a warning a session is noise in a node's log
        self._features, self._pair = (
            ort.InferenceSession(str(model.graph(name, self.precision)), options, providers=["CPUExecutionProvider"])
            for name in (FEATURES, PAIR)
        )
        assert model.spec is not None
        self.spec: EngineSpec = model.spec

    def features(self, image: Float32Array) -> Features:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        coarse, fine = self._features.run(None, {"image": image})
        return coarse, fine

    def pair(self, features0: Features, features1: Features) -> Rows:
        """See :class:`stfm_ros.runtimes.Runtime`."""
        names = ("coarse0", "fine0", "coarse1", "fine1")
        return Rows(*self._pair.run(None, dict(zip(names, (*features0, *features1), strict=True))))
