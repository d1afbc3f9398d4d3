"""The recorder node in a process of its own: what is sent to it over DDS, and what is in its bags."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

import recorded_camera as rc
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_bench import NodeProcess, Observer, environment
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from test_node import other_participant
from test_node import watch as of_matcher
from test_recording import accounted
from test_recording_crash import counts_of

from stfm_ros import messages
from stfm_ros.bag_types import typestore
from stfm_ros.bags import BagReader
from stfm_ros.errors import BagError
from stfm_ros.msg import RelativePose, StudentCheck
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.nodes.recorder_inputs import asked, check_definition, message_class, stored
from stfm_ros.recording.hints import FAR_M, PoseChain

SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FRAME = ("/camera/image", "/camera/depth", "/camera/camera_info")


class Watch(Observer):
    """Keeps what the recorder says."""

    def _on_diagnostics(self, msg: Any) -> None:
        (status,) = msg.status
        self.level, self.summary = status.level, status.message
        self.values = {pair.key: pair.value for pair in status.values}

    @property
    def frames(self) -> dict[str, int]:
        return {key.partition(".")[2]: int(n) for key, n in self.values.items() if key.startswith("frames.")}

    def settle(self, taken: int) -> None:
        """Wait until so many frames are taken or missed, and none waits."""
        self.until("frames", lambda: self.count("frames.taken") + self.count("frames.missed") >= taken)
        self.until("decisions", lambda: self.count("frames.waiting") == 0)

    def service(self, name: str) -> str:
        answer = self.call(Trigger, f"/recorder/{name}", Trigger.Request())
        assert answer.success, answer.message
        return str(answer.message)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr("ros_bench.Observer", Watch)
    yield from of_matcher.__wrapped__()  # type: ignore[misc]


class Camera:
    """Publishes the bytes of :mod:`recorded_camera`."""

    def __init__(self, watch: Watch, names: Sequence[str] = FRAME, qos: QoSProfile = SENSOR) -> None:
        self.watch = watch
        self.number = 0
        self.pubs: dict[str, Any] = {}
        for name in names:
            self.add(name, qos)

    def add(self, name: str, qos: QoSProfile) -> None:
        kind = {"camera_info": CameraInfo, "pose": PoseStamped}.get(name.rpartition("/")[2], Image)
        self.pubs[name] = self.watch.create_publisher(kind, name, qos)

    def connect(self) -> None:
        for name, pub in self.pubs.items():
            self.watch.until(f"subscriber of {name}", pub.get_subscription_count)
        time.sleep(0.3)  # the other side may still be about to match

    def play(self, count: int, rate: float = 30.0, still: bool = False, left_out: Sequence[str] = ()) -> list[int]:
        """Stamps of the frames that were sent, at this moment and on."""
        stamps = []
        for _ in range(count):
            stamp_ns, column = time.time_ns(), 0 if still else 20 * self.number % (5 * rc.WIDTH)
            of_frame = (
                rc.image(stamp_ns, rc.picture_at(column)), rc.depth(stamp_ns), rc.info(stamp_ns), rc.pose(stamp_ns),
            )  # fmt: skip
            for name, data in zip((*FRAME, "/camera/pose"), of_frame):
                if name in self.pubs and name not in left_out:
                    self.pubs[name].publish(data)
            stamps.append(stamp_ns)
            self.number += 1
            time.sleep(1 / rate)
        return stamps


def arguments(folder: Path, **parameters: Any) -> list[str]:
    """Parameters, by names with two underscores for the dot."""
    given = {
        "bag.folder": folder, "storage.keep_free_mb": 16, "storage.silence_s": 60.0, "node.diagnostics_period_s": 0.1,
        "topics.image": "/camera/image", "topics.depth": "/camera/depth", "selection.min_interval_s": 0.0,
    }  # fmt: skip
    given |= {name.replace("__", "."): value for name, value in parameters.items()}
    words = [("-p", f"{name}:={json.dumps(str(v)) if isinstance(v, (str, Path)) else v}") for name, v in given.items()]
    return [word for pair in words for word in pair]


class Recording:
    """A recorder that has to end well, unless it is killed."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.folder = folder
        self.node = NodeProcess(*arguments(folder, **parameters), pair_ms=None, node="recorder")
        self.killed = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *fault: Any) -> None:
        code, self.said = self.node.stop()
        print(self.said)
        if not any(fault):
            assert code == (-signal.SIGKILL if self.killed else 0), self.said
            assert "Traceback" not in self.said

    def kill(self) -> None:
        self.node.process.kill()
        self.killed = True

    def bags(self) -> list[Path]:
        return sorted(self.folder.iterdir())


def test_what_is_sent_is_in_the_bag_as_others_read_it(watch: Watch, tmp_path: Path) -> None:
    camera = Camera(watch)
    camera.add("/camera/pose", RELIABLE)
    latched = watch.create_publisher(String, "/robot_description", LATCHED)
    latched.publish(String(data="<robot/>"))  # before anybody listens
    extra = "/camera/pose, /robot_description"
    with Recording(tmp_path, selection__keep="all", topics__extra=extra, bag__note="on a cart") as recording:
        camera.connect()
        sent = camera.play(20)
        watch.settle(20)
        frames = watch.frames
        assert (watch.level, watch.summary, watch.values["recording"]) == (b"\0", "recording", "true")
        assert watch.values["topic./robot_description"] == "taken 1, kept 1"
    (bag,) = recording.bags()
    about = accounted(bag)
    assert about["ended_because"] == "finished" and about["about"] == {"note": "on a cart", "node": "/recorder"}
    image = about["topics"]["/camera/image"]
    assert image["taken"] + image["missed"] == len(sent) and frames["kept"] == image["written"] >= 18
    assert {name: topic["written"] for name, topic in about["topics"].items()} == {
        **dict.fromkeys((*FRAME,), image["written"]), "/camera/pose": 20, "/robot_description": 1,
    }  # fmt: skip
    assert counts_of(bag)["/camera/depth/compressed"] == image["written"]
    with Reader(bag) as reader:
        offered = {one.topic: one.ext.offered_qos_profiles[0] for one in reader.connections}  # type: ignore[union-attr]
        assert all(one.msgdef.data and one.digest.startswith("RIHS01_") for one in reader.connections)
    assert offered["/camera/image/compressed"].reliability is QosReliability.BEST_EFFORT
    assert offered["/camera/pose"].reliability is QosReliability.RELIABLE
    assert offered["/robot_description"].durability is QosDurability.TRANSIENT_LOCAL
    with BagReader(bag) as written:
        stamps = [messages.stamp_ns(msg.header) for _, msg, _ in written.messages(["/camera/image/compressed"])]
    assert set(stamps) <= set(sent) and stamps == sorted(stamps)


def test_topics_that_come_late_and_one_that_stops(watch: Watch, tmp_path: Path) -> None:
    camera = Camera(watch, FRAME[:1])
    selection = {"selection__min_change": 0.0, "selection__min_sharpness": 0.0}
    late = {"topics__extra": "/camera/pose,/robot_description", "storage__silence_s": 0.5}
    latched = watch.create_publisher(String, "/robot_description", LATCHED)
    latched.publish(String(data="<robot/>"))
    with Recording(tmp_path, **selection, **late) as recording:
        watch.until("silence", lambda: len([key for key in watch.values if key.startswith("silent.")]) == 4)
        assert watch.level == b"\2"
        camera.connect()
        camera.play(3)
        watch.until("images", lambda: "silent./camera/image" not in watch.values)
        asks = "nobody publishes it; set topics.depth to its topic (`ros2 topic list` shows them), or leave it empty"
        assert "no message on /camera/depth for " in watch.values["silent./camera/depth"]
        assert asks in watch.values["silent./camera/depth"] and asks in watch.summary
        assert "start what publishes it, or take it out of topics.extra" in watch.values["silent./camera/pose"]
        with other_participant() as other:
            other.create_publisher(CompressedImage, "/camera/depth", SENSOR)
            watch.until("word on the type", lambda: "publishes sensor_msgs/msg/CompressedImage" in watch.summary)
        for name in (*FRAME[1:], "/camera/pose"):
            camera.add(name, RELIABLE)
        camera.connect()
        camera.play(10)
        watch.settle(13)
        # the depth stops; then stamps, by which everything is put together, jump back by a minute
        camera.play(20, left_out=["/camera/depth"])
        watch.until("silence", lambda: "silent./camera/depth" in watch.values)
        assert "publishes it with a fitting QoS, yet nothing arrives" in watch.values["silent./camera/depth"]
        clock, time.time_ns = time.time_ns, lambda: clock() - 60 * 10**9
        try:
            camera.play(10)
        finally:
            time.time_ns = clock
        watch.settle(43)
        assert "silent./robot_description" not in watch.values  # it has said what it has to say
    (bag,) = recording.bags()
    about = accounted(bag)
    image, depth, pose = (about["topics"][name] for name in (*FRAME[:2], "/camera/pose"))
    assert image["taken"] + image["missed"] == 43
    assert image["left_out"]["no_depth"] >= 20 and 18 <= image["written"] <= 20
    assert depth["written"] == image["written"] and pose["taken"] == pose["written"] == 40
    assert any(one["topic"] == "/camera/depth" and one["ended"] for one in about["silences"])
    counts_of(bag)


def test_a_clock_that_is_not_there_yet_and_jumps(watch: Watch, tmp_path: Path) -> None:
    camera = Camera(watch, qos=RELIABLE)
    clock = watch.create_publisher(Clock, "/clock", 1)
    camera.pubs["/clock"] = clock
    with Recording(tmp_path, selection__keep="all", use_sim_time=True) as recording:
        camera.connect()
        camera.play(5)
        watch.until(
            "word on the clock",
            lambda: "use_sim_time is set, /clock has to be" in watch.values.get("fault.bad_stamp", ""),
        )
        for begin_s in (1000, 900):  # the simulation is started again
            for tenths in range(8):
                clock.publish(Clock(clock=Time(sec=begin_s, nanosec=tenths * 10**8)))
                time.sleep(0.1)
                camera.play(1)
        watch.settle(21)
    (bag,) = recording.bags()
    about = accounted(bag)
    assert about["frames"] == {"taken": 21, "kept": 16, "left_out": {"bad_stamp": 5}}
    assert any(-102 < jump["seconds"] < -98 for jump in about["clock_jumps"])
    with Reader(bag) as reader:
        assert 900e9 <= reader.start_time < reader.end_time <= 1001e9
    counts_of(bag)


def test_a_restart_finishes_what_a_kill_left(watch: Watch, tmp_path: Path) -> None:
    camera = Camera(watch)  # a reliable publisher would wait for the one that was killed
    with Recording(tmp_path, selection__keep="all") as killed:
        camera.connect()
        sent = camera.play(45)
        killed.kill()
    (left,) = killed.bags()
    assert not (left / "metadata.yaml").exists()
    with Recording(tmp_path, selection__keep="all") as again:
        watch.until("new bag", lambda: watch.values["bag"] != str(left))
        assert (left / "metadata.yaml").exists()
        while watch.count("frames.taken") < 5:
            camera.play(1, rate=10)
    assert f"{left} was interrupted and is finished now" in again.said
    lost = len(sent) - counts_of(left)["/camera/image/compressed"]
    loss = json.loads((left / "manifest.json").read_text())["lost"]["/camera/image"]
    assert f"/camera/image {loss['counted']} to {loss['counted'] + loss['uncounted_about']}" in again.said
    assert loss["counted"] <= lost <= 30  # a second
    assert all(accounted(bag)["frames"]["kept"] >= 5 for bag in again.bags() if bag != left)


def test_services_and_lifecycle(watch: Watch, tmp_path: Path) -> None:
    camera = Camera(watch, qos=RELIABLE)
    with Recording(tmp_path, selection__keep="all", node__autostart=False) as recording:

        def change(transition: int) -> None:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert watch.call(ChangeState, "/recorder/change_state", request).success

        change(Transition.TRANSITION_CONFIGURE)
        watch.until("diagnostics", lambda: watch.summary == "not active")
        answer = watch.call(Trigger, "/recorder/pause", Trigger.Request())
        assert not answer.success and "configure and activate it first" in answer.message
        change(Transition.TRANSITION_ACTIVATE)
        camera.connect()
        camera.play(3)
        watch.settle(3)
        assert watch.service("pause").startswith("paused: messages are counted as left out until ~/resume")
        camera.play(4)
        watch.settle(7)
        assert watch.frames["left_out.paused"] == 4 and watch.summary == "paused"
        watch.service("resume")
        camera.play(2)
        watch.settle(9)
        assert " is begun" in watch.service("new_bag")
        camera.connect()
        watch.until("new counts", lambda: watch.values.get("frames.taken") == "0")
        camera.play(2)
        watch.settle(2)
        change(Transition.TRANSITION_DEACTIVATE)
        watch.until("diagnostics", lambda: watch.summary == "not active")
        change(Transition.TRANSITION_CLEANUP)
    frames = [accounted(bag)["frames"] for bag in recording.bags()]
    assert frames == [{"taken": 9, "kept": 5, "left_out": {"paused": 4}}, {"taken": 2, "kept": 2, "left_out": {}}]


def test_a_slow_teacher_says_where_the_student_is_weak(watch: Watch, tmp_path: Path) -> None:
    """The camera stands still: what is kept after the first frame is kept for the disagreement."""
    camera = Camera(watch, qos=RELIABLE)
    checks = watch.create_publisher(StudentCheck, "/teacher/student_check", RELIABLE)
    poses = watch.create_publisher(RelativePose, "/teacher/relative_pose", RELIABLE)
    camera.pubs["checks"], camera.pubs["poses"] = checks, poses
    teacher = {"topics__student_check": "/teacher/student_check", "topics__relative_pose": "/teacher/relative_pose"}
    with Recording(tmp_path, **teacher, selection__min_disagreement=0.6, selection__min_sharpness=0.0) as recording:
        camera.connect()

        def say(stamp_ns: int, disagreement: float) -> None:
            header = messages.header(stamp_ns, "camera")
            checks.publish(to_ros(StudentCheck, {"header": header, "disagreement": disagreement}))
            poses.publish(to_ros(RelativePose, {"header": header, "status": 1}))

        before = camera.play(10, still=True)
        say(before[0], 0.5)
        say(before[1], float("nan"))
        watch.settle(10)
        assert watch.frames["kept"] == 1
        say(before[2], 0.7)  # long after it was decided on
        time.sleep(0.3)
        after = camera.play(10, still=True)
        watch.settle(20)
        say(after[-1], 0.1)
        time.sleep(0.3)
        camera.play(10, still=True)
        watch.settle(30)
    (bag,) = recording.bags()
    about = accounted(bag)
    assert about["frames"] == {"taken": 30, "kept": 11, "left_out": {"little_change": 19}}
    assert about["topics"]["/teacher/student_check"]["written"] == 4
    with BagReader(bag) as reader:
        kept = [messages.stamp_ns(msg.header) for _, msg, _ in reader.messages(["/camera/image/compressed"])]
        said = [msg.disagreement for _, msg, _ in reader.messages(["/teacher/student_check"])]
    assert kept == [before[0], *after]
    np.testing.assert_allclose(said, [0.5, np.nan, 0.7, 0.1], rtol=1e-6)


def test_another_definition_of_a_type_is_not_recorded() -> None:
    """Its bytes could not be read by what the bag would say of them."""
    ours = typestore().hash_rihs01("std_msgs/msg/String")
    about = SimpleNamespace(topic_type="std_msgs/msg/String", node_name="talker", topic_type_hash=ours)
    check_definition("std_msgs/msg/String", [about])
    about.topic_type_hash = ours[:-1] + ("0" if ours[-1] != "0" else "1")
    with pytest.raises(BagError, match=r"talker publishes std_msgs/msg/String of another definition than this install"):
        check_definition("std_msgs/msg/String", [about])


def test_a_type_that_is_not_installed_is_named() -> None:
    assert message_class("sensor_msgs/msg/Image") is Image
    words = r"no_such_msgs/msg/Thing is not installed here \(.*\): install no_such_msgs, or source its workspace"
    with pytest.raises(BagError, match=words):
        message_class("no_such_msgs/msg/Thing")


def test_what_publishers_differ_in_is_not_asked_for() -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    for offers, reliable, durable in (
        ([RELIABLE, latched], True, False), ([latched, latched], True, True), ([RELIABLE, SENSOR], False, False),
    ):  # fmt: skip
        qos = asked(offers, 7)
        assert (qos.reliability == ReliabilityPolicy.RELIABLE, qos.durability == DurabilityPolicy.TRANSIENT_LOCAL) == (
            reliable,
            durable,
        )
        kept = stored(offers, qos)
        assert (kept.reliability.value, kept.durability.value) == (int(qos.reliability), int(qos.durability))


def test_a_chain_that_breaks_is_a_new_view() -> None:
    chain, step = PoseChain(), np.eye(4)
    step[0, 3] = 0.5
    first = chain.add(2, 1, step)
    np.testing.assert_allclose(chain.add(3, 1, step), first)
    np.testing.assert_allclose(chain.add(4, 3, step)[:3, 3] - first[:3, 3], [0.5, 0, 0])
    assert chain.add(6, 5, step)[0, 3] - first[0, 3] > 0.9 * FAR_M


def test_a_full_disk(watch: Watch, tmp_path: Path) -> None:
    """A small file system of its own; somebody else fills it, faster than the node looks."""
    mount = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, to mount a small file system")
    camera = Camera(watch, qos=RELIABLE)
    words = arguments(tmp_path, selection__keep="all", compression__colour="raw", compression__depth="raw",
                      compression__chunks="none", storage__flush_s=5.0)  # fmt: skip
    process = subprocess.Popen(
        [*mount, "sh", "-c", f'mount -t tmpfs -o size=32m none "{tmp_path}" && exec "$@"', "sh", sys.executable, "-m",
         "stfm_ros.nodes.recorder", "--ros-args", *words],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        camera.connect()
        inside = Path(f"/proc/{process.pid}/root{tmp_path}")  # while the process lives
        with (inside / "other").open("wb", buffering=0) as other:
            try:
                while other.write(bytes(1 << 16)):
                    pass
            except OSError:
                other.truncate(other.tell() - (6 << 20))
        camera.play(40)
        watch.until("end", lambda: watch.summary.startswith("not recording: "))
        assert watch.level == b"\2" and "No space left on device" in watch.summary
        assert "make room, and begin a new recording" in watch.summary
        answer = watch.call(Trigger, "/recorder/new_bag", Trigger.Request())
        assert not answer.success and "storage.keep_free_mb is 16: make room" in answer.message
        (inside / "other").unlink()
        watch.service("new_bag")
        camera.connect()
        camera.play(3)
        watch.settle(3)
        shutil.copytree(inside, tmp_path / "copy")
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said, said
    full, _ = sorted((tmp_path / "copy").iterdir())
    about = json.loads((full / "manifest.json").read_text())
    counts = counts_of(full)
    assert about["ended_because"].startswith("the disk failed: ")
    for topic in about["topics"].values():
        assert topic["taken"] == topic["written"] + sum(topic["left_out"].values())
        assert topic["written"] == counts[topic["recorded_as"]] > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"selection.kep": "all", "storage.flush_s": "0.0", "topics.depth_transport": "zip"},
            [
                "selection.kep: unknown setting; did you mean selection.keep?",
                "storage.flush_s: 0.0 is below the minimum 0.05",
                "topics.depth_transport: 'zip' is not one of raw, compressed, compressedDepth",
            ],
        ),
        (
            {"topics.image": "''", "topics.extra": "'/tf,/tf'", "topics.depth": "'/a b'"},
            [
                "topics.image: is empty; name the topic of the images, every frame begins with one",
                "topics.extra: /tf is asked for by topics.extra already",
                "topics.depth: '/a b' is no name of a topic",
            ],
        ),
        (
            {"storage.keep_free_mb": "1000000000"},
            ["cannot be configured: ", "MB free and storage.keep_free_mb is 1000000000: make room, lower the limit"],
        ),
    ],
)
def test_what_is_wrong_is_said_at_the_start(tmp_path: Path, given: dict[str, str], words: list[str]) -> None:
    given = {"bag.folder": str(tmp_path)} | given
    node = NodeProcess(*[w for name, v in given.items() for w in ("-p", f"{name}:={v}")], pair_ms=None, node="recorder")
    code, said = node.wait()
    assert code in (1, 2) and "Traceback" not in said
    for word in words:
        assert word in said
