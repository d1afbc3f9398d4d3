"""Starts the teacher node while data are collected: an RGB-D camera in, matches and metric poses out.

    ros2 launch stfm_ros teacher.launch.py image:=/camera/image_raw depth:=/camera/aligned_depth_to_color/image_raw
    ros2 launch stfm_ros teacher.launch.py image:=/rgb compressed:=true depth:=/depth depth_transport:=compressedDepth
    ros2 launch stfm_ros teacher.launch.py image:=/rgb depth:=/depth student:=default

It is in the namespace teacher, so that a matcher may run beside it: /teacher/relative_pose, /teacher/matches. Topics
are therefore named in full, with a slash before them. For the rest see matcher.launch.py, whose arguments it shares.
"""

from launch import LaunchDescription

from stfm_ros.nodes.launching import ARGUMENTS as OF_ALL
from stfm_ros.nodes.launching import describe

#: metres come from the depth, and from nothing else
LEFT_OUT = ("scale", "allow_unscaled", "right_image", "right_camera_info", "odometry", "twist")
ARGUMENTS = {name: about for name, about in OF_ALL.items() if name not in LEFT_OUT} | {
    "namespace": ("teacher", "Namespace of the node and of its relative topics; its inputs are named in full.", ()),
    "image": ("/image", "Topic of the images; compressed ones are expected on <image>/compressed.", ()),
    "depth": (
        "/depth",
        "Topic of the depth, registered to the images; by the transport <depth>/compressed or <depth>/compressedDepth "
        "is taken.",
        (),
    ),
}


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each entry of ARGUMENTS, and the processes."""
    return describe("teacher", ARGUMENTS)
