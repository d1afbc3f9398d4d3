"""From a recorded bag to weights that a robot takes: refusals, the rule, what is installed, and the whole way once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from collected_bag import collect

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.cli import adapt as cli
from stfm_ros.cli import main
from stfm_ros.cli.adapt import COMMAND
from stfm_ros.cli.command import Screen
from stfm_ros.errors import ConfigError, DatasetError, EngineError, RuntimeNotAvailable, WeightsError
from stfm_ros.evaluate import PairScore, PoseScore, auc_gain
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.model.weights import load_network, save_weights
from stfm_ros.parity import Deviation
from stfm_ros.recording.config import RecordingConfig, SelectionConfig, StorageConfig
from stfm_ros.runtimes import installed as store
from stfm_ros.runtimes import tensorrt_builder
from stfm_ros.runtimes.installed import check_folder, install, installed
from stfm_ros.runtimes.store import find_model, seal
from stfm_ros.runtimes.tensorrt_builder import Target
from stfm_ros.types import Camera, EngineSpec
from stfm_training import adapt as adapting
from stfm_training import distill as distilling
from stfm_training.adapt import Engines, completed, decide, replaced, unusable
from stfm_training.config import TrainingConfig
from stfm_training.distill import HELD_OUT, NEVER, export_calibrated
from stfm_training.export import export
from stfm_training.gate import BETTER, NOT_BETTER, UNCLEAR, WORSE, Elsewhere, Verdict, judge
from stfm_training.inspection import Inspection, inspect_bag
from stfm_training.inspection.faults import FAULTS, corrupt
from stfm_training.inspection.problem import ERROR, Problem
from stfm_training.inspection.samples import Samples
from stfm_training.inspection.selection import Selection
from stfm_training.render import Scene, look_at
from stfm_training.reporting.record import AFTER, BEFORE, Evaluation
from stfm_training.validate import Known

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

CAMERA = Camera(160, 128, np.array([[150.0, 0, 79.5], [0, 150.0, 63.5], [0, 0, 1]]))
FRAMES = 36
TEACHER = Path(__file__).parent / "data" / "tiny_teacher.safetensors"

# ---- the rule


def evaluation(before: Sequence[float], after: Sequence[float], name: str = "office", relation: str = HELD_OUT) -> Any:
    """Pose errors in degrees of some pairs, with the old weights and with the new ones."""
    scores = {}
    for method, errors in ((BEFORE, before), (AFTER, after)):
        pairs = tuple(PairScore(i, i + 1, 0.5, e, e, 9, 9, (1.0, 1.0), 1.0) for i, e in enumerate(errors))
        scores[method] = PoseScore(
            method, "poselib", 1.0, "9x9", (1.0, 1.0, 1.0, 1.0), 9, len(pairs), {}, {}, 0.0, 0.0, 0.0, {}, 9.0, 9.0, 0,
            1.0, pairs,
        )  # fmt: skip
    return Evaluation(name, relation, {"poselib": scores})


EASY, HARD = np.full(40, 2.0), np.full(40, 8.0)
SAME = {"export, fp32": Deviation(1.0, 0.0, 0.0, 0.0, 90, 90)}


KEPT = {
    "pictures": Elsewhere((300, 310), (0.9, 0.9), (0.2, 0.2)),
    "rendered": Elsewhere((300, 280), (0.9, 0.88), (0.2, 0.18)),
}


def verdict(before: Any, after: Any, unclear: bool = False, **changes: Any) -> Verdict:
    given: dict[str, Any] = {"unseen": [], "elsewhere": KEPT, "deviations": SAME, **changes}
    return judge([evaluation(before, after)], unclear=unclear, **given)


def test_weights_that_are_clearly_better_are_accepted() -> None:
    found = verdict(HARD, EASY)
    assert found.accepted and found.gain.word == BETTER and found.gain.low > 0
    assert found.text.startswith("The new weights are better: on held-back frames AUC@10 21.0 → 80.2 (+59.2, 95 %")
    assert found.text.endswith("40 pairs).")


def test_a_gain_that_is_not_clear_is_refused_unless_it_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 12, 40)
    after = before + rng.normal(-0.3, 4, 40)
    refused, taken = verdict(before, after), verdict(before, after, unclear=True)
    assert refused.gain.word == UNCLEAR and refused.gain.gain > 0 > refused.gain.low
    assert not refused.accepted
    assert refused.text.startswith("The old weights stay. Held back: no clear gain, AUC@10")
    assert refused.text.endswith("needed an interval above 0.")
    assert taken.accepted and "not clearly better, and were asked for all the same" in taken.text


@pytest.mark.parametrize("unclear", [False, True])
def test_weights_without_a_gain_are_refused_whatever_is_asked_for(unclear: bool) -> None:
    same, worse = verdict(EASY, EASY, unclear), verdict(EASY, HARD, unclear)
    assert (same.gain.word, worse.gain.word) == (NOT_BETTER, WORSE)
    assert not same.accepted and not worse.accepted
    assert "Held back: not better, AUC@10 80.2 → 80.2 (+0.0" in same.text
    assert "Held back: worse, AUC@10 80.2 → 21.0 (-59.2" in worse.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"elsewhere": {"rendered": Elsewhere((300, 280), (0.90, 0.86), (0.2, 0.2))}},
            "Elsewhere, rendered, right: 90.0% → 86.0% of 280 matches a pair within 3 px, needed at most 3 points",
        ),
        (
            {"elsewhere": {"pictures": Elsewhere((300, 250), (0.9, 0.9), (0.2, 0.16))}},
            "Elsewhere, pictures, found: 20.0% → 16.0% of what could be, needed at most 15% of it less.",
        ),
        (
            {"deviations": {"export, fp16": Deviation(0.8, 0.1, 3.0, 0.1, 100, 90)}},
            "Export, fp16: 90 matches of 100, 80.0% common, needed 90% common.",
        ),
        (
            {"unseen": [evaluation(EASY, HARD, "kitchen", NEVER)]},
            "Kitchen alone: worse, AUC@10 80.2 → 21.0",
        ),
    ],
)
def test_each_guard_refuses_weights_that_are_better_on_held_back_frames(changes: dict[str, Any], told: str) -> None:
    found = verdict(HARD, EASY, **changes)
    assert found.gain.word == BETTER
    assert not found.accepted and told in found.text
    assert sum(not check.passed for check in found.checks) == 1


def test_all_bags_decide_together_and_none_may_get_clearly_worse() -> None:
    good, bad = evaluation(HARD, EASY), evaluation(np.full(20, 2.0), np.full(20, 4.0), "hall")
    both = judge([good, bad], [], KEPT, SAME)
    assert both.gain.word == BETTER and both.gain.pairs == 60
    assert [check.name for check in both.checks if not check.passed] == ["hall alone"]


def test_pairs_that_share_an_image_tell_less() -> None:
    """Ten images with eight pairs each that all err alike are ten observations and not eighty."""
    rng = np.random.default_rng(1)
    before = np.repeat(rng.uniform(0, 10, 10), 8)
    after = np.repeat(rng.uniform(0, 10, 10), 8)
    alone, together = (auc_gain(before, after, 10.0, groups=groups) for groups in (None, np.repeat(range(10), 8)))
    assert together[0] == alone[0]
    assert together[2] - together[1] > 2 * (alone[2] - alone[1])


def test_weights_that_find_more_are_not_blamed_for_the_harder_matches() -> None:
    """Two matches of a pair, both right, against the same two and two wrong ones that are less sure."""
    few = np.array([[0.9, 1, 0, 0], [0.8, 1, 1, 1], [0.1, 1, 9, 9]], np.float64)
    more = np.array([[0.7, 1, 0, 0], [0.6, 1, 1, 1], [0.4, 1, np.inf, 0], [0.3, 1, 9, 9]], np.float64)
    found = Elsewhere.of(Known("x", 1, few, 10), Known("x", 1, more, 10), 0.2)
    assert found == Elsewhere((2, 4), (1.0, 1.0), (0.2, 0.2))
    worse = Elsewhere.of(Known("x", 1, few, 10), Known("x", 1, more[2:], 10), 0.2)
    assert worse.right == (1.0, 0.0) and worse.found == (0.2, 0.0)
    nothing = Elsewhere.of(Known("x", 1, few, 10), Known("x", 1, more[:0], 10), 0.2)
    assert nothing.right == (0.0, 0.0) and nothing.found == (0.2, 0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders like exports of a tiny network, by the seed of their weights; the graphs are none."""
    folder = tmp_path_factory.mktemp("tiny")

    def made(seed: int) -> Path:
        out = folder / str(seed)
        if not out.exists():
            out.mkdir()
            torch.manual_seed(seed)
            digest = save_weights(StfmNet(preset("tiny")), out / "weights.safetensors")
            for name in ("features.onnx", "pair.onnx"):
                (out / name).write_text(f"{name} {seed}")
            seal(out, EngineSpec(f"robot {seed}", "tiny", 64, 96, 48, digest))
        return out

    return made


def test_an_engine_that_cannot_be_had_or_differs_is_a_reason_to_refuse() -> None:
    held_back = [evaluation(HARD, EASY)]
    assert decide(held_back, KEPT, SAME, Engines("none was built: no GPU"), False).accepted
    broken = decide(held_back, KEPT, SAME, Engines("cannot be had", fault="TensorRT takes no X"), False)
    assert broken.text.endswith("Engine: TensorRT takes no X, needed an engine for the GPU at hand.")
    off = decide(held_back, KEPT, SAME, Engines("built", deviation=Deviation(0.5, 1.0, 9.0, 0.5, 80, 80)), False)
    assert "Engine: 80 matches of 80, 50.0% common" in off.text


def test_the_engine_is_built_where_there_is_a_gpu_for_it(
    tiny: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, screen = find_model(str(tiny(0))), Screen(as_json=True)

    def missing(_: str) -> Any:
        raise RuntimeNotAvailable("no NVIDIA GPU can be used")

    monkeypatch.setattr(tensorrt_builder, "pick_flavour", missing)
    none = cli.build_if_possible(model, screen)
    assert not none.fault and none.text.startswith(
        "none was built: no NVIDIA GPU can be used. On the robot: stfm build-"
    )

    flavour = SimpleNamespace(name="tensorrt", version="10.3")
    monkeypatch.setattr(tensorrt_builder, "pick_flavour", lambda asked: flavour)
    monkeypatch.setattr(tensorrt_builder, "find_target", lambda of: Target("sm87", "Orin"))
    deviation = Deviation(0.99, 0.0, 0.1, 0.0, 90, 90)
    monkeypatch.setattr(cli, "build_engines", lambda *_, **__: [SimpleNamespace(path=Path("features.engine"))])
    monkeypatch.setattr(cli, "check_engines", lambda *_: (deviation, "run on the reference pair"))
    built = cli.build_if_possible(model, screen)
    assert built.text == "tensorrt 10.3, fp32, for Orin; run on the reference pair"
    assert built.files == (Path("features.engine"),) and built.deviation is deviation and not built.fault

    def broken(*_: Any, **__: Any) -> Any:
        raise EngineError("tensorrt cannot take operator X")

    monkeypatch.setattr(cli, "build_engines", broken)
    assert cli.build_if_possible(model, screen).fault == "tensorrt cannot take operator X"


# ---- what is installed


def test_weights_are_installed_beside_the_old_ones(tiny: Callable[[int], Path], tmp_path: Path) -> None:
    folder, card = tmp_path / "weights", tmp_path / "README.md"
    card.write_text("# card")
    first = install(tiny(0), folder, [card])
    assert installed(tmp_path / "none") is None and first.previous is None
    assert first.way_back == "set matcher.model to what it was"
    hashes = [spec_of(tiny(seed)).weights_hash for seed in (0, 1)]
    assert os.readlink(folder / "current") == first.folder.name == f"robot_0-{hashes[0]}"
    assert (first.folder / "README.md").read_text() == "# card"

    second = install(tiny(1), folder)
    assert spec_of(second.model).weights_hash == hashes[1]
    assert second.previous == first.folder.resolve()
    again = install(tiny(1), folder)  # changes nothing
    assert again == second and os.readlink(folder / "previous") == first.folder.name
    assert second.way_back == f"ln -sfn {first.folder.name} {folder / 'current'}"
    assert os.system(second.way_back) == 0
    assert spec_of(folder / "current").weights_hash == hashes[0]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["current", "previous", first.folder.name, second.folder.name]
    )


@pytest.mark.parametrize("where", ["_copy", "_link"])
def test_an_interrupted_installation_leaves_the_old_weights(
    tiny: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = tmp_path / "weights"
    first = install(tiny(0), folder)
    replace_file = os.replace

    def full(source: Any, target: Any) -> None:
        if where == "_link" or not Path(target).name.startswith(("current", "previous")):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot be installed .*No space left.*what was used before still is"):
        install(tiny(1), folder)
    monkeypatch.undo()
    assert installed(folder) is not None and os.readlink(folder / "current") == first.folder.name
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    install(tiny(1), folder)


def test_a_damaged_export_is_not_installed(tiny: Callable[[int], Path], tmp_path: Path) -> None:
    broken = shutil.copytree(tiny(0), tmp_path / "broken")
    (broken / "pair.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"pair.onnx has SHA-256"):
        install(broken, tmp_path / "weights")
    assert installed(tmp_path / "weights") is None


def test_a_folder_that_cannot_take_weights_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name a folder that you may write to"):
        check_folder(tmp_path / "file")
    (tmp_path / "a" / "current").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is there and is no link to an export: name another folder"):
        check_folder(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "current").symlink_to("gone")
    with pytest.raises(WeightsError, match="leads to gone, which is no export: delete the link, or mend it"):
        check_folder(tmp_path / "b")


def test_new_weights_have_to_beat_what_is_installed(tiny: Callable[[int], Path], tmp_path: Path) -> None:
    new = spec_of(tiny(2))
    assert replaced(tmp_path, str(tiny(0)), new).path == tiny(0)  # nothing is installed: what the student began as
    install(tiny(1), tmp_path)
    old = replaced(tmp_path, str(tiny(0)), new)
    assert old.path.name.startswith("robot_1-")
    install(tiny(2), tmp_path)
    assert replaced(tmp_path, str(tiny(0)), new) == old  # the same command again: not against themselves


def test_an_export_that_is_there_is_not_made_again(
    tiny: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Again(Exception):
        pass

    def made(*_: Any, **__: Any) -> None:
        raise Again

    monkeypatch.setattr(distilling, "export", made)
    read: Any = SimpleNamespace(start=str(tiny(0)))
    assert export_calibrated(tiny(1) / "weights.safetensors", tiny(1), "robot 1", read) == spec_of(tiny(1))
    for weights, out, name in ((0, tiny(1), "robot 1"), (1, tiny(1), "robot"), (1, tmp_path / "new", "robot 1")):
        with pytest.raises(Again):
            export_calibrated(tiny(weights) / "weights.safetensors", out, name, read)


# ---- the bags


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered room with depth and poses."""
    path = tmp_path_factory.mktemp("bags") / "room.mcap"
    scene = Scene.random(np.random.default_rng(4), [], "indoor")
    centre = (scene.lower + scene.upper) / 2
    target = scene.targets[np.argmax(np.linalg.norm(scene.targets - centre, axis=1))]
    side = np.cross(target - centre, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    with BagWriter(path) as writer:
        for i in range(FRAMES):
            stamp, s = (i + 1) * 10**8, 2 * i / (FRAMES - 1) - 1
            view = look_at(centre + 0.6 * s * side, target + 1.3 * s * side, 0.05 * s)
            frame = scene.render(CAMERA, view)
            for topic, type_name, message in (
                ("/camera/image", IMAGE_TYPES[0], messages.image(stamp, "camera", frame.image)),
                ("/camera/depth", IMAGE_TYPES[0], messages.depth_image(stamp, "camera", frame.depth)),
                ("/camera/camera_info", CAMERA_INFO_TYPE, messages.camera_info(stamp, "camera", CAMERA)),
                ("/camera/pose", "geometry_msgs/msg/PoseStamped",
                 messages.pose_stamped(stamp, "world", np.linalg.inv(view))),
            ):  # fmt: skip
                writer.write(topic, type_name, message, stamp)
    return path


@pytest.fixture(scope="module")
def bag(room: Path) -> Path:
    """What the recorder keeps of it."""
    folder = room.parent / "collected"
    selection = SelectionConfig(min_interval_s=0.0, min_change=0.0, min_sharpness=0.0)
    status = collect(room, folder, RecordingConfig(selection, storage=StorageConfig(keep_free_mb=16)), pace=0)
    assert status.topics["/camera/image"].written == FRAMES
    return folder


@pytest.fixture(scope="module")
def shifted(room: Path) -> Path:
    """The same with depth 12 px to the right."""
    path = room.parent / "shifted.mcap"
    corrupt(room, path, FAULTS["depth 12 px to the right"].make)
    return path


def test_a_bad_bag_is_refused_before_anything_is_done(
    shifted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "read_bags", lambda *_: pytest.fail("it was read"))
    out = tmp_path / "out"
    assert main(["adapt", str(shifted), "--out", str(out), "--json"]) == 2
    answer = capsys.readouterr()
    record = json.loads(answer.out)
    assert record["kind"] == "DatasetError"
    told = record["error"]
    assert told.startswith("nothing was trained, for the inspection found bags of no use:")
    assert str(shifted) in told and "error, alignment: depth lies +1" in told
    assert f"see it in pictures: stfm inspect {shifted} --report shifted.html" in told
    assert "--skip-bad" not in told  # it is the only one
    assert "1/8 inspecting the bags" in answer.err and "shifted.mcap: of no use" in answer.err
    assert not out.exists()


def looked_at(bag: Path, usable: bool) -> Inspection:
    none = np.zeros(0, np.int64)
    selection, samples = Selection({}, {}, none, none, none, None, None, "", {}), Samples()
    problem = Problem(ERROR, "unit", "the median depth is 0.002 m", "0.1 to 100 m", "set depth_factor")
    problems = () if usable else (problem,)
    return Inspection(bag, 1.0, (), selection, {}, samples, None, None, None, None, problems)


def test_bad_bags_are_left_out_only_where_that_is_asked_for() -> None:
    good, bad = looked_at(Path("a.mcap"), True), looked_at(Path("b.mcap"), False)
    with pytest.raises(
        DatasetError, match="the median depth is 0.002 m; expected 0.1 to 100 m; set depth_factor"
    ) as of:
        unusable([good, bad], skip=False)
    assert str(of.value).endswith("  or leave such bags out: --skip-bad")
    assert unusable([good, bad], skip=True) == (Path("b.mcap"),)
    with pytest.raises(DatasetError, match="bags of no use"):
        unusable([bad, bad], skip=True)
    assert unusable([good], skip=False) == ()


def test_what_one_need_not_say(tiny: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig()
    monkeypatch.setattr(adapting, "shipped", lambda: ["default", "teacher"])
    whole = completed(config, tmp_path)
    assert (whole.model.start, whole.model.preset, whole.teacher.start) == ("default", "medium", "teacher")
    assert whole.data.cache == str(tmp_path / "recordings")
    given = completed(replace(config, teacher=replace(config.teacher, weights="mine.safetensors")), tmp_path)
    assert given.teacher.start == "student"
    monkeypatch.setattr(adapting, "shipped", lambda: ["default"])
    own = replace(config, model=replace(config.model, start=str(tiny(0))), data=replace(config.data, cache="/there"))
    whole = completed(own, tmp_path)
    assert (whole.model.preset, whole.teacher.start, whole.data.cache) == ("tiny", "student", "/there")


# ---- the whole way


def spec_of(model: Path | str) -> EngineSpec:
    spec = find_model(str(model)).spec
    assert spec is not None
    return spec


def options(bag: Path, out: Path, start: Path) -> list[str]:
    return [
        "adapt", str(bag), "--out", str(out), "--licence", "CC0", "--pairs", "60", "--json", "--no-engine",
        "--model.start", str(start), "--teacher.start", str(start), "--recording.held_out", "0.5",
        "--data.width", "96", "--data.height", "64", "--data.pairs", "2", "--optimiser.steps", "4",
        "--run.workers", "0", "--loss.fine_matches", "32", "--run.validate_every", "0", "--run.log_every", "2",
    ]  # fmt: skip


class Students(NamedTuple):
    """An RGB student that was trained on rendered rooms, and an export of a copy that was spoiled."""

    good: Path
    spoiled: Path


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    folder, student = tmp_path_factory.mktemp("students"), StfmNet(preset("tiny"))
    trained, sizes = load_network(TEACHER)[0].state_dict(), student.state_dict()
    student.load_state_dict({name: value[:, :3] if value.shape != sizes[name].shape else value
                             for name, value in trained.items()})  # without the kernel on depth  # fmt: skip
    save_weights(student, folder / "good.safetensors", {"role": "student"})
    torch.manual_seed(0)
    with torch.no_grad():
        for value in student.transformer.parameters():
            value += 2 * value.abs().mean() * torch.randn_like(value)
    save_weights(student, folder / "spoiled.safetensors")
    export(folder / "spoiled.safetensors", folder / "spoiled", "spoiled", 128, 160, 160, precisions=("fp32",))
    return Students(folder / "good.safetensors", folder / "spoiled")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pairs, frames and precisions where more change nothing of what is tested."""
    quick = partial(export, height=128, width=160, k=160, precisions=("fp32",))
    monkeypatch.setattr(adapting, "export_calibrated", lambda weights, out, name, read: quick(weights, out, name))
    monkeypatch.setattr(adapting, "inspect_bag", partial(inspect_bag, frames=8))
    monkeypatch.setattr(adapting, "ELSEWHERE_PAIRS", 2)
    monkeypatch.setattr(adapting, "ELSEWHERE_FRAMES", 2)


def test_a_bag_that_teaches_nothing_leaves_the_old_weights_and_the_same_command_goes_on(
    bag: Path, students: Students, tmp_path: Path, short: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Everything is real, but four steps at next to no learning rate teach nothing."""
    out = tmp_path / "out"
    given = [*options(bag, out, students.spoiled), "--optimiser.lr", "1e-8"]
    with monkeypatch.context() as stopped:
        stopped.setattr(adapting, "train_student", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(given) == 130
    capsys.readouterr()

    assert main(given) == 1
    answer = capsys.readouterr()
    record = json.loads(answer.out)
    assert [line for line in answer.err.splitlines() if line[:1].isdigit()] == [
        "1/8 inspecting the bags", "2/8 reading the bags", "3/8 training the teacher", "4/8 distilling the student",
        "5/8 exporting", "6/8 measuring before and after", "7/8 building the engine", "8/8 deciding",
    ]  # fmt: skip
    teacher, _ = load_network(out / "teacher" / "weights.safetensors")
    assert teacher.config.in_channels == 4
    steps = [json.loads(line)["step"] for line in (out / "teacher" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4], "the teacher was trained twice"
    assert not record["accepted"] and record["installed"] is None
    assert record["verdict"].startswith("The old weights stay. Held back: ")
    assert {name.partition(".")[0].removesuffix("[]") for name in COMMAND.fields} == set(record)
    assert json.loads((out / "adapt.json").read_text()) == record
    assert record["before"]["weights_hash"] == spec_of(students.spoiled).weights_hash
    assert record["after"]["weights_hash"] != record["before"]["weights_hash"]
    assert not (out / "weights").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "The old weights stay.",
        "What had to hold",
        "Alignment of depth",
        "loss_mqd",
        "not built: --no-engine",
    ):
        assert words in page, words
    assert (out / "recordings").is_dir()


def test_weights_that_got_better_are_installed(
    bag: Path, students: Students, tmp_path: Path, short: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All is real but the training, which would take hours: the student is given, and began as its spoiled copy."""

    def trained(read: Any, teacher: Path, out: Path) -> Path:
        (out / "student").mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(students.good, out / "student" / "weights.safetensors"))

    monkeypatch.setattr(adapting, "train_student", trained)
    out, robot = tmp_path / "out", tmp_path / "robot"
    given = [*options(bag, out, students.spoiled), "--install", str(robot), "--teacher.weights", str(TEACHER)]
    code = main(given)
    record = json.loads(capsys.readouterr().out)
    assert code == 0, record["verdict"]
    assert record["accepted"] and record["gain"]["word"] == BETTER
    assert record["installed"]["model"] == str(robot / "current")
    assert spec_of(robot / "current").weights_hash == record["after"]["weights_hash"]
    assert "Model card: out" in (robot / "current" / "README.md").read_text()
    assert (robot / "current" / "report.html").is_file()


def test_too_few_held_back_pairs_are_refused_before_training(
    bag: Path, tiny: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*options(bag, tmp_path / "out", tiny(0)), "--pairs", "3"]
    assert main(given) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert told.startswith("nothing was trained, for nothing could be said of the result: 3 pairs of held-back frames")
    assert "expected at least 20" in told and "--recording.held_out 0.4" in told
    assert not (tmp_path / "out" / "teacher").exists()


def test_a_bag_is_not_both_trained_on_and_unseen(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", str(bag), "--unseen", str(bag), "--out", str(tmp_path / "out")]) == 2
    assert "is to be trained on and to be measured on as unseen: give it once" in capsys.readouterr().err
