"""The command line: exit codes, one JSON object and nothing else, the documented keys, and the wording of refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from sequences import bag_of_images, oxford_folder, rgbd_folder, slice_of_demo

from stfm_ros import __version__
from stfm_ros.calibration import read_camera
from stfm_ros.cli import COMMANDS, main
from stfm_ros.cli.document import cli_page
from stfm_ros.cli.options import read_params
from stfm_ros.errors import CameraError
from stfm_ros.posed_bag import PosedBag
from stfm_ros.runtimes.store import WEIGHTS
from stfm_ros.share import share_file
from stfm_ros.trajectory import read_tum
from stfm_ros.types import Camera

FIELDS = {command.name: command.fields for command in COMMANDS}
CAMERA = Camera(640, 480, np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]]))
INTRINSICS = ("525", "525", "319.5", "239.5")


class Answer:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def record(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        record = json.loads(self.out)
        assert isinstance(record, dict)
        return record


@pytest.fixture
def stfm(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Answer:
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    with PosedBag(slice_of_demo(folder / "two.mcap", range(20, 24, 3))) as bag:
        for name, i in (("a.png", 0), ("b.png", 1)):
            cv2.imwrite(str(folder / name), cv2.cvtColor(bag.image(i), cv2.COLOR_RGB2BGR))
    return folder / "a.png", folder / "b.png"


def check_documented(record: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Every documented key is there, and every key is documented."""
    assert set(record) == {key.partition(".")[0].removesuffix("[]") for key in fields}
    for key in fields:
        values: list[Any] = [record]
        for part in key.split("."):
            values = [value for value in values if value is not None]
            assert all(part.removesuffix("[]") in value for value in values), key
            values = [value[part.removesuffix("[]")] for value in values]
            if part.endswith("[]"):
                values = [item for value in values for item in value]


# what it does


def test_match(stfm: Any, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "picture.png"
    answer = stfm("match", *pictures, "--camera", *INTRINSICS, "--out", out, "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    record = answer.record
    check_documented(record, FIELDS["match"])
    n = record["match_count"]
    assert n > 50
    assert np.array(record["keypoints0"]).shape == np.array(record["keypoints1"]).shape == (n, 2)
    assert len(record["confidence"]) == len(record["sigma"]) == len(record["pose"]["inliers"]) == n
    assert record["confidence"] == sorted(record["confidence"], reverse=True)
    np.testing.assert_allclose(np.linalg.det(record["pose"]["R"]), 1.0, atol=1e-9)
    assert record["pose"]["inlier_count"] == sum(record["pose"]["inliers"]) > 20
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape[1] > 1280

    black = tmp_path / "black.png"
    cv2.imwrite(str(black), np.zeros((480, 640, 3), np.uint8))
    answer = stfm("match", black, black, "--threads", 1, "--threshold", "0.99999")
    assert answer.code == 1
    assert "0 matches" in answer.out


def test_run(stfm: Any, tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 16, 2))
    files = {name: tmp_path / name for name in ("out.mcap", "t.txt", "r.html", "p.png")}
    options = ("--out", files["out.mcap"], "--trajectory", files["t.txt"], "--report", files["r.html"])
    answer = stfm("run", bag, *options, "--picture", files["p.png"], "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    record = answer.record
    check_documented(record, FIELDS["run"])
    assert record["read"] == 3 == record["matched"] + sum(record["unmatched"].values())
    assert record["out"]["topics"] == {"/matches": 3, "/relative_pose": 3}
    assert len(read_tum(files["t.txt"])) == record["trajectory"]["poses"] == 3
    assert "<svg" in files["r.html"].read_text(encoding="utf-8")
    assert cv2.imread(str(files["p.png"])) is not None

    answer = stfm("run", bag, "--out", files["out.mcap"], "--threads", 1)
    assert answer.code == 2
    assert "exists already and is not overwritten" in answer.err


def test_a_run_without_any_pose_is_negative(stfm: Any, tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 12), left_out=("/camera/camera_info",))
    answer = stfm("run", bag, "--threads", 1)
    assert answer.code == 1
    assert "no camera_info: correspondences only, no poses" in answer.out


def test_import_and_eval(stfm: Any, tmp_path: Path) -> None:
    folder, bag = rgbd_folder(tmp_path / "wall"), tmp_path / "wall.mcap"
    answer = stfm("import-rgbd", folder, bag, "--json")
    assert answer.code == 0, answer.err
    check_documented(answer.record, FIELDS["import-rgbd"])
    assert answer.record["frames"] == 4
    assert {topic["count"] for topic in answer.record["topics"].values()} == {4}

    homographies = oxford_folder(tmp_path / "oxford")
    inputs = (bag, folder, homographies)
    options = ("--pairs", 1, "--threads", 1, "--pictures", tmp_path / "pictures")
    answer = stfm("eval", *inputs, *options, "--json")
    assert answer.code in (0, 1), answer.err
    record = answer.record
    poses = [one for one in record["inputs"] if one["kind"] == "pose"]
    check_documented(record | {"inputs": poses}, FIELDS["eval"])
    assert [one["kind"] for one in record["inputs"]] == ["pose", "pose", "homography"]
    model = record["model"]["method"]
    for one in record["inputs"]:
        searched = [f"{model}, search"] if one["kind"] == "homography" else []
        assert [score["method"] for score in one["scores"]] == [*searched, model, "sift", "orb"]
    for score in poses[0]["scores"]:
        assert (score["pairs"], score["image_size"], score["K"]) == (1, "320x240", [300.0, 300.0, 159.5, 119.5])
        assert score["solver"] in ("poselib", "opencv")
        assert set(score["auc"]) == set(score["auc_95"]) == {"5", "10", "20"}
    for from_bag, from_folder in zip(*(one["scores"][1:] for one in poses), strict=True):  # the same pairs, seen twice
        assert from_bag["precision"] == from_folder["precision"]
        assert [s["index0"] for s in from_bag["scores"]] == [s["index0"] for s in from_folder["scores"]]
    sift = record["inputs"][2]["scores"][2]
    assert sift["mma"]["3"] > 0.9
    assert len(poses[0]["pictures"]) == 2
    assert all(cv2.imread(path) is not None for path in poses[0]["pictures"])

    (homographies / "H_1_3").unlink()
    answer = stfm("eval", homographies, "--methods", "none", "--threads", 1)
    assert "MMA@3" in answer.out
    assert "sift" not in answer.out


def test_info(stfm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = stfm("info", "--json")
    assert answer.code == 0, answer.out
    check_documented(answer.record, FIELDS["info"])
    assert answer.record["versions"]["stfm_ros"] == __version__
    (model,) = [model for model in answer.record["models"] if model["name"] == "default"]
    assert model["ok"] is True
    assert len(model["spec"]["weights_hash"]) == 12
    assert "runtime torch" in stfm("info").out
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    answer = stfm("info", "--json")
    assert answer.code == 1  # no runtime
    assert answer.record["runtimes"]["onnxruntime"]["reason"].endswith("pip install onnxruntime")
    assert "source ROS 2" in answer.record["ros"]["reason"]


def test_demo_refuses_without_ros(stfm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    answer = stfm("demo", "--out", tmp_path / "demo", "--json")
    assert answer.code == 2
    assert answer.record["kind"] == "RosNotAvailable"
    assert not (tmp_path / "demo").exists()


def test_the_page_is_that_of_the_commands() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
    if not page.is_file():
        pytest.skip("only in a checkout")
    assert page.read_text(encoding="utf-8") == cli_page(), "python -m stfm_ros.cli.document > docs/cli.md"


# how it ends


def test_as_a_program(tmp_path: Path) -> None:
    """In a process of its own, stdout holds nothing but the object, whatever the libraries print."""
    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 12))
    command = [sys.executable, "-m", "stfm_ros.cli", "run", str(bag), "--threads", "1", "--json", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode in (0, 1), done.stderr
    assert Answer(done.returncode, done.stdout, done.stderr).record["read"] == 2
    assert "runtime" in done.stderr  # the log


def test_interrupted_a_bag_is_not_left_half_written(tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(60))
    out = tmp_path / "out.mcap"
    command = [sys.executable, "-m", "stfm_ros.cli", "run", str(bag), "--out", str(out), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while not list(tmp_path.glob(".out.mcap.*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    # CPython ends by the signal itself where it came within an exec (as dataclasses do); for a shell both are 130
    assert process.returncode in (130, -signal.SIGINT), err
    assert err.strip().endswith("stfm: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mcap"]


def test_a_fault_of_the_program_is_told_from_a_negative_result(stfm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("stfm_ros.machine.versions", fail)
    answer = stfm("info", "--json")
    assert answer.code == 3
    assert answer.out == ""
    assert "RuntimeError: unforeseen" in answer.err
    assert "please report it" in answer.err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], *([*command.name.split(), "--help"] for command in COMMANDS)):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"stfm_ros {__version__}" in out
    assert "Exit codes: 0 done; 1 done, but the result is negative;" in out


# what it refuses


def refused(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer.err
    assert answer.err.startswith("stfm: ")
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
    if answer.out:
        assert answer.record["error"] in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND; see stfm --help"),
        (["mach"], "invalid choice: 'mach'"),
        (["match", "a.png"], "the following arguments are required: B; see stfm match --help"),
        (["match", "a.png", "b.png", "--treshold", "1"], "unrecognized arguments: --treshold 1"),
        (
            ["match", "a.png", "b.png", "--out", "m.tif"],
            "m.tif is no name of a picture to write: expected one that ends in",
        ),
        (["match", "a.png", "b.png"], "there is no picture a.png"),
        (["match", "a.png", "b.png", "--threshold", "2"], "matcher.threshold: 2.0 is above the maximum 1"),
        (["match", "a.png", "b.png", "--threads", "two"], "matcher.threads: expected int, got str 'two'"),
        (["match", "a.png", "b.png", "--params", "no.yaml"], "no.yaml cannot be read as YAML"),
        (["eval", "nowhere"], "bag nowhere does not exist"),
        (["eval", "x.mcap", "--methods", "surf"], "--methods surf: expected some of sift, orb, akaze, or none"),
        (["eval", "x.mcap", "--pairs", "0"], "argument --pairs: 0 is below 1"),
        (["import-rgbd", "nowhere", "x.mcap"], "nowhere lacks intrinsics.yaml, poses.txt, rgb, depth"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_refused(
    stfm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused(stfm(*arguments), words)
    refused(stfm(*arguments, "--json"), words)
    assert list(tmp_path.iterdir()) == []


def test_all_faults_of_file_and_options_at_once(stfm: Any, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("/**:\n  ros__parameters:\n    use_sim_time: true\n    matcher: {treshold: 0.3, threads: many}\n")
    answer = stfm("run", "x.mcap", "--params", params, "--pose.inlier_px", 90, "--matcher.runtime", "tpu")
    refused(
        answer,
        "matcher.treshold: unknown setting; did you mean matcher.threshold?",
        "matcher.threads: expected int, got str 'many'",
        "pose.inlier_px: 90.0 is above the maximum 20",
        "matcher.runtime: 'tpu' is not one of auto, tensorrt, tensorrt_rtx, ",
    )
    assert "use_sim_time" not in answer.err


def test_parameter_files(tmp_path: Path) -> None:
    assert read_params(share_file("config/matcher.yaml"))["matcher.threshold"] == 0.2
    params = tmp_path / "params.yaml"
    params.write_text(
        "/**: {ros__parameters: {matcher: {threshold: 0.1, threads: 3}}}\n"
        "/camera: {ros__parameters: {exposure: 3}}\n"
        "/front/matcher: {ros__parameters: {matcher.threshold: 0.4}}\n"
    )
    assert read_params(params) == {"matcher.threshold": 0.4, "matcher.threads": 3}


def test_pictures_that_cannot_be_used(stfm: Any, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(b"\xff\xd8 not a jpeg")
    empty.touch()
    for path in (broken, empty):
        refused(stfm("match", pictures[0], path), f"{path} cannot be decoded as a picture", "fetch it again")
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.zeros((240, 320, 3), np.uint8))
    calibration = tmp_path / "intrinsics.yaml"
    calibration.write_text("width: 640\nheight: 480\nfx: 525\nfy: 525\ncx: 319.5\ncy: 239.5\n")
    refused(
        stfm("match", pictures[0], small, "--calibration", calibration),
        f"the calibration is of 640x480, but {small} has 320x240: give the calibration of this resolution",
    )
    refused(stfm("match", *pictures, "--calibration", calibration, "--camera", *INTRINSICS), "once for both pictures")
    refused(stfm("match", *pictures, "--camera", "0", "525", "1", "1"), "focal lengths fx=0.0", "must be positive")


def test_bags_that_cannot_be_used(stfm: Any, tmp_path: Path) -> None:
    whole = slice_of_demo(tmp_path / "in.mcap", range(2))
    refused(
        stfm("run", whole, "--image-topic", "camera/imag"), "has no topic camera/imag", "/camera/image/compressed  "
    )
    poses = slice_of_demo(tmp_path / "poses.mcap", range(2), left_out=("/camera/image/compressed",))
    refused(stfm("run", poses), "no topic of type sensor_msgs/msg/Image", "/camera/pose  geometry_msgs/msg/PoseStamped")
    refused(stfm("run", poses, "--json"), "topics in the bag:")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(stfm("run", cut, "--out", tmp_path / "out.mcap"), "cut.mcap", "truncated or damaged", "stfm recover")
    noise = tmp_path / "noise.mcap"
    noise.write_bytes(np.random.default_rng(0).bytes(4000))
    refused(stfm("eval", noise), "noise.mcap cannot be opened", "record it again")
    (tmp_path / "empty").mkdir()
    refused(stfm("eval", whole, tmp_path / "empty"), "empty is nothing to evaluate: expected a rosbag2 folder")
    flat = bag_of_images(tmp_path / "flat.mcap", [np.zeros((480, 640, 3), np.uint8)] * 2, CAMERA)
    refused(stfm("eval", flat), "no topic of type geometry_msgs/msg/PoseStamped or")


def test_weights_of_another_preset_or_damaged(stfm: Any, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(WEIGHTS / "default", model)
    (model / "features.onnx").write_bytes(b"damaged")
    refused(stfm("match", *pictures, "--model", model), "features.onnx has SHA-256", "export or fetch it again")
    spec = json.loads((model / "spec.json").read_text())
    other = "small" if spec["preset"] != "small" else "medium"
    (model / "spec.json").write_text(json.dumps(spec | {"preset": other}))
    pytest.importorskip("torch")
    refused(
        stfm("match", *pictures, "--model", model, "--runtime", "torch"),
        f"holds weights of preset '{spec['preset']}', expected '{other}'",
    )


@pytest.mark.parametrize(
    "text",
    [
        "width: 640\nheight: 480\nfx: 525\nfy: 525\ncx: 319.5\ncy: 239.5\n",
        "image_width: 640\nimage_height: 480\ncamera_name: x\ncamera_matrix: {rows: 3, cols: 3, data: [525, 0, 319.5, "
        "0, 525, 239.5, 0, 0, 1]}\ndistortion_model: plumb_bob\ndistortion_coefficients: {data: [0, 0, 0, 0, 0]}\n",
        "header: {frame_id: camera}\nheight: 480\nwidth: 640\ndistortion_model: plumb_bob\nd: [0.0, 0.0, 0.0, 0.0]\n"
        "k: [525.0, 0.0, 319.5, 0.0, 525.0, 239.5, 0.0, 0.0, 1.0]\nbinning_x: 0\nbinning_y: 0\nroi: {x_offset: 0, "
        "y_offset: 0, height: 0, width: 0, do_rectify: false}\n---\n",
    ],
    ids=["intrinsics", "camera_calibration", "camera_info"],
)
def test_calibration_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    camera = read_camera(path)
    np.testing.assert_array_equal(camera.K, CAMERA.K)
    assert (camera.width, camera.height, camera.distortion_model) == (640, 480, "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot be read as YAML"),
        ("- 1\n", "is no calibration: expected camera_matrix"),
        ("camera_name: x\n", "is no calibration: .* it has camera_name"),
        ("camera_matrix: {data: [1, 2]}\nimage_width: 4\nimage_height: 3\n", "K of camera_info has 2 values"),
        ("camera_matrix: {data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}\nimage_width: 4\n", "lacks 'image_height'"),
        ("k: [0, 0, 0, 0, 0, 0, 0, 0, 0]\nwidth: 4\nheight: 3\n", "must be positive"),
        ("fx: 1\nfy: 1\n", "lacks width, height, cx, cy"),
    ],
)
def test_calibration_files_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CameraError, match=words) as fault:
        read_camera(path)
    assert str(path) in str(fault.value)
