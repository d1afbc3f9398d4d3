"""Bags to new student weights by one command, as a robot maker gives it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.cli import main
from stfm_ros.errors import ConfigError
from stfm_ros.matcher import Matcher, MatcherConfig
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import load_network, save_weights
from stfm_ros.types import Camera
from stfm_training.config import checked
from stfm_training.distill import RECIPE, with_bags
from stfm_training.recordings.config import RecordingConfig
from stfm_training.render import Scene, look_at

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

CAMERA = Camera(160, 128, np.array([[150.0, 0, 79.5], [0, 150.0, 63.5], [0, 0, 1]]))


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """Twenty frames of a rendered room, with depth and poses."""
    path = tmp_path_factory.mktemp("bags") / "room.mcap"
    scene = Scene.random(np.random.default_rng(4), [], "indoor")
    centre = (scene.lower + scene.upper) / 2
    target = scene.targets[np.argmax(np.linalg.norm(scene.targets - centre, axis=1))]
    side = np.cross(target - centre, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    with BagWriter(path) as writer:
        for i in range(20):
            stamp, s = (i + 1) * 10**8, 2 * i / 19 - 1
            view = look_at(centre + 0.6 * s * side, target + 1.3 * s * side, 0.05 * s)
            frame = scene.render(CAMERA, view)
            png = cv2.imencode(".png", frame.image[..., ::-1])[1].tobytes()
            picture = messages.compressed_image(stamp, "camera", "rgb8; png compressed bgr8", png)
            writer.write("/camera/image/compressed", IMAGE_TYPES[1], picture, stamp)
            writer.write("/camera/depth", IMAGE_TYPES[0], messages.depth_image(stamp, "camera", frame.depth), stamp)
            writer.write("/camera/camera_info", CAMERA_INFO_TYPE, messages.camera_info(stamp, "camera", CAMERA), stamp)
            pose = messages.pose_stamped(stamp, "world", np.linalg.inv(view))
            writer.write("/camera/pose", "geometry_msgs/msg/PoseStamped", pose, stamp)
    return path


def test_a_bag_becomes_an_engine_a_report_and_a_model_card(bag, tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    save_weights(StfmNet(preset("tiny")), tmp_path / "start.safetensors")
    out = tmp_path / "room"
    start = str(tmp_path / "start.safetensors")
    monkeypatch.setattr("stfm_training.distill.SIGMA_PAIRS", 2)
    arguments = [
        "distill", "--bag", str(bag), "--out", str(out), "--licence", "CC0", "--pairs", "4", "--json",
        "--data.cache", str(tmp_path / "cache"), "--model.preset", "tiny", "--model.start", start,
        "--data.width", "96", "--data.height", "64", "--data.pairs", "2", "--optimiser.steps", "6",
        "--run.workers", "0", "--loss.fine_matches", "32", "--run.log_every", "2",
        "--run.validate_every", "3", "--recording.held_out", "0.4",
    ]  # fmt: skip
    code = main(arguments)
    record = json.loads(capsys.readouterr().out)
    assert code == (0 if record["better"] else 1)
    matcher = Matcher.from_pretrained(MatcherConfig(model=record["export"]))
    assert matcher.weights_hash == record["weights_hash"]
    assert matcher.match(np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)) is not None
    teacher, _ = load_network(Path(record["teacher"]))
    assert teacher.config.in_channels == 4
    (held_out,) = record["recordings"]
    assert held_out["name"] == "room.mcap" and list(held_out["scores"]) == ["before", "after", "teacher"]
    student = out / "student"
    page, card = (student / "report.html").read_text(), (student / "README.md").read_text()
    sha256 = json.loads((student / "report.json").read_text())["data"][0]["sha256"]
    assert sha256 in page + card and "CC0" in card and "loss_mqd" in page
    steps = [json.loads(line) for line in (student / "log.jsonl").read_text().splitlines()]
    assert "val_fine_px" in steps[0] and "loss_att" in steps[1] and steps[-1]["step"] == 6


def test_a_recipe_is_written_out_for_every_bag():
    config = checked({
        "mix": [{"source": "recorded", "path": "BAG", "weight": 1.0}, {"source": "rendered", "weight": 0.5}],
    })  # fmt: skip
    recording = RecordingConfig(depth_factor=0.2)
    mix = with_bags(config, [Path("/a.mcap"), Path("/b")], recording, "CC0").mix
    assert [(line.source, line.path, line.weight) for line in mix] == [
        ("rendered", "", 0.5), ("recorded", "/a.mcap", 0.5), ("recorded", "/b", 0.5),
    ]  # fmt: skip
    assert mix[1].recording == recording and mix[1].licence == "CC0" and mix[0].licence == ""
    without = checked({"mix": [{"source": "rendered"}]})
    with pytest.raises(ConfigError, match="takes the bags; see .*distill.yaml"):
        with_bags(without, [Path("/a.mcap")], recording, "")
    assert RECIPE.is_file()


@pytest.mark.parametrize(("more", "told"), [
    (["--recording.depth_factor", "0.001"], "0.001"),
    (["--recording.depth_topic", "/camera/dept"], "did you mean /camera/depth?"),
    (["--model.start", "nothing"], "there is no model 'nothing'"),
    (["--recording.held_out", "0.9"], "held_out: 0.9 is above the maximum 0.5"),
    (["--optimiser.lr", "fast"], "optimiser.lr: expected float, got str 'fast'"),
])  # fmt: skip
def test_bad_input_is_refused_before_the_work(bag, tmp_path, capsys, more, told):
    cache = ["--data.cache", str(tmp_path / "cache")]
    assert main(["distill", "--bag", str(bag), "--out", str(tmp_path / "out"), *cache, *more]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
