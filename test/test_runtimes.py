"""The shipped model on every runtime: the same matches; and what is refused, with its wording."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stfm_ros import runtimes
from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import RuntimeNotAvailable, WeightsError
from stfm_ros.geometry import estimate_relative_pose
from stfm_ros.images import decode_image
from stfm_ros.matcher import Matcher
from stfm_ros.runtimes.store import FEATURES, PAIR, SPEC, find_model, shipped
from stfm_ros.types import Camera, Matches


@pytest.fixture(scope="module")
def frames():
    """Frames 0 and 8 of the demo recording."""
    with BagReader(Path(runtimes.__file__).parents[1] / "data" / "demo.mcap") as bag:
        topic = bag.find_topic(IMAGE_TYPES)
        messages = [message for _, message, _ in bag.messages([topic])]
    return decode_image(messages[0]), decode_image(messages[8])


def matched(runtime: str, frames, **settings) -> Matches:
    return Matcher.from_pretrained(MatcherConfig(runtime=runtime, **settings)).match(*frames)


def common(a: Matches, b: Matches):
    """Indices of the matches of a and b that share the keypoint in image 0."""
    at = {tuple(point): index for index, point in enumerate(np.rint(b.keypoints0 * 8).astype(int).tolist())}
    pairs = [(i, at[tuple(p)]) for i, p in enumerate(np.rint(a.keypoints0 * 8).astype(int).tolist()) if tuple(p) in at]
    return np.array(pairs).T


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_agrees_with_torch_on_a_golden_pair(name, frames):
    pytest.importorskip("torch", reason="torch is the reference")
    if not runtimes.is_installed(name):
        pytest.skip(f"{name} is not installed")
    expected, found = matched("torch", frames), matched(name, frames, precision="fp32")
    assert len(expected) > 200
    i, j = common(expected, found)
    assert len(i) >= 0.99 * max(len(expected), len(found))
    gap = np.linalg.norm(expected.keypoints1[i] - found.keypoints1[j], axis=1)
    near_tie = gap > 4  # the neighbouring cell, where two were equally good
    assert near_tie.mean() < 0.01
    assert gap[~near_tie].max() < 0.05
    np.testing.assert_allclose(found.confidence[j], expected.confidence[i], atol=5e-3)
    np.testing.assert_allclose(found.sigma[j][~near_tie], expected.sigma[i][~near_tie], atol=0.02)
    camera = Camera(640, 480, np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]))
    poses = [estimate_relative_pose(m, camera, camera) for m in (expected, found)]
    turn = poses[0].R @ poses[1].R.T
    assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 0.05


def test_bfloat16_moves_matches_by_hundredths_of_a_pixel(frames):
    ov = pytest.importorskip("openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16 (AVX512_BF16 or AMX)")
    expected, found = (matched("openvino", frames, precision=precision) for precision in ("fp32", "bf16"))
    i, j = common(expected, found)
    assert len(i) >= 0.95 * max(len(expected), len(found))
    gap = np.linalg.norm(expected.keypoints1[i] - found.keypoints1[j], axis=1)
    assert np.median(gap) < 0.05 and np.quantile(gap, 0.98) < 0.25
    assert np.median(np.abs(expected.confidence[i] - found.confidence[j])) < 0.02


@pytest.mark.parametrize("name", ["onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_a_provider_is_used_or_refused_and_never_replaced_in_silence(name, frames):
    import onnxruntime

    from stfm_ros.runtimes.onnx_runtime import CUDA, TENSORRT

    provider = CUDA if name == "onnxruntime_cuda" else TENSORRT
    if provider not in onnxruntime.get_available_providers():
        with pytest.raises(RuntimeNotAvailable, match=f"has no {provider} .*pip install onnxruntime-gpu"):
            Matcher.from_pretrained(MatcherConfig(runtime=name))
        return
    try:
        expected, found = matched("onnxruntime", frames), matched(name, frames, precision="fp32")
    except RuntimeNotAvailable as refused:
        if "was asked for, but could not start" not in str(refused):
            raise
        return
    i, j = common(expected, found)
    assert len(i) >= 0.97 * len(expected)
    assert np.median(np.linalg.norm(expected.keypoints1[i] - found.keypoints1[j], axis=1)) < 0.05


def test_a_precision_that_cannot_be_had_is_refused():
    with pytest.raises(RuntimeNotAvailable, match="'bf16' was asked for, but .* onnxruntime runs fp32"):
        Matcher.from_pretrained(MatcherConfig(runtime="onnxruntime", precision="bf16"))


def test_the_reference_is_encoded_once(frames):
    class Counting:
        def __init__(self, inner):
            self.inner, self.spec, self.count = inner, inner.spec, 0

        def features(self, image):
            self.count += 1
            return self.inner.features(image)

        def pair(self, features0, features1):
            return self.inner.pair(features0, features1)

    matcher = Matcher.from_pretrained(MatcherConfig(runtime="onnxruntime"))
    matcher.runtime = Counting(matcher.runtime)
    reference = matcher.features(frames[0])
    first = matcher.match_features(reference, matcher.features(frames[1]))
    second = matcher.match_features(reference, matcher.features(frames[1]))
    assert matcher.runtime.count == 3
    np.testing.assert_array_equal(first.keypoints1, second.keypoints1)


def test_images_of_any_size_and_grey(frames):
    import cv2

    matcher = Matcher.from_pretrained()
    small = np.asarray(cv2.resize(frames[1], (400, 300), interpolation=cv2.INTER_AREA))
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    whole, shrunk, without_colour = (matcher.match(frames[0], image) for image in (frames[1], small, grey))
    for matches in (shrunk, without_colour):
        assert len(matches) > 0.5 * len(whole)
        assert (matches.keypoints1 < [400, 300]).all()
        i, j = common(whole, matches)
        scaled = (matches.keypoints1[j] + 0.5) * 1.6 - 0.5
        assert np.median(np.linalg.norm(whole.keypoints1[i] - scaled, axis=1)) < 1.5


def test_pictures_that_leave_most_of_the_input_empty_are_told_of_once(frames, caplog):
    matcher = Matcher.from_pretrained(MatcherConfig(model="small"))
    wide = np.ascontiguousarray(np.tile(frames[0], (1, 2, 1))[:370, :1226])
    matcher.features(wide)
    assert "pictures of 1226x370 fill 40 % of the 640x480 that this model takes" in caplog.text
    assert "stfm export small --width 1024 --height 320 --out DIR" in caplog.text
    caplog.clear()
    matcher.features(wide)
    Matcher.from_pretrained(MatcherConfig(model="small")).features(frames[0])
    assert not caplog.text


def test_threshold_and_number_of_matches_are_held(frames):
    matches = matched("auto", frames, threshold=0.5, max_matches=50)
    assert len(matches) == 50 and matches.confidence.min() >= 0.5
    assert (np.diff(matches.confidence) <= 0).all()


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_saturated_images_have_hardly_a_match(value, frames):
    flat = np.full((480, 640, 3), value, np.uint8)
    assert len(matched("auto", (frames[0], flat))) < 10
    assert len(matched("auto", (flat, flat))) < 10


def test_auto_says_what_it_chose_and_why():
    matcher = Matcher.from_pretrained()
    assert matcher.runtime_name in runtimes.AUTO_ORDER
    assert matcher.runtime_name in matcher.reason
    assert "that can be had" in matcher.reason


def test_a_runtime_that_was_asked_for_is_used_or_refused(monkeypatch):
    monkeypatch.setattr(runtimes, "is_installed", lambda name: name == "onnxruntime")
    with pytest.raises(
        RuntimeNotAvailable, match="'openvino' was asked for, but .* is not installed: pip install openvino"
    ):
        Matcher.from_pretrained(MatcherConfig(runtime="openvino"))
    matcher = Matcher.from_pretrained()
    assert matcher.runtime_name == "onnxruntime" and "openvino is not installed" in matcher.reason
    with pytest.raises(RuntimeNotAvailable, match="there is no runtime 'tpu'; choose one of auto, tensorrt"):
        runtimes.load_runtime(find_model("default"), MatcherConfig(runtime="tpu"))


def test_models_that_are_missing_or_damaged_are_refused(tmp_path):
    assert "default" in shipped()
    with pytest.raises(WeightsError, match="there is no model 'nonsense': not a shipped name"):
        find_model("nonsense")
    folder = tmp_path / "model"
    shutil.copytree(find_model("default").path, folder)
    (folder / "pair.onnx").write_bytes((folder / "pair.onnx").read_bytes()[:-1])
    with pytest.raises(WeightsError, match="pair.onnx has SHA-256 .* spec.json says .*: export or fetch it again"):
        Matcher.from_pretrained(MatcherConfig(model=str(folder), runtime="onnxruntime"))
    (folder / "features.onnx").unlink()
    with pytest.raises(WeightsError, match="holds no features.onnx; export the weights"):
        Matcher.from_pretrained(MatcherConfig(model=str(folder), runtime="onnxruntime"))
    (folder / SPEC).write_text('{"name": "x"}')
    with pytest.raises(WeightsError, match="is not a model's spec"):
        find_model(str(folder))


def test_weights_of_another_preset_are_refused(tmp_path):
    pytest.importorskip("torch", reason="only torch runs bare weights")
    folder = tmp_path / "model"
    shutil.copytree(find_model("default").path, folder)
    spec = json.loads((folder / SPEC).read_text())
    (folder / SPEC).write_text(json.dumps(spec | {"preset": "small"}))
    with pytest.raises(WeightsError, match="holds weights of preset 'medium', expected 'small'"):
        Matcher.from_pretrained(MatcherConfig(model=str(folder), runtime="torch"))


def test_graphs_carry_their_spec_and_fit_into_the_package():
    onnx = pytest.importorskip("onnx")
    model = find_model("default")
    for name in (FEATURES, PAIR):
        graph = onnx.load(model.graph(name))
        spec = json.loads(next(p.value for p in graph.metadata_props if p.key == "stfm"))
        assert spec["weights_hash"] == model.spec.weights_hash
        assert not {node.op_type for node in graph.graph.node} & {"NonZero", "Loop", "If", "Scan"}
        assert all(d.dim_value > 0 for i in graph.graph.input for d in i.type.tensor_type.shape.dim)  # static shapes
    assert all(path.stat().st_size <= 10 * 2**20 for path in Path(model.path).iterdir())
    assert dataclasses.asdict(model.spec)["k"] == 1024


def test_no_matches_along_the_seam_of_the_padding(frames):
    wide = [frame[60:420] for frame in frames]  # 640x360 is padded by 120 rows below
    matches = Matcher.from_pretrained().match(*wide)
    assert len(matches) > 200
    for points in (matches.keypoints0, matches.keypoints1):
        assert points[:, 1].max() < 360 - 16
        assert points[:, 0].max() > 639 - 16  # no padding at the right: matches up to there
