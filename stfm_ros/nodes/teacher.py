"""The teacher node: a depth camera in; the matches and metric poses of an RGB-D model out, while data are collected.

The matcher node (:mod:`stfm_ros.nodes.matcher`) with a model that looks at depth too: each image waits for its depth,
metres come from that depth, and /diagnostics says how well the two go together. docs/teacher.md describes it.

    stfm-teacher --ros-args -r __ns:=/teacher -r image:=/camera/image_raw -r depth:=/camera/aligned_depth_to_color
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from rclpy.clock import Clock, ClockType

from stfm_ros.config import TeacherAppConfig
from stfm_ros.errors import ConfigError
from stfm_ros.messages import stamp_ns
from stfm_ros.nodes import matcher as base
from stfm_ros.nodes.depth_gate import DepthGate, DepthStatistics, Patience
from stfm_ros.nodes.shadow import NodeShadow, load_student
from stfm_ros.nodes.subscription import guarded
from stfm_ros.scale import DepthScale

if TYPE_CHECKING:
    from stfm_ros.config import AppConfig
    from stfm_ros.frames import Frame
    from stfm_ros.matcher import Matcher
    from stfm_ros.tracker import Track

#: how often it is seen to that no image waits too long
TICK_S = 0.02


class TeacherNode(base.MatcherNode):
    """See the module."""

    NAME = "teacher"
    CONFIG = TeacherAppConfig
    _config: TeacherAppConfig

    def _check(self, matcher: Matcher) -> None:
        if not matcher.takes_depth:
            raise ConfigError(
                f"matcher.model: {self._config.matcher.model} takes colour alone, and the teacher node is for a model "
                "that takes depth too: name an RGB-D model (teacher), or start the matcher node (matcher.launch.py, "
                "stfm-matcher) with odometry.scale depth for metres"
            )
        self._student = load_student(self._load, self._config)

    def _configure(self) -> None:
        super()._configure()
        self._depth_statistics = DepthStatistics()
        about = self._matcher.model_name, self._matcher.weights_hash
        self._shadow: NodeShadow | None = None
        if self._student is not None:
            self._shadow = NodeShadow(self, self._student, self._config, about, self._fault)

    def _reconfigure(self, config: AppConfig) -> None:
        super()._reconfigure(config)
        if self._inputs is not None:
            self._gate.patience = self._patience
        if self._shadow is not None:
            self._shadow.configure(self._config)

    def _activate(self) -> None:
        super()._activate()
        assert self._inputs is not None
        depths = cast(DepthScale, self._odometry.scale)
        topics = self._inputs.image_topic, self._inputs.scale_topic
        self._gate = DepthGate(depths.find, self._submit, self._give_up, self._patience, *topics)
        self._timer = self.create_timer(
            TICK_S, guarded(self._tick, self._fault, "the image"), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()  # until an image waits

    def stop(self, patience_s: float | None = None) -> bool:
        """See :class:`stfm_ros.nodes.matcher.MatcherNode`; images that wait for their depth are dropped."""
        active = self._inputs is not None
        done = super().stop(patience_s)
        if active:
            self.destroy_timer(self._timer)
            for _ in self._gate.close():
                self._statistics.drop()
        return done

    # -- an image and its depth --------------------------------------------------------------------------

    def _enter(self, frame: Frame) -> None:
        self._gate.take_frame(frame)
        if self._timer.is_canceled():
            self._timer.reset()

    def _took(self, message: Any) -> None:
        self._depth_statistics.receive((self.get_clock().now().nanoseconds - stamp_ns(message.header)) / 1e6)
        self._gate.take_depth(message)

    def _tick(self) -> None:
        self._gate.tick()
        if not len(self._gate):
            self._timer.cancel()

    def _submit(self, frame: Frame) -> None:
        assert frame.depth is not None
        self._depth_statistics.pair(stamp_ns(frame.depth.header) - stamp_ns(frame.image.header))
        self._worker.submit(frame)

    def _give_up(self, frame: Frame, why: str) -> None:
        self._depth_statistics.miss()
        self._fault("sync", why)
        self._statistics.fail()

    def _after(self, track: Track) -> None:
        if track.depth1 is not None:
            self._depth_statistics.cover(track.depth1)
        if self._shadow is not None:
            self._shadow.take(track)

    def _let_go(self) -> None:
        if self._shadow is not None:
            self._shadow.close()
        self._shadow = self._student = None

    # -- /diagnostics ------------------------------------------------------------------------------------

    def _about_inputs(self) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        found = super()._about_inputs()
        return found and ({**found[0], **self._depth_statistics.values()}, found[1])

    def _warning(self) -> str:
        coverage, wanted = self._depth_statistics.coverage, self._config.teacher.min_coverage
        if coverage is None or coverage >= wanted:
            return ""
        return (
            f"depth covers {coverage:.0%} of the pixels (median), expected {wanted:.0%} at least "
            "(teacher.min_coverage): check the range of the camera, its filters and exposure, and that its depth is "
            "registered to the colour image"
        )

    @property
    def _patience(self) -> Patience:
        return Patience(self._config.odometry.depth_slop_s, self._config.teacher.depth_wait_s)


def main(args: Sequence[str] | None = None, load: base.Load = base.load_matcher) -> int:
    """Run the node until it is interrupted; see :func:`stfm_ros.nodes.matcher.main`."""
    return base.main(args, load, TeacherNode)


if __name__ == "__main__":
    sys.exit(main())
