"""The matcher node: a camera in; correspondences, relative pose and, where there are metres, odometry out.

A lifecycle node: configure loads the model, activate subscribes. By itself (``node.autostart``) it does both at start,
so that it runs without a lifecycle manager. docs/node.md describes topics, parameters and diagnostics.

    stfm-matcher --ros-args -r image:=/camera/image_raw --params-file matcher.yaml
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from stfm_ros import messages
from stfm_ros.config import AppConfig, MatcherConfig
from stfm_ros.errors import ConfigError, StfmError
from stfm_ros.frames import Frame, FrameWalk, TimeLine
from stfm_ros.nodes import memory, params, process
from stfm_ros.nodes.diagnostics import Diagnostics
from stfm_ros.nodes.inputs import Inputs
from stfm_ros.nodes.logs import forwarded
from stfm_ros.nodes.odometry import NodeOdometry
from stfm_ros.nodes.outputs import Outputs
from stfm_ros.nodes.services import Services
from stfm_ros.nodes.statistics import Statistics, Throttle, shortened
from stfm_ros.nodes.worker import Worker
from stfm_ros.tracker import Tracker

if TYPE_CHECKING:
    from stfm_ros.matcher import Matcher
    from stfm_ros.tracker import Track

    Load = Callable[[MatcherConfig], Matcher]

LOG_PERIOD_S = 5.0
#: an image that takes longer is reported
STUCK_S = 10.0
#: how long the image in work may hold up the end of the process
PATIENCE_S = 1.0
#: stages of an image that are not the node's own work; what remains of the total is its overhead
NOT_OVERHEAD = ("wait", "features", "pair", "pose")


def load_matcher(config: MatcherConfig) -> Matcher:
    """The network; its runtime is imported here, when the node is configured."""
    from stfm_ros.matcher import Matcher

    return Matcher.from_pretrained(config)


class MatcherNode(LifecycleNode):
    """See the module.

    Args:
        load: makes the matcher when the node is configured.

    Attributes:
        NAME: of the node.
        CONFIG: the class of its parameters.

    Raises:
        ConfigError: lists every parameter that is unknown, of a wrong type or out of range.
    """

    NAME = "matcher"
    CONFIG: type[AppConfig] = AppConfig

    def __init__(self, load: Load = load_matcher) -> None:
        super().__init__(self.NAME, automatically_declare_parameters_from_overrides=True)
        self._load = load
        self._throttle = Throttle(LOG_PERIOD_S)
        self._outputs: Outputs | None = None
        self._inputs: Inputs | None = None
        self._worker = Worker(self._process, lambda: self._statistics.drop(), self._broken)
        self.autostart = params.declare(self, self.CONFIG).node.autostart
        params.guard(self, self.CONFIG, may_change=lambda: self._outputs is None, apply=self._reconfigure)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and open the outputs."""
        try:
            self._configure()
        except StfmError as fault:
            self.get_logger().fatal(f"cannot be configured: {fault}")
            return TransitionCallbackReturn.FAILURE
        except Exception as fault:  # rclpy would swallow it without a word
            self.get_logger().fatal(f"cannot be configured: {type(fault).__name__}: {fault}")
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def _configure(self) -> None:
        started = time.monotonic()
        self._config = params.read(self, self.CONFIG)
        with forwarded(self.get_logger()):  # an engine may be built, for minutes
            self._matcher = matcher = self._load(self._config.matcher)
        self._check(matcher)
        self._odometry = NodeOdometry(self, self._config)
        self._tracker = Tracker(matcher, self._config, self._odometry.scale)
        self._statistics = Statistics()
        about = {
            "model": matcher.model_name,
            "weights_hash": matcher.weights_hash,
            "runtime": matcher.runtime_name,
            "runtime_reason": matcher.reason,
        }
        period_s = self._config.node.diagnostics_period_s
        self._outputs = Outputs(self, self._config, matcher.model_name, matcher.weights_hash)
        actions = {"reset": self._reset, "set_keyframe": self._renew, "pause": self._pause, "resume": self._resume}
        self._triggers = Services(self, actions)
        self._diagnostics = Diagnostics(
            self, self._statistics, period_s, about, self._about_inputs, self._warning, self._throttle
        )
        self.get_logger().info(
            f"model {matcher.model_name} ({matcher.weights_hash[:12]}) on {matcher.runtime_name} ({matcher.reason}), "
            f"loaded in {time.monotonic() - started:.1f} s"
        )

    # -- what a node may do in a way of its own --------------------------------------------------------

    def _check(self, matcher: Matcher) -> None:
        """Refuse a model that this node has no use for.

        Raises:
            ConfigError: says which node has.
        """
        if matcher.takes_depth:
            raise ConfigError(
                f"matcher.model: {self._config.matcher.model} takes colour and depth (RGB-D, a teacher), and the "
                "matcher node has no depth for it: name an RGB model (default), or start the teacher node "
                "(teacher.launch.py, stfm-teacher)"
            )

    def _enter(self, frame: Frame) -> None:
        """A frame that is to be worked on came in."""
        self._worker.submit(frame)

    def _took(self, message: Any) -> None:
        """The source of metres has taken a message."""

    def _after(self, track: Track) -> None:
        """Everything was published of a track; in the thread of the worker."""

    def _let_go(self) -> None:
        """The model and the outputs are gone."""

    def _warning(self) -> str:
        """What is amiss though every image gives a result; empty where nothing is."""
        return ""

    # ---------------------------------------------------------------------------------------------------

    def _reconfigure(self, config: AppConfig) -> None:
        """Take settings that may change while the node runs; the next image is the first they are for."""
        assert self._outputs is not None
        self._config = self._tracker.config = config
        self._matcher.config = config.matcher
        self._odometry.configure(config)
        self._outputs.configure(config)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to work."""
        try:
            self._activate()
        except Exception as fault:  # rclpy would swallow it without a word
            self.get_logger().fatal(f"cannot be activated: {type(fault).__name__}: {fault}")
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def _activate(self) -> None:
        self._tracker.reset()
        self._walk = FrameWalk(self._tracker, self._fault)
        self._line = TimeLine(self._fault)
        self._paused = False
        self._errands: deque[Callable[[], None]] = deque()  # for the thread of the worker, before its next image
        wanted = self._config.node
        self._inputs = Inputs(
            self, self._config, self._receive, self._odometry.scale, self._took, self._fault, self._statistics.lose
        )
        self._worker.open(1 if wanted.policy == "newest" else wanted.queue)
        topics = filter(None, (self._inputs.image_topic, self._inputs.info_topic, self._inputs.scale_topic))
        self.get_logger().info(f"subscribed to {', '.join(topics)} (images {wanted.reliability})")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and finish the image in work."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and of the outputs."""
        self.stop()
        if self._outputs is not None:
            self._outputs.close()
            self._triggers.close()
            self._diagnostics.close()
            self._outputs = None
            self._odometry.close()
            del self._matcher, self._tracker, self._odometry
            self._let_go()
            memory.give_back()
        return TransitionCallbackReturn.SUCCESS

    on_shutdown = on_cleanup
    on_error = on_cleanup

    def stop(self, patience_s: float | None = None) -> bool:
        """Unsubscribe and finish the image in work; does nothing where the node is not active.

        Args:
            patience_s: how long it may take; None is for ever.

        Returns:
            Whether nothing is in work any more.
        """
        if self._inputs is None:
            return True
        self._inputs.close()
        self._inputs = None
        return self._worker.close(patience_s)

    def finish(self) -> None:
        """The process ends: stop, but do not wait for ever."""
        if not self.stop(PATIENCE_S):
            print(f"{self.NAME}: did not wait longer than {PATIENCE_S:g} s for the image in work", file=sys.stderr)

    def destroy_node(self) -> None:
        """See rclpy; the thread ends as well."""
        self._worker.end()
        super().destroy_node()

    def _receive(self, frame: Frame) -> None:
        age_ns = self.get_clock().now().nanoseconds - messages.stamp_ns(frame.image.header)
        self._statistics.receive(age_ns / 1e6)
        if self._paused:
            self._statistics.drop()
        elif self._line.leaves_out(frame.image):  # here, for a late image must not take the place of the newest
            self._statistics.fail()
        else:
            self._enter(frame)

    def _process(self, frame: Frame) -> None:
        """One frame, in the thread of the worker."""
        assert self._outputs is not None
        while self._errands:
            self._errands.popleft()()
        track = self._walk(frame)
        started = time.monotonic()
        if track is None or not (self._attempt(self._outputs.publish, track) and self._attempt(self._place, track)):
            self._statistics.fail()
            return
        now = time.monotonic()
        latency_ms = {**track.timings_ms, "publish": 1e3 * (now - started), "total": 1e3 * (now - frame.received_s)}
        latency_ms["overhead"] = latency_ms["total"] - sum(latency_ms[stage] for stage in NOT_OVERHEAD)
        self._statistics.succeed(track.pose.status.name, latency_ms, int(track.pose.inliers.sum()))
        self._attempt(self._outputs.draw, track)
        self._attempt(self._after, track)

    def _place(self, track: Track) -> None:
        """Odometry of an image, or a word that there is none."""
        assert self._outputs is not None
        restarts = self._odometry.restarts
        estimate = self._odometry.add(track)
        if self._odometry.restarts > restarts:
            self._outputs.forget_path()
        if self._odometry.enabled:
            self._statistics.place(estimate is not None)
            if estimate is not None:
                self._outputs.publish_odometry(track, estimate)
            elif self._odometry.begun:
                self._outputs.publish_lost(track)

    def _reset(self) -> str | None:
        return self._leave(self._forget, "the next image is the first reference, and the origin of the odometry")

    def _forget(self) -> None:
        assert self._outputs is not None
        self._tracker.reset("asked for by the service reset")
        self._odometry.reset()
        self._outputs.forget_path()

    def _renew(self) -> str | None:
        return self._leave(self._tracker.renew, "the next image that has a pose is the new keyframe")

    def _leave(self, errand: Callable[[], None], said: str) -> str | None:
        if self._inputs is None:
            return None
        self._errands.append(errand)
        return said

    def _pause(self) -> str | None:
        return self._set_paused(True, "paused: images are counted as dropped until ~/resume")

    def _resume(self) -> str | None:
        return self._set_paused(False, "resumed")

    def _set_paused(self, paused: bool, said: str) -> str | None:
        if self._inputs is None:
            return None
        self._paused = paused
        self.get_logger().info(said)
        return said

    def _attempt(self, step: Callable[[Track], None], track: Track) -> bool:
        """Whether a step went well; the worker's thread must outlive whatever one frame does."""
        try:
            step(track)
        except Exception as fault:
            if self.context.ok():  # else the node is being shut down and nothing can be published
                self._fault("internal", f"{type(fault).__name__}: {fault}; please report this with the image")
            return False
        return True

    def _broken(self, fault: Exception) -> None:
        """A frame ended with an exception that nobody expected."""
        self._fault("internal", f"{type(fault).__name__}: {fault}; please report this with the image")
        self._statistics.fail()

    def _fault(self, kind: str, reason: str) -> None:
        reason = shortened(reason)
        self._statistics.fault(kind, reason)
        if self._throttle.allows(kind):
            self.get_logger().warning(f"{kind}: {reason}")

    def _about_inputs(self) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        if self._inputs is None:
            return None
        topics = {"image_topic": self._inputs.image_topic, "camera_info_topic": self._inputs.info_topic}
        if self._inputs.scale_topic:
            topics["scale_topic"] = self._inputs.scale_topic
        return {**topics, **self._odometry.about(), "paused": str(self._paused).lower()}, self._silence(self._inputs)

    def _silence(self, inputs: Inputs) -> Mapping[str, str]:
        """Why nothing comes in, by topic, or nothing comes out."""
        busy_s = self._worker.busy_s
        if busy_s < STUCK_S:
            return inputs.silence()
        name = self._matcher.runtime_name
        why = f"the runtime {name} may hang (driver, GPU, a machine without memory); restart the node if it goes on"
        return {**inputs.silence(), "worker": f"one image has been in work for {busy_s:.0f} s: {why}"}


def main(
    args: Sequence[str] | None = None, load: Load = load_matcher, node_class: type[MatcherNode] = MatcherNode
) -> int:
    """Run the node until it is interrupted; the exit code is that of :func:`stfm_ros.nodes.process.run`."""
    return process.run(node_class.NAME, lambda: node_class(load), args)


if __name__ == "__main__":
    sys.exit(main())
