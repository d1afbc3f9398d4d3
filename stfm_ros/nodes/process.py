"""The life of a process with one lifecycle node."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn

from stfm_ros.errors import StfmError


class Lively(Protocol):
    """A lifecycle node that may start by itself, and is told when the process ends."""

    autostart: bool

    def trigger_configure(self) -> TransitionCallbackReturn: ...

    def trigger_activate(self) -> TransitionCallbackReturn: ...

    def finish(self) -> None:
        """The process ends: finish what is in work."""

    def destroy_node(self) -> None: ...


def run(name: str, make: Callable[[], Lively], args: Sequence[str] | None = None) -> int:
    """Run a node until it is interrupted.

    Args:
        name: of the node, for what is wrong before there is one.

    Returns:
        0; 1 where it could not be configured or activated; 2 for faults of its parameters.
    """
    rclpy.init(args=args)
    try:
        return _run(name, make)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Exception:
        if rclpy.ok():
            raise
        return 0  # SIGTERM came during the start, and rclpy closed what was just being made
    finally:
        rclpy.try_shutdown()


def _run(name: str, make: Callable[[], Lively]) -> int:
    try:
        node = make()
    except StfmError as fault:
        print(f"{name}: {fault}", file=sys.stderr)
        return 2
    try:
        if node.autostart:
            for step in (node.trigger_configure, node.trigger_activate):
                if step() != TransitionCallbackReturn.SUCCESS:
                    return 1
        rclpy.spin(node)
    finally:
        node.finish()
        node.destroy_node()
    return 0
