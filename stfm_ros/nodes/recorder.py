"""The recorder node: a camera, its depth and what a teacher says of them in; bags that are worth training on out.

A lifecycle node: configure checks the folder and finishes bags that were interrupted there, activate begins a bag,
deactivate finishes it. By itself (``node.autostart``) it does the first two at start. docs/recording.md describes
parameters, services and diagnostics.

    stfm-recorder --ros-args -r image:=/camera/image_raw -r depth:=/camera/depth -p bag.folder:=recordings
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from stfm_ros.errors import BagError, StfmError
from stfm_ros.nodes import params, process
from stfm_ros.nodes.recorder_hints import Hints
from stfm_ros.nodes.recorder_inputs import RecorderInputs
from stfm_ros.nodes.recorder_report import Report, Situation, in_words
from stfm_ros.nodes.recorder_topics import wanted_topics
from stfm_ros.nodes.services import Services
from stfm_ros.nodes.statistics import Throttle, shortened
from stfm_ros.recording.config import RecorderAppConfig
from stfm_ros.recording.recorder import Recorder, Topic, check_room
from stfm_ros.recording.recover import interrupted, recover

LOG_PERIOD_S = 5.0


class RecorderNode(LifecycleNode):
    """See the module.

    Raises:
        ConfigError: lists every parameter that is unknown, of a wrong type or out of range.
    """

    def __init__(self) -> None:
        super().__init__("recorder", automatically_declare_parameters_from_overrides=True)
        self._throttle = Throttle(LOG_PERIOD_S)
        self._report: Report | None = None
        self._recorder: Recorder | None = None
        self.autostart = params.declare(self, RecorderAppConfig).node.autostart
        params.guard(self, RecorderAppConfig, may_change=lambda: self._report is None, apply=lambda config: None)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the folder, and finish what was interrupted there."""
        return super().on_configure(state) if self._attempt(self._configure, "configured") else _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin a bag."""
        return super().on_activate(state) if self._attempt(self._begin, "activated") else _FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the bag."""
        self.finish()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the bag, and say nothing any more."""
        self.finish()
        if self._report is not None:
            self._report.close()
            self._triggers.close()
            self._report = None
        return TransitionCallbackReturn.SUCCESS

    on_shutdown = on_cleanup
    on_error = on_cleanup

    def finish(self) -> None:
        """Finish the bag; does nothing where there is none."""
        if self._recorder is None:
            return
        self._inputs.close()
        recorder, self._recorder = self._recorder, None
        status = recorder.close()
        image = next(iter(status.topics.values()))  # the first topic that is wanted
        text = f"{recorder.folder}: {status.reason}; {status.bytes_written / 1e6:.1f} MB, frames {in_words(image)}"
        if self.context.ok():
            self.get_logger().info(text)
        else:  # the process ends, and ROS's log has ended before it
            print(f"recorder: {text}", file=sys.stderr)

    def _configure(self) -> None:
        config = params.read(self, RecorderAppConfig)
        self._topics = wanted_topics(self, config.topics)
        self._config = config = _without_idle_wait(config)
        folder = Path(config.bag.folder).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise BagError(f"bag.folder: {folder} cannot be made ({fault}): name a folder that can") from fault
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BagError(f"bag.folder: {folder} cannot be written: name another, or change its permissions")
        if config.bag.recover:
            self._recover(folder)
        check_room(folder, config.storage.keep_free_mb)
        self._folder = folder
        self._triggers = Services(self, {"pause": self._pause, "resume": self._resume, "new_bag": self._begin_another})
        period_s = config.node.diagnostics_period_s
        self._report = Report(self, period_s, self._situation, self._fault, self._throttle)

    def _recover(self, folder: Path) -> None:
        """Finish the bags that a kill or a power cut left."""
        for bag in interrupted(folder):
            try:
                told = recover(bag)
            except (BagError, OSError) as fault:
                self.get_logger().warning(f"{bag} was interrupted and cannot be finished: {fault}")
                continue
            losses = ", ".join(
                f"{topic} {loss.counted} to {loss.counted + loss.uncounted_about}"
                for topic, loss in (told.lost or {}).items()
            )
            self.get_logger().warning(
                f"{bag} was interrupted and is finished now: {sum(told.messages.values())} messages; lost: "
                f"{losses or 'not known'}"
            )

    def _begin(self) -> None:
        config = self._config
        folder = self._folder / f"{config.bag.prefix}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        while folder.exists():
            folder = folder.with_name(f"{folder.name}_")
        known = [Topic(wanted.name, wanted.type, wanted.role) for wanted in self._topics if wanted.type]
        about = {"note": config.bag.note, "node": self.get_fully_qualified_name()}
        self._recorder = Recorder(folder, known, config, about)
        self._inputs = RecorderInputs(self, self._topics, self._recorder, Hints(self._recorder).hear, self._fault)
        names = ", ".join(wanted.name for wanted in self._topics)
        self.get_logger().info(f"records to {folder}, frames: {config.selection.keep}; waits for {names}")

    def _pause(self) -> str | None:
        return self._set_paused(True, "paused: messages are counted as left out until ~/resume")

    def _resume(self) -> str | None:
        return self._set_paused(False, "resumed")

    def _set_paused(self, paused: bool, said: str) -> str | None:
        if self._recorder is None:
            return None
        self._recorder.paused = paused
        self.get_logger().info(said)
        return said

    def _begin_another(self) -> str | None:
        if self._recorder is None:
            return None
        before = self._recorder.folder
        check_room(self._folder, self._config.storage.keep_free_mb)
        self.finish()
        self._begin()
        return f"{before} is finished, {self._recorder.folder} is begun"

    def _situation(self) -> Situation | None:
        recorder = self._recorder
        if recorder is None:
            return None
        return Situation(str(recorder.folder), recorder.status(), recorder.paused, self._inputs.silence())

    def _attempt(self, step: Callable[[], None], what: str) -> bool:
        """Whether a step went well; rclpy would swallow its exceptions without a word."""
        try:
            step()
        except StfmError as fault:
            self.get_logger().fatal(f"cannot be {what}: {fault}")
        except Exception as fault:
            self.get_logger().fatal(f"cannot be {what}: {type(fault).__name__}: {fault}")
        else:
            return True
        return False

    def _fault(self, kind: str, reason: str) -> None:
        if self._throttle.allows(kind):
            self.get_logger().warning(f"{kind}: {shortened(reason)}")


_FAILURE = TransitionCallbackReturn.FAILURE


def _without_idle_wait(config: RecorderAppConfig) -> RecorderAppConfig:
    """Where no teacher is listened to, no frame waits for what it says."""
    if config.topics.student_check.strip():
        return config
    return replace(config, selection=replace(config.selection, min_disagreement=0.0))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; the exit code is that of :func:`stfm_ros.nodes.process.run`."""
    return process.run("recorder", RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
