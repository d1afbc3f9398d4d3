"""Starts the matcher node.

    ros2 launch stfm_ros matcher.launch.py image:=/camera/image_raw
    ros2 launch stfm_ros matcher.launch.py namespace:=front image:=/front/image_raw params_file:=matcher.yaml
    ros2 launch stfm_ros matcher.launch.py autostart:=false     (a lifecycle manager configures and activates it)
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "namespace": ("", "Namespace of the node and of its relative topics."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("stfm_ros"), "config", "matcher.yaml"]),
        "YAML file of parameters; config/matcher.yaml describes each.",
    ),
    "use_sim_time": ("false", "Take the time from /clock (simulation, or a bag played with --clock)."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
    "autostart": ("true", "Configure and activate at start; false waits for a lifecycle manager."),
    "image": ("image", "Topic of the images; compressed ones are expected on <image>/compressed."),
    "depth": (
        "depth",
        "Topic of the aligned depth, where odometry.scale is depth; by node.depth_transport, <depth>/compressed or "
        "<depth>/compressedDepth is taken.",
    ),
    "odometry": ("scale/odometry", "Topic of another odometry, where odometry.scale is odometry."),
    "twist": ("scale/twist", "Topic of a twist, where odometry.scale is twist."),
    "camera_info": ("camera_info", "Topic of the calibration; when left alone, camera_info beside the image topic."),
}


def generate_launch_description() -> LaunchDescription:
    """The node, and one launch argument for each entry of ARGUMENTS."""
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    matcher = LifecycleNode(
        package="stfm_ros",
        executable="matcher",
        name="matcher",
        namespace=value["namespace"],
        parameters=[
            value["params_file"],
            {
                "use_sim_time": ParameterValue(value["use_sim_time"], value_type=bool),
                "node.autostart": ParameterValue(value["autostart"], value_type=bool),
            },
        ],
        remappings=[
            ("image", value["image"]),
            ("camera_info", value["camera_info"]),
            ("depth", value["depth"]),
            ("scale/odometry", value["odometry"]),
            ("scale/twist", value["twist"]),
        ],
        arguments=["--ros-args", "--log-level", value["log_level"]],
        output="screen",
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, matcher])
