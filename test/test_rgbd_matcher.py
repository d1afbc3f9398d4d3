"""RGB-D through the matcher: the fourth channel lies where the image lies, is needed by a teacher and by no other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sequences import oxford_folder, rgbd_folder

from stfm_ros.cli import main
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import ImageError, WeightsError
from stfm_ros.images import fit, fit_depth
from stfm_ros.matcher import Matcher
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import save_weights
from stfm_ros.runtimes.store import SPEC, find_model, read_spec, write_spec
from stfm_ros.runtimes.torch_runtime import TorchRuntime
from stfm_ros.types import ByteArray, EngineSpec, Float32Array
from stfm_training.export import export

SIDE = st.integers(8, 90)


def picture(height: int = 96, width: int = 128, seed: int = 0) -> tuple[ByteArray, Float32Array]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return image, rng.uniform(0.5, 5.0, (height, width)).astype(np.float32)


def network(channels: int) -> StfmNet:
    torch.manual_seed(0)
    return StfmNet(preset("small", channels)).eval()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_weights(network(4), path)
    return path


@given(SIDE, SIDE, SIDE, SIDE)
def test_depth_lies_where_the_image_lies(rows: int, columns: int, height: int, width: int) -> None:
    """Each fitted pixel has the depth of the pixel of the original that its centre falls on."""
    own = (1.0 + np.arange(rows * columns, dtype=np.float32)).reshape(rows, columns)
    _, how = fit(np.zeros((rows, columns), np.uint8), height, width)
    fitted = fit_depth(own, how, height, width)
    assert fitted.shape == (1, 1, height, width) and fitted.dtype == np.float32
    y, x = np.mgrid[: how.height, : how.width]
    at = how.to_original(np.stack([x.ravel(), y.ravel()], axis=1)).astype(np.float64)
    found = np.rint(10 * fitted[0, 0, : how.height, : how.width].ravel() - 1).astype(int)
    nearest = np.stack([found % columns, found // columns], axis=1)
    assert (np.abs(nearest - at) <= 0.5 + 1e-3).all()
    assert not fitted[0, 0, how.height :].any() and not fitted[0, 0, :, how.width :].any()  # the padding has none


def test_depth_is_in_units_of_ten_metres_and_never_mixed() -> None:
    depth = np.array([[1.0, 5.0], [np.nan, -1.0]], np.float32).repeat(4, 0).repeat(4, 1)
    depth[0, 0] = np.inf
    _, how = fit(np.zeros(depth.shape, np.uint8), 16, 16)
    fitted = fit_depth(depth, how, 16, 16)
    assert set(np.unique(fitted)) == {np.float32(0), np.float32(0.1), np.float32(0.5)}
    assert (fitted[0, 0, :2, :2] == 0).all() and (fitted[0, 0, 8:] == 0).all()


def test_depth_in_millimetres_or_of_another_size_is_refused() -> None:
    _, how = fit(np.zeros((48, 64), np.uint8), 96, 128)
    with pytest.raises(ImageError, match=r"depth of type uint16 and shape \(48, 64\): expected float32 metres"):
        fit_depth(np.zeros((48, 64), np.uint16), how, 96, 128)
    with pytest.raises(ImageError, match=r"shape \(24, 32\): expected .* \(48, 64\); .* register it to the colour"):
        fit_depth(np.zeros((24, 32), np.float32), how, 96, 128)


def test_bare_weights_of_a_teacher_run_and_look_at_depth(teacher: Path) -> None:
    matcher = Matcher.from_pretrained(MatcherConfig(model=str(teacher), threshold=0.01))
    assert matcher.takes_depth and matcher.runtime.spec.channels == 4 and matcher.runtime_name == "torch"
    image, depth = picture()
    coarse, _ = matcher.features(image, depth).data
    blind, _ = matcher.features(image, np.zeros_like(depth)).data
    assert not torch.equal(coarse, blind)
    matches = matcher.match(image, image, depth0=depth, depth1=depth)
    assert (matches.keypoints0 < [128, 96]).all()


def test_a_teacher_needs_depth_and_a_student_refuses_it(teacher: Path) -> None:
    image, depth = picture()
    matcher = Matcher.from_pretrained(MatcherConfig(model=str(teacher)))
    with pytest.raises(ImageError, match=r"model teacher takes colour and depth .* but no depth was given: give each"):
        matcher.match(image, image)
    with pytest.raises(ImageError, match="no depth was given"):
        matcher.match(image, image, depth0=depth)
    with pytest.raises(ImageError, match="the search over turns and zooms takes pictures alone"):
        matcher.match(image, image, search=True, depth0=depth, depth1=depth)
    student = Matcher.from_pretrained(MatcherConfig(runtime="torch"))
    assert not student.takes_depth
    with pytest.raises(ImageError, match=r"takes colour alone, but depth was given: leave it out, or name an RGB-D"):
        student.match(image, image, depth0=depth, depth1=depth)


def test_eval_gives_a_teacher_the_recorded_depth(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rgbd_folder(tmp_path / "wall")
    common = ["--model", str(teacher), "--runtime", "torch", "--threads", "1", "--methods", "sift", "--json"]
    main(["eval", str(folder), "--pairs", "1", *common])
    record = json.loads(capsys.readouterr().out)
    assert record["model"]["name"] == "teacher"
    assert [score["method"] for score in record["inputs"][0]["scores"]] == ["stfm teacher", "sift"]
    plain = oxford_folder(tmp_path / "oxford")
    assert main(["eval", str(folder), str(plain), *common]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "oxford holds no depth, which stfm teacher needs (it is an RGB-D model): give a recording" in error


def test_an_exported_teacher_matches_as_its_weights_do(teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    spec = export(teacher, tmp_path / "teacher", "teacher", 96, 128, 64)
    assert spec.channels == 4 == read_spec(tmp_path / "teacher" / SPEC).channels
    image, depth = picture()
    found = []
    for runtime in ("onnxruntime", "torch"):
        matcher = Matcher.from_pretrained(MatcherConfig(model=str(tmp_path / "teacher"), runtime=runtime))
        features = matcher.features(image, depth)
        found.append([np.asarray(part) for part in features.data])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
    write_spec(dataclasses.replace(spec, channels=3), tmp_path / "teacher" / SPEC)
    with pytest.raises(WeightsError, match="says 3 channels, its weights have 4: export them again"):
        TorchRuntime.load(find_model(str(tmp_path / "teacher")), MatcherConfig())


def test_exports_without_a_count_of_channels_are_rgb(tmp_path: Path) -> None:
    model = find_model("default")
    spec = json.loads((model.path / SPEC).read_text(encoding="utf-8"))
    del spec["channels"]
    (tmp_path / SPEC).write_text(json.dumps(spec), encoding="utf-8")
    assert read_spec(tmp_path / SPEC).channels == 3


def test_a_network_in_memory_runs_at_a_size_of_its_own() -> None:
    runtime = TorchRuntime(network(4), EngineSpec("teacher", "small", 96, 128, 32, ""))
    assert runtime.spec.channels == 4
    matcher = Matcher(runtime, MatcherConfig(), "torch", "in memory")
    image, depth = picture(120, 160)
    assert len(matcher.match(image, image, depth0=depth, depth1=depth)) <= 32
