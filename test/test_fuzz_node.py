"""Malformed messages into the callbacks of the node, in this process, and as bytes over DDS into a node in another one.

With ``test_fuzz.py`` 10,000 of them; see there.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

import rclpy
from camera_process import image_message, info_message
from fake_matcher_node import FakeMatcher
from geometry_msgs.msg import TwistStamped
from hypothesis import given
from hypothesis import strategies as st
from malformed import camera_infos, compressed_images, images, odometries, record, twists
from nav_msgs.msg import Odometry
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from ros_bench import environment, observer, running
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from test_fuzz import MESSAGES, drawn

from stfm_ros import messages
from stfm_ros.config import OdometryConfig
from stfm_ros.errors import ImageError
from stfm_ros.images import decode_image
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.nodes.matcher import MatcherNode
from stfm_ros.nodes.outputs import TOPICS
from stfm_ros.scale import SOURCES

#: messages that are given to the node between two looks at what it has counted
BATCH = 25


class Rig:
    """A node in this process whose callbacks are called directly, and another that subscribes to all it publishes."""

    def __init__(self, scale: str, transport: str) -> None:
        self.node = MatcherNode(load=FakeMatcher)  # type: ignore[arg-type]
        for step in (self.node.trigger_configure, self.node.trigger_activate):
            assert step() == TransitionCallbackReturn.SUCCESS
        self.listener = Node("listener")
        for kind, topic, _ in TOPICS.values():
            self.listener.create_subscription(kind, topic, lambda msg: None, 1)
        deadline = time.monotonic() + 30
        while any(not self.node.count_subscribers(f"/{topic}") for _, topic, _ in TOPICS.values()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        topic = {"odometry": "/scale/odometry", "twist": "/scale/twist", "depth": "/depth"}.get(scale, "")
        subscriptions = {subscription.topic_name: subscription for subscription in self.node.subscriptions}
        self.callbacks: dict[str, Callable[[Any], None]] = {
            name: functools.partial(_call, subscription) for name, subscription in subscriptions.items()
        }
        self.scale_topic = f"{topic}/{transport}" if transport else topic
        self.oracle = SOURCES[scale][0](OdometryConfig(), None) if topic else None
        self.stamp_ns = 1_500_000_000_000_000_000
        self.expected: Counter[str] = Counter()

    def close(self) -> None:
        self.node.stop()
        self.listener.destroy_node()
        self.node.destroy_node()

    def count(self, key: str) -> int:
        return int(self.node._statistics.values().get(key, "0"))

    def results(self) -> int:
        values = self.node._statistics.values()
        return int(values["processed"]) - int(values["failed"])

    def give(self, kind: str, fields: Any) -> None:
        """A message, and what has to be counted of it."""
        if kind == "good image":
            self.good_image()
        elif kind == "image":
            try:
                decode_image(record(fields))
                messages.valid_stamp_ns(record(fields["header"]))
            except ImageError:
                self.expected["fault.image"] += 1
            self.expected["received"] += 1
            self.callbacks["/image"](to_ros(Image, fields))
        elif kind == "info":
            self.callbacks["/camera_info"](to_ros(CameraInfo, fields))
        elif self.oracle is not None:
            msg = to_ros(SCALES[self.scale_topic], fields)
            try:
                self.oracle.take(msg)
            except ImageError:
                self.expected["fault.scale"] += 1
            self.callbacks[self.scale_topic](msg)

    def good_image(self) -> None:
        self.stamp_ns += 10_000_000_000
        self.expected["received"] += 1
        self.callbacks["/image"](image_message(self.stamp_ns))
        if self.scale_topic == "/depth":
            depth = messages.depth_image(self.stamp_ns, "camera", np.full((480, 640), 5, np.float32))
            self.callbacks["/depth"](to_ros(Image, depth))

    def settle(self) -> None:
        """Wait until nothing is in flight; then two good images have to give results, and all has to be counted."""
        self.callbacks["/camera_info"](info_message(self.stamp_ns))  # for which the last image may have waited
        self._until_done()
        before = self.results()
        for _ in range(2):
            self.good_image()
            self._until_done()
        values = self.node._statistics.values()
        numbers = [int(values[name]) for name in ("received", "processed", "dropped", "in_flight")]
        assert numbers[0] == sum(numbers[1:]) == self.expected["received"] and numbers[2] == numbers[3] == 0
        assert self.count("fault.scale") == self.expected["fault.scale"], values["last_error"]
        assert self.count("failed") >= self.expected["fault.image"] >= self.count("fault.image"), values["last_error"]
        assert self.count("fault.image") + self.count("fault.stamp") >= self.count("failed"), values["last_error"]
        for kind in ("fault.internal", "fault.tracker"):
            assert kind not in values, values["last_error"]
        assert self.results() == before + 2, values["last_error"]
        assert len(values["last_error"]) < 3000

    def _until_done(self) -> None:
        counts = self.node._statistics._counts  # all its lines would take a millisecond
        deadline = time.monotonic() + 30
        while counts["received"] > counts["processed"] + counts["dropped"]:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def _call(subscription: Any, msg: Any) -> None:
    """As the executor does."""
    subscription.callback(msg, {"publication_sequence_number": None})


SCALES: dict[str, type[Any]] = {
    "/depth": Image,
    "/depth/compressedDepth": CompressedImage,
    "/scale/odometry": Odometry,
    "/scale/twist": TwistStamped,
}
STRATEGIES = {
    "": st.nothing(),
    "/depth": images(("16UC1", "32FC1", "mono16", "rgb8")),
    "/depth/compressedDepth": compressed_images(),
    "/scale/odometry": odometries(),
    "/scale/twist": twists(),
}


@contextmanager
def rig(scale: str, transport: str) -> Iterator[Rig]:
    settings = {
        "odometry.scale": scale,
        "odometry.allow_unscaled": "true",
        "node.policy": "keep_all",
        "node.queue": "10000",
        "node.depth_transport": transport or "raw",
        "node.when_lost": "null",
        "tracker.reference": "previous",
    }
    words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        rclpy.init(args=["--ros-args", "--log-level", "fatal", *words])
        found = Rig(scale, transport)
        try:
            yield found
        finally:
            found.close()
            rclpy.try_shutdown()


@pytest.mark.parametrize(
    ("scale", "transport"), [("none", ""), ("depth", ""), ("depth", "compressedDepth"), ("odometry", ""), ("twist", "")]
)
def test_the_callbacks_count_every_message_and_go_on(scale: str, transport: str) -> None:
    with rig(scale, transport) as node:
        of_kind = {
            "image": images(),
            "info": camera_infos(),
            "scale": STRATEGIES[node.scale_topic],
            "good image": st.none(),
        }
        kinds = ["image"] * 3 + ["info"] * 2 + ["scale"] * 3 * bool(node.scale_topic) + ["good image"]
        one = st.sampled_from(kinds).flatmap(lambda kind: st.tuples(st.just(kind), of_kind[kind]))

        failed: list[Exception] = []

        @drawn(0.07 / BATCH, shrink=False)
        @given(st.lists(one, min_size=BATCH, max_size=BATCH))
        def feed(given_messages: list[tuple[str, Any]]) -> None:
            if failed:  # hypothesis tries again what failed, but the node is not as it was
                raise failed[0]
            try:
                for kind, fields in given_messages:
                    node.give(kind, fields)
                node.settle()
            except Exception as fault:
                failed.append(fault)
                raise

        feed()
        print(node.node._statistics.values())


KINDS: dict[type[Any], tuple[str, st.SearchStrategy[dict[str, Any]]]] = {
    Image: ("image", images()),
    CameraInfo: ("camera_info", camera_infos()),
    Odometry: ("scale/odometry", odometries()),
}


@st.composite
def on_the_wire(draw: st.DrawFn) -> tuple[type[Any], bytes]:
    """A malformed message in CDR, half of them cut off or with changed bytes, which no right publisher would send."""
    kind = draw(st.sampled_from((Image, Image, CameraInfo, Odometry)))
    data = bytearray(serialize_message(to_ros(kind, draw(KINDS[kind][1]))))
    if draw(st.booleans()):
        places = st.integers(4, min(len(data), 90) - 1)  # the header says how the rest is to be read
        for at, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
            data[at] = value
        del data[draw(st.just(len(data)) | st.integers(4, len(data))) :]
    return kind, bytes(data)


def test_a_node_on_the_wire_outlives_them() -> None:
    reliable = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
    settings = {
        "odometry.scale": "odometry",
        "node.policy": "keep_all",
        "node.queue": "10000",
        "node.reliability": "reliable",
        "node.scale_reliability": "reliable",
    }
    words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    with observer() as watch, running(*words) as node:
        watch.most_in_flight = 10_000
        publishers = {kind: watch.create_publisher(kind, topic, reliable) for kind, (topic, _) in KINDS.items()}
        watch.until("subscribers", lambda: all(one.get_subscription_count() for one in publishers.values()))
        time.sleep(1.0)  # the other side may still be about to match
        stamp_ns = 1_500_000_000_000_000_000

        def good_images() -> None:
            nonlocal stamp_ns
            before = watch.count("processed") - watch.count("failed")
            for _ in range(2):
                stamp_ns += 10_000_000_000
                publishers[CameraInfo].publish(info_message(stamp_ns))
                publishers[Image].publish(image_message(stamp_ns))
            watch.until("two results", lambda: watch.count("processed") - watch.count("failed") == before + 2)

        good_images()
        memory = node.rss_mb()

        @drawn(0.05 / BATCH, shrink=False)
        @given(st.lists(on_the_wire(), min_size=BATCH, max_size=BATCH))
        def send(batch: list[tuple[type[Any], bytes]]) -> None:
            for kind, data in batch:
                publishers[kind].publish(data)
            time.sleep(0.05)

        send()
        seen = -1
        while seen < watch.count("received") or watch.count("in_flight"):  # some are still on their way
            seen = watch.count("received")
            time.sleep(1.0)
        good_images()
        watch.until("end", lambda: watch.count("in_flight") == 0)
        assert watch.count("received") > 0.1 * MESSAGES * 0.05
        assert watch.count("fault.image") > 0 and watch.count("fault.scale") > 0
        assert "fault.internal" not in watch.values, watch.values["last_error"]
        assert node.rss_mb() - memory < 60
        print(watch.values)
