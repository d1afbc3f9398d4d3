"""Faults over real DDS: camera, matcher node and listener are processes, the network alone is a fake one.

After each fault images are good again. Then a pose has to come within a second, and of every image that was sent the
node has to say what became of it. docs/faults.md tells what the node does about each; ``soak.py`` repeats them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

import os

import rclpy
from camera_process import image_message
from fake_matcher_node import FakeMatcher
from fault_bench import WITH_POSE, Listener
from fault_camera import CameraProcess
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import TransitionCallbackReturn
from ros_bench import HERE, NodeProcess, environment
from std_srvs.srv import Trigger

from stfm_ros.frames import Frame, TimeLine
from stfm_ros.messages import stamp_ns
from stfm_ros.nodes.calibrations import Calibrations
from stfm_ros.nodes.subscription import Losses
from stfm_ros.types import PoseStatus

RATE = 30.0
RECOVERY_S = 1.0  #: by the stamps, from the first good image to the first with a pose
LATENCY_S = 3.0  #: from the camera to here, on a busy machine; ``soak.py`` is strict about both
GROWTH_MB = 8.0
SECOND = 1_000_000_000
SETTINGS = {
    "odometry.scale": "odometry", "odometry.path_length": 100, "node.reliability": "reliable",
    "node.scale_reliability": "reliable", "node.diagnostics_period_s": 0.1, "node.debug_image_period_s": 0.5,
}  # fmt: skip


class Bench:
    """A node, its camera and its listener.

    Attributes:
        sent: images since :meth:`count_from_here`.
        rss_mb: resident memory when it was warm.
        stalled_s: since when there are no images (time.monotonic).
    """

    rss_mb = 0.0
    stalled_s = 0.0

    def __init__(self, pair_ms: float, namespace: str = "", *ros_args: str) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-p", f"{name}:={value}")]
        moved = ["-r", f"__ns:={namespace}"] if namespace else []
        self.namespace = namespace
        self.node = NodeProcess(*settings, *moved, *ros_args, pair_ms=pair_ms)
        self.listener = Listener(namespace)
        self.camera = self.new_camera()

    def new_camera(self) -> CameraProcess:
        return CameraProcess(environment(), namespace=self.namespace)

    def meet(self) -> None:
        """Until images come through: the first may be lost, for one side may not have heard of the other yet."""
        before = self.listener.count("received")
        for _ in range(20):
            self.camera.send(count=1, rate=RATE)
            if self.listener.wait(lambda: self.listener.count("received") > before, 1):
                break
        self.count_from_here()

    def count_from_here(self) -> None:
        self.listener.settle()
        self.known_before, self.sent = self.known, 0

    def go(self, during: Callable[[], None] = lambda: None, **stretch: Any) -> dict[str, Any]:
        """Send a stretch; every image of it has to be counted."""
        self.camera.begin(**{"rate": RATE, "count": 10, **stretch})
        during()
        answer = self.camera.answer()
        self.sent += answer["sent"]
        self.listener.wait(lambda: self.received == self.sent and self.listener.count("in_flight") == 0, 5)
        assert self.node.process.poll() is None, "the node has ended"
        assert self.received == self.sent, self.listener.values
        assert self.listener.count("in_flight") == 0 and not self.listener.unbalanced
        time.sleep(0.1)  # poses are on their way by then
        return answer

    def recover(self) -> dict[str, Any]:
        """Good images; a pose has to come within a second, and no result late."""
        answer = self.go()
        self.assert_recovered(answer)
        assert self.listener.poses_of(answer)[-1][1] == PoseStatus.OK
        return answer

    def assert_recovered(self, answer: dict[str, Any]) -> None:
        poses = self.listener.poses_of(answer)
        good = [stamp for stamp, status, _, _ in poses if status in WITH_POSE]
        assert good and good[0] - answer["stamps_ns"][0] < RECOVERY_S * SECOND, poses
        assert self.listener.recovery_s(answer) < LATENCY_S, poses

    @property
    def known(self) -> int:
        """Images that the node has, or knows to be lost: a busy machine may leave it no time to take them."""
        return self.listener.count("received") + self.listener.count("lost")

    @property
    def received(self) -> int:
        return self.known - self.known_before

    def faults(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.listener.values.items() if name.startswith("fault.")}

    def trigger(self, name: str) -> Any:
        return self.listener.call(Trigger, f"{self.namespace}/matcher/{name}", Trigger.Request())

    def transit(self, *transitions: int) -> None:
        for one in transitions:
            request = ChangeState.Request(transition=Transition(id=one))
            answer = self.listener.call(ChangeState, f"{self.namespace}/matcher/change_state", request)
            assert answer is not None and answer.success, one

    def interrupt(self, number: signal.Signals) -> tuple[int, str, float]:
        """Exit code, words, and seconds until the end, under load."""
        self.camera.begin(count=200, rate=RATE)
        time.sleep(0.5)
        began = time.monotonic()
        self.node.process.send_signal(number)
        code, said = self.node.wait()
        return code, said, time.monotonic() - began

    def close(self) -> None:
        self.camera.kill()
        if self.node.process.poll() is None:
            self.node.process.kill()
            self.node.process.wait()
        self.listener.close()


@pytest.fixture(scope="module")
def ros() -> Iterator[None]:
    ours = {key: value for key, value in environment().items() if key.startswith(("ROS_", "FASTRTPS"))}
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    rclpy.init()
    yield
    rclpy.try_shutdown()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.fixture(scope="module")
def slow(ros: None) -> Iterator[Bench]:
    """A node that does five images a second, and takes its time from /clock. Started first: it stalls meanwhile."""
    bench = Bench(200.0, "/slow", "-p", "use_sim_time:=true")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def fast(ros: None, slow: Bench) -> Iterator[Bench]:
    bench = Bench(5.0)
    try:
        slow.meet()
        slow.stalled_s = time.monotonic()
        bench.meet()
        bench.recover()
        bench.rss_mb = bench.node.rss_mb()
        yield bench
    finally:
        bench.close()


#: by name: the stretch of images, the kind of its fault ("" for none), what /diagnostics has to say
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "dropped": ({"drop_every": 3}, "", ""),
    "an hour ahead": ({"jump_s": 3600.0}, "", ""),
    "an hour back": ({"jump_s": -3600.0}, "stamp", "jumped back by 3599."),
    "bag loop": ({"jump_s": -30.0}, "stamp", "jumped back by 29."),
    "short bag loop": ({"jump_s": -0.5}, "stamp", "jumped back by 0."),
    "stamp not set": ({"stamp_ns": 0, "count": 5}, "stamp", "two images carry the stamp 0 ns; the driver does not"),
    "grey": ({"encoding": "mono8"}, "", ""),
    "yuv": ({"encoding": "yuv422_yuy2"}, "", ""),
    "unknown encoding": ({"encoding": "h264"}, "image", "encoding 'h264'"),
    "truncated": ({"truncated": True}, "image", "the message is truncated"),
    "larger": ({"size": (320, 240)}, "", ""),
    "black": ({"value": 0}, "", ""),
    "calibration not finite": ({"info": "nan"}, "camera_info", "not finite"),
    "calibration of zeros": ({"info": "zero"}, "camera_info", "must be positive"),
    "unknown lens": ({"info": "unknown_model"}, "camera_info", "distortion model 'fov'"),
    "calibration of another size": ({"info": "other_size"}, "camera_info", "camera_info is of an image of 1280x960"),
    "calibration changed": ({"info": "zoomed"}, "", ""),
    "calibration after its image": ({"info_delay_s": 0.01}, "", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_counted_named_and_survived(fast: Bench, name: str) -> None:
    stretch, kind, words = CASES[name]
    before = fast.faults()
    answer = fast.go(**stretch)
    new = {key: number - before.get(key, 0) for key, number in fast.faults().items() if number != before.get(key, 0)}
    assert set(new) == ({f"fault.{kind}"} if kind else set()), fast.listener.values["last_error"]
    assert words in fast.listener.values["last_error"]
    if kind == "camera_info":
        statuses = {status for _, status, _, _ in fast.listener.poses_of(answer)}
        assert statuses <= {PoseStatus.NO_CAMERA_INFO, PoseStatus.NO_REFERENCE} and statuses
    if kind == "image":
        assert not fast.listener.poses_of(answer)
    assert max(fast.listener.latencies_s(answer), default=0.0) < LATENCY_S
    fast.recover()


@pytest.mark.parametrize(
    ("sent", "paired"),
    [
        ("i1 c1 i2 c2 i3 c3", "i1- i2c2 i3c3"),
        ("c1 i1 c2 i2 i3 c3", "i1c1 i2c2 i3c3"),
        ("c1 i1 i2 i3 c3 i4 c4", "i1c1 i2c1 i3c1 i4c4"),
        ("c0 i1 i2 i3", "i1c0 i2c0 i3c0"),
        ("c1 i1 i2 c1 c2", "i1c1 i2c2"),
        ("c5 i5 i6 c1 i1 c2 i2", "i5c5 i6c5 i1c5 i2c2"),
        ("c1 i1 c2 c3 i3 i2", "i1c1 i3c3 i2c2"),
        ("c1 i1 c3 i3 i2", "i1c1 i3c3 i2c3"),
        ("i1 i2", "i1- i2-"),
    ],
    ids=[
        "image first",
        "either first",
        "one lost",
        "stamped otherwise",
        "one late",
        "bag loop",
        "images swapped",
        "swapped and lost",
        "none",
    ],
)
def test_an_image_waits_for_its_own_calibration_where_the_camera_stamps_both_alike(sent: str, paired: str) -> None:
    found: list[str] = []

    def deliver(image: str, info: str | None, received_s: float) -> None:
        found.append(image.name + (info.name if info else "-"))  # type: ignore[attr-defined, union-attr]

    calibrations = Calibrations(deliver)
    for name in sent.split():
        stamp = SimpleNamespace(sec=int(name[1:]), nanosec=0)
        message = SimpleNamespace(name=name, header=SimpleNamespace(stamp=stamp))
        (calibrations.take_image if name.startswith("i") else calibrations.take_info)(message)
    calibrations.give_up()
    assert " ".join(found) == paired


@pytest.mark.parametrize(
    ("tenths", "left", "words"),
    [
        ("10 11 12", "10 11 12", []),
        ("10 11 11 12", "10 11 12", ["two images carry the stamp 1100000000 ns: expected one for each"]),
        ("0 0 1", "0 1", ["two images carry the stamp 0 ns; the driver does not fill it in"]),
        ("10 12 11 13", "10 12 13", ["out of order, its stamp 1100000000 ns lies 0.100 s before"]),
        ("50 5 6", "50 5 6", ["jumped back by 4.500 s to 500000000 ns: a bag that started again"]),
        ("9 0 1 2 3 4 5", "9 4 5", 4 * ["out of order"] + ["jumped back by 0.500 s"]),
        ("9 8 10 9 11 10 12 11 13 12 14", "9 10 11 12 13 14", 5 * ["out of order"]),
    ],
    ids=["in order", "repeated", "not set", "swapped", "bag loop", "short bag loop", "swapped all the time"],
)
def test_images_go_on_in_the_order_of_their_stamps(tenths: str, left: str, words: list[str]) -> None:
    faults: list[str] = []
    line = TimeLine(lambda kind, reason: faults.append(f"{kind}: {reason}"))
    taken = []
    for word in tenths.split():
        seconds, nanoseconds = divmod(int(word) * SECOND // 10, SECOND)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds))
        if not line.leaves_out(SimpleNamespace(header=header)):
            taken.append(word)
    assert " ".join(taken) == left
    assert len(faults) == len(words)
    assert all(fault.startswith("stamp: ") and word in fault for fault, word in zip(faults, words))


TAKER = """
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from stfm_ros.nodes.subscription import subscribe_guarded

def fail(kind, reason):
    print(kind, reason, flush=True)

def take(message):
    came.append(message.header.stamp.nanosec)
    if len(came) == 1:
        raise RuntimeError("the first one")

rclpy.init()
node, came, lost = rclpy.create_node("taker"), [], []
qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
node.create_subscription(CameraInfo, "camera_info", lambda message: None, qos)
subscription = subscribe_guarded(node, Image, "image", qos, take, lost.append, fail)
idle = 0
while idle < 12:
    before = len(came) + len(lost)
    rclpy.spin_once(node, timeout_sec=0.1)
    idle = 0 if len(came) + len(lost) > before or not before else idle + 1
print(len(came), sum(lost))
"""


def test_losses_are_counted_once_whoever_tells_of_them() -> None:
    lost: list[int] = []
    alone = True
    losses = Losses(lost.append, lambda: alone)
    for number in (7, 8, 11):
        losses.came(number)
    assert sum(lost) == 2, "they made way in the queue"
    losses.told(3)
    losses.came(15)
    assert sum(lost) == 5, "the middleware told of them"
    losses.told(1)
    losses.came(18)
    assert sum(lost) == 7
    losses.came(1)
    losses.came(3)
    assert sum(lost) == 8, "the publisher was started again"
    losses.came(10)
    losses.told(4)
    losses.told(2)
    losses.came(11)
    assert sum(lost) == 14, "a busy process is told when the next message has come already"
    losses = Losses(lost.append, lambda: alone)
    losses.came(1)
    losses.told(4)
    losses.came(2)
    losses.came(7)
    assert sum(lost) == 18, "or before messages that were sent earlier"
    alone = False
    losses.came(900)
    losses.came(None)
    losses.came(901)
    assert sum(lost) == 18, "numbers of two publishers, or none, tell nothing"


def test_what_is_lost_on_the_way_is_counted_and_an_exception_ends_nothing() -> None:
    """Without shared memory most large best-effort images are lost; how many depends on the machine."""
    plain = {**environment(), "ROS_DOMAIN_ID": "101", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
    plain.pop("FASTRTPS_DEFAULT_PROFILES_FILE")
    taker = subprocess.Popen([sys.executable, "-c", TAKER], env=plain, stdout=subprocess.PIPE, text=True)
    camera = subprocess.run([sys.executable, str(HERE / "camera_process.py"), "30", "20"], env=plain, timeout=60)
    said = taker.communicate(timeout=60)[0].splitlines()
    assert camera.returncode == taker.returncode == 0
    came, lost = map(int, said[-1].split())
    assert 13 <= came + lost <= 20, "the end of a row is not noticed where nothing follows"
    if came:
        assert said[0] == "internal RuntimeError: the first one; please report this with a message on image"


def test_repeated_and_late_images_do_not_reach_the_odometry(fast: Bench) -> None:
    """A filter divides by the time between two poses: it has to go on, on one time line."""
    restarts, late = fast.listener.count("odometry_restarts"), fast.listener.count("fault.stamp")
    fast.listener.odometry.clear()
    answers = [fast.go(twice_every=2), fast.go(swap_every=4), fast.recover()]
    assert fast.listener.count("odometry_restarts") == restarts
    assert fast.listener.count("fault.stamp") == late + 5 + 3, "each of them"
    found = list(fast.listener.odometry)
    stamps = [stamp_ns(one.header) for one in found]
    assert len(stamps) > 3 and (np.diff(stamps) > 0).all()
    for one in found:
        twist = one.twist.twist
        assert np.isfinite([twist.linear.x, twist.linear.y, twist.linear.z, twist.angular.x, twist.angular.z]).all()
    for answer in answers:
        statuses = [status for _, status, _, _ in fast.listener.poses_of(answer)]
        assert set(statuses) == {PoseStatus.OK}


def test_a_bag_loop_begins_the_odometry_anew(fast: Bench) -> None:
    restarts = fast.listener.count("odometry_restarts")
    answer = fast.go(jump_s=-20.0)
    assert fast.listener.count("odometry_restarts") == restarts + 1
    assert fast.listener.poses_of(answer)[0][1] == PoseStatus.NO_REFERENCE
    assert "the stamp jumped back" in fast.listener.poses_of(answer)[0][2]


def test_another_camera_frame_begins_anew_and_none_gives_no_odometry(fast: Bench) -> None:
    restarts = fast.listener.count("odometry_restarts")
    fast.listener.odometry.clear()
    fast.go(frame_id="other_optical_frame")
    assert fast.listener.count("odometry_restarts") == restarts + 1
    assert {one.child_frame_id for one in fast.listener.odometry} == {"other_optical_frame"}
    fast.listener.odometry.clear()
    answer = fast.go(frame_id="")
    assert fast.listener.poses_of(answer)[-1][1] == PoseStatus.OK and not fast.listener.odometry
    assert fast.listener.values["odometry"].startswith("no odometry: the images have no frame_id")
    fast.recover()
    assert fast.listener.odometry[-1].child_frame_id == "camera_optical_frame"


def test_a_camera_is_killed_at_work_and_started_again(fast: Bench) -> None:
    fast.camera.begin(count=1000, rate=RATE)
    time.sleep(0.5)
    fast.camera.kill()
    fast.camera = fast.new_camera()
    fast.meet()
    fast.recover()


def test_services_and_transitions_under_load(fast: Bench) -> None:
    def services() -> None:
        for name in ("reset", "set_keyframe", "pause", "resume"):
            answer = fast.trigger(name)
            assert answer is not None and answer.success, name

    fast.go(services, count=20)
    fast.recover()
    change = Transition
    fast.camera.begin(count=40, rate=RATE, subscribers=0)
    fast.transit(change.TRANSITION_DEACTIVATE, change.TRANSITION_ACTIVATE)
    fast.transit(change.TRANSITION_DEACTIVATE, change.TRANSITION_CLEANUP)
    answer = fast.trigger("reset")
    assert answer is None, "there is no service of a node that is not configured"
    fast.transit(change.TRANSITION_CONFIGURE, change.TRANSITION_ACTIVATE)
    fast.camera.answer()
    # this life of the node has seen no calibration yet: images first, calibration late
    for _ in range(20):
        fast.camera.send(count=1, rate=RATE, info="none")
        if fast.listener.wait(lambda: fast.listener.count("received") > 0, 1):
            break
    fast.count_from_here()
    fast.go(info="none")
    fast.recover()
    assert not fast.faults()


def test_a_runtime_that_hangs_is_told_and_holds_up_no_end(ros: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from stfm_ros.nodes import matcher as module

    monkeypatch.setattr(module, "STUCK_S", 0.1)
    node = module.MatcherNode(lambda config: FakeMatcher(config, pair_s=1.0))  # type: ignore[arg-type, return-value]
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        for stamp in (1, 2, 3):
            node._receive(Frame(image_message(stamp, (160, 120)), None, time.monotonic()))
            time.sleep(0.2)
        inputs = node._about_inputs()
        assert inputs is not None
        assert inputs[1]["worker"].startswith("one image has been in work for 0 s: the runtime fake may hang")
        assert not node.stop(patience_s=0.05)
        time.sleep(1.0)
        values = node._statistics.values()
        assert [values[key] for key in ("received", "processed", "dropped", "in_flight")] == ["3", "2", "1", "0"]
    finally:
        node.trigger_deactivate()
        node.trigger_cleanup()
        node.destroy_node()


def test_sixty_hertz_into_five_and_subscribers_under_load(slow: Bench, fast: Bench) -> None:
    """Images are dropped, and each is counted; the delay stays that of one image, whoever listens."""
    silent_s = time.monotonic() - slow.stalled_s
    time.sleep(max(0.0, 10.0 - silent_s))
    slow.listener.settle()
    assert slow.listener.level == b"\x02", "a stall is an error"
    assert "no message on /slow/image for" in slow.listener.summary and "/slow/fault_camera publishes it" in (
        slow.listener.summary
    )
    answer = slow.go(count=1, clock=True)
    answer = slow.go(count=5, rate=4, clock=True)
    slow.assert_recovered(answer)

    memory = slow.node.rss_mb()
    program = (
        "import rclpy; from stfm_ros.msg import Correspondences as C; rclpy.init(); n = rclpy.create_node('hangs');"
        "n.create_subscription(C, 'matches', print, 10); print('here', flush=True); rclpy.spin(n)"
    )
    arguments = [sys.executable, "-c", program, "--ros-args", "-r", "__ns:=/slow"]
    hanging = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True)

    def subscribe() -> None:
        assert hanging.stdout is not None and hanging.stdout.readline().strip() == "here"
        time.sleep(0.5)
        hanging.send_signal(signal.SIGSTOP)

    answer = slow.go(subscribe, count=240, rate=60.0, clock=True)
    hanging.kill()
    hanging.communicate()
    received, processed, dropped = (slow.listener.count(key) for key in ("received", "processed", "dropped"))
    assert received == processed + dropped and dropped > 100
    latencies = slow.listener.latencies_s(answer)
    assert len(latencies) > 4 and max(latencies) < 2 * 0.2 + LATENCY_S
    assert slow.node.rss_mb() - memory < GROWTH_MB

    for jump_s in (3600.0, -7200.0):  # /clock and the stamps
        slow.go(count=3, rate=4, jump_s=jump_s, clock=True)
        answer = slow.go(count=5, rate=4, clock=True)
        slow.assert_recovered(answer)
    assert slow.faults() == {"fault.stamp": 1}


def test_the_end_comes_at_once_and_nothing_was_left_behind(slow: Bench, fast: Bench) -> None:
    assert "fault.internal" not in fast.listener.values, fast.listener.values["last_error"]
    assert fast.node.rss_mb() - fast.rss_mb < GROWTH_MB
    for bench, number in ((fast, signal.SIGTERM), (slow, signal.SIGINT)):
        code, said, seconds = bench.interrupt(number)
        assert code == 0 and "Traceback" not in said, said
        assert seconds < 5, "two, on a computer that does nothing else"
