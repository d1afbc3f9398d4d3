"""int8 graphs: what is in them, that they match, and that an export stays whole whatever goes wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from sequences import slice_of_demo

import stfm_training.quantise as quantising
from stfm_ros.cli import COMMANDS, main
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import BagError, WeightsError
from stfm_ros.parity import check_reference
from stfm_ros.runtimes import load_runtime
from stfm_ros.runtimes.store import FEATURES, PAIR, find_model, sha256
from stfm_training.quantise import quantise


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slice_of_demo(tmp_path_factory.mktemp("bags") / "ten.mcap", range(0, 60, 6))


@pytest.fixture(scope="module")
def quantised(exported: Path, bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "model"
    shutil.copytree(exported, folder)
    steps: list[tuple[int, int]] = []
    model = quantise(find_model(str(folder)), bag, 8, progress=lambda *step: steps.append(step))
    assert model.spec == find_model(str(folder)).spec
    assert model.precisions == ("fp32", "fp16", "int8")
    assert steps[0] == (0, 8) and steps[-1] == (8, 8)
    return folder


def test_convolutions_compute_in_int8_as_tensorrt_wants_it(quantised: Path) -> None:
    proto = onnx.load(find_model(str(quantised)).graph(FEATURES, "int8"))
    onnx.checker.check_model(proto, full_check=True)
    nodes = proto.graph.node
    made = {name: node for node in nodes for name in node.output}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 18
    for node in convolutions:
        image, weight = (made[name] for name in node.input[:2])
        assert (image.op_type, weight.op_type) == ("DequantizeLinear",) * 2, node.name
        assert made[image.input[0]].op_type == "QuantizeLinear"
        assert weights[weight.input[0]].dtype == np.int8
        assert weights[weight.input[1]].shape == weights[weight.input[0]].shape[:1], "a scale for each output channel"
        assert all(weights[name].dtype == np.float32 for name in node.input[2:]), "TensorRT has no int32 bias"
    zero_points = [weights[node.input[2]] for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zero_points)
    for node in nodes:  # a ReLU joins its convolution: nothing between them
        if node.op_type == "Relu":
            assert made[node.input[0]].op_type == "Conv"
    assert {info.type.tensor_type.elem_type for info in proto.graph.output} == {TensorProto.FLOAT}
    about = {prop.key: prop.value for prop in proto.metadata_props}
    assert about["precision"] == "int8"
    assert json.loads(about["stfm"])["name"] == "small"
    assert set(about) == {"precision", "stfm"}


def test_int8_graphs_match(quantised: Path) -> None:
    model = find_model(str(quantised))
    runtime, *_ = load_runtime(model, MatcherConfig(runtime="onnxruntime", precision="int8"))
    found = check_reference(runtime, model)
    assert found.common > 0.85
    assert 0.005 < found.p50_px < 0.3


def test_tensorrt_parses_int8_graphs(quantised: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    for name in (FEATURES, PAIR):
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        done = parser.parse(find_model(str(quantised)).graph(name, "int8").read_bytes())
        assert done, [parser.get_error(i).desc() for i in range(parser.num_errors)]


def test_calibration_looks_at_the_bag(exported: Path, bag: Path) -> None:
    from stfm_ros.bags import BagReader

    with BagReader(bag) as reader:
        frames = quantising.CalibrationFrames(reader, 99, 256, 320, "", lambda done, total: None)
        assert len(frames) == 10, "all where there are fewer"
        seen = []
        for start in range(10):
            frames.set_range(start, start + 1)
            seen.append(frames.get_next()["image"])
            assert frames.get_next() is None
    assert {image.shape for image in seen} == {(1, 3, 256, 320)}
    assert len({image.tobytes() for image in seen}) == 10


def test_what_is_refused(exported: Path, tmp_path: Path) -> None:
    few = slice_of_demo(tmp_path / "few.mcap", range(5))
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    before = {path.name: sha256(path) for path in folder.iterdir()}
    with pytest.raises(BagError, match=r"few.mcap has 5 images on .*, expected at least 8 that show what the robot"):
        quantise(find_model(str(folder)), few)
    with pytest.raises(WeightsError, match="holds no float32 graphs to make int8 ones from: stfm export first"):
        quantise(find_model(str(folder / "weights.safetensors")), few)
    assert {path.name: sha256(path) for path in folder.iterdir()} == before


def test_what_fails_on_the_way_leaves_the_export(
    exported: Path, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    before = {path.name: sha256(path) for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantising, "quantize_static", lambda source, out, *_, **__: onnx.save(source, out))
    monkeypatch.setattr(quantising.onnx, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        quantise(find_model(str(folder)), bag, 8)
    assert {path.name: sha256(path) for path in folder.iterdir()} == before


# the command


def test_the_command(
    exported: Path, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    assert main(["quantize", str(folder), "--bag", str(bag), "--frames", "8", "--json"]) == 0
    answer = capsys.readouterr()
    record = json.loads(answer.out)  # nothing else on stdout
    fields = next(command.fields for command in COMMANDS if command.name == "quantize")
    assert set(record) | {f"deviations[].{key}" for key in record["deviations"][0]} == set(fields)
    assert [one["precision"] for one in record["deviations"]] == ["fp32", "fp16", "int8"]
    assert record["deviations"][2]["common"] < record["deviations"][1]["common"]
    assert "pre-processing" not in answer.err

    assert main(["quantize", "default", "--bag", str(bag)]) == 2
    assert "default is part of the package: make a folder of your own first, stfm export" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["quantize", str(folder), "--bag", str(bag)]) == 2
    assert "quantising needs the training package and the Python module onnx" in capsys.readouterr().err
