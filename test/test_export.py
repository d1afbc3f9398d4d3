"""Weights to graphs: what is in an export, what half precision may and may not round, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import stfm_training.export as exporting
from stfm_ros.cli import COMMANDS, main
from stfm_ros.config import MatcherConfig
from stfm_ros.demo import DEMO_BAG
from stfm_ros.errors import ConfigError, WeightsError
from stfm_ros.images import fit
from stfm_ros.parity import Reference, as_inputs, as_matches, check_reference, deviation
from stfm_ros.posed_bag import PosedBag
from stfm_ros.runtimes import Rows, load_runtime
from stfm_ros.runtimes.store import FEATURES, PAIR, REFERENCE, SAFETENSORS, find_model, sha256
from stfm_training.export import OPSET, PAIR_INPUTS, export
from stfm_training.half import LARGEST, halve, magnitudes, rounded

FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
WEIGHTS = find_model("default").weights


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    """Of every float value and weight."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = {i.name: i.type.tensor_type.elem_type for i in (*graph.input, *graph.value_info, *graph.output)}
    infos |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: FLOATS[kind] for name, kind in infos.items() if kind in FLOATS}


# the export


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graphs_are_static_and_of_operators_that_engines_take(exported: Path, precision: str) -> None:
    model = find_model(str(exported))
    for name in (FEATURES, PAIR):
        proto = onnx.load(model.graph(name, precision))
        onnx.checker.check_model(proto, full_check=True)
        assert [(one.domain, one.version) for one in proto.opset_import] == [("", OPSET)]
        assert not {node.op_type for node in proto.graph.node} & {"NonZero", "Loop", "If", "Scan", "Constant"}
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
        for info in (*inferred.input, *inferred.value_info, *inferred.output):
            assert all(d.HasField("dim_value") for d in info.type.tensor_type.shape.dim), info.name
        about = {prop.key: prop.value for prop in proto.metadata_props}
        assert about["precision"] == precision
        assert (
            json.loads(about["stfm"])["weights_hash"]
            == model.spec.weights_hash
            == find_model("default").spec.weights_hash
        )


def test_an_export_is_whole_and_small(exported: Path) -> None:
    model = find_model(str(exported))
    names = {"features.onnx", "pair.onnx", "features_fp16.onnx", "pair_fp16.onnx", REFERENCE, SAFETENSORS}
    assert {path.name for path in exported.iterdir()} == names | {"spec.json"}
    assert model.spec.files == {name: sha256(exported / name) for name in names}
    assert (model.spec.name, model.spec.height, model.spec.width, model.spec.k) == ("small", 256, 320, 512)
    assert (model.spec.sigma_scale, model.precisions) == (0.5, ("fp32", "fp16"))
    assert sum(path.stat().st_size for path in exported.iterdir()) < 25e6
    assert list(exported.parent.iterdir()) == [exported], "no temporary folder is left"


@pytest.mark.parametrize(
    ("runtime", "precision", "px"),
    [("torch", "fp32", 0.01), ("onnxruntime", "fp32", 1e-6), ("openvino", "fp32", 0.01), ("onnxruntime", "fp16", 0.05)],
)
def test_every_runtime_does_what_was_exported(exported: Path, runtime: str, precision: str, px: float) -> None:
    pytest.importorskip(runtime)
    model = find_model(str(exported))
    made, *_ = load_runtime(model, MatcherConfig(runtime=runtime, precision=precision))
    found = check_reference(made, model)
    assert found.expected > 300
    assert found.common >= 0.99
    assert found.p99_px <= px
    assert made.precision == precision


def test_an_rgbd_model_is_exported_with_depth_in_its_reference(tmp_path: Path) -> None:
    import torch

    from stfm_ros.model.network import StfmNet
    from stfm_ros.model.presets import preset
    from stfm_ros.model.weights import save_weights

    torch.manual_seed(0)
    save_weights(StfmNet(preset("tiny", 4)).eval(), tmp_path / "deep.safetensors")
    export(tmp_path / "deep.safetensors", tmp_path / "deep", "deep", 64, 96, k=32)
    model = find_model(str(tmp_path / "deep"))
    for precision in ("fp32", "fp16"):
        made, *_ = load_runtime(model, MatcherConfig(runtime="onnxruntime", precision=precision))
        rows = made.pair(*(made.features(np.full((1, 4, 64, 96), 0.3, np.float32)),) * 2)
        assert all(np.isfinite(column).all() for column in rows)
        check_reference(made, model)


# half precision


def test_types_of_the_half_graphs(exported: Path) -> None:
    model = find_model(str(exported))
    features, pair = (onnx.load(model.graph(name, "fp16")) for name in (FEATURES, PAIR))
    kinds = types_of(features)
    assert kinds["image"] == "float32"
    assert kinds["coarse"] == kinds["fine"] == "float16"
    heavy = [node for node in features.graph.node if node.op_type == "Conv"]
    assert len(heavy) == 18
    assert {kinds[name] for node in heavy for name in (*node.input, *node.output)} == {"float16"}
    assert {kinds[node.output[0]] for node in features.graph.node if node.op_type == "ReduceMean"} == {"float32"}

    kinds = types_of(pair)
    assert {kinds[name] for name in PAIR_INPUTS} == {"float16"}
    assert {kinds[info.name] for info in pair.graph.output} == {"float32"}
    for node in pair.graph.node:
        ends = {kinds[name] for name in (*node.input, *node.output) if name in kinds}
        if node.name.startswith("/head") or node.op_type in ("LogSoftmax", "TopK", "Exp", "ReduceMax"):
            assert ends == {"float32"}, node.name
        if node.name.startswith("/transformer") and node.op_type in ("Conv", "MatMul", "Softmax"):
            assert ends == {"float16"}, node.name


@pytest.mark.parametrize("graph", [FEATURES, PAIR])
def test_types_do_not_go_to_and_fro(exported: Path, graph: str) -> None:
    nodes = onnx.load(find_model(str(exported)).graph(graph, "fp16")).graph.node
    casts = [node for node in nodes if node.op_type == "Cast"]
    made = {name: node for node in casts for name in node.output}
    assert len(casts) <= {FEATURES: 12, PAIR: 20}[graph]  # a closer look reads half maps in float32
    assert not any(node.input[0] in made for node in casts), "a Cast of a Cast"
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts), "a value cast twice"


def test_no_half_value_comes_near_the_largest(exported: Path) -> None:
    """On frames that the conversion did not look at; a quarter of 65504 is left for other scenes."""
    model = find_model(str(exported))
    kinds = {**types_of(onnx.load(model.graph(FEATURES, "fp16"))), **types_of(onnx.load(model.graph(PAIR, "fp16")))}
    features, pair = (rounded(onnx.load(model.graph(name, "fp16"))) for name in (FEATURES, PAIR))
    with PosedBag(DEMO_BAG) as bag:
        images = [{"image": fit(bag.image(i), 256, 320)[0]} for i in (40, 52)]
    encoded = [run(features, **image) for image in images]
    feeds = [dict(zip(PAIR_INPUTS, (*encoded[0], *encoded[1]), strict=True))]
    for proto, given in ((features, images), (pair, feeds)):
        half = {name: value for name, value in magnitudes(proto, given).items() if kinds.get(name) == "float16"}
        assert len(half) > 30
        assert np.isfinite(list(half.values())).all()
        assert max(half.values()) < LARGEST, max(half, key=half.__getitem__)


def small_graph(scope: str, factor: float, shift: float) -> onnx.ModelProto:
    """y = factor x under a scope, then out = y + shift at the top."""
    constants = {"factor": factor, "shift": shift}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "factor"], ["y"], name=f"{scope}/Mul"),
            helper.make_node("Cast", ["index"], ["place"], name="/Cast", to=TensorProto.FLOAT),
            helper.make_node("Add", ["place", "shift"], ["moved"], name="/Add"),
            helper.make_node("Add", ["moved", "y"], ["out"], name="/Add_1"),
        ],
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("index", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("out", "y")],
        [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def run(model: onnx.ModelProto, **feed: Any) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    return list(ort.InferenceSession(model.SerializeToString()).run(None, feed))


def test_half_arithmetic_costs_hundredths_of_a_pixel(exported: Path) -> None:
    """Rounded at every value, as on a GPU, which ONNX Runtime on a CPU does not do."""
    model = find_model(str(exported))
    reference = Reference.read(model.file(REFERENCE))
    features, pair = (rounded(onnx.load(model.graph(name, "fp16"))) for name in (FEATURES, PAIR))
    first, second = (run(features, image=image) for image in as_inputs(reference.images, reference.depths))
    rows = Rows(*run(pair, **dict(zip(PAIR_INPUTS, (*first, *second), strict=True))))
    found = deviation([(as_matches(reference.rows), as_matches(rows))])
    assert found.common >= 0.98
    assert 1e-4 < found.p50_px < found.p99_px < 0.1, "rounded, but not by much"


def test_coordinates_are_not_rounded_and_ends_have_the_type_that_is_asked_for() -> None:
    feed = {"x": np.float32([0.5, 0.25]), "index": np.int64([1279, 1023])}
    half = halve(small_graph("/fine", 2.0, 0.3), {}, {"y"})
    assert [value.dtype for value in run(half, **feed)] == [np.float32, np.float16]
    out, _ = run(rounded(half), **feed)
    np.testing.assert_allclose(out, [1279 + 0.3 + 1, 1023 + 0.3 + 0.5], atol=1e-3)  # half has steps of 1 there
    single = halve(small_graph("/head", 2.0, 0.3), {}, {"x"})
    out, y = run(single, **feed | {"x": feed["x"].astype(np.float16)})
    assert (out.dtype, y.dtype) == (np.float32, np.float32)


def test_what_half_cannot_hold_stays_float32() -> None:
    feed = {"x": np.float32([3e4, 1.0]), "index": np.int64([0, 0])}
    graph = small_graph("/backbone", 4.0, 0.0)
    out, _ = run(rounded(halve(graph, {}, ())), **feed)
    assert np.isinf(out[0]), "the test would not notice an overflow"
    seen = magnitudes(graph, [feed])
    assert seen["x"] == 3e4 and seen["y"] == 1.2e5
    out, _ = run(rounded(halve(graph, seen, ())), **feed)
    np.testing.assert_array_equal(out, [1.2e5, 4.0])
    out, _ = run(rounded(halve(small_graph("/backbone", 1e-9, 0.0), {}, ())), **feed)
    np.testing.assert_allclose(out, [3e-5, 1e-9], rtol=1e-6)  # the constant would be 0


# what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"height": 250}, "size 320x250: preset medium takes multiples of 32, e.g. 320x224"),
        ({"k": 2000}, "k 2000: expected 1 to 1280, the coarse cells of 8x8 px of 320x256"),
        ({"precisions": ["fp16"]}, "precisions fp16: expected fp32 and perhaps fp16; int8 needs pictures"),
        ({"precisions": ["fp32", "int8"]}, "precisions fp32,int8: expected fp32 and perhaps fp16"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        export(WEIGHTS, tmp_path / "out", "x", **{"height": 256, "width": 320, "k": 512} | settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"mine is there and is no export \(it has no spec.json\)"):
        export(WEIGHTS, tmp_path / "mine", "x", 256, 320, 512)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_what_fails_on_the_way_leaves_the_former_export(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    shutil.copytree(exported, out)
    before = {path.name: sha256(path) for path in out.iterdir()}

    def differing(*_: Any) -> None:
        raise WeightsError("ONNX Runtime's features differ")

    monkeypatch.setattr(exporting, "_check", differing)
    with pytest.raises(WeightsError, match="differ"):
        export(out / SAFETENSORS, out, "x", 64, 64, 32)
    assert {path.name: sha256(path) for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_graphs_that_differ_from_torch_are_refused() -> None:
    features = [np.ones((1, 2), np.float32)] * 4
    rows = [np.ones((3, 2), np.float32)] * 2 + [np.ones(3, np.float32)] * 2
    exporting._check((*features, *rows), (*features, *rows))
    off = [*features[:3], features[3] + 1e-3]
    with pytest.raises(WeightsError, match=r"ONNX Runtime's features differ from torch's by 1.0e-03 \(expected under"):
        exporting._check((*off, *rows), (*features, *rows))
    with pytest.raises(WeightsError, match="features differ from torch's by nan"):
        exporting._check((*features[:3], features[3] * np.nan, *rows), (*features, *rows))
    less = [*rows[:2], rows[2] - 0.01, rows[3]]
    with pytest.raises(WeightsError, match="ONNX Runtime's confidences differ from torch's"):
        exporting._check((*features, *less), (*features, *rows))


# the command


def test_the_command(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again"
    call = ["export", str(exported), "--out", str(out), "--precisions", "fp32", "--k", "256", "--json"]
    assert main(call) == 0
    record = json.loads(capsys.readouterr().out)
    fields = next(command.fields for command in COMMANDS if command.name == "export")
    assert set(record) | {f"deviations[].{key}" for key in record["deviations"][0]} | {"deviations"} == set(fields)
    spec = record["spec"]
    assert (spec["name"], spec["height"], spec["width"], spec["k"], spec["sigma_scale"]) == (
        "small",
        256,
        320,
        256,
        0.5,
    )
    assert [(one["precision"], one["common"]) for one in record["deviations"]] == [("fp32", 1.0)]

    assert main(call) == 2
    assert "is there already; choose another name, or give --overwrite" in capsys.readouterr().err
    assert main(["export", "nonsense", "--out", str(tmp_path / "x")]) == 2
    assert "there is no model 'nonsense'" in capsys.readouterr().err
    assert main([*call[:-1], "--overwrite"]) == 0
    shown = capsys.readouterr().out
    assert "small" in shown and "320x256" in shown and "fp32" in shown
