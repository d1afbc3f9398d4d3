"""The ROS side: the only importer of rclpy. One module for each concern; nodes: matcher, teacher, recorder."""

import sys
from importlib import import_module


def matcher_script() -> int:
    """What ``stfm-matcher`` runs."""
    return _run("matcher")


def teacher_script() -> int:
    """What ``stfm-teacher`` runs."""
    return _run("teacher")


def recorder_script() -> int:
    """What ``stfm-recorder`` runs."""
    return _run("recorder")


def _run(name: str) -> int:
    """Run a node, or say how to get ROS where there is none."""
    try:
        node = import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as missing:
        if missing.name is None or (missing.name.partition(".")[0] == "stfm_ros" and missing.name != "stfm_ros.msg"):
            raise
        print(
            f"stfm-{name}: {missing.name} cannot be imported: the node needs ROS 2 and the messages of this package; "
            "source ROS 2 (or pip install -r requirements/ros-jazzy.txt), then install stfm_ros again there",
            file=sys.stderr,
        )
        return 2
    code: int = node.main()
    return code
