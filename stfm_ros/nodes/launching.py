"""What the launch files of the nodes share: their arguments, and the processes that are made of them.

A launch file names its node and which of the ARGUMENTS it takes. ROS's launch is imported when it is launched.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from stfm_ros.config import settings
from stfm_ros.config_yaml import NODES

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription
    from launch_ros.actions import Node

#: default, description, and the values that it takes where these are few
Argument = tuple[str, str, tuple[str, ...]]

SWITCH = ("true", "false")
LEVELS = ("debug", "info", "warn", "error", "fatal")
ARGUMENTS: dict[str, Argument] = {
    "namespace": ("", "Namespace of the node and of its relative topics.", ()),
    "params_file": ("", "YAML file of parameters; empty is config/<node>.yaml, which describes each.", ()),
    "use_sim_time": ("", "Take the time from /clock (simulation, or a bag played with --clock).", ("", *SWITCH)),
    "log_level": ("info", "Of the node and of the ROS libraries in it.", LEVELS),
    "autostart": ("", "Configure and activate at start; false waits for a lifecycle manager.", ("", *SWITCH)),
    "respawn": ("false", "Start the node again, two seconds after it ended by a fault.", SWITCH),
    "fastdds_profile": ("", "Fast DDS profile of the node: shm is config/fastdds_shm.xml, or a path.", ()),
    "rviz": ("false", "Start RViz (rviz2) with config/stfm.rviz.", SWITCH),
    "image": ("image", "Topic of the images; compressed ones are expected on <image>/compressed.", ()),
    "camera_info": ("camera_info", "Topic of the calibration; left alone: camera_info beside the image topic.", ()),
    "compressed": ("", "Take compressed images.", ("", *SWITCH)),
    "model": ("", "Weights: a shipped name, or the path of an exported folder or .safetensors file.", ()),
    "student": ("", "Weights of a student that runs beside the teacher (shadow.model).", ()),
    "scale": ("", "Where metres come from (odometry.scale): none, depth, stereo, odometry or twist.", ()),
    "allow_unscaled": ("", "Publish odometry without metres too, where nothing gives them.", ("", *SWITCH)),
    "tf": ("", "Publish the transform from odom to the child frame.", ("", *SWITCH)),
    "depth": (
        "depth",
        "Topic of the aligned depth, where the scale is depth; by the transport <depth>/compressed or "
        "<depth>/compressedDepth is taken.",
        (),
    ),
    "depth_transport": ("", "How the depth comes.", ("", "raw", "compressed", "compressedDepth")),
    "right_image": ("right/image", "Topic of the second camera's images, where the scale is stereo.", ()),
    "right_camera_info": ("right/camera_info", "Its calibration; left alone: camera_info beside its images.", ()),
    "odometry": ("scale/odometry", "Topic of another odometry, where the scale is odometry.", ()),
    "twist": ("scale/twist", "Topic of a twist, where the scale is twist.", ()),
}
#: by argument: the parameter that it sets where it is given
PARAMETERS = {
    "use_sim_time": "use_sim_time",
    "autostart": "node.autostart",
    "compressed": "node.compressed",
    "depth_transport": "node.depth_transport",
    "model": "matcher.model",
    "student": "shadow.model",
    "scale": "odometry.scale",
    "allow_unscaled": "odometry.allow_unscaled",
    "tf": "outputs.tf",
}
#: by argument: the name that is remapped to it
TOPICS = {
    "image": "image",
    "camera_info": "camera_info",
    "depth": "depth",
    "right_image": "right/image",
    "right_camera_info": "right/camera_info",
    "odometry": "scale/odometry",
    "twist": "scale/twist",
}
#: what config/stfm.rviz shows, in the namespace of the node
SHOWN = ("matches/image", "odometry", "path", "points")


def describe(node: str, arguments: Mapping[str, Argument]) -> LaunchDescription:
    """What ``generate_launch_description`` returns: a launch argument for each, and the processes.

    Args:
        node: its name, which is that of its executable and of its file in config/.
        arguments: some of ARGUMENTS, whose defaults may be others.
    """
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices or None)
        for name, (default, description, choices) in arguments.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=partial(processes, node=node, arguments=arguments))])


def processes(context: LaunchContext, node: str, arguments: Mapping[str, Argument]) -> list[Node]:
    """The node, and RViz where it is asked for."""
    return started(node, *given_to(context, arguments), PARAMETERS)


def given_to(context: LaunchContext, arguments: Mapping[str, Argument]) -> tuple[dict[str, str], Path]:
    """The value of each argument, and the folder of the parameter files."""
    from launch.substitutions import LaunchConfiguration
    from launch_ros.substitutions import FindPackageShare

    given = {name: LaunchConfiguration(name).perform(context) for name in arguments}
    return given, Path(FindPackageShare("stfm_ros").perform(context)) / "config"


def started(node: str, given: Mapping[str, str], config: Path, of_argument: Mapping[str, str]) -> list[Node]:
    """A node, and RViz where it is asked for.

    Args:
        given: the values of the arguments.
        config: the folder of the parameter files.
        of_argument: by argument, the parameter that it sets where it is not empty.
    """
    from launch_ros.actions import LifecycleNode, Node

    texts = {setting.name for setting in settings(NODES[node][0]) if setting.type is str}
    parameters = {of_argument[name]: value for name, value in given.items() if name in of_argument and value}
    # what is no text is written as in YAML; a text is not, it may look like a mapping or a number
    parameters = {name: value if name in texts else yaml.safe_load(value) for name, value in parameters.items()}
    profile = {"": None, "shm": config / "fastdds_shm.xml"}.get(given["fastdds_profile"], given["fastdds_profile"])
    # Fast DDS 3, of ROS 2 Kilted and later, reads the second name
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE") if profile else ()
    environment = {name: existing("fastdds_profile", profile) for name in variables if profile}
    nodes = [
        LifecycleNode(
            package="stfm_ros",
            executable=node,
            name=node,
            namespace=given["namespace"],
            parameters=[
                existing("params_file", given["params_file"] or config / f"{node}.yaml"),
                parameters,
            ],
            remappings=[(name, given[argument]) for argument, name in TOPICS.items() if argument in given],
            arguments=["--ros-args", "--log-level", given["log_level"]],
            additional_env=environment,
            respawn=given["respawn"] == "true",
            respawn_delay=2.0,
            output="screen",
        )
    ]
    if given.get("rviz") == "true":
        prefix = f"/{given['namespace'].strip('/')}" if given["namespace"].strip("/") else ""
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(config / "stfm.rviz")],
                parameters=[{"use_sim_time": given["use_sim_time"] == "true"}],
                remappings=[(f"/{name}", f"{prefix}/{name}") for name in SHOWN],
                additional_env=environment,
                output="log",
            )
        )
    return nodes


def existing(argument: str, path: str | Path) -> str:
    """The path of a file that is there; launch itself would go on without it.

    Raises:
        FileNotFoundError: names the argument.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{argument}: {path} is no file; check its name, a relative one counts from {Path.cwd()}"
        )
    return str(path)
