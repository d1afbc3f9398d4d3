"""A float32 export -> its int8 graphs, calibrated on recorded frames: ``stfm quantize``.

Convention: the convolutions of the features graph, nine tenths of one image's work, get Q/DQ nodes round them
(``QuantizeLinear`` and ``DequantizeLinear`` of standard ONNX, which TensorRT, OpenVINO and ONNX Runtime each turn into
their int8 kernels). Everything is symmetric with zero point 0, as TensorRT wants it: weights by output channel,
activations by tensor, biases in float. The pair graph stays float32 (its int8 file is a copy): of its convolutions
some save a twentieth of its time, and the others cost OpenVINO a third of the matches.

Needs ``onnx``, not torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.errors import BagError, WeightsError
from stfm_ros.images import decode_image, fit, is_depth
from stfm_ros.runtimes.store import FEATURES, PAIR, Model, graph_file, seal
from stfm_ros.types import Float32Array

QUANTISED = ["Conv"]
PERCENTILE = 99.99  #: of values that int8 spans: 94 % common matches, against 90 % with the largest value or by entropy
FEWEST = 8  #: frames; fewer do not show what values occur

Progress = Callable[[int, int], None]


def quantise(
    model: Model,
    bag: Path,
    frames: int = 64,
    image_topic: str = "",
    progress: Progress = lambda done, total: None,
) -> Model:
    """Add int8 graphs to an export, or replace them; the folder is as before until they are complete.

    Args:
        model: an export with fp32 graphs.
        bag: frames like those that the robot will see.
        frames: so many, evenly over the recording; all where there are fewer.
        image_topic: found where there is only one.
        progress: called with frames done, and frames in all.

    Returns:
        The model with its new spec.

    Raises:
        BagError: the bag cannot be read, or has too few images.
        WeightsError: the model has no float32 graphs, or takes depth.
        OSError: the folder cannot be written.
    """
    if model.spec is None or "fp32" not in model.precisions:
        raise WeightsError(f"{model.path} holds no float32 graphs to make int8 ones from: stfm export first")
    spec = model.spec
    if spec.channels != 3:
        raise WeightsError(f"{model.path} is an RGB-D model ({spec.channels} channels): only RGB ones get int8 graphs")
    graphs = {name: onnx.load(model.graph(name)) for name in (FEATURES, PAIR)}
    about = {name: {prop.key: prop.value for prop in graph.metadata_props} for name, graph in graphs.items()}
    add_pre_process_metadata(graphs[FEATURES])  # the export has simplified it; without this mark a warning says to
    with tempfile.TemporaryDirectory(dir=model.path, prefix=".int8-") as temporary, BagReader(bag) as reader:
        folder = Path(temporary)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints several lines for each image
            quantize_static(
                graphs[FEATURES],
                folder / "quantised.onnx",
                CalibrationFrames(reader, frames, spec.height, spec.width, image_topic, progress),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,  # TensorRT has no int32 bias
                    "OpTypesToExcludeOutputQuantization": QUANTISED,  # so that a ReLU joins its convolution
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": 1,  # one image at a time: else the values of all are kept, gigabytes of them
                },
            )
        quantised = {FEATURES: onnx.load(folder / "quantised.onnx"), PAIR: graphs[PAIR]}
        for name, graph in quantised.items():
            onnx.helper.set_model_props(graph, about[name] | {"precision": "int8"})
            onnx.checker.check_model(graph, full_check=True)
            onnx.save(graph, folder / graph_file(name, "int8"))
        for name in quantised:
            os.replace(folder / graph_file(name, "int8"), model.path / graph_file(name, "int8"))
    return seal(model.path, spec)


class CalibrationFrames(CalibrationDataReader):  # type: ignore[misc]
    """Images of a bag, evenly over it, as ONNX Runtime's calibration asks for them: in ranges, here of one.

    Args:
        reader: an open bag.
        count: so many images; all where there are fewer.
        height, width: that they are fitted to.
        topic: found where it is not given.
        progress: called with images done, and images in all.

    Raises:
        BagError: the bag has fewer than :data:`FEWEST` images, or several topics of them.
    """

    def __init__(self, reader: BagReader, count: int, height: int, width: int, topic: str, progress: Progress) -> None:
        topic = reader.find_topic(IMAGE_TYPES, topic, lambda message: not is_depth(message))
        there = reader.topics[topic].count
        if there < FEWEST:
            raise BagError(
                f"{reader.path} has {there} images on {topic}, expected at least {FEWEST} that show what the robot "
                "will see: record more"
            )
        self._wanted = set(np.linspace(0, there - 1, min(count, there)).round().astype(int).tolist())
        self._messages = enumerate(reader.messages([topic]))
        self._size = height, width
        self._progress = progress
        self._done = self._end = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Which images come next."""
        self._end = end_index

    def get_next(self) -> dict[str, Float32Array] | None:
        """The input for the next image of the range."""
        self._progress(self._done, len(self))
        if self._done == self._end:
            return None
        message = next(message for index, (_, message, _) in self._messages if index in self._wanted)
        self._done += 1
        return {"image": fit(decode_image(message), *self._size)[0]}
