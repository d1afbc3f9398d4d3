"""The ROS side: the only importer of rclpy. One module for each concern, the node itself in ``matcher``."""

import sys


def matcher_script() -> int:
    """What ``stfm-matcher`` runs: the node, or a word on how to get ROS where there is none."""
    try:
        from stfm_ros.nodes.matcher import main
    except ModuleNotFoundError as missing:
        if missing.name is None or (missing.name.partition(".")[0] == "stfm_ros" and missing.name != "stfm_ros.msg"):
            raise
        print(
            f"stfm-matcher: {missing.name} cannot be imported: the node needs ROS 2 and the messages of this package; "
            "source ROS 2 (or pip install -r requirements/ros-jazzy.txt), then install stfm_ros again there",
            file=sys.stderr,
        )
        return 2
    return main()
