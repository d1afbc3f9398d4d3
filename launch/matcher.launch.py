"""Starts the matcher node, a process of its own (no container is needed), and RViz where it is asked for.

    ros2 launch stfm_ros matcher.launch.py image:=/camera/image_raw
    ros2 launch stfm_ros matcher.launch.py namespace:=front image:=/front/image_raw params_file:=matcher.yaml
    ros2 launch stfm_ros matcher.launch.py scale:=stereo image:=/left/image_raw right_image:=/right/image_raw
    ros2 launch stfm_ros matcher.launch.py image:=/camera/image_raw allow_unscaled:=true tf:=true rviz:=true
    ros2 launch stfm_ros matcher.launch.py autostart:=false     (a lifecycle manager configures and activates it)

An argument that is left empty leaves its parameter to the parameter file; one that is given goes before it.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

SWITCH = ("true", "false")
LEVELS = ("debug", "info", "warn", "error", "fatal")
#: argument: default, description, and the values that it takes where these are few
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and of its relative topics.", ()),
    "params_file": ("", "YAML file of parameters; empty is config/matcher.yaml, which describes each.", ()),
    "use_sim_time": ("", "Take the time from /clock (simulation, or a bag played with --clock).", ("", *SWITCH)),
    "log_level": ("info", "Of the node and of the ROS libraries in it.", LEVELS),
    "autostart": ("", "Configure and activate at start; false waits for a lifecycle manager.", ("", *SWITCH)),
    "respawn": ("false", "Start the node again, two seconds after it ended by a fault.", SWITCH),
    "fastdds_profile": ("", "Fast DDS profile of the node: shm is config/fastdds_shm.xml, or a path.", ()),
    "rviz": ("false", "Start RViz (rviz2) with config/stfm.rviz.", SWITCH),
    "image": ("image", "Topic of the images; compressed ones are expected on <image>/compressed.", ()),
    "camera_info": ("camera_info", "Topic of the calibration; left alone: camera_info beside the image topic.", ()),
    "compressed": ("", "Take compressed images.", ("", *SWITCH)),
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


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each entry of ARGUMENTS, and the processes."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices or None)
        for name, (default, description, choices) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=processes)])


def processes(context: LaunchContext) -> list[Node]:
    """The node, and RViz where it is asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    config = Path(FindPackageShare("stfm_ros").perform(context)) / "config"
    switches = {"true": True, "false": False}
    parameters = {PARAMETERS[name]: switches.get(value, value) for name, value in given.items() if name in PARAMETERS}
    profile = {"": None, "shm": config / "fastdds_shm.xml"}.get(given["fastdds_profile"], given["fastdds_profile"])
    # Fast DDS 3, of ROS 2 Kilted and later, reads the second name
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE") if profile else ()
    environment = {name: existing("fastdds_profile", profile) for name in variables}
    started = [
        LifecycleNode(
            package="stfm_ros",
            executable="matcher",
            name="matcher",
            namespace=given["namespace"],
            parameters=[
                existing("params_file", given["params_file"] or config / "matcher.yaml"),
                {name: value for name, value in parameters.items() if value != ""},
            ],
            remappings=[(name, given[argument]) for argument, name in TOPICS.items()],
            arguments=["--ros-args", "--log-level", given["log_level"]],
            additional_env=environment,
            respawn=switches[given["respawn"]],
            respawn_delay=2.0,
            output="screen",
        )
    ]
    if switches[given["rviz"]]:
        prefix = f"/{given['namespace'].strip('/')}" if given["namespace"].strip("/") else ""
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(config / "stfm.rviz")],
                parameters=[{"use_sim_time": parameters["use_sim_time"] is True}],
                remappings=[(f"/{name}", f"{prefix}/{name}") for name in SHOWN],
                additional_env=environment,
                output="log",
            )
        )
    return started


def existing(argument: str, path: "str | Path") -> str:
    """The path of a file that is there; launch itself would go on without it."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{argument}: {path} is no file; check its name, a relative one counts from {Path.cwd()}"
        )
    return str(path)
